"""Peak memory of this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["peak_memory", "reset_peak_memory"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Reset the measured peak (Linux only; elsewhere the peak covers the lifetime of the process)."""
    with contextlib.suppress(OSError):
        if _CLEAR.exists():
            _CLEAR.write_text("5")


def peak_memory() -> int:
    """Return the largest resident memory since `reset_peak_memory`, in bytes; 0 where the system does not report it."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0
    # macOS counts in bytes, other systems in kilobytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
