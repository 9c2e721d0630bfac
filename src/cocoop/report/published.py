"""Numbers of the CoCoOp paper, to compare with ours.

Source: Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (arXiv 2203.05557): the tables
of base-to-new, cross-dataset, domain generalization, and base and new classes together. They are in `published.json`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from statistics import harmonic_mean
from typing import Any, Literal

__all__ = [
    "AVERAGE",
    "PAPER",
    "ShowPublished",
    "as_published",
    "data_title",
    "paper_data",
    "printable",
    "published_number",
]

ShowPublished = Literal["match", "always", "never"]
"""Choice of published numbers to show: those measured with the same settings as ours, all, or none."""

AVERAGE = "average"
"""Name of the average over the paper's eleven data sets, in place of a data set."""

BACKBONE, SHOTS = "ViT-B/16", 16
PAPER = f"paper, {BACKBONE}"
"""Heading of published numbers in tables."""

_METHODS = {"zero-shot": "CLIP", "coop": "CoOp", "cocoop": "CoCoOp"}
_SOURCE = "ImageNet"


@functools.cache
def _tables() -> dict[str, Any]:
    return json.loads(files("cocoop.report").joinpath("published.json").read_text(encoding="utf-8"))


def paper_data() -> frozenset[str]:
    """Return the titles of the paper's eleven data sets."""
    return frozenset(_tables()["base_to_new"]) - {"columns", AVERAGE}


def data_title(name: str) -> str:
    """Return the papers' name of a data set (OxfordPets for `oxford-pets` or `split_zhou_OxfordPets`), or its own."""
    title = _titles().get(_plain(name.removeprefix("split_zhou_")))
    return printable(name) if title is None else title


def printable(name: str) -> str:
    """Escape bytes of a name (such as a directory name) that are not UTF-8, since they cannot be drawn or encoded."""
    return name.encode(errors="backslashreplace").decode()


@functools.cache
def _titles() -> dict[str, str]:
    return {_plain(name): title for title, others in _tables()["names"].items() for name in (title, *others)}


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def published_number(protocol: str, data: str, method: str, column: str) -> float | None:
    """Return a number of the paper in percent, or None if it is not printed.

    Args:
        protocol: name of the experiment, as in records.
        data: any name of the data set that was trained on, or `AVERAGE`.
        method: key of the method.
        column: base, new, H (computed from the two printed numbers), all, source, or any name of a target.
    """
    method, data = _METHODS.get(method, ""), data_title(data)
    if protocol == "base-to-new":
        table = _tables()["base_to_new"]
        if data not in table or data == "columns" or not method:
            return None
        row = dict(zip(table["columns"], table[data], strict=True))
        if column == "H":
            return harmonic_mean([row[f"{method} base"], row[f"{method} new"]])
        return row.get(f"{method} {column}")
    if protocol == "together":
        return _tables()["base_and_new_together_average"].get(method) if (data, column) == (AVERAGE, "all") else None
    column = f"{_SOURCE} (source)" if column == "source" else data_title(column)
    if data == _SOURCE and protocol == "cross-dataset":
        table = _tables()["cross_dataset"]
        return dict(zip(table["columns"], table.get(column, ()), strict=False)).get(method)
    if data == _SOURCE and protocol == "domain":
        table = _tables()["domain_generalization"]
        return dict(zip(table["columns"], table.get(method, ()), strict=False)).get(column)
    return None


def as_published(record: Mapping[str, Any]) -> bool:
    """Return True if a run has the paper's settings: backbone, 16 shots (unless zero-shot), preset, no changes."""
    return (
        str(record["backbone"]).lower() == BACKBONE.lower()
        and record["shots"] in ((SHOTS, None) if record["method"] == "zero-shot" else (SHOTS,))
        and record["preset"] == "paper"
        and not record["changes"]
    )
