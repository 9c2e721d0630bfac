"""Which items and classes a run uses: the few-shot draw and the base/new halves, as the papers draw them.

Both match the public reference item for item (KaiyangZhou/CoOp on Dassl, MIT licence), so that
numbers computed here can stand beside published ones. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

from cocoop.config import ClassSubset
from cocoop.errors import DataError

__all__ = ["VAL_SHOTS", "ClassSubset", "chosen_labels", "sample_few_shot", "sample_per_class"]

VAL_SHOTS = 4
"""At most this many validation photos a class are drawn, whatever the number of shots."""


@runtime_checkable
class Labelled(Protocol):
    """Anything with a class label."""

    @property
    def label(self) -> int:
        """Index of the class."""
        ...


LabelledT = TypeVar("LabelledT", bound=Labelled)


def sample_per_class(items: Iterable[LabelledT], shots: int, generator: random.Random) -> list[LabelledT]:
    """Draw `shots` items of every class without replacement.

    Classes are visited in the order in which they first appear, which decides what each of them draws. A
    class with fewer items than `shots` keeps them all, in their order, and leaves the generator as it was.

    Args:
        items: what to draw from.
        shots: items a class.
        generator: advanced by the draw.

    Returns:
        The drawn items, class after class, each class in the order it was drawn.
    """
    by_label: dict[int, list[LabelledT]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn: list[LabelledT] = []
    for members in by_label.values():
        drawn += generator.sample(members, shots) if len(members) >= shots else members
    return drawn


def sample_few_shot(
    train: Iterable[LabelledT], val: Iterable[LabelledT], shots: int, seed: int
) -> tuple[list[LabelledT], list[LabelledT]]:
    """Draw training items and then, with the same generator, at most four validation items a class.

    Args:
        train: training items of the full data set (all classes: base/new classes are taken after the draw).
        val: validation items of the full data set.
        shots: training items a class, at least 1.
        seed: from 0 up; the papers use 1, 2 and 3.

    Returns:
        The drawn training and validation items.

    Raises:
        DataError: if `shots` is below 1 or `seed` is negative.
    """
    if shots < 1:
        raise DataError(f"The number of shots is {shots}; it must be at least 1 (the papers use 1, 2, 4, 8 and 16).")
    if seed < 0:
        # Python seeds with the absolute value: -1 would silently repeat the draw of 1.
        raise DataError(f"The seed of the few-shot draw is {seed}; it must be 0 or more.")
    generator = random.Random(seed)
    drawn_train = sample_per_class(train, shots, generator)
    return drawn_train, sample_per_class(val, min(shots, VAL_SHOTS), generator)


def chosen_labels(class_count: int, which: ClassSubset) -> range:
    """Labels of the base classes (the first half, rounded up), of the new ones (the rest) or of all.

    Args:
        class_count: C, number of classes.
        which: `base`, `new` or `all`.

    Returns:
        The labels in order; the position of each is its label after the choice.

    Raises:
        DataError: if `which` is none of the three, or if one of the halves would hold fewer than two classes.
    """
    half = -(-class_count // 2)
    halves: dict[str, range] = {
        "all": range(class_count),
        "base": range(half),
        "new": range(half, class_count),
    }
    if which not in halves:
        raise DataError(f"{which!r} is no choice of classes; use 'base', 'new' or 'all'.")
    if which != "all" and class_count < 4:
        raise DataError(
            f"Base and new classes need at least 4 classes, two in each half; there are {class_count}. Use 'all'."
        )
    return halves[which]
