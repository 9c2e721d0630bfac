"""Tables for a terminal, made from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

__all__ = ["base_to_new_table", "base_to_new_values", "harmonic_mean_of", "summary"]

COLUMNS = ("base", "new", "H")
METHOD_NAMES = {"zero-shot": "zero-shot CLIP", "coop": "CoOp", "cocoop": "CoCoOp"}


def base_to_new_values(record: Mapping[str, Any]) -> dict[str, float]:
    """Base, new and H of one record, in percent."""
    return {
        "base": record["base"]["accuracy"],
        "new": record["new"]["accuracy"],
        "H": record["harmonic_mean"],
    }


def harmonic_mean_of(base: float, new: float) -> float:
    """H = 2 base new / (base + new); 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def summary(values: Sequence[float]) -> str:
    """Mean, and with several values the sample standard deviation (n - 1) behind it."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def base_to_new_table(records: Sequence[Mapping[str, Any]], title: str = "Base to new classes") -> Table:
    """Accuracy on base and new classes and their harmonic mean, a row a method, means over seeds.

    H is computed for each record and then averaged.
    """
    by_method: dict[str, list[dict[str, float]]] = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(base_to_new_values(record))
    seeds = max(map(len, by_method.values()))
    caption = "accuracy in %; H = 2 base new / (base + new)"
    if seeds > 1:
        caption += f"; mean ± standard deviation (n - 1) over {seeds} seeds; H is the mean of the seeds' H"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("method")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for method, rows in by_method.items():
        cells = [summary([row[column] for row in rows]) for column in COLUMNS]
        table.add_row(METHOD_NAMES.get(method, method), *cells)
    return table
