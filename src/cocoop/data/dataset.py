"""A data set: class names and lists of (path, label). Nothing here opens an image or depends on a model."""

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

__all__ = ["SPLITS", "Dataset", "ImagePath", "ImageRoot", "Item", "Split", "join_names"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def join_names(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, quoted, for an error message: `'a', 'b' and 7 more`."""
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


@runtime_checkable
class ImagePath(Protocol):
    """Location of an image: a path, or a member of a shard."""

    def is_file(self) -> bool:
        """Return True if the image exists."""
        ...

    def read_bytes(self) -> bytes:
        """Return the content of the image file; raise OSError if it cannot be read."""
        ...


@runtime_checkable
class ImageRoot(Protocol):
    """Root of all item paths: a directory, or the index of shards."""

    def __truediv__(self, path: str, /) -> ImagePath:
        """Return the location of the image at an item's path."""
        ...


@dataclass(frozen=True)
class Item:
    """One image and its label."""

    path: str
    """Path of the image: absolute, or relative to the image root, with `/` between directories."""
    label: int
    """Index of its class in `Dataset.classnames`."""


@dataclass(frozen=True)
class Dataset:
    """Class names and three lists of images; validated when created, immutable afterwards.

    The papers sample few-shot images from all classes, so the order of calls matters:
    `load_data(...).few_shot(16, seed=1).base()`.

    Raises:
        DataError: if there are fewer than two classes, two have the same name, one has no image in any split, or a
            label is out of range.
    """

    classnames: tuple[str, ...]
    """Class names as used in the prompt; the position is the label."""
    train: tuple[Item, ...]
    """Training images."""
    val: tuple[Item, ...]
    """Validation images; may be empty."""
    test: tuple[Item, ...]
    """Test images; may be empty."""
    image_root: ImageRoot
    """Directory that item paths are relative to, or the index of the shards that hold the images."""
    name: str
    """Name of the data set in reports."""
    template: str | None = None
    """Zero-shot template of the papers for this data set, if there is one."""

    def __post_init__(self) -> None:
        """Validate class names and labels."""
        if len(self.classnames) < 2:
            found = f"only one class, {self.classnames[0]!r}" if self.classnames else "no class"
            raise DataError(f"Data set {self.name!r} has {found}; a classifier needs at least two.")
        # CLIP's tokenizer lower-cases, so names that differ only in case give the same prompt.
        counts = Counter(name.lower() for name in self.classnames)
        repeated = [name for name in self.classnames if counts[name.lower()] > 1]
        if repeated:
            raise DataError(
                f"Data set {self.name!r} has several classes of the same name: {join_names(repeated)}."
                " Merge them, or give them different names."
            )
        used = {item.label for split in SPLITS for item in self.split(split)}
        invalid = sorted(used - set(range(len(self.classnames))))
        if invalid:
            raise DataError(
                f"Data set {self.name!r} has the label {invalid[0]}, but its {len(self.classnames)} classes"
                f" have the labels 0 to {len(self.classnames) - 1}."
            )
        empty = [name for label, name in enumerate(self.classnames) if label not in used]
        if empty:
            raise DataError(
                f"Data set {self.name!r} has no image of {join_names(empty)}. Add images, or leave out the class."
            )

    def split(self, name: Split) -> tuple[Item, ...]:
        """Return the items of a split.

        Raises:
            DataError: if `name` is not `train`, `val` or `test`.
        """
        if name not in SPLITS:
            raise DataError(f"{name!r} is not a split; use 'train', 'val' or 'test'.")
        items: tuple[Item, ...] = getattr(self, name)
        return items

    def few_shot(self, shots: int, seed: int) -> Dataset:
        """Sample `train` and `val` as the papers do; `test` is unchanged.

        Args:
            shots: training images per class, or all of a class that has fewer; `val` keeps at most min(shots, 4).
            seed: seed of the sampling, at least 0.

        Raises:
            DataError: if `shots` is below 1 or `seed` is negative.
        """
        train, val = sample_few_shot(self.train, self.val, shots, seed)
        return replace(self, train=tuple(train), val=tuple(val))

    def select(self, which: ClassSubset) -> Dataset:
        """Keep the base classes (first half, rounded up), the new classes (the rest) or all, relabelled from 0.

        Raises:
            DataError: if `which` is unknown, or if there are fewer than four classes to halve.
        """
        labels = chosen_labels(len(self.classnames), which)
        new_label = {old: new for new, old in enumerate(labels)}

        def select_items(items: Iterable[Item]) -> tuple[Item, ...]:
            return tuple(Item(item.path, new_label[item.label]) for item in items if item.label in new_label)

        return replace(
            self,
            classnames=tuple(self.classnames[label] for label in labels),
            train=select_items(self.train),
            val=select_items(self.val),
            test=select_items(self.test),
        )

    def base(self) -> Dataset:
        """Keep the base classes: the first half, rounded up."""
        return self.select("base")

    def new(self) -> Dataset:
        """Keep the new classes: those after the base classes, relabelled from 0."""
        return self.select("new")

    def all_for_testing(self) -> Dataset:
        """Move every image to `test`, for data that are only evaluated on."""
        return replace(self, train=(), val=(), test=self.train + self.val + self.test)

    def path_of(self, item: Item) -> ImagePath:
        """Return the location of an item's image."""
        return self.image_root / item.path

    def check_files(self, splits: Iterable[Split] = SPLITS) -> None:
        """Check that the image files exist, before a long run needs them.

        Args:
            splits: the splits that the run reads. Sample shots and select classes first; other images may be missing.

        Raises:
            DataError: counting the missing images and naming the first few.
        """
        paths = list(dict.fromkeys(item.path for split in splits for item in self.split(split)))
        missing = [path for path in paths if not (self.image_root / path).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(paths)} images of {self.name!r} that this run needs are not in"
                f" '{self.image_root}': {join_names(missing)}. Pass the directory that these paths are relative to as"
                " `image_root`."
            )

    def check_trainable(self) -> None:
        """Check that every class has a training image.

        Raises:
            DataError: naming the classes without one.
        """
        if not self.train:
            raise DataError(
                f"Data set {self.name!r} has no training image. Mark some as 'train', or use a directory or manifest"
                " without splits, which is split automatically."
            )
        used = {item.label for item in self.train}
        without = [name for label, name in enumerate(self.classnames) if label not in used]
        if without:
            raise DataError(
                f"{len(without)} of the {len(self.classnames)} classes of {self.name!r} have no training image:"
                f" {join_names(without)}. Add images to train, or leave out these classes."
            )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class names and all items in order; independent of the image root."""
        content = [self.classnames, *([[i.path, i.label] for i in self.split(split)] for split in SPLITS)]
        return hash_content(json.dumps(content))
