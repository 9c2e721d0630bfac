"""Predictions for photos, with probabilities.

Shapes: N photos of S x S pixels, C classes, k predictions a photo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cocoop.config import Precision, Preprocessing, check_int
from cocoop.data import Dataset, Item, UnreadableImage, image_batches, plain_order, test_transform
from cocoop.errors import DataError
from cocoop.training.features import unreadable_message

__all__ = ["Model", "Prediction", "Predictor", "predict", "top_k_classes"]


@runtime_checkable
class Predictor(Protocol):
    """What classifies: a `Method`, or one that was exported."""

    classnames: tuple[str, ...]
    """The classes to choose among."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made ready."""

    def image_scorer(self, shortlist: int | None = None) -> Callable[[Tensor], Tensor]:
        """From preprocessed images (B, 3, S, S) to logits (B, C)."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Which model, so that each worker can load its own."""

    source: str
    """Folder of a run, repository of the hub, or folder of `cocoop export`; every worker must reach it."""
    classes: tuple[str, ...] | None = None
    """Names to choose among; None: those it was trained on."""
    runtime: str = "torch"
    """`torch`, or `onnx` for an exported prompt."""
    precision: Precision | None = None
    """Of the frozen towers; None: as in training."""
    device: str = "cpu"
    """Where to compute; `auto`, for workers on Ray: on a GPU each if their cluster has any."""
    shortlist: int | None = None
    """CoCoOp: only so many classes of a photo are computed."""

    def load(self, *, threads: int | None = None) -> Predictor:
        """Load it.

        Args:
            threads: that onnxruntime computes with; None: one a core. PyTorch's are the process's.

        Raises:
            CocoopError: as `from_pretrained` and `OnnxPrompt` do.
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
    """The most probable classes of one photo."""

    path: str
    """The photo, as it was given."""
    classes: tuple[str, ...]
    """The k most probable classes, best first; none if the photo could not be read."""
    probabilities: tuple[float, ...]
    """Their probabilities in [0, 1], among all classes the method knows."""
    error: str | None = None
    """Why the photo could not be read."""


def predict(
    method: Predictor,
    paths: Sequence[str | Path],
    *,
    top_k: int = 1,
    batch_size: int = 64,
    workers: int = 0,
    skip_unreadable: bool = False,
    shortlist: int | None = None,
) -> Iterator[Prediction]:
    """Classify photos, in order.

    Args:
        method: classifies among the classes that it knows now.
        paths: photos.
        top_k: how many classes to name for each.
        batch_size: photos at once.
        workers: processes that decode photos.
        skip_bad_images: give unreadable photos as predictions with an error instead of failing.
        shortlist: K, to compute only the K classes that CoCoOp's prompt without its shift ranks highest for a photo;
            probabilities are then among these.

    Returns:
        One prediction a photo; they are made batch by batch, as they are asked for.

    Raises:
        ConfigError: for a number out of range.
        DataError: if there are no photos; while predicting, for unreadable ones, unless they are skipped.
    """
    check_int("top_k", top_k, 1)
    check_int("batch_size", batch_size, 1)
    check_int("workers", workers, 0)
    if not paths:
        raise DataError("There are no photos to classify; give at least one.")
    scorer, k = method.image_scorer(shortlist), min(top_k, shortlist or top_k, len(method.classnames))
    loader_options = _LoaderOptions(batch_size, workers, skip_unreadable)
    return _predictions(method, scorer, [str(path) for path in paths], k, loader_options)


class _LoaderOptions(NamedTuple):
    batch_size: int
    workers: int
    skip_unreadable: bool


def _predictions(
    method: Predictor, scorer: Callable[[Tensor], Tensor], paths: list[str], k: int, options: _LoaderOptions
) -> Iterator[Prediction]:
    order = plain_order(len(paths), options.batch_size)
    data = _as_data(paths)
    transform = test_transform(method.preprocessing)
    loader = image_batches(data, data.train, order, transform=transform, workers=options.workers)
    for rows, batch in zip(order, loader, strict=True):
        # What is wrong with the photos of this batch, in their order, under the names they were given by.
        reasons = iter([image.reason for image in batch.unreadable])
        read = set(batch.indices.tolist())
        unreadable = {row: UnreadableImage(paths[row], next(reasons)) for row in rows if row not in read}
        if unreadable and not options.skip_unreadable:
            raise DataError(
                f"{unreadable_message(tuple(unreadable.values()))}. Leave them out, or use --skip-unreadable."
            )
        best = iter(top_k_classes(scorer, batch.images, k) if batch.size else ())
        for row in rows:
            if row in unreadable:
                yield Prediction(paths[row], (), (), unreadable[row].reason)
            else:
                probabilities, labels = next(best)
                yield Prediction(paths[row], tuple(method.classnames[label] for label in labels), probabilities)


def _as_data(paths: list[str]) -> Dataset:
    """Photos without classes as a data set, which needs two; as the paths are absolute, it needs no image root."""
    items = tuple(Item(str(Path(path).absolute()), 0) for path in paths)
    return Dataset(("photo", "none"), items, (), (Item("none", 1),), Path(), "images")


def top_k_classes(
    scorer: Callable[[Tensor], Tensor], images: Float[Tensor, "N 3 S S"], k: int
) -> Iterator[tuple[tuple[float, ...], list[int]]]:
    """Probabilities and labels of the k best classes of each photo.

    Args:
        scorer: from images to logits.
        images: preprocessed.
        k: at most the number of classes.
    """
    top = torch.softmax(scorer(images), dim=-1).topk(k)
    for probabilities, labels in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        yield tuple(probabilities), labels
