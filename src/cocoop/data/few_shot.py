"""Few-shot sampling and the base/new halves, as in the papers.

Both match the public reference item for item (KaiyangZhou/CoOp on Dassl, MIT licence), so results are comparable with
published ones. Standard library only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

from cocoop.config import ClassSubset
from cocoop.errors import DataError

__all__ = ["VAL_SHOTS", "ClassSubset", "chosen_labels", "sample_few_shot", "sample_per_class"]

VAL_SHOTS = 4
"""Largest number of validation images per class, for any number of shots."""


@runtime_checkable
class Labelled(Protocol):
    """Any object with a label."""

    @property
    def label(self) -> int:
        """Index of the class."""
        ...


LabelledT = TypeVar("LabelledT", bound=Labelled)


def sample_per_class(items: Iterable[LabelledT], shots: int, generator: random.Random) -> list[LabelledT]:
    """Sample `shots` items of every class without replacement.

    Classes are visited in order of first appearance, so the sample depends on the order of the items. A class with
    fewer items than `shots` keeps them all, in their order, and does not advance the generator.

    Args:
        items: the items to sample from.
        shots: items per class.
        generator: advanced by the sampling.

    Returns:
        The sampled items, class by class.
    """
    by_label: dict[int, list[LabelledT]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    sampled: list[LabelledT] = []
    for members in by_label.values():
        sampled += generator.sample(members, shots) if len(members) >= shots else members
    return sampled


def sample_few_shot(
    train: Iterable[LabelledT], val: Iterable[LabelledT], shots: int, seed: int
) -> tuple[list[LabelledT], list[LabelledT]]:
    """Sample training items and then, with the same generator, at most four validation items per class.

    Args:
        train: training items of all classes; the base or new classes are selected after sampling.
        val: validation items of all classes.
        shots: training items per class, at least 1.
        seed: at least 0; the papers use 1, 2 and 3.

    Returns:
        The sampled training and validation items.

    Raises:
        DataError: if `shots` is below 1 or `seed` is negative.
    """
    if shots < 1:
        raise DataError(f"`shots` is {shots}; it must be at least 1 (the papers use 1, 2, 4, 8 and 16).")
    if seed < 0:
        # Python seeds with the absolute value, so -1 would repeat the sample of 1.
        raise DataError(f"`seed` is {seed}; it must be at least 0.")
    generator = random.Random(seed)
    sampled_train = sample_per_class(train, shots, generator)
    return sampled_train, sample_per_class(val, min(shots, VAL_SHOTS), generator)


def chosen_labels(class_count: int, which: ClassSubset) -> range:
    """Return the labels of the base classes (the first half, rounded up), of the new classes (the rest) or of all.

    Args:
        class_count: C, number of classes.
        which: `base`, `new` or `all`.

    Returns:
        The labels in order; the position of each is its new label.

    Raises:
        DataError: if `which` is unknown, or if one half would have fewer than two classes.
    """
    half = -(-class_count // 2)
    halves: dict[str, range] = {
        "all": range(class_count),
        "base": range(half),
        "new": range(half, class_count),
    }
    if which not in halves:
        raise DataError(f"{which!r} is not a subset of classes; use 'base', 'new' or 'all'.")
    if which != "all" and class_count < 4:
        raise DataError(
            f"Base and new classes need at least 4 classes, two in each half; there are {class_count}. Use 'all'."
        )
    return halves[which]
