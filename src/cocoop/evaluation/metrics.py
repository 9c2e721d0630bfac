"""Metrics of a classification: accuracy, macro F1, calibration error, confusions, and the harmonic mean H."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BINS", "Evaluation", "Shortlist", "harmonic_mean"]

BINS = 15
"""Number of confidence bins, the usual one for the expected calibration error."""


@dataclass(frozen=True)
class Shortlist:
    """Answers for the same images when only a shortlist of classes is computed exactly."""

    size: int
    """K, number of classes computed for each image."""
    predicted: tuple[int, ...]
    """Label with the highest logit on each image's shortlist."""
    outside: int
    """Number of images whose exact answer was not on their shortlist."""


@dataclass(frozen=True)
class Evaluation:
    """Answers of a method for a set of images, with their metrics."""

    classnames: tuple[str, ...]
    """Class names."""
    labels: tuple[int, ...]
    """True label of each image."""
    predicted: tuple[int, ...]
    """Label with the highest logit for each image."""
    confidences: tuple[float, ...]
    """Softmax probability of the predicted label, in [0, 1]."""
    paths: tuple[str, ...]
    """Paths of the images."""
    skipped: int = 0
    """Number of unreadable images, which are not counted."""
    shortlist: Shortlist | None = None
    """Answers with a shortlist, if requested."""

    @property
    def accuracy(self) -> float:
        """Share of correct answers, in percent."""
        return _accuracy(self.labels, self.predicted)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have images, in percent."""
        from sklearn.metrics import f1_score

        present = sorted(set(self.labels))
        score = f1_score(self.labels, self.predicted, labels=present, average="macro", zero_division=0)
        return 100 * float(score)

    @property
    def per_class(self) -> dict[str, float]:
        """Accuracy of each class that has images, in percent."""
        correct: dict[int, list[bool]] = {}
        for label, predicted in zip(self.labels, self.predicted, strict=True):
            correct.setdefault(label, []).append(label == predicted)
        return {self.classnames[label]: 100 * sum(hits) / len(hits) for label, hits in sorted(correct.items())}

    @property
    def reliability(self) -> list[tuple[int, float, float]]:
        """Number of images, mean confidence and accuracy (both in percent) of each of `BINS` bins of equal width.

        Bin i holds the confidences in (i / BINS, (i + 1) / BINS]; an empty bin is (0, 0, 0).
        """
        bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
        for confidence, label, predicted in zip(self.confidences, self.labels, self.predicted, strict=True):
            index = min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1)
            bins[index].append((100 * confidence, label == predicted))
        return [
            (len(b), sum(c for c, _ in b) / len(b), 100 * sum(hit for _, hit in b) / len(b)) if b else (0, 0.0, 0.0)
            for b in bins
        ]

    @property
    def ece(self) -> float:
        """Expected calibration error in percent: mean |accuracy - confidence| of the bins, weighted by images.

        Reference: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
        """
        gaps = (count * abs(accuracy - confidence) for count, confidence, accuracy in self.reliability)
        return sum(gaps) / len(self.labels)

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """Mistakes as (true class, predicted class, number of images), most frequent first."""
        mistakes = Counter((a, b) for a, b in zip(self.labels, self.predicted, strict=True) if a != b)
        ordered = sorted(mistakes.items(), key=lambda entry: (-entry[1], entry[0]))
        return [(self.classnames[true], self.classnames[predicted], count) for (true, predicted), count in ordered]

    def record(self) -> dict[str, Any]:
        """Return the metrics as plain JSON."""
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


def harmonic_mean(base: float, new: float) -> float:
    """Return H = 2 base new / (base + new) of two accuracies; 0 if both are 0.

    There are two conventions for the H of several data sets. The papers print the H of the average accuracies. Reports
    show that and the mean of the data sets' Hs, each with its name. Over seeds, H is computed for each seed and then
    averaged.
    """
    return 2 * base * new / (base + new) if base + new else 0.0


def _accuracy(labels: Sequence[int], predicted: Sequence[int]) -> float:
    return 100 * sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)
