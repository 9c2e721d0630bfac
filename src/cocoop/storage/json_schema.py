"""Pydantic schemas for untrusted JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cocoop.errors import CheckpointError, CocoopError

__all__ = ["ChannelValues", "Identifier", "NonNegativeInt", "Percent", "Schema", "check_schema"]

NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
Percent = Annotated[float, Field(ge=0, le=100.001)]
"""A percentage; rounding may take it slightly above 100."""
Identifier = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
"""A name without spaces or path separators."""
ChannelValues = Annotated[list[float], Field(min_length=3, max_length=3)]
"""One number for each of red, green and blue."""


class Schema(BaseModel):
    """Base class: strict types, finite numbers, unknown entries ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())


def check_schema(
    value: Any, schema: type[Schema], path: Path | str, *, raises: type[CocoopError] = CheckpointError
) -> None:
    """Check parsed JSON against a schema.

    Args:
        value: result of `json.loads`.
        schema: the expected schema.
        path: the file, for messages.
        raises: class of the error.

    Raises:
        CocoopError: of the class `raises`, naming the first invalid entry.
    """
    problem = _problem(value, schema)
    if problem is not None:
        raise raises(f"'{path}' is damaged: {problem}.")


def _problem(value: Any, schema: type[Schema]) -> str | None:
    try:
        # JSON mode accepts a list for a tuple even with strict types. Replaced surrogates pass as text.
        schema.model_validate_json(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except RecursionError:
        return "it is nested too deeply"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "it"
        if first["type"] == "missing":
            return f"{name} is missing"
        shown, message = repr(first["input"]), first["msg"]
        return f"{name} is {shown if len(shown) <= 60 else shown[:60] + '...'}; {message[0].lower()}{message[1:]}"
    return None
