"""Measuring a method on photos it was not trained on.

Shapes: N photos, e joint embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from cocoop.config import check_whole
from cocoop.data import Dataset
from cocoop.errors import DataError
from cocoop.features import Features, Progress, encode_split
from cocoop.methods import Method

__all__ = ["Evaluation", "evaluate", "harmonic_mean"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set of photos."""

    classnames: tuple[str, ...]
    """Names of the classes."""
    labels: tuple[int, ...]
    """The true class of each photo."""
    predicted: tuple[int, ...]
    """The class with the highest logit for each photo."""
    paths: tuple[str, ...]
    """The photos."""
    skipped: int = 0
    """Photos that could not be read and are not counted."""

    @property
    def accuracy(self) -> float:
        """Correct photos over all photos, in percent."""
        correct = sum(a == b for a, b in zip(self.labels, self.predicted, strict=True))
        return 100 * correct / len(self.labels)

    @property
    def macro_f1(self) -> float:
        """Mean over the classes present of each one's F1, in percent."""
        from sklearn.metrics import f1_score

        present = sorted(set(self.labels))
        score = f1_score(self.labels, self.predicted, labels=present, average="macro", zero_division=0)
        return 100 * float(score)

    @property
    def per_class(self) -> dict[str, float]:
        """Accuracy within each class that has photos, in percent."""
        seen: dict[int, list[bool]] = {}
        for label, predicted in zip(self.labels, self.predicted, strict=True):
            seen.setdefault(label, []).append(label == predicted)
        return {self.classnames[label]: 100 * sum(hits) / len(hits) for label, hits in sorted(seen.items())}

    def record(self) -> dict[str, Any]:
        """The numbers as plain JSON."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "photos": len(self.labels),
            "skipped": self.skipped,
            "per_class": self.per_class,
        }


def evaluate(
    method: Method,
    data: Dataset | Features,
    *,
    batch_size: int = 64,
    workers: int = 2,
    skip_bad_images: bool = False,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure a method.

    Args:
        method: classifies among its own classes, which must be those of the data (see `set_classes`).
        data: a data set, of which the `test` split is used, or features encoded before.
        batch_size: photos at once.
        workers: processes that decode photos.
        skip_bad_images: leave unreadable photos out and count them, instead of failing.
        on_progress: called with photos done and photos in all.

    Raises:
        ConfigError: for a batch size or number of workers out of range.
        DataError: if the classes differ, there are no test photos, or photos cannot be read.
    """
    check_whole("batch_size", batch_size, 1)
    if tuple(method.classnames) != tuple(data.classnames):
        raise DataError(
            f"The method knows {len(method.classnames)} classes ({method.classnames[0]!r}, ...) and the data has "
            f"{len(data.classnames)} ({data.classnames[0]!r}, ...); call set_classes(data.classnames) first."
        )
    if isinstance(data, Dataset):
        data = encode_split(
            method.backbone,
            data,
            batch_size=batch_size,
            workers=workers,
            skip_bad_images=skip_bad_images,
            on_progress=on_progress,
        )
        on_progress = None
    scorer = method.scorer()
    predicted: list[torch.Tensor] = []
    done = 0
    for features in data.features.split(batch_size):
        predicted.append(scorer(features.to(method.backbone.device)).argmax(-1).cpu())
        done += len(features)
        if on_progress:
            on_progress(done, len(data.labels))
    return Evaluation(
        classnames=data.classnames,
        labels=tuple(data.labels.tolist()),
        predicted=tuple(torch.cat(predicted).tolist()),
        paths=data.paths,
        skipped=len(data.bad),
    )


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new), the measure of base-to-new tables; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0
