"""Several processes that train or evaluate together, started by `accelerate launch` or `torchrun`.

Either the images or the classes are divided among the processes. Each process holds all learned tensors and takes the
same steps, from gradients summed over all processes.
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
    """An object that computes gradients in one process or several; `accelerate.Accelerator` is one."""

    num_processes: int

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`, and add them to those of this process's tensors."""


def launched_engine(device: str) -> Engine | None:
    """Return the engine of a process that a launcher started as one of several; None for a single process.

    Args:
        device: the device to compute on, such as `cpu` or `cuda`.

    Raises:
        ConfigError: if accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ConfigError("Several processes need accelerate: pip install 'cocoop[distributed]'") from error
    engine: Engine = Accelerator(cpu=device == "cpu")
    return engine


class Processes:
    """The processes of an engine, as seen by one of them.

    Items are shared round-robin: process i of n gets the items i, i + n, i + 2n, ...

    Args:
        engine: None for a single process.

    Raises:
        ConfigError: if the engine would scale or accumulate gradients itself.
    """

    def __init__(self, engine: Engine | None = None) -> None:
        for setting, off in (("mixed_precision", ("no", None)), ("gradient_accumulation_steps", (1, None))):
            value = getattr(engine, setting, None)
            if value not in off:
                raise ConfigError(
                    f"The engine has {setting}={value!r}, which training does itself; create the engine without it, "
                    "and set `precision` and `batch_size`."
                )
        self.count = 1 if engine is None else engine.num_processes
        """Number of processes n."""
        self.index: int = 0 if self.count == 1 else engine.process_index  # type: ignore[union-attr]
        """Number of this process, from 0."""
        self.backward: Callable[[Tensor], None] = torch.Tensor.backward if engine is None else engine.backward
        """Computes the gradients of a loss in this process."""

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's share of the items."""
        return items[self.index :: self.count]

    def gather(self, own: T) -> list[T]:
        """Return the objects of all processes, in order, in every process."""
        if self.count == 1:
            return [own]
        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, own)
        return gathered

    def gather_in_order(self, own: Sequence[T]) -> list[T]:
        """Join the shares of all processes to the original sequence; the inverse of `share`."""
        parts = self.gather(own)
        items = [item for part in parts for item in part]
        for index, part in enumerate(parts):
            items[index :: self.count] = part
        return items

    def run_on_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process and return its result in all of them.

        Raises:
            CocoopError: the error of the first process, in all of them.
        """
        if self.count == 1:
            return function()
        result: T | CocoopError | None = None
        if self.is_first:
            try:
                result = function()
            except CocoopError as error:
                result = error
        result = self.gather(result)[0]
        if isinstance(result, CocoopError):
            raise result
        return result  # type: ignore[return-value]

    def sum_int(self, value: int) -> int:
        """Return the sum of an integer over all processes."""
        if self.count == 1:
            return value
        # NCCL only reduces tensors on a GPU.
        total = torch.tensor(value, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.all_reduce(total)
        return int(total)

    def any_process(self, flag: bool) -> bool:
        """Return True if `flag` is true in at least one process."""
        return self.sum_int(int(flag)) > 0

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes, in place."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))


SINGLE_PROCESS = Processes()
"""A single process, which does all the work."""
