"""What a sweep found, in sentences that follow its numbers whatever they are. No number is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cocoop.experiments.records import Sweep
from cocoop.report.published import AVERAGE, data_title, published_number
from cocoop.report.sweep_cells import Cell, Row, SweepTable
from cocoop.report.sweep_tables import H_OF_AVERAGES
from cocoop.report.tables import METHOD_NAMES

__all__ = ["findings", "joined"]

ZERO, LEARNERS = "zero-shot", ("coop", "cocoop")


def findings(sweep: Sweep, tables: Sequence[SweepTable]) -> list[str]:
    """Sentences about each protocol's first table, which is the average where there is one.

    Args:
        sweep: for what failed.
        tables: of all protocols; where they show published numbers, the paper's finding is told too.
    """
    sentences: list[str] = []
    for protocol, words in _WORDS.items():
        mine = [table for table in tables if table.protocol == protocol and table.kind == "accuracy"]
        if mine:
            sentences += words(mine)
        if mine and protocol == "base-to-new":
            sentences += _ahead(mine)
    failed = len(sweep.failures)
    if failed:
        sentences.append(f"{failed} run{'s' * (failed > 1)} failed; the reasons are below.")
    return sentences


def joined(parts: Sequence[str]) -> str:
    """An enumeration."""
    return " and ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _firsts(table: SweepTable) -> dict[str, Row]:
    """The first row of each method, which is the one nearest to the published settings."""
    firsts: dict[str, Row] = {}
    for row in table.rows:
        if not row.published:
            firsts.setdefault(row.method, row)
    return firsts


def _numbers(table: SweepTable, column: str) -> dict[str, Cell]:
    """A column by method."""
    place = next((i for i, c in enumerate(table.columns) if c.name == column), None)
    found = {} if place is None else {method: row.cells[place] for method, row in _firsts(table).items()}
    return {method: cell for method, cell in found.items() if cell is not None}


def _where(table: SweepTable) -> str:
    return f"on {table.title.partition(': ')[2]}".replace("on average of", "on average over")


def _reach(table: SweepTable, cells: Mapping[str, Cell]) -> str:
    names = _firsts(table)
    order = [method for method in METHOD_NAMES if method in cells]
    return joined([f"{names[method].label} names {cells[method].mean:.1f}%" for method in order])


def _base_to_new(tables: Sequence[SweepTable]) -> list[str]:
    table = tables[0]
    names = {method: row.label for method, row in _firsts(table).items()}
    base, new = _numbers(table, "base"), _numbers(table, "new")
    h = _numbers(table, H_OF_AVERAGES) or _numbers(table, "H")
    sentences = []
    if ZERO in base and ZERO in new:
        sentences.append(
            f"Base to new, {_where(table)}: zero-shot CLIP, which learns nothing, names {base[ZERO].mean:.1f}% of the "
            f"base photos right and {new[ZERO].mean:.1f}% of the new ones."
        )
        for cells, half in ((base, "base"), (new, "new")):
            learners = [method for method in LEARNERS if method in cells]
            moved = [f"{names[m]} {_moved(cells[m].mean - cells[ZERO].mean)}" for m in learners]
            if moved:
                sentences.append(f"On {half} classes, against zero-shot, {joined(moved)}.")
    if len(h) > 1:
        highest = f"{max(cell.mean for cell in h.values()):.1f}"
        best = [names[method] for method, cell in h.items() if f"{cell.mean:.1f}" == highest]
        sentences.append(f"{joined(best)} {'has' if len(best) == 1 else 'have'} the highest H, {highest}.")
    return sentences


def _ahead(tables: Sequence[SweepTable]) -> list[str]:
    """CoCoOp against CoOp on new classes, beside what the paper found."""
    new = _numbers(tables[0], "new")
    if not set(LEARNERS) <= set(new):
        return []
    coop, cocoop = (new[method] for method in LEARNERS)
    difference = cocoop.mean - coop.mean
    singles = [numbers for t in tables if t.data != AVERAGE and set(LEARNERS) <= set(numbers := _numbers(t, "new"))]
    wins = sum(numbers["cocoop"].mean > numbers["coop"].mean for numbers in singles)
    sentence = f"On new classes CoCoOp is {_points(abs(difference))} {'above' if difference >= 0 else 'below'} CoOp"
    if len(singles) > 1:
        sentence += f" on average, and above it on {wins} of {len(singles)} data sets"
    if coop.n > 1 and cocoop.n > 1 and abs(difference) <= max(coop.std or 0, cocoop.std or 0):
        sentence += "; the difference is within the spread of the seeds"
    theirs = [published_number("base-to-new", AVERAGE, method, "new") for method in LEARNERS]
    paper = any(row.published for table in tables for row in table.rows)
    if paper and None not in theirs:
        sentence += f". In the paper (ViT-B/16, eleven data sets) it is {_points(theirs[1] - theirs[0])} above"  # type: ignore[operator]
    return [f"{sentence}."]


def _transfer(tables: Sequence[SweepTable]) -> list[str]:
    """One sentence a source; for domains left out once each, one of all of them."""
    whole = tables[0].data == AVERAGE
    return [sentence for table in tables[: 1 if whole else None] if (sentence := _carried_over(table))]


def _carried_over(table: SweepTable) -> str:
    cells = _numbers(table, table.columns[-1].name)
    count = sum(column.test not in ("source", AVERAGE, "average of targets") for column in table.columns)
    if not cells or not count:
        return ""
    if table.data == AVERAGE:
        return f"Of {count} domains, each left out once, {_reach(table, cells)} right on average."
    what = ("domain" if table.protocol == "domain" else "data set") + "s" * (count > 1)
    average = " on average" * (count > 1)
    where = f"Learned on {data_title(table.data)} and tested on {count} other {what}"
    return f"{where}, {_reach(table, cells)} right{average}."


def _few_shot(tables: Sequence[SweepTable]) -> list[str]:
    table = tables[0]
    shots = [column.name for column in table.columns if any(m in _numbers(table, column.name) for m in LEARNERS)]
    zero = _numbers(table, table.columns[0].name).get(ZERO)
    return [
        f"With {name} a class, {_where(table)}: {_reach(table, _numbers(table, name))} of the test photos right"
        + (f"; zero-shot CLIP, {zero.mean:.1f}%." if zero else ".")
        for name in dict.fromkeys([*shots[:1], *shots[-1:]])
    ]


def _together(tables: Sequence[SweepTable]) -> list[str]:
    table = tables[0]
    cells = _numbers(table, "all")
    return [f"Among base and new classes together, {_where(table)}: {_reach(table, cells)} right."] if cells else []


def _moved(points: float) -> str:
    if abs(points) < 0.05:
        return "stays where it was"
    return f"{'gains' if points > 0 else 'loses'} {_points(abs(points))}"


def _points(points: float) -> str:
    return f"{points:.1f} points".replace("-", "\N{MINUS SIGN}")


_WORDS = {
    "base-to-new": _base_to_new,
    "cross-dataset": _transfer,
    "domain": _transfer,
    "few-shot": _few_shot,
    "together": _together,
}
