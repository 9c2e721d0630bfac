"""Import of transformers, an optional dependency."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType

from cocoop.errors import BackboneError

__all__ = ["import_transformers", "quiet"]


def import_transformers(needed_by: str) -> ModuleType:
    """Import transformers.

    Args:
        needed_by: model or tokenizer that needs it, for the message.

    Raises:
        BackboneError: if it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise BackboneError(
            f"{needed_by} needs the library transformers, which is not installed: pip install 'cocoop[transformers]'"
        ) from error


@contextlib.contextmanager
def quiet(transformers: ModuleType) -> Iterator[None]:
    """Hide the progress bars and warnings of transformers; problems that matter are checked and raised as errors."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
