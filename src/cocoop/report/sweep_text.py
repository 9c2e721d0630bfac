"""Tables of a sweep as text: for a terminal, as Markdown, LaTeX and CSV. All names are escaped."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cocoop.experiments.records import Sweep
from cocoop.report.published import printable
from cocoop.report.results import row_label, variant_of, varying_settings
from cocoop.report.sweep_tables import SweepTable
from cocoop.report.tables import plus_minus, signed

__all__ = ["Formatted", "failure_table", "formatted", "sweep_csv", "sweep_latex", "sweep_markdown", "sweep_rich"]

CSV_COLUMNS = ["protocol", "data", "method", "variant", "test", "measure", "mean", "std", "n"]
WIDE = 8
"""Number of columns above which a table is transposed on a screen."""

LATEX = {
    **{character: f"\\{character}" for character in "&%_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    # Directly after the end of a row, a bracket would start an option.
    "[": "{[}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
}


@dataclass(frozen=True)
class Formatted:
    """A table as text."""

    text: pd.DataFrame
    """Cells, indexed by the heading of the group ("" for none) and the name of the row."""
    best: pd.DataFrame
    """True for the highest of several measured accuracies in a column; same shape as `text`."""

    @property
    def head(self) -> list[str]:
        """Headings of all columns, starting with the column of row names."""
        return [str(self.text.index.names[-1]), *self.text.columns]

    @property
    def groups(self) -> list[tuple[str, list[tuple[list[str], set[int]]]]]:
        """Heading and rows of each group; a row is its cells, name first, and the positions of the best ones."""
        best = [{i for i, mark in enumerate(marks, 1) if mark} for marks in self.best.to_numpy()]
        rows = zip(self.text.index, self.text.to_numpy().tolist(), best, strict=True)
        return [
            (heading, [([name, *cells], marked) for (_, name), cells, marked in group])
            for heading, group in itertools.groupby(rows, key=lambda row: row[0][0])
        ]


def formatted(table: SweepTable, *, screen: bool = False) -> Formatted:
    """Format the numbers of a table.

    Args:
        table: its numbers.
        screen: transpose a table with many columns, since a screen has more room downwards.
    """
    key, cells = ["group", "method", "variant"], table.cells.assign(text=_texts(table), best=_best(table))
    rows = cells.drop_duplicates(key).sort_values("group", key=lambda names: pd.factorize(names)[0], kind="stable")
    index, columns = pd.MultiIndex.from_frame(rows[key]), list(table.columns)
    text = cells.pivot(index=key, columns="column", values="text").reindex(index=index, columns=columns).astype(object)
    text = text.where(text.notna(), "")
    best = cells.pivot(index=key, columns="column", values="best").reindex(index=index, columns=columns).eq(True)
    groups, names, headings = list(rows.group), list(rows.label), list(table.columns.values())
    if screen and len(columns) > WIDE:
        names = [f"{name}, {group}" if group else name for name, group in zip(names, groups, strict=True)]
        text, best, groups, names, headings = text.T, best.T, [""] * len(columns), headings, names
        return Formatted(*(_labelled(frame, groups, names, "test", headings) for frame in (text, best)))
    return Formatted(*(_labelled(frame, groups, names, "method", headings) for frame in (text, best)))


def _labelled(
    frame: pd.DataFrame, groups: Sequence[str], names: Sequence[str], title: str, headings: Sequence[str]
) -> pd.DataFrame:
    index = pd.MultiIndex.from_arrays([groups, names], names=["", title])
    return frame.set_axis(index).set_axis(headings, axis="columns")


def _texts(table: SweepTable) -> list[str]:
    seeds = table.measured["n"].max()
    formats: dict[str, Callable[[Any], str]] = {
        "spread": lambda cell: plus_minus(cell.mean, cell.std) + _count(cell, seeds),
        "signed": lambda cell: signed(cell.mean),
        "mean": lambda cell: f"{cell.mean:,.1f}",
        "count": lambda cell: f"{cell.mean:,.0f}",
    }
    return [formats[cell.style](cell) for cell in table.cells.itertuples()]


def _count(cell: Any, seeds: float) -> str:
    """Return the number of seeds of a cell that has fewer than others; empty for zero-shot, which has no seeds."""
    return f" (n = {cell.n:.0f})" if cell.method != "zero-shot" and cell.n < seeds else ""


def _best(table: SweepTable) -> pd.Series:
    cells = table.measured[table.measured["style"] == "spread"]
    means = cells["mean"].round(1).groupby(cells["column"])
    best = (means.transform("size") > 1) & (cells["mean"].round(1) == means.transform("max"))
    return (best & (table.kind == "accuracy")).reindex(table.cells.index, fill_value=False)


def failure_table(sweep: Sweep) -> Formatted:
    """List the failed runs and their reasons."""
    varying = varying_settings([*sweep.records, *sweep.failures])
    columns = ["protocol", "data", "seed", "shots", "reason"]
    rows = [
        ["" if failure[name] is None else printable(str(failure[name])) for name in columns]
        for failure in sweep.failures
    ]
    names = [row_label(failure["method"], variant_of(failure, varying)) for failure in sweep.failures]
    text = _labelled(pd.DataFrame(rows, columns=columns, dtype=object), [""] * len(rows), names, "failed", columns)
    return Formatted(text, text.map(lambda _: False))


def sweep_rich(tables: Sequence[SweepTable], failures: Formatted) -> Group:
    """Return tables for a terminal; a note is printed once, below the first table that needs it."""
    shown: set[str] = set()
    parts: list[Text | Table] = []
    for table in tables:
        parts += _rich(table.title, formatted(table, screen=True), "right")
        parts += [*(Text(note, style="dim") for note in table.notes if note not in shown), Text()]
        shown |= set(table.notes)
    if len(failures.text):
        parts += [*_rich("Failed runs", failures, "left"), Text()]
    return Group(*parts)


def _rich(title: str, table: Formatted, justify: Literal["left", "right"]) -> list[Text | Table]:
    printed = Table()
    for i, heading in enumerate(table.head):
        printed.add_column(Text(heading), justify=justify if i else "left", overflow="fold")
    for group, rows in table.groups:
        if group:
            printed.add_section()
            printed.add_row(Text(group, style="italic"))
        for cells, best in rows:
            printed.add_row(*(Text(cell, style="bold" if i in best else "") for i, cell in enumerate(cells)))
    # Rich would wrap a title of the table itself to the table's small width.
    return [Text(title, style="bold"), printed]


def sweep_markdown(tables: Sequence[SweepTable], failures: Formatted) -> str:
    """Return tables as GitHub's Markdown."""
    parts = [_markdown(table.title, formatted(table), table.notes) for table in tables]
    if len(failures.text):
        parts.append(_markdown("Failed runs", failures, ()))
    return "\n".join(parts)


def _markdown(title: str, table: Formatted, notes: Iterable[str]) -> str:
    frame = _flat(table, _escape_markdown, "**{}**")
    rows = [list(frame.columns), ["---", *["---:"] * (len(frame.columns) - 1)], *frame.to_numpy().tolist()]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(
        [f"## {_escape_markdown(title)}", "", *lines, "", *(f"{_escape_markdown(n)}  " for n in notes), ""]
    )


def _flat(table: Formatted, escape: Callable[[str], str], bold: str) -> pd.DataFrame:
    """Escape a table and mark its best cells; the heading of a group becomes part of the names of its rows."""
    text = table.text.map(escape)
    text = text.mask(table.best.to_numpy(), text.map(bold.format))
    names = [escape(f"{group}: {name}" if group else name) for group, name in text.index]
    text.columns = pd.Index([escape(heading) for heading in text.columns])
    text.insert(0, escape(table.head[0]), names, allow_duplicates=True)
    return text


def _escape_markdown(text: str) -> str:
    """Escape plain text within a line of Markdown; a backslash is allowed before all of these characters."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(text.split()))


def sweep_latex(tables: Sequence[SweepTable], failures: Formatted) -> str:
    """Return tables as LaTeX, in the style of booktabs."""
    parts = ["% \\usepackage{booktabs,graphicx}\n", *map(_latex, tables)]
    failed = [[name, *row] for (_, name), row in zip(failures.text.index, failures.text.to_numpy(), strict=True)]
    parts += [f"% failed: {' '.join(', '.join(filter(None, row)).split())}\n" for row in failed]
    return "\n".join(parts)


def _latex(table: SweepTable) -> str:
    frame = _flat(formatted(table), _escape_latex, r"\textbf{{{}}}")
    tabular = frame.to_latex(index=False, column_format="l" + "r" * len(table.columns))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape_latex(table.title)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        tabular.strip() + "}",
    ]
    notes = [rf"\par\smallskip\footnotesize {_escape_latex(' '.join(table.notes))}"] if table.notes else []
    return "\n".join([*lines, *notes, r"\end{table}", ""])


def _escape_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def sweep_csv(tables: Sequence[SweepTable]) -> str:
    """Return all numbers, one per line; published ones have no standard deviation and no n."""
    cells = pd.concat([table.cells.assign(protocol=table.protocol) for table in tables])
    return cells[CSV_COLUMNS].astype({"n": "Int64"}).to_csv(index=False, float_format="%.10g", lineterminator="\n")
