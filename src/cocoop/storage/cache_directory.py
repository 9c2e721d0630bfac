"""The directory for everything that can be downloaded or computed again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_directory"]


def cache_directory() -> Path:
    """Return `$COCOOP_CACHE`, or `cocoop` in the user's cache directory."""
    configured = os.environ.get("COCOOP_CACHE")
    return (
        Path(configured) if configured else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cocoop"
    )
