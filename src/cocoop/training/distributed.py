"""Several processes that train or measure together, started by `accelerate launch` or `torchrun`.

Photos are divided among them, or classes, never the learned tensors: each process holds them all, and takes the same
steps from gradients that were added up over all processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, distributed

from cocoop.errors import CocoopError, ConfigError

__all__ = ["SINGLE_PROCESS", "Engine", "Processes", "launched_engine"]

T = TypeVar("T")


@runtime_checkable
class Engine(Protocol):
    """What takes gradients in place of PyTorch alone, in one process or many; `accelerate.Accelerator` is one."""

    num_processes: int

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the learned tensors of this process."""


def launched_engine(device: str) -> Engine | None:
    """The engine of a process that a launcher has started as one of several; None in a process of its own.

    Args:
        device: where it computes, such as `cpu` or `cuda`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import Accelerator

    engine: Engine = Accelerator(cpu=device == "cpu")
    return engine


class Processes:
    """The processes of an engine, seen from one of them.

    What is shared out goes by turns: process i of n has items i, i + n, i + 2n, ...

    Args:
        engine: None: this process is alone.

    Raises:
        ConfigError: for an engine that changes gradients in its own way, which would be done twice.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        for setting, plain in (("mixed_precision", ("no", None)), ("gradient_accumulation_steps", (1, None))):
            value = getattr(engine, setting, None)
            if value not in plain:
                raise ConfigError(
                    f"The engine has {setting} {value!r}, which training takes care of itself; leave it out, and use "
                    "--precision and --batch-size."
                )
        self.count = 1 if engine is None else engine.num_processes
        """Number n of processes."""
        self.index: int = 0 if self.count == 1 else engine.process_index  # type: ignore[union-attr]
        """Number of this one, from 0."""
        self.backward: Callable[[Tensor], None] = torch.Tensor.backward if engine is None else engine.backward
        """Takes the gradients of a loss in this process."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """What of the items is for this process."""
        return items[self.index :: self.count]

    def gather(self, own: T) -> list[T]:
        """What each process has, in the order of the processes, in all of them."""
        if self.count == 1:
            return [own]
        everyones: list[Any] = [None] * self.count
        distributed.all_gather_object(everyones, own)
        return everyones

    def gather_in_order(self, own: Sequence[T]) -> list[T]:
        """The items again whose shares the processes have; the opposite of `share`."""
        parts = self.gather(own)
        whole = [item for part in parts for item in part]
        for index, part in enumerate(parts):
            whole[index :: self.count] = part
        return whole

    def run_on_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them.

        Raises:
            CocoopError: that of the first process, in all of them.
        """
        if self.count == 1:
            return make()
        made: T | CocoopError | None = None
        if self.is_first:
            try:
                made = make()
            except CocoopError as error:
                made = error
        made = self.gather(made)[0]
        if isinstance(made, CocoopError):
            raise made
        return made  # type: ignore[return-value]

    def total(self, count: int) -> int:
        """A whole number added up over all processes."""
        if self.count == 1:
            return count
        # NCCL adds up on GPUs only.
        total = torch.tensor(count, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(total)
        return int(total)

    def any_process(self, says: bool) -> bool:
        """Whether a thing is true in one of the processes."""
        return self.total(int(says)) > 0

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one number type, the same shapes everywhere, by their sums over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))


SINGLE_PROCESS = Processes()
"""One process that has everything to do."""
