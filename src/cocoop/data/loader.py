"""From items to batches of tensors, the same ones whatever the workers and wherever a run was resumed.

Shapes: B photos in a batch; H = W = the backbone's input size.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils import data

from cocoop.data.dataset import Dataset, Item
from cocoop.data.images import ImageError, Transform, open_image

__all__ = [
    "Batch",
    "ImageDataset",
    "Sample",
    "UnreadableImage",
    "collate",
    "epoch_order",
    "image_batches",
    "plain_order",
]


class Sample(NamedTuple):
    """One photo, ready for a backbone."""

    image: Float[Tensor, "3 H W"]
    """The normalised photo."""
    label: int
    """Its class."""
    item_index: int
    """Its position in the list of items."""


class UnreadableImage(NamedTuple):
    """A photo that could not be read."""

    path: str
    """As in its item."""
    reason: str
    """What is wrong with it, without its name."""


class Batch(NamedTuple):
    """Photos that could be read, and which could not."""

    images: Float[Tensor, "B 3 H W"]
    """Normalised photos; of shape (0, 3, 0, 0) if none could be read."""
    labels: Int64[Tensor, " B"]
    """Their classes."""
    indices: Int64[Tensor, " B"]
    """Their positions in the list of items."""
    unreadable: Sequence[UnreadableImage]
    """The unreadable photos of this batch."""

    @property
    def size(self) -> int:
        """B, the number of photos that could be read; 0 if there is nothing to learn from."""
        return self.labels.shape[0]


class ImageDataset(data.Dataset[Sample | UnreadableImage]):
    """Photos of a list of items, opened when asked for.

    What a random transform does to a photo depends on `seed`, `epoch` and the photo's index alone: not on the
    order of the photos, the number of workers or the state of any generator, which it leaves untouched.
    """

    def __init__(
        self, dataset: Dataset, items: Sequence[Item], *, transform: Transform, seed: int = 0, epoch: int = 0
    ) -> None:
        """Name the photos.

        Args:
            dataset: where the items come from; it knows the image root.
            items: usually one of its splits.
            transform: from an RGB photo to a (3, H, W) tensor.
            seed: of the run; only random transforms use it.
            epoch: number of the epoch; only random transforms use it.
        """
        self.dataset = dataset
        self.items = items
        self.transform = transform
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> Sample | UnreadableImage:
        """Open and transform one photo, or say why it cannot be read."""
        item = self.items[index]
        try:
            image = open_image(self.dataset.path_of(item))
        except ImageError as error:
            return UnreadableImage(item.path, error.reason)
        # torch.manual_seed would reseed the accelerator too, which fork_rng(devices=[]) does not restore.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_mixed_seed("augment", self.seed, self.epoch, index))
            tensor = self.transform(image)
        return Sample(tensor, item.label, index)


def collate(samples: Sequence[Sample | UnreadableImage]) -> Batch:
    """Stack the photos that could be read and list the others."""
    good = [sample for sample in samples if isinstance(sample, Sample)]
    unreadable = tuple(sample for sample in samples if isinstance(sample, UnreadableImage))
    return Batch(
        images=torch.stack([sample.image for sample in good]) if good else torch.zeros(0, 3, 0, 0),
        labels=torch.tensor([sample.label for sample in good], dtype=torch.int64),
        indices=torch.tensor([sample.item_index for sample in good], dtype=torch.int64),
        unreadable=unreadable,
    )


def epoch_order(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """A shuffled order of one epoch, which depends on the arguments alone.

    Args:
        count: number of training photos.
        batch_size: photos a batch.
        seed: of the run.
        epoch: number of the epoch; each has its own order.

    Returns:
        Batches of indices. The last incomplete one is dropped when there is at least one full one, as in the
        reference implementation.
    """
    generator = torch.Generator().manual_seed(_mixed_seed("order", seed, epoch))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def plain_order(count: int, batch_size: int) -> list[list[int]]:
    """All indices in order, for evaluation; the last batch may be incomplete."""
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]


def image_batches(
    dataset: Dataset,
    items: Sequence[Item],
    batches: Sequence[list[int]],
    *,
    transform: Transform,
    seed: int = 0,
    epoch: int = 0,
    workers: int = 0,
    pin_memory: bool = False,
) -> data.DataLoader[Sample | UnreadableImage]:
    """A loader that yields one `Batch` for each list of indices, in their order.

    To resume within an epoch, give the rest of its `batches` and the same `seed` and `epoch`.

    Args:
        dataset: where the items come from.
        items: what the indices count in.
        batches: from `epoch_order` or `plain_order`.
        transform: from an RGB photo to a (3, H, W) tensor.
        seed: of the run.
        epoch: number of the epoch.
        workers: processes that open and transform photos; 0 does it in this one.
        pin_memory: copy batches to page-locked memory, for faster transfers to a GPU.

    Returns:
        The loader; unreadable photos are left out of their batch and listed in `Batch.bad`.
    """
    return data.DataLoader(
        ImageDataset(dataset, items, transform=transform, seed=seed, epoch=epoch),
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=collate,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
        # Each new iterator draws a number; without one of its own, it would advance the global generator.
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(worker: int) -> None:  # noqa: ARG001 - the signature is PyTorch's
    """Leave Ctrl-C to the main process, which stops its workers; theirs would each print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # PyTorch sends what goes wrong with a photo to the main process; this hook only hears of helper threads.
    sys.excepthook = _report_unless_hung_up


def _report_unless_hung_up(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing of a main process that was interrupted while it fetched a batch."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _mixed_seed(*parts: str | int) -> int:
    """64 bits from a hash: neighbouring seeds, epochs and indices get unrelated generators."""
    text = ":".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
