"""Several data sets of the same classes as one: the source domains of leave-one-out experiments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cocoop.data.dataset import SPLITS, Dataset, Item, Split, listed
from cocoop.errors import DataError

__all__ = ["merge"]


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """One data set of all photos, with the class order of the first; the others' classes are found by name.

    Raises:
        DataError: if there is none, two differ in their classes, or one is in shards.
    """
    if not datasets:
        raise DataError("There is no data set to merge.")
    first = datasets[0]
    splits = [(data, split, item) for data in datasets for split in SPLITS for item in data.split(split)]
    root = Path(os.path.commonpath([_path(data, item).parent for data, _, item in splits]))
    label_of = {name.casefold(): label for label, name in enumerate(first.classnames)}
    for data in datasets[1:]:
        differing = sorted({name.casefold() for name in data.classnames} ^ set(label_of))
        if differing:
            raise DataError(
                f"{first.name!r} and {data.name!r} differ in their classes ({listed(differing)}); domains are the same "
                "classes in other styles. Rename with --renames, or leave these classes out."
            )

    def items(wanted: Split) -> tuple[Item, ...]:
        return tuple(
            Item(
                _path(data, item).relative_to(root).as_posix(),
                label_of[data.classnames[item.label].casefold()],
            )
            for data, split, item in splits
            if split == wanted
        )

    return replace(
        first,
        train=items("train"),
        val=items("val"),
        test=items("test"),
        image_root=root,
        name="+".join(data.name for data in datasets),
    )


def _path(data: Dataset, item: Item) -> Path:
    path = data.path_of(item)
    if not isinstance(path, Path):
        raise DataError(f"{data.name!r} is in shards, which are not merged with others; unpack it into a folder.")
    return path.absolute()
