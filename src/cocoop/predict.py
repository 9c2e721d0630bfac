"""Predictions for photos, with probabilities.

Shapes: N photos, C classes, k predictions a photo.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cocoop.data import BadPhoto, Dataset, Item, photo_batches, plain_order, test_transform
from cocoop.data.folders import PHOTO_SUFFIXES
from cocoop.errors import ConfigError, DataError
from cocoop.features import bad_photos_message
from cocoop.methods import Method

__all__ = ["Prediction", "find_photos", "predict"]


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


def find_photos(paths: Sequence[str | Path]) -> list[Path]:
    """Photos named directly, and all photos in and below folders, sorted.

    Raises:
        DataError: if a path does not exist, or there is no photo at all.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
            found += sorted(file for file in inside if file.is_file() and not file.name.startswith("."))
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"There is no '{path}'; give photos or folders of photos.")
    if not found:
        raise DataError(f"There are no photos in {', '.join(map(repr, map(str, paths))) or 'nothing'}.")
    return found


def predict(
    method: Method,
    paths: Sequence[str | Path],
    *,
    top_k: int = 1,
    batch_size: int = 64,
    workers: int = 0,
    skip_bad_images: bool = False,
) -> Iterator[Prediction]:
    """Classify photos, in order.

    Args:
        method: classifies among the classes that it knows now.
        paths: photos.
        top_k: how many classes to name for each.
        batch_size: photos at once.
        workers: processes that decode photos.
        skip_bad_images: give unreadable photos as predictions with an error instead of failing.

    Yields:
        One prediction a photo, batch by batch.

    Raises:
        ConfigError: if `top_k` is below 1.
        DataError: for unreadable photos, unless they are skipped.
    """
    if top_k < 1:
        raise ConfigError(f"--top-k is {top_k}; it must be at least 1.")
    k = min(top_k, len(method.classnames))
    items = tuple(Item(str(Path(path).absolute()), 0) for path in paths)
    # Paths are absolute, so neither root nor labels of this data set are looked at.
    data = Dataset(("photo", "other"), items, (), (Item("none", 1),), Path(), "photos")
    order = plain_order(len(items), batch_size)
    transform = test_transform(method.backbone.preprocessing)
    scorer = method.scorer()
    loader = photo_batches(data, items, order, transform=transform, workers=workers)
    for rows, batch in zip(order, loader, strict=True):
        if batch.bad and not skip_bad_images:
            raise DataError(f"{bad_photos_message(tuple(batch.bad))}. Leave them out, or use --skip-bad-images.")
        bad: dict[str, BadPhoto] = {photo.path: photo for photo in batch.bad}
        best: dict[int, tuple[list[float], list[int]]] = {}
        if batch.size:
            logits = scorer(method.backbone.encode_image(batch.images))
            top = torch.softmax(logits, dim=-1).topk(k)
            values, classes = top.values.tolist(), top.indices.tolist()
            best = dict(zip(batch.indices.tolist(), zip(values, classes, strict=True), strict=True))
        for row in rows:
            if row in best:
                probabilities, labels = best[row]
                names = tuple(method.classnames[label] for label in labels)
                yield Prediction(str(paths[row]), names, tuple(probabilities))
            else:
                yield Prediction(str(paths[row]), (), (), bad[items[row].path].reason)
