"""A trained prompt behind one object: photos of any kind in, labels or probabilities out.

Shapes: N photos of H x W pixels, C classes, e joint embedding size.
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
    """A method with all that stands between photos and labels; many threads may use it at the same time.

    Args:
        method: what classifies; from now on its classes are changed through this object only.
        batch_size: photos at once.

    Raises:
        ConfigError: for a batch size below 1.
    """

    def __init__(self, method: Method, *, batch_size: int = 64) -> None:
        check_int("batch_size", batch_size, 1)
        self.method = method.eval()
        self.batch_size = batch_size
        self._lock = threading.RLock()
        self._transform = test_transform(method.backbone.preprocessing)
        # CoOp's class features are computed here, once for all calls.
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
        """Read a trained prompt.

        Args:
            source: a folder of `cocoop train`, `cocoop import` or `save_pretrained`; or a repository of the hub,
                `USER/NAME` or `hf-hub:USER/NAME`.
            classes: names to classify among, trained on or not; None: those it was trained on.
            batch_size: photos at once.
            precision: of the frozen towers; None: as in training.
            device: where to compute.
            revision: branch, tag or commit of a hub repository.
            download: further arguments of `cocoop.from_pretrained`, such as token.

        Raises:
            CocoopError: as `cocoop.from_pretrained` does, and for names that cannot be made into prompts.
        """
        method = from_pretrained(source, precision=precision, device=device, revision=revision, **download)
        if classes is not None:
            method.set_classes(classes)
        return cls(method, batch_size=batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names to classify among, which may be set to any others, trained on or not.

        Raises:
            PromptError: when set to names that cannot be made into prompts; the old ones stay.
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
        """The most probable class of each photo.

        Args:
            photos: one, or several as a list or as an array or tensor of four dimensions.
            classes: names for this call alone; None: `self.classes`.

        Returns:
            A label for one photo, a list of labels for several.

        Raises:
            DataError: for a photo that cannot be read or is of another shape, naming it and its place.
            PromptError: for names that cannot be made into prompts.
        """
        several = _listed(images)
        names, probabilities = self._answers(images, classes)
        labels = [names[label] for label in probabilities.argmax(1).tolist()]
        return labels[0] if several is None else labels

    def predict_proba(
        self, images: ImageInput | Sequence[ImageInput], *, classes: Sequence[str] | None = None
    ) -> Float32[np.ndarray, "N C"]:
        """Probabilities of all classes, in the order of `classes`, for each photo; one photo is one row.

        Args:
            photos: as `predict` takes them.
            classes: names for this call alone; None: `self.classes`.

        Raises:
            CocoopError: as `predict` does.
        """
        return self._answers(images, classes)[1]

    def _answers(
        self, images: ImageInput | Sequence[ImageInput], classes: Sequence[str] | None
    ) -> tuple[tuple[str, ...], Float32[np.ndarray, "N C"]]:
        """Probabilities, and the names they belong to: another thread may change those at any time."""
        features = self._features(images)
        # Photos are read and encoded by all threads at once; only what depends on the classes is done one by one.
        with self._lock, self._classes_for_now(classes):
            rows = [torch.empty(0, len(self.classes))]
            rows += [
                torch.softmax(self._scorer(part), -1).cpu() for part in features.split(self.batch_size) if len(part)
            ]
            return self.classes, torch.cat(rows).numpy()

    def _features(self, images: ImageInput | Sequence[ImageInput]) -> Float[Tensor, "N e"]:
        several = _listed(images)
        named = [("the photo", images)] if several is None else [(f"photos[{i}]", p) for i, p in enumerate(several)]
        backbone = self.method.backbone
        parts = [torch.empty(0, backbone.embed_dim, device=backbone.device)]
        for start in range(0, len(named), self.batch_size):
            tensors = [self._transform(_opened(*pair)) for pair in named[start : start + self.batch_size]]
            parts.append(backbone.encode_image(torch.stack(tensors)))
        return torch.cat(parts)

    @contextmanager
    def _classes_for_now(self, names: Sequence[str] | None) -> Iterator[None]:
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
        """A pickle holds what was learned, and the backbone by its name."""
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
        return _restored, (state,)


def _restored(state: dict[str, Any]) -> Classifier:
    method = METHODS[state["method"]](load_backbone(**state["backbone"]), state["classnames"], **state["settings"])
    load_learned(method, {name: torch.tensor(array) for name, array in state["learned"].items()}, Path("pickle"))
    method.set_classes(state["classes"])
    return Classifier(method, batch_size=state["batch_size"])


def _listed(images: ImageInput | Sequence[ImageInput]) -> Sequence[object] | None:
    """The photos of a list or batch; None for a single photo."""
    if isinstance(images, str | Path | io.BytesIO | Image.Image):
        return None
    if isinstance(images, np.ndarray | Tensor):
        # A list of paths may come as an array.
        is_batch = images.ndim == 4 or (isinstance(images, np.ndarray) and images.dtype.kind in "UO")
        return list(images) if is_batch else None
    return list(images)


def _opened(place: str, image: object) -> Image.Image:
    """One photo as an RGB image.

    Raises:
        DataError: naming its place and what is wrong with it.
    """
    try:
        if isinstance(image, str | Path | io.BytesIO):
            return open_image(image)
        if isinstance(image, Image.Image):
            return convert_image(image, "image")
        if isinstance(image, np.ndarray | Tensor):
            return convert_image(Image.fromarray(_pixels(image)), "array")
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    raise DataError(
        f"{place} is of type {type(image).__name__}; give a path, a PIL image, an array (H, W, 3) or a tensor "
        "(3, H, W)."
    )


def _pixels(image: np.ndarray | Tensor) -> np.ndarray:
    """Pixels (H, W, 3) in 8 bits: those of a file give the same answer as the file."""
    is_tensor = isinstance(image, Tensor)
    kind, wanted = ("tensor", "(3, H, W)") if is_tensor else ("array", "(H, W, 3)")
    pixels = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if pixels.ndim != 3 or pixels.shape[0 if is_tensor else 2] != 3 or not pixels.size:
        raise DataError(f"the {kind} has the shape {tuple(image.shape)}; it must be {wanted}.")
    if is_tensor:
        pixels = pixels.transpose(1, 2, 0)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = pixels.min(), pixels.max()
        # Not a number is not within either.
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"the {kind} has floats from {low:g} to {high:g}; they must lie in [0, 1]. Give uint8 for 0 to 255, "
                "and pixels as they are, without a backbone's normalisation."
            )
        pixels = np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"the {kind} is of type {image.dtype}; it must be uint8, or floats in [0, 1].")
    return np.ascontiguousarray(pixels)
