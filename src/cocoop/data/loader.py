"""Load image files as batches of tensors, the same for any number of workers and after resuming.

Shapes: B images in a batch; H = W = the backbone's input size.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils import data

from cocoop.data.dataset import ImagePath
from cocoop.data.images import ImageError, Transform, open_image, read_image_file
from cocoop.storage.hashing import hash_content

__all__ = [
    "Batch",
    "CachedImage",
    "ImageDataset",
    "Sample",
    "UnreadableImage",
    "collate",
    "epoch_order",
    "image_batches",
    "plain_order",
]


class Sample(NamedTuple):
    """One image, ready for a backbone."""

    image: Float[Tensor, "3 H W"]
    """The normalised image."""
    position: int
    """Index in the list of paths."""
    sha256: str
    """Hash of its file."""


class CachedImage(NamedTuple):
    """An image that was not decoded, because its features are cached."""

    position: int
    """Index in the list of paths."""
    sha256: str
    """Hash of its file."""


class UnreadableImage(NamedTuple):
    """An image that could not be read."""

    path: str
    """The path, as in its data set."""
    reason: str
    """The problem, without the path."""
    position: int
    """Index in the list of paths."""
    sha256: str | None = None
    """Hash of its file; None if not even its bytes could be read."""


class Batch(NamedTuple):
    """The images of one batch: decoded, cached and unreadable ones."""

    images: Float[Tensor, "B 3 H W"]
    """Normalised images; of shape (0, 3, 0, 0) if none was decoded."""
    indices: Int64[Tensor, " B"]
    """Indices in the list of paths."""
    hashes: tuple[str, ...]
    """Hashes of their files."""
    cached: tuple[CachedImage, ...]
    """Images that were not decoded, because their features are cached."""
    unreadable: tuple[UnreadableImage, ...]
    """Images that could not be read."""

    @property
    def size(self) -> int:
        """B, the number of decoded images."""
        return self.indices.shape[0]


class ImageDataset(data.Dataset[Sample | CachedImage | UnreadableImage]):
    """Images that are read, hashed and transformed on access.

    A random transform of an image depends on `seed`, `epoch` and the image's index alone: not on the order of the
    images, the number of workers or the state of any generator, and it leaves all generators unchanged.

    Args:
        paths: the image files.
        transform: function from an RGB image to a (3, H, W) tensor.
        seed: the run's seed, for random transforms.
        epoch: number of the epoch, for random transforms.
        cached: SHA-256 of images whose features are cached.
    """

    def __init__(
        self,
        paths: Sequence[str | ImagePath],
        *,
        transform: Transform,
        seed: int = 0,
        epoch: int = 0,
        cached: Collection[str] = (),
    ) -> None:
        self.paths = paths
        self.transform = transform
        self.seed = seed
        self.epoch = epoch
        self.cached = cached

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample | CachedImage | UnreadableImage:
        """Read one image; an unreadable one is returned as `UnreadableImage`, not raised."""
        path, sha256 = self.paths[index], None
        try:
            content = read_image_file(path)
            sha256 = hash_content(content)
            if sha256 in self.cached:
                return CachedImage(index, sha256)
            image = open_image(content, name=str(path))
        except ImageError as error:
            return UnreadableImage(str(path), error.reason, index, sha256)
        # torch.manual_seed would reseed the accelerator too, which fork_rng(devices=[]) does not restore.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_mixed_seed("augment", self.seed, self.epoch, index))
            tensor = self.transform(image)
        return Sample(tensor, index, sha256)


def collate(samples: Sequence[Sample | CachedImage | UnreadableImage]) -> Batch:
    """Stack the decoded images and list the others."""
    decoded = [sample for sample in samples if isinstance(sample, Sample)]
    return Batch(
        images=torch.stack([sample.image for sample in decoded]) if decoded else torch.zeros(0, 3, 0, 0),
        indices=torch.tensor([sample.position for sample in decoded], dtype=torch.int64),
        hashes=tuple(sample.sha256 for sample in decoded),
        cached=tuple(sample for sample in samples if isinstance(sample, CachedImage)),
        unreadable=tuple(sample for sample in samples if isinstance(sample, UnreadableImage)),
    )


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the shuffled batches of one epoch, which depend on the arguments alone.

    Args:
        count: number of training images.
        batch_size: images per batch.
        seed: the run's seed.
        epoch: number of the epoch; each has its own order.

    Returns:
        Batches of indices. An incomplete last batch is dropped if there is a full one, as in the reference
        implementation.
    """
    generator = torch.Generator().manual_seed(_mixed_seed("order", seed, epoch))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def plain_order(count: int, batch_size: int) -> list[list[int]]:
    """Return all indices in order, in batches; the last one may be incomplete."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def image_batches(
    paths: Sequence[str | ImagePath],
    batches: Sequence[list[int]],
    *,
    transform: Transform,
    seed: int = 0,
    epoch: int = 0,
    cached: Collection[str] = (),
    workers: int = 0,
    pin_memory: bool = False,
) -> data.DataLoader[Sample | CachedImage | UnreadableImage]:
    """Return a loader that yields one `Batch` for each list of indices, in order.

    To resume within an epoch, pass the rest of its `batches` with the same `seed` and `epoch`.

    Args:
        paths: the image files; `Dataset.path_of` gives that of an item.
        batches: lists of indices into `paths`, from `epoch_order` or `plain_order`.
        transform: function from an RGB image to a (3, H, W) tensor.
        seed: the run's seed, for random transforms.
        epoch: number of the epoch, for random transforms.
        cached: SHA-256 of images whose features are cached; they are read, but not decoded.
        workers: processes that read and transform images; 0: the main process does.
        pin_memory: copy batches to page-locked memory, for faster transfers to a GPU.
    """
    return data.DataLoader(
        ImageDataset(paths, transform=transform, seed=seed, epoch=epoch, cached=cached),
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
        # Every iterator draws a number; without its own generator it would advance the global one.
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(worker: int) -> None:  # noqa: ARG001 - the signature is PyTorch's
    """Ignore Ctrl-C, on which each worker would print a traceback; the main process stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # PyTorch sends the errors of this thread to the main process; this hook is called for helper threads only.
    sys.excepthook = _report_unless_disconnected


def _report_unless_disconnected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error, unless it only says that the main process was interrupted."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _mixed_seed(*parts: str | int) -> int:
    """Hash the parts to 64 bits, so that neighbouring seeds, epochs and indices get unrelated generators."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
