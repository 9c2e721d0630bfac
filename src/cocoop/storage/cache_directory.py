"""The directory for everything that can be downloaded or computed again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_directory"]


def cache_directory() -> Path:
    """Return `$COCOOP_CACHE`, or `cocoop` in the user's cache directory."""
    own = os.environ.get("COCOOP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cocoop"
