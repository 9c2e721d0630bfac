"""How much memory a device has free, and what to do where it does not suffice."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from cocoop.errors import MemoryWarning, is_out_of_memory

__all__ = ["AdaptiveBatches", "free_in_container", "free_memory"]

SHARE = 0.7
"""Of what is free, what may be planned with; the rest is for temporary results and for others."""


def free_memory(device: torch.device) -> int:
    """Bytes that a computation may plan to keep on a device."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # What PyTorch holds but does not use is free as well.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        # Processes that a launcher has started on one machine share its memory.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        free = min(psutil.virtual_memory().available, free_in_container()) // processes
    return int(SHARE * free)


def free_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit (cgroup v2) leaves; without a limit, more than any machine has."""
    try:
        limit, used = ((root / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):
        # No container, or the limit is the word "max".
        return 2**62


class AdaptiveBatches:
    """A computation without gradients for each of many images, of which fewer are taken at once if memory is short.

    Args:
        what: is done to images, for the warning (`encoded`).
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._fit = 2**16

    def __call__(self, work: Callable[[Tensor], Tensor], images: Tensor, at_once: int) -> Tensor:
        """The results for all images.

        Args:
            work: the computation.
            images: the images, or their features.
            at_once: how many to take at most; what did not suffice once is not tried again.
        """
        while True:
            size = min(at_once, self._fit)
            try:
                return torch.cat([work(part) for part in images.split(size)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            self._fit = min(size, len(images)) // 2 or 1
            warnings.warn(
                f"Memory does not suffice; images are {self._what} {self._fit} at once from now on, with the "
                "same numbers up to rounding.",
                MemoryWarning,
                stacklevel=4,
            )
