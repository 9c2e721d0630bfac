"""A table of a sweep as numbers: cells, rows, columns, and how a table is filled from runs and published numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from cocoop.report.published import PAPER
from cocoop.report.sweep_runs import Runs, baseline, run_label

__all__ = ["DELTA", "Cell", "Column", "Draft", "Row", "Seeds", "ShowPublished", "SweepTable", "seed_notes"]

ShowPublished = Literal["match", "always", "never"]
"""When published numbers are shown: where the settings are the paper's, always, or never."""

Seeds = dict[int | None, float]
"""A number by seed; None is zero-shot's, which has none."""
Kind = Literal["accuracy", "more", "cost"]

DELTA = "\N{GREEK CAPITAL LETTER DELTA} "


@dataclass(frozen=True)
class Cell:
    """A number over seeds."""

    values: tuple[float, ...]
    """One a seed; at least one."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); None of a single value."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)


@dataclass(frozen=True)
class Column:
    """What stands below each other."""

    name: str
    """Its heading."""
    measure: str = "accuracy"
    """What is measured: accuracy, H, a difference to zero-shot, ..."""
    test: str = ""
    """On which test; its name by default."""
    style: Literal["spread", "signed", "mean", "count"] = "spread"
    """Mean and spread; a difference with its sign; a mean alone; or a whole number."""


@dataclass(frozen=True)
class Row:
    """A method, or what the paper prints for it."""

    method: str
    """Its key."""
    variant: str
    """In what it differs from other rows of the method; `PAPER` for published numbers."""
    cells: tuple[Cell | None, ...]
    """One a column; None where nothing was measured."""
    group: str = ""
    """Heading of the rows it belongs to, such as a test; empty for none."""
    data: str = ""
    """Name of its data set, where the table has several."""
    test: str = ""
    """Its test, where the columns do not say."""

    @property
    def published(self) -> bool:
        """Whether its numbers are the paper's."""
        return self.group == PAPER

    @property
    def label(self) -> str:
        """Its name."""
        return run_label(self.method, "" if self.published else self.variant)


@dataclass(frozen=True)
class SweepTable:
    """A table of numbers."""

    title: str
    """What is in it."""
    protocol: str
    """As in records."""
    data: str
    """Name of the data set that was trained on; `AVERAGE` for several."""
    columns: tuple[Column, ...]
    """From left to right."""
    rows: tuple[Row, ...]
    """From top to bottom; those of a group follow each other."""
    notes: tuple[str, ...] = ()
    """Sentences below it."""
    kind: Kind = "accuracy"
    """Accuracies, more measures, or costs."""

    @property
    def seeds(self) -> int:
        """The largest number of seeds behind a cell; where a row of a learned method has fewer, it is to be said."""
        return max((c.n for row in self.rows if not row.published for c in row.cells if c is not None), default=0)


@dataclass(frozen=True)
class Draft:
    """A table of methods, before its numbers are looked up."""

    title: str
    protocol: str
    data: str
    columns: tuple[Column, ...]
    ours: Callable[[Runs], Mapping[str, Seeds]]
    """Numbers of a row, by the names of columns; one may be missing."""
    theirs: Callable[[str], Mapping[str, float]] = field(default=lambda _method: {})
    """What the paper prints for a method."""
    notes: tuple[str, ...] = ()

    def filled(self, rows: Sequence[Runs], show: ShowPublished) -> SweepTable:
        """The table, with a column of differences to zero-shot where the columns ask for it."""
        filled, shown = [], []
        for runs in rows:
            numbers = self.ours(runs)
            if not any(numbers.values()):
                continue
            zero = baseline(runs, rows)
            before = {} if zero is None or runs.method == "zero-shot" else self.ours(zero)
            means = {name: fmean(values.values()) for name, values in before.items() if values}
            filled.append(Row(runs.method, runs.variant, tuple(_cell(c, numbers, means) for c in self.columns)))
            shown.append(runs)
        if not filled:
            return SweepTable(self.title, self.protocol, self.data, (), ())
        published, more = self._published(shown, show)
        notes = [*self.notes, *seed_notes(filled), *more]
        return SweepTable(self.title, self.protocol, self.data, self.columns, (*filled, *published), tuple(notes))

    def _published(self, rows: Sequence[Runs], show: ShowPublished) -> tuple[list[Row], list[str]]:
        matching = {runs.method for runs in rows if runs.as_published}
        methods = {"match": matching, "always": {runs.method for runs in rows}, "never": set[str]()}[show]
        zero = self.theirs("zero-shot")
        made = []
        for method in dict.fromkeys(runs.method for runs in rows if runs.method in methods):
            numbers: dict[str, Seeds] = {name: {None: number} for name, number in self.theirs(method).items()}
            cells = tuple(_cell(c, numbers, {} if method == "zero-shot" else zero) for c in self.columns)
            if any(cells):
                made.append(Row(method, PAPER, cells, group=PAPER))
        others = {row.method for row in made} - matching
        caution = (
            "The paper's numbers are of other settings (ViT-B/16, 16 shots, photos augmented in every epoch) than "
            "ours: backbone or settings differ, and only directions can be compared."
        )
        return made, [caution] if others else []


def _cell(column: Column, numbers: Mapping[str, Seeds], before: Mapping[str, float]) -> Cell | None:
    if column.style != "signed":
        values = numbers.get(column.name, {})
        return Cell(tuple(values.values())) if values else None
    name = column.name.removeprefix(DELTA)
    values = numbers.get(name, {})
    return Cell(tuple(value - before[name] for value in values.values())) if values and name in before else None


def seed_notes(rows: Iterable[Row]) -> list[str]:
    """What the spread of rows is, in a sentence; nothing where there is one seed."""
    counts = {cell.n for row in rows if row.method != "zero-shot" for cell in row.cells if cell is not None}
    if not counts or max(counts) == 1:
        return []
    unless = ", unless n says how many" if len(counts) > 1 else ""
    return [f"Mean ± sample standard deviation (n - 1) over {max(counts)} seeds{unless}."]
