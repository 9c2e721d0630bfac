"""The forms that JSON must have: what a stranger's file says is checked by pydantic before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cocoop.errors import CheckpointError, CocoopError

__all__ = ["ChannelValues", "Identifier", "NonNegativeInt", "Percent", "Schema", "check_schema"]

NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
Percent = Annotated[float, Field(ge=0, le=100.001)]
"""Rounding may lead a little beyond 100."""
Identifier = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
"""A name of the program's own."""
ChannelValues = Annotated[list[float], Field(min_length=3, max_length=3)]
"""A number for red, green and blue."""


class Schema(BaseModel):
    """Base of all: a text is no number, no number is NaN or infinite, and what is not named here may be there too."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())


def check_schema(
    value: Any, form: type[Schema], path: Path | str, *, raises: type[CocoopError] = CheckpointError
) -> None:
    """That a value of JSON has a form.

    Args:
        value: as `json.loads` gives it.
        form: what it must be.
        path: of the file.
        raises: class of the error.

    Raises:
        CocoopError: of the class `raises`, naming the first entry that is wrong.
    """
    fault = _misfit(value, form)
    if fault is not None:
        raise raises(f"'{path}' is damaged: {fault}.")


def _misfit(value: Any, form: type[Schema]) -> str | None:
    """What is wrong, in words; None if nothing is."""
    try:
        # As JSON, of which a list may be a tuple, also where types are strict; half a character fits where a text does.
        form.model_validate_json(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    except RecursionError:
        return "it is nested too deeply"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"])) or "it"
        if first["type"] == "missing":
            return f"{name} is missing"
        seen, message = repr(first["input"]), first["msg"]
        return f"{name} is {seen if len(seen) <= 60 else seen[:60] + '...'}; {message[0].lower()}{message[1:]}"
    return None
