"""A data set: class names and lists of (path, label). It opens no photo and knows no model."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

from cocoop.data.few_shot import ClassSubset, chosen_labels, sample_few_shot
from cocoop.errors import DataError
from cocoop.storage.hashing import hash_content

__all__ = ["Dataset", "ImagePath", "ImageRoot", "Item", "Split", "listed"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, quoted, for an error message: `'a', 'b' and 7 more`."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


@runtime_checkable
class ImagePath(Protocol):
    """Where a photo lies: a path, or a place in a shard."""

    def is_file(self) -> bool:
        """Whether it is there."""
        ...

    def read_bytes(self) -> bytes:
        """All of it; OSError if it cannot be read."""
        ...


@runtime_checkable
class ImageRoot(Protocol):
    """What the paths of items start from: a folder, or the index of shards."""

    def __truediv__(self, path: str, /) -> ImagePath:
        """Where the photo of an item's path lies."""
        ...


@dataclass(frozen=True)
class Item:
    """One photo and its class."""

    path: str
    """Where the photo is: relative to the data set's image root, with `/` between folders; or absolute."""
    label: int
    """Index of its class in `Dataset.classnames`."""


@dataclass(frozen=True)
class Dataset:
    """Class names and three lists of photos; checked when made, immutable afterwards.

    The few-shot draw of the papers is made on all classes, so the order matters:
    `load_data(...).few_shot(16, seed=1).base()`.

    Raises:
        DataError: if there are fewer than two classes, two have the same name, one has no photo in any split,
            or a label names no class.
    """

    classnames: tuple[str, ...]
    """Name of each class, as it stands in the prompt; the position is the label."""
    train: tuple[Item, ...]
    """Photos to learn from."""
    val: tuple[Item, ...]
    """Photos to choose settings with; may be empty."""
    test: tuple[Item, ...]
    """Photos to measure with; may be empty."""
    image_root: ImageRoot
    """The folder that item paths are relative to, or the shards that they are in."""
    name: str
    """What the data set is called in reports."""
    template: str | None = None
    """The papers' zero-shot template for it; None for data of one's own."""

    def __post_init__(self) -> None:
        """Check what every later step relies on."""
        if len(self.classnames) < 2:
            seen = f"only one class, {self.classnames[0]!r}" if self.classnames else "no class"
            raise DataError(f"Data set {self.name!r} has {seen}; a classifier needs at least two.")
        # CLIP's tokenizer lower-cases, so names that differ in case alone would be the same prompt.
        seen_names = Counter(name.lower() for name in self.classnames)
        twice = [name for name in self.classnames if seen_names[name.lower()] > 1]
        if twice:
            raise DataError(
                f"Data set {self.name!r} has several classes of the same name: {listed(twice)}."
                " Merge them, or rename them apart."
            )
        used = {item.label for split in SPLITS for item in self.split(split)}
        strange = sorted(used - set(range(len(self.classnames))))
        if strange:
            raise DataError(
                f"Data set {self.name!r} has the label {strange[0]}, but its {len(self.classnames)} classes"
                f" have the labels 0 to {len(self.classnames) - 1}."
            )
        empty = [name for label, name in enumerate(self.classnames) if label not in used]
        if empty:
            raise DataError(
                f"Data set {self.name!r} has no photo at all of {listed(empty)}."
                " Add photos of it, or leave the class out."
            )

    def split(self, name: Split) -> tuple[Item, ...]:
        """Items of one split, by name.

        Raises:
            DataError: if `name` is not `train`, `val` or `test`.
        """
        if name not in SPLITS:
            raise DataError(f"{name!r} is no split; use 'train', 'val' or 'test'.")
        items: tuple[Item, ...] = getattr(self, name)
        return items

    def few_shot(self, shots: int, seed: int) -> Dataset:
        """The same data set with `train` and `val` replaced by the papers' draw; `test` is untouched.

        Args:
            shots: training photos a class (all of a class that has fewer); val keeps at most min(shots, 4).
            seed: of the draw, from 0 up.

        Raises:
            DataError: if `shots` is below 1 or `seed` is negative.
        """
        train, val = sample_few_shot(self.train, self.val, shots, seed)
        return replace(self, train=tuple(train), val=tuple(val))

    def select(self, which: ClassSubset) -> Dataset:
        """Keep the base classes (first half, rounded up), the new ones (the rest) or all, relabelled from 0.

        Raises:
            DataError: if `which` is unknown, or if there are fewer than four classes to halve.
        """
        labels = chosen_labels(len(self.classnames), which)
        new_label = {old: new for new, old in enumerate(labels)}

        def kept(items: Iterable[Item]) -> tuple[Item, ...]:
            return tuple(Item(item.path, new_label[item.label]) for item in items if item.label in new_label)

        return replace(
            self,
            classnames=tuple(self.classnames[label] for label in labels),
            train=kept(self.train),
            val=kept(self.val),
            test=kept(self.test),
        )

    def base(self) -> Dataset:
        """The base classes: the first half, rounded up."""
        return self.select("base")

    def new(self) -> Dataset:
        """The new classes: those after the base classes, relabelled from 0."""
        return self.select("new")

    def all_for_testing(self) -> Dataset:
        """The same data set with every photo in `test`: for one that is only measured on."""
        return replace(self, train=(), val=(), test=self.train + self.val + self.test)

    def path_of(self, item: Item) -> ImagePath:
        """Where the photo of `item` lies."""
        return self.image_root / item.path

    def check_files(self, splits: Iterable[Split] = SPLITS) -> None:
        """Check that the photos of these splits are there, so that a long run does not find out half-way.

        Args:
            splits: the splits that the run opens. Draw shots and classes first: other photos may be absent.

        Raises:
            DataError: with the number of absent photos and the first few of them.
        """
        paths = list(dict.fromkeys(item.path for split in splits for item in self.split(split)))
        absent = [path for path in paths if not (self.image_root / path).is_file()]
        if absent:
            raise DataError(
                f"{len(absent)} of the {len(paths)} photos that this run needs of {self.name!r} are not under"
                f" '{self.image_root}': {listed(absent)}."
                " Give the folder that these paths start from as image root."
            )

    def check_trainable(self) -> None:
        """Check that every class has a photo to learn from.

        Raises:
            DataError: naming the classes without one.
        """
        if not self.train:
            raise DataError(
                f"Data set {self.name!r} has no training photo."
                " Mark some as 'train', or give a folder or manifest without splits to have them divided."
            )
        used = {item.label for item in self.train}
        without = [name for label, name in enumerate(self.classnames) if label not in used]
        if without:
            raise DataError(
                f"{len(without)} of the {len(self.classnames)} classes of {self.name!r} have no training"
                f" photo: {listed(without)}. Add photos to train, or leave these classes out."
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class names and all items in order; it does not depend on where the photos lie."""
        content = [self.classnames, *([[i.path, i.label] for i in self.split(split)] for split in SPLITS)]
        return hash_content(json.dumps(content))
