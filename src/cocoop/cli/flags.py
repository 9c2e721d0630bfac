"""Flags in messages: the library names parameters, and the command line shows them as flags."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

__all__ = ["with_flags"]


def with_flags(message: str, command: Any) -> str:
    """Replace the parameters that a library message names by the flags of the command.

    A message names a parameter in backticks: `batch_size` becomes --batch-size, `skip_unreadable=True` becomes
    --skip-unreadable and `precision="bf16"` becomes --precision bf16. Parameters that have another
    name on the command line are in its `renamed_flags`; parameters without a flag stay as they are.
    """
    fields = _field_names(command) if dataclasses.is_dataclass(command) else set()
    renamed = getattr(command, "renamed_flags", {})

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        name = renamed.get(name, name)
        if name not in fields:
            return match[0]
        option = f"--{name.replace('_', '-')}"
        return option if value in (None, "True") else f"{option} {value.strip(chr(34))}".rstrip()

    return re.sub(r"`(\w+)(?:=([^`]*))?`", flag, message)


def _field_names(command: Any) -> set[str]:
    """Return the names of a command's flags, with those of the option groups in it."""
    names: set[str] = set()
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        names |= _field_names(value) if dataclasses.is_dataclass(value) else {field.name}
    return names
