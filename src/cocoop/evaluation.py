"""Measuring a method on photos it was not trained on.

Shapes: N photos, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cocoop.config import check_whole
from cocoop.data import Dataset
from cocoop.errors import DataError
from cocoop.features import Features, Progress, encode_split
from cocoop.methods import Method

__all__ = ["Evaluation", "Shortlist", "evaluate", "harmonic_mean"]


@dataclass(frozen=True)
class Shortlist:
    """What a shortlist of classes would have changed, for the same photos."""

    size: int
    """K, the classes computed exactly for each photo."""
    predicted: tuple[int, ...]
    """The class with the highest logit on each photo's shortlist."""
    outside: int
    """Photos whose exact answer was not on their shortlist."""


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
    shortlist: Shortlist | None = None
    """The same with a shortlist, where one was asked for."""

    @property
    def accuracy(self) -> float:
        """Correct photos over all photos, in percent."""
        return _accuracy(self.labels, self.predicted)

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
        record: dict[str, Any] = {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "photos": len(self.labels),
            "skipped": self.skipped,
            "per_class": self.per_class,
        }
        if self.shortlist is not None:
            record["shortlist"] = {
                "size": self.shortlist.size,
                "accuracy": _accuracy(self.labels, self.shortlist.predicted),
                "exact_answer_outside": self.shortlist.outside,
            }
        return record


def evaluate(
    method: Method,
    data: Dataset | Features,
    *,
    batch_size: int = 64,
    workers: int = 2,
    skip_bad_images: bool = False,
    shortlist: int | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure a method.

    Args:
        method: classifies among its own classes, which must be those of the data (see `set_classes`).
        data: a data set, of which the `test` split is used, or features encoded before.
        batch_size: photos at once.
        workers: processes that decode photos.
        skip_bad_images: leave unreadable photos out and count them, instead of failing.
        shortlist: K, to measure as well what CoCoOp's shortlist of K classes changes (see `CoCoOp.shortlist_scorer`).
        on_progress: called with photos done and photos in all.

    Raises:
        ConfigError: for a batch size or number of workers out of range, or a shortlist for another method.
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
    if not len(data.labels):
        raise DataError("There are no photos to measure on; mark some as 'test'.")
    scorer = method.scorer()
    short_scorer = None if shortlist is None else method.shortlist_scorer(shortlist)
    predicted: list[int] = []
    short_predicted: list[int] = []
    outside = 0
    for features in data.features.split(batch_size):
        features = features.to(method.backbone.device)
        answers = scorer(features).argmax(-1)
        predicted += answers.tolist()
        if short_scorer is not None:
            short = short_scorer(features)
            short_predicted += short.argmax(-1).tolist()
            outside += int(short.gather(1, answers.unsqueeze(1)).isinf().sum())
        if on_progress:
            on_progress(len(predicted), len(data.labels))
    return Evaluation(
        classnames=data.classnames,
        labels=tuple(data.labels.tolist()),
        predicted=tuple(predicted),
        paths=data.paths,
        skipped=len(data.bad),
        shortlist=None if shortlist is None else Shortlist(shortlist, tuple(short_predicted), outside),
    )


def _accuracy(labels: Sequence[int], predicted: Sequence[int]) -> float:
    return 100 * sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new), the measure of base-to-new tables; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0
