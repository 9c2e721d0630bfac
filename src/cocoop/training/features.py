"""Image features of a data set: encoded once, or again in every epoch from augmented images.

Shapes: N images of a split, B images of a batch, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.config import ClassSubset, TrainConfig, check_int
from cocoop.data import (
    Batch,
    Dataset,
    Item,
    Split,
    UnreadableImage,
    epoch_order,
    image_batches,
    plain_order,
    test_transform,
    train_transform,
)
from cocoop.data.few_shot import chosen_labels
from cocoop.data.images import hash_image
from cocoop.errors import DataError
from cocoop.methods import Method
from cocoop.training.distributed import SINGLE_PROCESS, Processes
from cocoop.training.feature_cache import FeatureCache

__all__ = [
    "FeatureBatch",
    "Features",
    "Progress",
    "TrainingFeatures",
    "check_same_classes",
    "encode_split",
    "find_training_images",
    "hash_training_images",
    "unreadable_message",
]

IMAGES_AHEAD = 64
"""Approximate number of training images that are encoded together, for any batch size."""

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all images."""


@dataclass(frozen=True)
class Features:
    """Image features of one split, with the data needed for evaluation."""

    features: Float[Tensor, "N e"]
    """Output of `backbone.encode_image`, not normalised, on the CPU."""
    labels: Int64[Tensor, " N"]
    """Labels, indices into `classnames`."""
    classnames: tuple[str, ...]
    """Class names."""
    paths: tuple[str, ...]
    """Paths of the images, as in the data set."""
    hashes: tuple[str, ...] = ()
    """SHA-256 of the image files; empty if the features do not come from files."""
    unreadable: tuple[UnreadableImage, ...] = ()
    """Unreadable images, which the fields above leave out."""
    unreadable_labels: tuple[int, ...] = ()
    """Labels of the unreadable images."""

    def select(self, which: ClassSubset) -> Features:
        """Keep the base classes, the new classes or all, relabelled from 0; consistent with `Dataset.select`.

        Raises:
            DataError: if `which` is unknown, or if there are fewer than four classes to halve.
        """
        chosen = chosen_labels(len(self.classnames), which)
        kept = self.images_of(which)
        return replace(
            kept,
            labels=kept.labels - chosen.start,
            classnames=tuple(self.classnames[label] for label in chosen),
            unreadable_labels=tuple(label - chosen.start for label in kept.unreadable_labels),
        )

    def images_of(self, which: ClassSubset) -> Features:
        """Keep the images of the base classes, the new classes or all, but every class as a candidate.

        Raises:
            DataError: as `select`.
        """
        chosen = chosen_labels(len(self.classnames), which)
        unreadable = [i for i, label in enumerate(self.unreadable_labels) if label in chosen]
        kept = self._rows([row for row, label in enumerate(self.labels.tolist()) if label in chosen])
        return replace(
            kept,
            unreadable=tuple(self.unreadable[i] for i in unreadable),
            unreadable_labels=tuple(self.unreadable_labels[i] for i in unreadable),
        )

    def without(self, paths: Collection[str]) -> Features:
        """Remove images, such as those that were trained on.

        Raises:
            DataError: if none is left.
        """
        if paths and not set(self.paths) - set(paths):
            raise DataError(f"All {len(self.paths)} test images were trained on; test on other images.")
        return self._rows([row for row, path in enumerate(self.paths) if path not in paths])

    def _rows(self, rows: list[int]) -> Features:
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            paths=tuple(self.paths[row] for row in rows),
            hashes=tuple(self.hashes[row] for row in rows) if self.hashes else (),
        )


class FeatureBatch(NamedTuple):
    """The input of one training step, on the backbone's device."""

    features: Float[Tensor, "B e"]
    """Output of `backbone.encode_image`."""
    labels: Int64[Tensor, " B"]
    """True labels."""
    paths: tuple[str, ...]
    """Paths of the images, for messages."""


def unreadable_message(unreadable: Collection[UnreadableImage]) -> str:
    """Return one clause that counts unreadable images and names the first three."""
    shown = "; ".join(f"'{image.path}': {image.reason}" for image in list(unreadable)[:3])
    more = f"; and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    return f"{len(unreadable)} image{'s' * (len(unreadable) > 1)} could not be read ({shown}{more})"


def check_same_classes(method: Method, classnames: Sequence[str]) -> None:
    """Check that a method has the class names of the data.

    Raises:
        DataError: with the first class name of both.
    """
    if tuple(method.classnames) != tuple(classnames):
        raise DataError(
            f"The method has {len(method.classnames)} classes ({method.classnames[0]!r}, ...) and the data "
            f"{len(classnames)} ({classnames[0]!r}, ...); call method.set_classes(data.classnames) first, or "
            "create the method with data.classnames."
        )


def encode_split(
    backbone: Backbone,
    data: Dataset,
    split: Split = "test",
    *,
    batch_size: int = 64,
    workers: int = 2,
    skip_unreadable: bool = False,
    cache: FeatureCache | None = None,
    processes: Processes = SINGLE_PROCESS,
    on_progress: Progress | None = None,
) -> Features:
    """Encode the images of one split without augmentation; each file is read, hashed and decoded once.

    Args:
        backbone: the frozen model.
        data: the data set.
        split: the split to encode.
        batch_size: images per batch.
        workers: processes that read and decode images.
        skip_unreadable: leave out unreadable images instead of failing.
        cache: features of this backbone; images whose hash is in it are not decoded, the others are added.
        processes: each encodes its share of the images, and gets the features of all.
        on_progress: called after each batch, with the counts of this process.

    Raises:
        CheckpointError: if the cache cannot be written.
        ConfigError: for a batch size or number of workers out of range.
        DataError: for unreadable images, unless they are skipped; if there are no images.
    """
    check_int("batch_size", batch_size, 1)
    check_int("workers", workers, 0)
    items = data.split(split)
    if not items:
        raise DataError(f"Data set {data.name!r} has no {split} images, which are needed here.")
    rows = list(processes.share(range(len(items))))
    cached = {} if cache is None else cache.load()
    loader = image_batches(
        [data.path_of(items[row]) for row in rows],
        plain_order(len(rows), batch_size),
        transform=test_transform(backbone.preprocessing),
        cached=frozenset(cached),
        workers=workers,
    )
    # By row of `items`: the hash of the file, and the feature.
    encoded: dict[int, tuple[str, Tensor]] = {}
    unreadable: list[UnreadableImage] = []
    for batch in loader:
        encoded |= {rows[image.position]: (image.sha256, cached[image.sha256]) for image in batch.cached}
        if batch.size:
            new = list(zip(batch.hashes, backbone.encode_image(batch.images).cpu(), strict=True))
            encoded |= {rows[index]: image for index, image in zip(batch.indices.tolist(), new, strict=True)}
            if cache is not None:
                cache.add(dict(new))
        for image in batch.unreadable:
            row = rows[image.position]
            unreadable.append(image._replace(path=items[row].path, position=row))
        if on_progress:
            on_progress(len(encoded) + len(unreadable), len(rows))
    encoded = _gather_encoded(encoded, processes)
    unreadable = sorted((image for part in processes.gather(unreadable) for image in part), key=lambda u: u.position)
    if unreadable and not skip_unreadable:
        raise _unreadable_error(unreadable)
    if not encoded:
        raise DataError(f"{unreadable_message(unreadable)}, and no {split} image of {data.name!r} is left.")
    readable = sorted(encoded)
    return Features(
        features=torch.stack([encoded[row][1] for row in readable]),
        labels=_labels(items, readable),
        classnames=data.classnames,
        paths=tuple(items[row].path for row in readable),
        hashes=tuple(encoded[row][0] for row in readable),
        unreadable=tuple(unreadable),
        unreadable_labels=tuple(items[image.position].label for image in unreadable),
    )


def hash_training_images(data: Dataset, hash_file: Callable[..., str | None] = hash_image) -> frozenset[str]:
    """Return the SHA-256 of all readable `train` images.

    Args:
        data: usually a few-shot sample.
        hash_file: function from a path to a hash, such as a memoised `hash_image`.
    """
    return frozenset(sha256 for item in data.train if (sha256 := hash_file(data.path_of(item))))


def find_training_images(tests: Features, trained: Collection[str]) -> set[str]:
    """Return the paths of test images that were trained on: those whose files have the same bytes.

    Args:
        tests: the encoded test images.
        trained: hashes of the training images, from `hash_training_images` or a run directory.
    """
    return {path for path, sha256 in zip(tests.paths, tests.hashes, strict=True) if sha256 in trained}


class TrainingFeatures:
    """Batches of training features, epoch by epoch: of augmented images, or of images encoded once.

    Args:
        backbone: the frozen model.
        data: its `train` split is used.
        config: batch size, seed, workers, and `cache_features`.
        cache: features on disk, used with `cache_features`.
        processes: each encodes a share of the images.
        whole_batches: give each process all images of a batch instead of its share.
    """

    def __init__(
        self,
        backbone: Backbone,
        data: Dataset,
        config: TrainConfig,
        cache: FeatureCache | None = None,
        processes: Processes = SINGLE_PROCESS,
        *,
        whole_batches: bool = False,
    ) -> None:
        self._cache = cache
        self._processes, self._whole_batches = processes, whole_batches or processes.count == 1
        self._backbone, self._data, self._config = backbone, data, config
        self._transform = train_transform(backbone.preprocessing)
        self._unreadable: dict[str, UnreadableImage] = {}
        self._encoded_once: Features | None = None

    def encode_once(self, on_progress: Progress | None = None) -> None:
        """Encode all images if `cache_features` is set; call this before the first epoch.

        Args:
            on_progress: called after each batch.

        Raises:
            DataError: for unreadable images, unless they are skipped; if none is left.
        """
        if self._config.cache_features and self._encoded_once is None:
            self._encoded_once = encode_split(
                self._backbone,
                self._data,
                "train",
                workers=self._config.workers,
                skip_unreadable=self._config.skip_unreadable,
                cache=self._cache,
                processes=self._processes,
                on_progress=on_progress,
            )
            self._unreadable = {image.path: image for image in self._encoded_once.unreadable}

    @property
    def unreadable(self) -> tuple[UnreadableImage, ...]:
        """Unreadable images that this process has found so far."""
        return tuple(self._unreadable.values())

    def hashes(self) -> frozenset[str]:
        """Return the SHA-256 of the training images; files that were encoded once are not read again."""
        if self._encoded_once is not None:
            return frozenset(self._encoded_once.hashes)
        return hash_training_images(self._data)

    @cached_property
    def images_in_epoch(self) -> int:
        """Number of images in an epoch; an incomplete last batch that is dropped does not count."""
        # The order differs from epoch to epoch, the batch sizes do not.
        return sum(map(len, self._order(epoch=1)))

    def batches(self, epoch: int) -> Iterator[FeatureBatch]:
        """Yield the batches of one epoch; a batch is empty if it has no readable images for this process.

        Raises:
            DataError: for unreadable images, unless they are skipped.
        """
        if self._encoded_once is None:
            yield from self._augmented_batches(epoch)
            return
        once, device = self._encoded_once, self._backbone.device
        for rows in map(self._own_rows, self._order(epoch)):
            yield FeatureBatch(
                once.features[rows].to(device), once.labels[rows].to(device), tuple(once.paths[row] for row in rows)
            )

    def _augmented_batches(self, epoch: int) -> Iterator[FeatureBatch]:
        items, order, device = self._data.train, self._order(epoch), self._backbone.device
        # Small batches are encoded together, ahead of their steps: a GPU encodes 64 images about as fast as a few. The
        # augmentation of an image depends on seed, epoch and image alone, so the features are the same.
        together = max(1, IMAGES_AHEAD // self._config.batch_size)
        groups = [[self._own_rows(rows) for rows in order[i : i + together]] for i in range(0, len(order), together)]
        loader = image_batches(
            [self._data.path_of(item) for item in items],
            [self._rows_to_encode([row for rows in group for row in rows]) for group in groups],
            transform=self._transform,
            seed=self._config.seed,
            epoch=epoch,
            workers=self._config.workers,
            pin_memory=device.type == "cuda",
        )
        for group, batch in zip(groups, loader, strict=True):
            features, rows_of_features = self._encode(batch)
            if self._unreadable and not self._config.skip_unreadable:
                raise _unreadable_error(self.unreadable)
            position = {row: i for i, row in enumerate(rows_of_features)}
            for rows in group:
                readable = [row for row in rows if row in position]
                yield FeatureBatch(
                    features[[position[row] for row in readable]],
                    _labels(items, readable).to(device),
                    tuple(items[row].path for row in readable),
                )

    def _own_rows(self, rows: list[int]) -> list[int]:
        """Return the rows of a batch that this process trains on."""
        return rows if self._whole_batches else list(self._processes.share(rows))

    def _rows_to_encode(self, rows: list[int]) -> list[int]:
        """Return the rows that this process encodes, given the rows of a batch that it trains on."""
        return list(self._processes.share(rows)) if self._whole_batches else rows

    def _encode(self, batch: Batch) -> tuple[Float[Tensor, "b e"], list[int]]:
        """Return features and their rows, including those that other processes encoded for this one."""
        empty = torch.zeros(0, self._backbone.embed_dim)
        features = self._backbone.encode_image(batch.images) if batch.size else empty
        rows = batch.indices.tolist()
        unreadable = [image._replace(path=self._data.train[image.position].path) for image in batch.unreadable]
        if self._whole_batches and self._processes.count > 1:
            parts = self._processes.gather((features.cpu(), rows, unreadable))
            features = torch.cat([part[0] for part in parts])
            rows = [row for part in parts for row in part[1]]
            unreadable = [image for part in parts for image in part[2]]
        self._unreadable |= {image.path: image for image in unreadable}
        return features.to(self._backbone.device), rows

    def _order(self, epoch: int) -> list[list[int]]:
        count = len(self._data.train if self._encoded_once is None else self._encoded_once.labels)
        return epoch_order(count, self._config.batch_size, self._config.seed, epoch)


def _unreadable_error(unreadable: Collection[UnreadableImage]) -> DataError:
    return DataError(f"{unreadable_message(unreadable)}. Fix or delete them, or skip them with `skip_unreadable=True`.")


def _gather_encoded(encoded: dict[int, tuple[str, Tensor]], processes: Processes) -> dict[int, tuple[str, Tensor]]:
    if processes.count == 1:
        return encoded
    rows, hashes = list(encoded), [sha256 for sha256, _ in encoded.values()]
    # One tensor per process: a feature is a view, which would be pickled with its whole batch.
    stacked = torch.stack([feature for _, feature in encoded.values()]) if encoded else torch.empty(0)
    return {
        row: (sha256, feature)
        for rows, hashes, features in processes.gather((rows, hashes, stacked))
        for row, sha256, feature in zip(rows, hashes, features, strict=True)
    }


def _labels(items: tuple[Item, ...], rows: list[int]) -> Int64[Tensor, " n"]:
    return torch.tensor([items[row].label for row in rows], dtype=torch.int64)
