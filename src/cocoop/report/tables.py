"""Numbers as text, and the base-to-new table of one comparison for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cocoop.config import METHOD_NAMES

__all__ = [
    "COLUMNS",
    "METHOD_NAMES",
    "base_to_new_caption",
    "base_to_new_table",
    "base_to_new_values",
    "plus_minus",
    "signed",
    "summary",
]

COLUMNS = ("base", "new", "H")


def plus_minus(mean: float, deviation: float) -> str:
    """Format a mean and its deviation, as in `71.3 ± 0.4`; a deviation of NaN is left out."""
    return f"{mean:.1f}" + ("" if math.isnan(deviation) else f" ± {deviation:.1f}")


def summary(values: Sequence[float]) -> str:
    """Format the mean of values and, if there are several, their sample standard deviation (n - 1)."""
    return plus_minus(fmean(values), stdev(values) if len(values) > 1 else math.nan)


def signed(change: float, decimals: int = 1) -> str:
    """Format a change with its sign (a true minus); zero has none."""
    text = f"{change:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return text if float(f"{change:.{decimals}f}") else text[1:]


def base_to_new_values(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Group base accuracy, new accuracy and H (in percent) by method and column, in the order of the records."""
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        columns = values.setdefault(record["method"], {column: [] for column in COLUMNS})
        numbers = (record["base"]["accuracy"], record["new"]["accuracy"], record["harmonic_mean"])
        for column, number in zip(COLUMNS, numbers, strict=True):
            columns[column].append(number)
    return values


def base_to_new_caption(records: Sequence[Mapping[str, Any]]) -> str:
    """Explain the numbers of a base-to-new table."""
    caption = "accuracy in %; H = 2 base new / (base + new)"
    seeds = max((len(columns["H"]) for columns in base_to_new_values(records).values()), default=0)
    if seeds > 1:
        caption += f"; mean ± standard deviation (n - 1) over {seeds} seeds; H is the mean of the seeds' H"
    return caption


def base_to_new_table(records: Sequence[Mapping[str, Any]], title: str = "Base to new classes") -> Group:
    """Return a table for a terminal: accuracy on base and new classes and H, one row per method, means over seeds."""
    table = Table("method")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for method, columns in base_to_new_values(records).items():
        table.add_row(Text(METHOD_NAMES.get(method, method)), *(summary(columns[column]) for column in COLUMNS))
    # Rich would wrap a title and a caption of the table itself to the table's small width.
    return Group(Text(title, style="italic"), table, Text(base_to_new_caption(records), style="dim"))
