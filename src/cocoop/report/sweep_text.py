"""Tables of a sweep as text: for a terminal, as Markdown, LaTeX and CSV. All names are escaped."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cocoop.experiments.records import Sweep
from cocoop.report.sweep_cells import Cell, Column, Row, SweepTable
from cocoop.report.sweep_runs import differing_facts, run_label, variant_of
from cocoop.report.tables import summary

__all__ = [
    "FAILURE_HEAD",
    "Grid",
    "Line",
    "change",
    "failure_rows",
    "grid",
    "sweep_csv",
    "sweep_latex",
    "sweep_markdown",
    "sweep_rich",
]

FAILURE_HEAD = ("failed", "protocol", "data", "seed", "shots", "reason")
CSV_HEAD = ("protocol", "data", "method", "variant", "test", "measure", "mean", "std", "n")
WIDE = 8
"""Columns beyond which a table is turned where it is read on a screen."""

LATEX = {
    **{character: f"\\{character}" for character in "&%_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    # After the end of a row, a bracket would be its option.
    "[": "{[}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{GREEK CAPITAL LETTER DELTA}": r"$\Delta$",
}


@dataclass(frozen=True)
class Line:
    """A row as words."""

    heading: str
    """What stands above its group of rows; empty for nothing."""
    cells: tuple[str, ...]
    """From left to right; the first names the row."""
    best: frozenset[int] = frozenset()
    """Positions of the cells that are the best of their kind."""


@dataclass(frozen=True)
class Grid:
    """A table as words."""

    head: tuple[str, ...]
    """Names of the columns."""
    lines: tuple[Line, ...]
    """From top to bottom; those with one heading follow each other."""

    @property
    def groups(self) -> list[tuple[str, list[Line]]]:
        """Rows by their heading."""
        return [(heading, list(lines)) for heading, lines in itertools.groupby(self.lines, lambda line: line.heading)]


def change(points: float) -> str:
    """A difference with one decimal and its sign; a true minus."""
    return "0.0" if round(points, 1) == 0 else f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def grid(table: SweepTable, *, screen: bool = False) -> Grid:
    """The words of a table.

    Args:
        table: its numbers.
        screen: turn it, if it has many columns: a screen has more room downwards.
    """
    words = [tuple(_cell(cell, column, row, table.seeds) for cell, column in _pairs(row, table)) for row in table.rows]
    best = _best(table)
    if screen and len(table.columns) > WIDE:
        names = [f"{row.label}, {row.group}" if row.group else row.label for row in table.rows]
        turned = (
            Line("", (c.name, *(row[i] for row in words)), frozenset(r + 1 for r, column in best if column == i))
            for i, c in enumerate(table.columns)
        )
        return Grid(("test", *names), tuple(turned))
    return Grid(
        ("method", *(column.name for column in table.columns)),
        tuple(
            Line(row.group, (row.label, *words[r]), frozenset(i + 1 for number, i in best if number == r))
            for r, row in enumerate(table.rows)
        ),
    )


def _best(table: SweepTable) -> set[tuple[int, int]]:
    """Row and column of the highest accuracies among several of ours."""
    best: set[tuple[int, int]] = set()
    for i, column in enumerate(table.columns):
        found = {r: row.cells[i] for r, row in enumerate(table.rows) if not row.published}
        means = {r: round(cell.mean, 1) for r, cell in found.items() if cell is not None}
        if table.kind == "accuracy" and column.style == "spread" and len(means) > 1:
            best |= {(r, i) for r, mean in means.items() if mean == max(means.values())}
    return best


def _pairs(row: Row, table: SweepTable) -> Iterable[tuple[Cell | None, Column]]:
    return zip(row.cells, table.columns, strict=True)


def _cell(cell: Cell | None, column: Column, row: Row, seeds: int) -> str:
    if cell is None:
        return ""
    fewer = not row.published and row.method != "zero-shot" and cell.n < seeds
    text = {
        "spread": lambda: summary(cell.values),
        "signed": lambda: change(cell.mean),
        "mean": lambda: f"{cell.mean:,.1f}",
        "count": lambda: f"{cell.mean:,.0f}",
    }[column.style]()
    return f"{text} (n = {cell.n})" if fewer and column.style == "spread" else text


def failure_rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """What failed and why, below `FAILURE_HEAD`."""
    differing = differing_facts([*sweep.records, *sweep.failures])
    return [
        (
            run_label(failure["method"], variant_of(failure, differing)),
            failure["protocol"],
            failure["data"],
            *("" if failure[name] is None else str(failure[name]) for name in ("seed", "shots")),
            failure["reason"],
        )
        for failure in sweep.failures
    ]


def _failed(failures: Iterable[Sequence[str]]) -> Grid:
    return Grid(FAILURE_HEAD, tuple(Line("", tuple(row)) for row in failures))


def sweep_rich(tables: Sequence[SweepTable], failures: Sequence[Sequence[str]] = ()) -> Group:
    """Tables for a terminal; what holds for several is said below the first of them."""
    said: set[str] = set()
    parts: list[Text | Table] = []
    for table in tables:
        parts += _rich(table.title, grid(table, screen=True), [note for note in table.notes if note not in said])
        said |= set(table.notes)
    if failures:
        parts += _rich("Failed runs", _failed(failures), ())
    return Group(*parts)


def _rich(title: str, words: Grid, notes: Iterable[str]) -> list[Text | Table]:
    made = Table()
    for number, name in enumerate(words.head):
        right = number and words.head != FAILURE_HEAD
        made.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for heading, lines in words.groups:
        if heading:
            made.add_section()
            made.add_row(Text(heading, style="italic"))
        for line in lines:
            made.add_row(*(Text(cell, style="bold" if i in line.best else "") for i, cell in enumerate(line.cells)))
    # Rich would fold a title and a caption of the table itself to the table's small width.
    return [Text(title, style="bold"), made, *(Text(note, style="dim") for note in notes), Text()]


def sweep_markdown(tables: Sequence[SweepTable], failures: Sequence[Sequence[str]] = ()) -> str:
    """Tables as GitHub's Markdown."""
    parts = [_markdown(table.title, grid(table), table.notes) for table in tables]
    if failures:
        parts.append(_markdown("Failed runs", _failed(failures), ()))
    return "\n".join(parts)


def _markdown(title: str, words: Grid, notes: Iterable[str]) -> str:
    def row(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [f"## {_marked(title)}", "", row(map(_marked, words.head)), row(["---"] + ["---:"] * (len(words.head) - 1))]
    for heading, group in words.groups:
        if heading:
            lines.append(row([f"*{_marked(heading)}*"] + [""] * (len(words.head) - 1)))
        lines += [row(f"**{_marked(c)}**" if i in g.best else _marked(c) for i, c in enumerate(g.cells)) for g in group]
    return "\n".join([*lines, "", *(f"{_marked(note)}  " for note in notes), ""])


def _marked(text: str) -> str:
    """Plain text within a line of Markdown; what it escapes may be escaped everywhere."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(text.split()))


def sweep_latex(tables: Sequence[SweepTable], failures: Sequence[Sequence[str]] = ()) -> str:
    """Tables as LaTeX, in the style of booktabs."""
    parts = ["% \\usepackage{booktabs,graphicx}\n", *map(_latex, tables)]
    parts += [f"% failed: {' '.join(', '.join(filter(None, row)).split())}\n" for row in failures]
    return "\n".join(parts)


def _latex(table: SweepTable) -> str:
    def row(line: Line) -> str:
        return (
            " & ".join(rf"\textbf{{{_tex(c)}}}" if i in line.best else _tex(c) for i, c in enumerate(line.cells)) + end
        )

    words, end = grid(table), r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.title)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        row(Line("", words.head)),
    ]
    for heading, group in words.groups:
        lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(words.head)}}}{{l}}{{\emph{{{_tex(heading)}}}}}" + end)
        lines += map(row, group)
    notes = [rf"\par\smallskip\footnotesize {_tex(' '.join(table.notes))}"] if table.notes else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", *notes, r"\end{table}", ""])


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def sweep_csv(tables: Sequence[SweepTable]) -> str:
    """All numbers, one a row; a published one has no standard deviation and no n."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in tables:
        for row in table.rows:
            for cell, column in _pairs(row, table):
                if cell is None:
                    continue
                std = "" if cell.std is None else f"{cell.std:.6g}"
                writer.writerow(
                    [
                        table.protocol,
                        row.data or table.data,
                        row.method,
                        row.variant,
                        row.test or column.test,
                        column.measure,
                        f"{cell.mean:.10g}",
                        std,
                        "" if row.published else cell.n,
                    ]
                )
    return file.getvalue()
