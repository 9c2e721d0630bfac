"""Free memory of a device, and batches that shrink when it runs out."""

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

USABLE_SHARE = 0.7
"""Share of the free memory to plan with; the rest is for temporary results and other processes."""


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that a computation may plan to use on a device."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        # PyTorch keeps freed memory reserved for new tensors.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        # All processes of a distributed run on this machine share its memory.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        free = min(psutil.virtual_memory().available, free_in_container()) // processes
    return int(USABLE_SHARE * free)


def free_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes left below the limit of a container (cgroup v2), or a huge number if there is no limit."""
    try:
        limit, used = ((root / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):
        # There is no container, or the limit is the word "max".
        return 2**62


class AdaptiveBatches:
    """Batches of a computation without gradients; once memory has run out, they stay smaller.

    Args:
        action: past participle for the warning, such as `encoded`.
    """

    def __init__(self, action: str) -> None:
        self._action = action
        self._largest = 2**16

    def __call__(self, compute: Callable[[Tensor], Tensor], images: Tensor, batch_size: int) -> Tensor:
        """Return the results for all images.

        Args:
            compute: the computation.
            images: the images, or their features.
            batch_size: maximum number of images per call; a size that ran out of memory is not tried again.
        """
        while True:
            size = min(batch_size, self._largest)
            try:
                return torch.cat([compute(part) for part in images.split(size)])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            self._largest = min(size, len(images)) // 2 or 1
            warnings.warn(
                f"Memory ran out; images are {self._action} {self._largest} at a time from now on. The results are the "
                "same up to rounding.",
                MemoryWarning,
                stacklevel=4,
            )
