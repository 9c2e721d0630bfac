"""Predict the classes of image files.

Shapes: N images of 3 channels and S x S pixels, C classes, k predictions per image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cocoop.config import Precision, Preprocessing, check_int
from cocoop.data import image_batches, plain_order, test_transform
from cocoop.errors import ConfigError, DataError
from cocoop.training.features import unreadable_message

__all__ = ["ModelSpec", "Prediction", "Predictor", "classify", "predict", "top_classes"]


@runtime_checkable
class Predictor(Protocol):
    """A loaded classifier: a `Method` or an `OnnxPrompt`."""

    classnames: tuple[str, ...]
    """The classes to choose among."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of its images."""

    def image_scorer(self, shortlist: int | None = None) -> Callable[[Tensor], Tensor]:
        """Return a function from preprocessed images (N, 3, S, S) to logits (N, C)."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Source and settings of a model; workers receive this and load the model themselves.

    Raises:
        ConfigError: for a setting that an exported prompt cannot change.
    """

    source: str
    """A run directory, a repository of the hub or, with `runtime="onnx"`, a directory of `export_onnx`."""
    classes: tuple[str, ...] | None = None
    """Class names to choose among; None: those of the training."""
    runtime: Literal["torch", "onnx"] = "torch"
    """The library that computes."""
    precision: Precision | None = None
    """Data type of the frozen towers; None: as in training."""
    device: str = "cpu"
    """Device of the model; `auto`, for Ray workers only: one GPU each if their cluster has any."""
    shortlist: int | None = None
    """CoCoOp only: number of classes to compute for each image; None: all."""

    def __post_init__(self) -> None:
        if self.runtime == "torch":
            return
        if self.device not in ("auto", "cpu"):
            raise ConfigError(
                f'`device` is {self.device!r}, but ONNX models run on the CPU; omit it or use `runtime="torch"`.'
            )
        if self.classes is not None:
            raise ConfigError(
                "`classes` cannot change an exported prompt; export it again with these classes, or use "
                '`runtime="torch"`.'
            )
        for name in ("precision", "shortlist"):
            if getattr(self, name) is not None:
                raise ConfigError(f'`{name}` has no effect on an exported prompt; omit it or use `runtime="torch"`.')

    def load(self, *, threads: int | None = None) -> Predictor:
        """Load the model.

        Args:
            threads: number of threads of onnxruntime; None: one per core. PyTorch's are set per process.

        Raises:
            CocoopError: as `from_pretrained` or `OnnxPrompt`.
        """
        if self.runtime == "onnx":
            from cocoop.inference.onnx import OnnxPrompt

            return OnnxPrompt(self.source, threads=threads)
        from cocoop.checkpoints.pretrained import from_pretrained

        method = from_pretrained(self.source, precision=self.precision, device=self.device)
        if self.classes is not None:
            method.set_classes(self.classes)
        return method


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image."""

    path: str
    """Path of the image, as it was passed in."""
    classes: tuple[str, ...]
    """The k most probable classes, best first; empty for an unreadable image."""
    probabilities: tuple[float, ...]
    """Their probabilities in [0, 1], among all classes of the method."""
    error: str | None = None
    """The reason why the image is unreadable."""


def predict(
    method: Predictor | ModelSpec | str | Path,
    paths: Sequence[str | Path],
    *,
    top_k: int = 1,
    batch_size: int = 64,
    workers: int = 0,
    skip_unreadable: bool = False,
    shortlist: int | None = None,
) -> Iterator[Prediction]:
    """Classify images, in order.

    Args:
        method: a method, or a run directory or repository of the hub to load one from.
        paths: image files.
        top_k: number of classes to return for each image.
        batch_size: images per batch.
        workers: processes that decode images.
        skip_unreadable: return unreadable images as predictions with an error instead of raising one.
        shortlist: K, to compute only the K classes that CoCoOp's unshifted prompt ranks highest for an image;
            probabilities are then among these.

    Returns:
        An iterator of one prediction per image, computed batch by batch.

    Raises:
        ConfigError: for a number out of range.
        DataError: if there are no images; while iterating, for unreadable ones, unless they are skipped.
    """
    check_int("top_k", top_k, 1)
    check_int("batch_size", batch_size, 1)
    check_int("workers", workers, 0)
    if not paths:
        raise DataError("There are no images to classify; give at least one.")
    if isinstance(method, str | Path):
        method = ModelSpec(source=str(method))
    if isinstance(method, ModelSpec):
        shortlist = shortlist or method.shortlist
        method = method.load()
    scorer = method.image_scorer(shortlist)
    # The other classes have the probability 0.
    k = min(top_k, shortlist or top_k)
    names = [str(path) for path in paths]
    order = plain_order(len(names), batch_size)
    loader = image_batches(names, order, transform=test_transform(method.preprocessing), workers=workers)

    def predictions() -> Iterator[Prediction]:
        for rows, batch in zip(order, loader, strict=True):
            if batch.unreadable and not skip_unreadable:
                raise DataError(
                    f"{unreadable_message(batch.unreadable)}. Remove them from the list or pass `skip_unreadable=True`."
                )
            results: dict[int, Tensor | str] = dict(zip(batch.indices.tolist(), batch.images, strict=True))
            results |= {image.position: image.reason for image in batch.unreadable}
            yield from classify(scorer, [(names[row], results[row]) for row in rows], method.classnames, k)

    return predictions()


def classify(
    scorer: Callable[[Tensor], Tensor],
    images: Sequence[tuple[str, Tensor | str]],
    classnames: Sequence[str],
    k: int,
) -> Iterator[Prediction]:
    """Classify a batch of preprocessed images.

    Args:
        scorer: function from images (N, 3, S, S) to logits (N, C).
        images: path and tensor of each image; for an unreadable one, path and reason.
        classnames: names of the C classes.
        k: number of classes to return for each image.
    """
    tensors = [image for _, image in images if isinstance(image, Tensor)]
    if tensors:
        probabilities, labels = top_classes(scorer(torch.stack(tensors)), k)
        ranked = iter(zip(labels.tolist(), probabilities.tolist(), strict=True))
    for path, image in images:
        if isinstance(image, str):
            yield Prediction(path, (), (), image)
        else:
            best, values = next(ranked)
            yield Prediction(path, tuple(classnames[label] for label in best), tuple(values))


def top_classes(logits: Float[Tensor, "N C"], k: int) -> tuple[Float[Tensor, "N K"], Int64[Tensor, "N K"]]:
    """Return the K = min(k, C) highest probabilities of each image and the labels of these classes, best first."""
    values, labels = torch.softmax(logits, dim=-1).topk(min(k, logits.shape[1]))
    return values, labels
