"""A thread-safe classifier for images of any kind: paths, bytes, PIL images, arrays, tensors.

Shapes: N images of H x W pixels, C classes, e joint embedding size.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor

from cocoop.backbones import load_backbone
from cocoop.checkpoints.pretrained import from_pretrained, load_learned
from cocoop.config import Precision, check_int
from cocoop.data import open_image, test_transform
from cocoop.data.images import convert_image
from cocoop.errors import DataError
from cocoop.methods import METHODS, Method

__all__ = ["Classifier", "ImageInput"]

ImageInput = str | Path | io.BytesIO | Image.Image | np.ndarray | Tensor
"""A file or its bytes; a PIL image; an array (H, W, 3) or a tensor (3, H, W), uint8 or floats in [0, 1]."""


class Classifier:
    """A method that reads and preprocesses images itself; safe to use from many threads.

    Args:
        method: a trained method, or `ZeroShot`; do not change its classes elsewhere afterwards.
        batch_size: images per batch.

    Raises:
        ConfigError: for a batch size below 1.

    Example:
        ```python
        import cocoop
        import numpy as np

        backbone = cocoop.load_backbone("lite")
        classifier = cocoop.Classifier(cocoop.ZeroShot(backbone, ["cat", "dog"]))
        images = np.zeros((3, 224, 224, 3), np.uint8)  # or a list of paths, PIL images or tensors
        print(classifier.predict(images))  # three labels
        classifier.classes = ["goldfish", "tree frog", "shark"]
        print(classifier.predict_proba(images).shape)  # (3, 3)
        ```
    """

    def __init__(self, method: Method, *, batch_size: int = 64) -> None:
        check_int("batch_size", batch_size, 1)
        self.method = method.eval()
        self.batch_size = batch_size
        self._lock = threading.RLock()
        self._transform = test_transform(method.backbone.preprocessing)
        self._scorer: Callable[[Tensor], Tensor] = method.scorer()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        classes: Sequence[str] | None = None,
        batch_size: int = 64,
        precision: Precision | None = None,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        **download: Any,
    ) -> Classifier:
        """Load a trained prompt.

        Args:
            source: a directory written by `fit`, `save_pretrained` or `cocoop train`; or a repository of the hub,
                `USER/NAME` or `hf-hub:USER/NAME`.
            classes: names to classify among, trained on or not; None: those of the training.
            batch_size: images per batch.
            precision: data type of the frozen towers; None: as in training.
            device: device of the model.
            revision: branch, tag or commit of a hub repository.
            download: further arguments of `cocoop.from_pretrained`, such as token.

        Raises:
            CocoopError: as `cocoop.from_pretrained`, and for unusable class names.
        """
        method = from_pretrained(source, precision=precision, device=device, revision=revision, **download)
        if classes is not None:
            method.set_classes(classes)
        return cls(method, batch_size=batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names to classify among; assign any others, trained on or not.

        Raises:
            PromptError: when set to unusable class names; the old ones stay.
        """
        return self.method.classnames

    @classes.setter
    def classes(self, names: Sequence[str]) -> None:
        with self._lock:
            self.method.set_classes(names)
            self._scorer = self.method.scorer()

    def predict(
        self, images: ImageInput | Sequence[ImageInput], *, classes: Sequence[str] | None = None
    ) -> str | list[str]:
        """Return the most probable class of each image.

        Args:
            images: one image; or several, as a list or as an array or tensor of four dimensions.
            classes: class names for this call; None: `self.classes`.

        Returns:
            A label for one image, a list of labels for several.

        Raises:
            DataError: for an unreadable image or one of a wrong shape, naming its position.
            PromptError: for unusable class names.
        """
        names, probabilities = self._classify(images, classes)
        labels = [names[label] for label in probabilities.argmax(1).tolist()]
        return labels[0] if _as_list(images) is None else labels

    def predict_proba(
        self, images: ImageInput | Sequence[ImageInput], *, classes: Sequence[str] | None = None
    ) -> Float32[np.ndarray, "N C"]:
        """Return the probabilities of all classes, in the order of `classes`; one row per image.

        Args:
            images: as in `predict`.
            classes: class names for this call; None: `self.classes`.

        Raises:
            CocoopError: as `predict`.
        """
        return self._classify(images, classes)[1]

    def _classify(
        self, images: ImageInput | Sequence[ImageInput], classes: Sequence[str] | None
    ) -> tuple[tuple[str, ...], Float32[np.ndarray, "N C"]]:
        """Return probabilities with their class names, since another thread may change `classes` at any time."""
        features = self._encode(images)
        # Threads read and encode in parallel; only the part that depends on the classes needs the lock.
        with self._lock, self._temporary_classes(classes):
            batches = [batch for batch in features.split(self.batch_size) if len(batch)]
            rows = [torch.softmax(self._scorer(batch), -1).cpu() for batch in batches]
            return self.classes, torch.cat([torch.empty(0, len(self.classes)), *rows]).numpy()

    def _encode(self, images: ImageInput | Sequence[ImageInput]) -> Float[Tensor, "N e"]:
        several = _as_list(images)
        named = [("the image", images)] if several is None else [(f"images[{i}]", x) for i, x in enumerate(several)]
        backbone = self.method.backbone
        batches = [torch.empty(0, backbone.embed_dim, device=backbone.device)]
        for start in range(0, len(named), self.batch_size):
            tensors = [self._transform(_open(name, x)) for name, x in named[start : start + self.batch_size]]
            batches.append(backbone.encode_image(torch.stack(tensors)))
        return torch.cat(batches)

    @contextmanager
    def _temporary_classes(self, names: Sequence[str] | None) -> Iterator[None]:
        if names is None or tuple(names) == self.classes:
            yield
            return
        before = self.classes
        self.classes = names
        try:
            yield
        finally:
            self.classes = before

    def __reduce__(self) -> tuple[Callable[..., Classifier], tuple[dict[str, Any]]]:
        """Pickle the learned tensors and the name of the backbone, not its weights."""
        method, backbone = self.method, self.method.backbone
        state = {
            "method": method.key,
            "backbone": {"name": backbone.name, "precision": backbone.precision, "device": str(backbone.device)},
            "classnames": method.saved_classnames,
            "classes": self.classes,
            "settings": method.settings(),
            "learned": {name: parameter.detach().cpu().numpy() for name, parameter in method.learned().items()},
            "batch_size": self.batch_size,
        }
        return _unpickle, (state,)


def _unpickle(state: dict[str, Any]) -> Classifier:
    method = METHODS[state["method"]](load_backbone(**state["backbone"]), state["classnames"], **state["settings"])
    load_learned(method, {name: torch.tensor(array) for name, array in state["learned"].items()}, Path("pickle"))
    method.set_classes(state["classes"])
    return Classifier(method, batch_size=state["batch_size"])


def _as_list(images: ImageInput | Sequence[ImageInput]) -> Sequence[object] | None:
    """Return several images as a list; None for a single image."""
    if isinstance(images, str | Path | io.BytesIO | Image.Image):
        return None
    if isinstance(images, np.ndarray | Tensor):
        is_array_of_paths = isinstance(images, np.ndarray) and images.dtype.kind in "UO"
        return list(images) if images.ndim == 4 or is_array_of_paths else None
    return list(images)


def _open(name: str, image: object) -> Image.Image:
    """Return an image of any kind as RGB; errors start with `name`."""
    try:
        if isinstance(image, str | Path | io.BytesIO):
            return open_image(image)
        if isinstance(image, Image.Image):
            return convert_image(image, "image")
        if isinstance(image, np.ndarray | Tensor):
            return convert_image(Image.fromarray(_pixels(image)), "array")
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    raise DataError(
        f"{name} is of type {type(image).__name__}; pass a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W)."
    )


def _pixels(image: np.ndarray | Tensor) -> np.ndarray:
    """Return pixels (H, W, 3) as uint8; rounding makes floats give the same answer as the image file."""
    is_tensor = isinstance(image, Tensor)
    kind, shape = ("tensor", "(3, H, W)") if is_tensor else ("array", "(H, W, 3)")
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if pixels.ndim != 3 or pixels.shape[0 if is_tensor else 2] != 3 or not pixels.size:
        raise DataError(f"the {kind} has the shape {tuple(image.shape)}; it must be {shape}.")
    if is_tensor:
        pixels = pixels.transpose(1, 2, 0)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = pixels.min(), pixels.max()
        # NaN fails both comparisons.
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"the {kind} has floats from {low:g} to {high:g}; they must lie in [0, 1]. Use uint8 for 0 to 255, "
                "and do not normalise the pixels."
            )
        pixels = np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"the {kind} is of type {image.dtype}; it must be uint8, or floats in [0, 1].")
    return np.ascontiguousarray(pixels)
