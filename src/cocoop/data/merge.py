"""Merge of data sets with the same classes, such as the source domains of leave-one-out experiments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cocoop.data.dataset import SPLITS, Dataset, Item, Split, join_names
from cocoop.errors import DataError

__all__ = ["merge"]


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Merge data sets; classes are matched by name, and keep the labels of the first data set.

    Raises:
        DataError: if there is no data set, two have different classes, or one is in shards.
    """
    if not datasets:
        raise DataError("There is no data set to merge.")
    first = datasets[0]
    rows = [(data, split, item) for data in datasets for split in SPLITS for item in data.split(split)]
    root = Path(os.path.commonpath([_path(data, item).parent for data, _, item in rows]))
    label_of = {name.casefold(): label for label, name in enumerate(first.classnames)}
    for data in datasets[1:]:
        different = sorted({name.casefold() for name in data.classnames} ^ set(label_of))
        if different:
            raise DataError(
                f"{first.name!r} and {data.name!r} have different classes ({join_names(different)}); domains are the "
                "same classes in other styles. Rename the classes with `renames`, or leave them out."
            )

    def items_of(name: Split) -> tuple[Item, ...]:
        return tuple(
            Item(
                _path(data, item).relative_to(root).as_posix(),
                label_of[data.classnames[item.label].casefold()],
            )
            for data, split, item in rows
            if split == name
        )

    return replace(
        first,
        train=items_of("train"),
        val=items_of("val"),
        test=items_of("test"),
        image_root=root,
        name="+".join(data.name for data in datasets),
    )


def _path(data: Dataset, item: Item) -> Path:
    path = data.path_of(item)
    if not isinstance(path, Path):
        raise DataError(f"{data.name!r} is in shards, which cannot be merged; unpack it into a directory.")
    return path.absolute()
