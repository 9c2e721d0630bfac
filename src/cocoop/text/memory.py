"""How much memory a device has free."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

__all__ = ["free_in_container", "free_memory"]

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
