"""Measuring a method on photos it was not trained on.

Shapes: N photos, e joint embedding size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, NamedTuple

from cocoop.config import check_int
from cocoop.data import Dataset
from cocoop.errors import DataError
from cocoop.methods import Method
from cocoop.training.distributed import Engine, Processes
from cocoop.training.features import Features, Progress, encode_split

__all__ = ["BINS", "Evaluation", "Shortlist", "evaluate", "harmonic_mean"]

BINS = 15
"""Bins of confidence, as is usual for the expected calibration error."""


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
    confidences: tuple[float, ...]
    """Its softmax probability, in [0, 1]."""
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

    @property
    def reliability(self) -> list[tuple[int, float, float]]:
        """Photos, mean confidence and accuracy (both in percent) by confidence, in `BINS` bins of equal width.

        Bin i holds the confidences in (i / BINS, (i + 1) / BINS]; an empty one is (0, 0, 0).
        """
        bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
        for confidence, label, predicted in zip(self.confidences, self.labels, self.predicted, strict=True):
            place = min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1)
            bins[place].append((100 * confidence, label == predicted))
        return [
            (len(b), sum(c for c, _ in b) / len(b), 100 * sum(hit for _, hit in b) / len(b)) if b else (0, 0.0, 0.0)
            for b in bins
        ]

    @property
    def ece(self) -> float:
        """Expected calibration error in percent: over the bins, |accuracy - confidence| weighted by photos.

        Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
        """
        gaps = (count * abs(accuracy - confidence) for count, confidence, accuracy in self.reliability)
        return sum(gaps) / len(self.labels)

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """Mistakes: true class, class that was named, photos; the most frequent first."""
        mistakes = Counter((a, b) for a, b in zip(self.labels, self.predicted, strict=True) if a != b)
        ordered = sorted(mistakes.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(self.classnames[true], self.classnames[named], count) for (true, named), count in ordered]

    def record(self) -> dict[str, Any]:
        """The numbers as plain JSON."""
        record: dict[str, Any] = {
            "images": len(self.labels),
            "skipped": self.skipped,
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "ece": self.ece,
            "per_class": self.per_class,
            "confusions": [list(mistake) for mistake in self.confusions],
            "reliability": [list(numbers) for numbers in self.reliability],
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
    skip_unreadable: bool = False,
    shortlist: int | None = None,
    engine: Engine | None = None,
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
        engine: an `accelerate.Accelerator`, to divide the photos among its processes, each of which gets the whole
            result; None: this process alone.
        on_progress: called with photos done and photos in all, those of this process.

    Raises:
        ConfigError: for a batch size or number of workers out of range, or a shortlist for another method.
        DataError: if the classes differ, there are no test photos, or photos cannot be read.
    """
    check_int("batch_size", batch_size, 1)
    if tuple(method.classnames) != tuple(data.classnames):
        raise DataError(
            f"The method knows {len(method.classnames)} classes ({method.classnames[0]!r}, ...) and the data has "
            f"{len(data.classnames)} ({data.classnames[0]!r}, ...); call set_classes(data.classnames) first."
        )
    processes = Processes(engine)
    if isinstance(data, Dataset):
        data = encode_split(
            method.backbone,
            data,
            batch_size=batch_size,
            workers=workers,
            skip_unreadable=skip_unreadable,
            processes=processes,
            on_progress=on_progress,
        )
        on_progress = None
    if not len(data.labels):
        raise DataError("There are no photos to measure on; mark some as 'test'.")
    scorer = method.scorer()
    short_scorer = None if shortlist is None else method.shortlist_scorer(shortlist)
    answers: list[_Answer] = []
    own = data.features[list(processes.share(range(len(data.labels))))]
    for features in own.split(batch_size):
        features = features.to(method.backbone.device)
        logits = scorer(features).float()
        predicted = logits.argmax(-1)
        facts = [predicted, logits.softmax(-1).amax(-1)]
        if short_scorer is not None:
            short = short_scorer(features)
            facts += [short.argmax(-1), short.gather(1, predicted.unsqueeze(1)).isinf()[:, 0]]
        answers += starmap(_Answer, zip(*(fact.tolist() for fact in facts), strict=True))
        if on_progress:
            on_progress(len(answers), len(own))
    answers = processes.gather_in_order(answers)
    short_of = None
    if shortlist is not None:
        short_of = Shortlist(shortlist, tuple(a.short for a in answers), sum(a.outside for a in answers))
    return Evaluation(
        classnames=data.classnames,
        labels=tuple(data.labels.tolist()),
        predicted=tuple(a.predicted for a in answers),
        confidences=tuple(a.confidence for a in answers),
        paths=data.paths,
        skipped=len(data.unreadable),
        shortlist=short_of,
    )


class _Answer(NamedTuple):
    """What was computed for one photo."""

    predicted: int
    confidence: float
    short: int = 0
    outside: bool = False


def _accuracy(labels: Sequence[int], predicted: Sequence[int]) -> float:
    return 100 * sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new), the measure of base-to-new tables; 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0
