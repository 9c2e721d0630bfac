"""Single classes of a sweep: which gained and lost, what the worst are taken for, how far confidence can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from cocoop.report.sweep_runs import Record, Runs, baseline, plain

__all__ = ["Reliability", "Worst", "compared", "gained_and_lost", "mean_per_class", "reliability_of", "worst_classes"]

Seeds = Mapping[int | None, Record]
"""Runs by their seed."""


@dataclass(frozen=True)
class Worst:
    """A class that is often mistaken."""

    name: str
    """The class."""
    accuracy: float
    """In percent, mean over seeds."""
    taken_for: Sequence[tuple[str, int]]
    """Classes it is taken for, and how many photos in all seeds together, most frequent first."""


@dataclass(frozen=True)
class Reliability:
    """How confident a method is, and how often right, over the bins that hold photos."""

    confidence: Sequence[float]
    """Mean of each bin, in percent."""
    accuracy: Sequence[float]
    """Of each bin, in percent."""
    ece: float
    """Mean over seeds, in percent."""


def compared(rows: Sequence[Runs]) -> list[list[Runs]]:
    """For each zero-shot row, itself and the row of each method to set beside it; alone, where there is no zero-shot.

    Of several rows of a method, the last is taken: that of most shots.
    """
    groups: dict[str | None, dict[str, Runs]] = {}
    for row in plain(rows):
        zero = baseline(row, rows)
        groups.setdefault(None if zero is None else zero.label, {})[row.method] = row
    return [list(group.values()) for group in groups.values()]


def mean_per_class(runs: Seeds, test: str) -> dict[str, float]:
    """Accuracy of each class in percent, mean over the seeds that have it."""
    found: dict[str, list[float]] = {}
    for record in runs.values():
        for name, accuracy in record["tests"].get(test, {"per_class": {}})["per_class"].items():
            found.setdefault(name, []).append(accuracy)
    return {name: fmean(values) for name, values in found.items()}


def gained_and_lost(
    before: Mapping[str, float], after: Sequence[Mapping[str, float]], count: int
) -> tuple[list[str], list[str]]:
    """Names of the classes that gained most, and of those that lost most, by the mean change of all methods.

    Args:
        before: accuracy by class.
        after: the same of each method.
        count: of names of each kind, at most; a class that neither gained nor lost is in neither.
    """
    shared = [name for name in before if after and all(name in numbers for numbers in after)]
    change = {name: fmean(numbers[name] for numbers in after) - before[name] for name in shared}
    gained = sorted((name for name in shared if change[name] > 0), key=lambda name: -change[name])
    lost = sorted((name for name in shared if change[name] < 0), key=lambda name: change[name])
    return gained[:count], lost[:count]


def worst_classes(runs: Seeds, test: str, count: int, named: int = 3) -> list[Worst]:
    """The classes of the lowest accuracy, below 100 %, and what they are taken for.

    Args:
        runs: of one method on one data set.
        test: its name.
        count: of classes, at most.
        named: classes they are taken for, at most.
    """
    mistakes: dict[str, Counter[str]] = {}
    for record in runs.values():
        for truth, said, images in record["tests"].get(test, {"confusions": ()})["confusions"]:
            mistakes.setdefault(truth, Counter())[said] += images
    accuracy = mean_per_class(runs, test)
    lowest = sorted((name for name in accuracy if accuracy[name] < 100), key=lambda name: accuracy[name])[:count]
    return [Worst(name, accuracy[name], mistakes.get(name, Counter()).most_common(named)) for name in lowest]


def reliability_of(runs: Collection[Record], test: str) -> Reliability | None:
    """The bins of all seeds together, each seed's with its photos; None where nothing was measured."""
    numbers = [record["tests"][test] for record in runs if test in record["tests"]]
    bins = []
    for parts in zip(*(n["reliability"] for n in numbers), strict=True):
        images = sum(part[0] for part in parts)
        if images:
            bins.append([sum(part[0] * part[i] for part in parts) / images for i in (1, 2)])
    if not bins:
        return None
    confidence, accuracy = zip(*bins, strict=True)
    return Reliability(confidence, accuracy, fmean(n["ece"] for n in numbers))
