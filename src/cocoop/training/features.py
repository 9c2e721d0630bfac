"""Image features of a data set: encoded once, or anew in each epoch from augmented photos.

Shapes: N photos of a split, B photos of a batch, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
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
    Split,
    UnreadableImage,
    epoch_order,
    image_batches,
    plain_order,
    test_transform,
    train_transform,
)
from cocoop.data.dataset import ImagePath, ImageRoot
from cocoop.data.few_shot import chosen_labels
from cocoop.errors import DataError
from cocoop.training.distributed import SINGLE_PROCESS, Processes
from cocoop.training.feature_cache import FeatureCache, hash_image

__all__ = [
    "FeatureBatch",
    "Features",
    "Progress",
    "TrainingFeatures",
    "encode_split",
    "hash_training_images",
    "overlap",
    "unreadable_message",
]

IMAGES_AHEAD = 64
"""About as many photos are encoded together in training, whatever the batch size."""

Progress = Callable[[int, int], None]
"""Called with photos done and photos in all."""

ImageHasher = Callable[[ImagePath], str | None]
"""From where a photo lies to a hash of its bytes; None if it cannot be read."""


@dataclass(frozen=True)
class Features:
    """Image features of one split, with what is needed to measure on them."""

    features: Float[Tensor, "N e"]
    """As `backbone.encode_image` gives them, not normalised, on the CPU."""
    labels: Int64[Tensor, " N"]
    """Labels, indices into `classnames`."""
    classnames: tuple[str, ...]
    """Names of the classes."""
    paths: tuple[str, ...]
    """The photos."""
    unreadable: tuple[UnreadableImage, ...] = ()
    """Photos that could not be read, and are not among the others."""
    unreadable_labels: tuple[int, ...] = ()
    """The classes of these."""

    def select(self, which: ClassSubset) -> Features:
        """Keep the base classes, the new ones or all, relabelled from 0; the same ones as `Dataset.select`.

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
        """Keep the photos of the base classes, the new ones or all, and every class to choose among.

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
        """Leave out photos that were learned from.

        Raises:
            DataError: if none is left.
        """
        if paths and not set(self.paths) - set(paths):
            raise DataError(f"All {len(self.paths)} photos to measure on were learned from; give others.")
        return self._rows([row for row, path in enumerate(self.paths) if path not in paths])

    def _rows(self, rows: list[int]) -> Features:
        paths = tuple(self.paths[row] for row in rows)
        return replace(self, features=self.features[rows], labels=self.labels[rows], paths=paths)


class FeatureBatch(NamedTuple):
    """What one training step learns from."""

    features: Float[Tensor, "B e"]
    """As `backbone.encode_image` gives them, on the backbone's device."""
    labels: Int64[Tensor, " B"]
    """The true classes, on the backbone's device."""
    paths: tuple[str, ...]
    """The photos, for messages."""


class _Encoded(NamedTuple):
    """Photos of several batches, encoded together."""

    features: Float[Tensor, "b e"]
    labels: Int64[Tensor, " b"]
    indices: Int64[Tensor, " b"]
    unreadable: tuple[UnreadableImage, ...]


def unreadable_message(unreadable: tuple[UnreadableImage, ...]) -> str:
    """One sentence that counts unreadable photos and names the first of them."""
    shown = "; ".join(f"'{image.path}': {image.reason}" for image in unreadable[:3])
    more = f"; and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    return f"{len(unreadable)} photo{'s' * (len(unreadable) > 1)} could not be read ({shown}{more})"


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
    """Features of the photos of one split as a backbone sees them in a test: no augmentation.

    Args:
        backbone: the frozen model.
        data: what the photos are of.
        split: which of them.
        batch_size: photos at once.
        workers: processes that decode photos.
        skip_bad_images: leave unreadable photos out instead of failing.
        cache: features of this backbone on disk: those that are there are taken, the others added.
        processes: each encodes its share, and has the features of all at the end.
        on_progress: called after each batch, with the photos of this process.

    Raises:
        CheckpointError: if the disk refuses new features of the cache.
        ConfigError: for a batch size or number of workers out of range.
        DataError: for unreadable photos, unless they are skipped; if there are none to encode.
    """
    check_int("batch_size", batch_size, 1)
    check_int("workers", workers, 0)
    items = data.split(split)
    if not items:
        raise DataError(f"Data set {data.name!r} has no {split} photos, which are needed here.")
    own = processes.share(range(len(items)))
    keys = {row: None if cache is None else hash_image(data.path_of(items[row])) for row in own}
    known = {} if cache is None else cache.find(key for key in keys.values() if key)
    features = {row: known[key] for row, key in keys.items() if key in known}
    unknown = [row for row in own if row not in features]
    loader = image_batches(
        data,
        [items[row] for row in unknown],
        plain_order(len(unknown), batch_size),
        transform=test_transform(backbone.preprocessing),
        workers=workers,
    )
    unreadable: list[UnreadableImage] = []
    for batch in loader:
        unreadable += batch.unreadable
        if batch.size:
            rows = [unknown[i] for i in batch.indices.tolist()]
            new = dict(zip(rows, backbone.encode_image(batch.images).cpu(), strict=True))
            features |= new
            if cache is not None:
                cache.add({key: feature for row, feature in new.items() if (key := keys[row])})
        if on_progress:
            on_progress(len(features) + len(unreadable), len(own))
    # One tensor a process: a row alone would be sent with the batch that it is a view of.
    shares = processes.gather((list(features), torch.stack([*features.values()]) if features else torch.empty(0)))
    features = {row: feature for rows, share in shares for row, feature in zip(rows, share, strict=True)}
    place = {item.path: row for row, item in enumerate(items)}
    unreadable = sorted(
        (image for part in processes.gather(unreadable) for image in part), key=lambda image: place[image.path]
    )
    indices = sorted(features)
    if unreadable and not skip_unreadable:
        raise DataError(
            f"{unreadable_message(tuple(unreadable))}. Mend or remove them, or leave them out with --skip-unreadable."
        )
    if not indices:
        raise DataError(f"{unreadable_message(tuple(unreadable))}, and no {split} photo of {data.name!r} is left.")
    return Features(
        features=torch.stack([features[i] for i in indices]),
        labels=torch.tensor([items[i].label for i in indices]),
        classnames=data.classnames,
        paths=tuple(items[i].path for i in indices),
        unreadable=tuple(unreadable),
        unreadable_labels=tuple(items[place[image.path]].label for image in unreadable),
    )


def hash_training_images(data: Dataset, key: ImageHasher = hash_image) -> frozenset[str]:
    """Hashes of the bytes of all `train` photos that can be read.

    Args:
        data: usually a few-shot draw.
        key: hashes the file at a path; one that remembers saves reading files again.
    """
    return frozenset(found for item in data.train if (found := key(data.path_of(item))))


def overlap(
    images: Features,
    image_root: ImageRoot,
    learned: Collection[str],
    key: ImageHasher = hash_image,
    processes: Processes = SINGLE_PROCESS,
) -> set[str]:
    """Paths of photos that were learned from: byte for byte, whatever they are called.

    Args:
        photos: to be measured on.
        image_root: the folder or shards that their paths start from.
        learned: hashes of photos that were learned from.
        key: as in `learned_photos`.
        processes: each reads its share.
    """
    if not learned:
        return set()
    own = [path for path in processes.share(images.paths) if key(image_root / path) in learned]
    return {path for part in processes.gather(own) for path in part}


class TrainingFeatures:
    """Batches of training features, epoch by epoch: from augmented photos, or encoded once.

    Args:
        backbone: the frozen model.
        data: its `train` split is used.
        config: batch size, seed, workers, and whether to encode once.
        cache: features on disk, for what is encoded once.
        processes: each encodes a share of the photos.
        whole_batches: whether each process learns from all photos of a batch, or from its share.
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
        self._bad: dict[str, UnreadableImage] = {}
        self._once: Features | None = None

    def encode_once(self, on_progress: Progress | None = None) -> None:
        """Encode all photos with `cache_features`; otherwise nothing is to be done before the first epoch.

        Args:
            on_progress: called after each batch.

        Raises:
            DataError: for unreadable photos if they are not to be skipped, and if none is left.
        """
        if self._config.cache_features and self._once is None:
            self._once = encode_split(
                self._backbone,
                self._data,
                "train",
                workers=self._config.workers,
                skip_unreadable=self._config.skip_unreadable,
                cache=self._cache,
                processes=self._processes,
                on_progress=on_progress,
            )
            self._bad = {image.path: image for image in self._once.unreadable}

    @property
    def unreadable(self) -> tuple[UnreadableImage, ...]:
        """Unreadable photos that this process met so far; training went on without them."""
        return tuple(self._bad.values())

    @cached_property
    def images_in_epoch(self) -> int:
        """Photos of a whole epoch, those of a dropped incomplete batch not counted."""
        # The order differs from epoch to epoch, the sizes of its batches do not.
        return sum(map(len, self._order(epoch=1)))

    def batches(self, epoch: int) -> Iterator[FeatureBatch]:
        """The batches of one epoch, on the backbone's device; call `encode_once` before.

        Batches of which no photo can be read, or none is for this process, come as well, without photos.

        Raises:
            DataError: for unreadable photos if they are not to be skipped.
        """
        order = self._order(epoch)
        device = self._backbone.device
        if self._once is not None:
            features, labels, paths = self._once.features, self._once.labels, self._once.paths
            for rows in map(self._mine, order):
                yield FeatureBatch(
                    features[rows].to(device), labels[rows].to(device), tuple(paths[row] for row in rows)
                )
            return
        items = self._data.train
        # Small batches are encoded together, ahead of their steps: a GPU takes 64 photos about as fast as a few, and
        # workers hand over fewer batches. What is drawn for a photo depends on seed, epoch and photo alone, so nothing
        # else changes.
        together = max(1, IMAGES_AHEAD // self._config.batch_size)
        groups = [[self._mine(rows) for rows in order[i : i + together]] for i in range(0, len(order), together)]
        loader = image_batches(
            self._data,
            items,
            [self._to_encode([row for rows in group for row in rows]) for group in groups],
            transform=self._transform,
            seed=self._config.seed,
            epoch=epoch,
            workers=self._config.workers,
            pin_memory=device.type == "cuda",
        )
        for group, batch in zip(groups, loader, strict=True):
            features, labels, indices, unreadable = self._encoded(batch)
            self._bad |= {image.path: image for image in unreadable}
            if self._bad and not self._config.skip_unreadable:
                raise DataError(f"{unreadable_message(self.unreadable)}. Mend or remove them.")
            features, labels = features.to(device), labels.to(device)
            place = {item: i for i, item in enumerate(indices.tolist())}
            for rows in group:
                good = [row for row in rows if row in place]
                at = [place[row] for row in good]
                yield FeatureBatch(features[at], labels[at], tuple(items[row].path for row in good))

    def _mine(self, rows: list[int]) -> list[int]:
        """What of a batch this process learns from."""
        return rows if self._whole_batches else list(self._processes.share(rows))

    def _to_encode(self, rows: list[int]) -> list[int]:
        """What this process encodes of the photos that it learns from."""
        return list(self._processes.share(rows)) if self._whole_batches else rows

    def _encoded(self, batch: Batch) -> _Encoded:
        """Features of photos to learn from, those that other processes encoded for this one among them."""
        size = self._backbone.embed_dim
        features = self._backbone.encode_image(batch.images) if batch.size else torch.zeros(0, size)
        own = _Encoded(features, batch.labels, batch.indices, tuple(batch.unreadable))
        if not self._whole_batches or self._processes.count == 1:
            return own
        parts = self._processes.gather(own._replace(features=features.cpu()))
        features, labels, indices = (torch.cat(tensors) for tensors in list(zip(*parts, strict=True))[:3])
        return _Encoded(features, labels, indices, tuple(image for part in parts for image in part.unreadable))

    def _order(self, epoch: int) -> list[list[int]]:
        count = len(self._data.train if self._once is None else self._once.labels)
        return epoch_order(count, self._config.batch_size, self._config.seed, epoch)
