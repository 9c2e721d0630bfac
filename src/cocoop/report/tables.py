"""Base-to-new tables made from records: as numbers, and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cocoop.config import METHOD_NAMES

__all__ = ["COLUMNS", "METHOD_NAMES", "base_to_new_caption", "base_to_new_table", "base_to_new_values", "summary"]

COLUMNS = ("base", "new", "H")


def base_to_new_values(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Base, new and H in percent, by method and column, one value a record; in the order of the records.

    H is that of each record: its mean over seeds is a mean of Hs, not the H of mean accuracies.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        columns = values.setdefault(record["method"], {column: [] for column in COLUMNS})
        numbers = (record["base"]["accuracy"], record["new"]["accuracy"], record["harmonic_mean"])
        for column, number in zip(COLUMNS, numbers, strict=True):
            columns[column].append(number)
    return values


def summary(values: Sequence[float]) -> str:
    """Mean, and with several values the sample standard deviation (n - 1) behind it."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def base_to_new_caption(records: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of a base-to-new table are."""
    caption = "accuracy in %; H = 2 base new / (base + new)"
    seeds = max((len(columns["H"]) for columns in base_to_new_values(records).values()), default=0)
    if seeds > 1:
        caption += f"; mean ± standard deviation (n - 1) over {seeds} seeds; H is the mean of the seeds' H"
    return caption


def base_to_new_table(records: Sequence[Mapping[str, Any]], title: str = "Base to new classes") -> Group:
    """Accuracy on base and new classes and their harmonic mean, a row a method, means over seeds; to be printed."""
    table = Table()
    table.add_column("method")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for method, columns in base_to_new_values(records).items():
        table.add_row(Text(METHOD_NAMES.get(method, method)), *(summary(columns[column]) for column in COLUMNS))
    # Rich would fold a title and a caption of the table itself to the table's small width.
    return Group(Text(title, style="italic"), table, Text(base_to_new_caption(records), style="dim"))
