"""Charts of a sweep, each with what it shows; all drawn from records and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from markupsafe import Markup

from cocoop.report import blocks, charts
from cocoop.report.published import AVERAGE, data_title
from cocoop.report.sweep_cells import SweepTable
from cocoop.report.sweep_classes import reliability_of
from cocoop.report.sweep_runs import PROTOCOLS, Runs, plain
from cocoop.report.tables import METHOD_NAMES, summary

__all__ = ["accuracy_charts", "loss_charts", "reliability_chart", "short_title"]

NAME = 24
"""Characters of a name in a chart; more would leave no room for the bars."""


def accuracy_charts(rows: Sequence[Runs], tables: Sequence[SweepTable]) -> list[Markup]:
    """The charts of a protocol.

    Args:
        rows: of the protocol.
        tables: its accuracies.
    """
    draw = _CHARTS.get(tables[0].protocol)
    return [] if draw is None else draw(rows, tables)


def short_title(table: SweepTable) -> str:
    """A table's title without its protocol's."""
    title = table.title.partition(": ")[2]
    return title if table.data != AVERAGE and title == data_title(table.data) else title[:1].upper() + title[1:]


def _place(row: Runs, rows: Sequence[Runs]) -> tuple[int, int]:
    """Colour and style of a row: the colour is its method's, the style tells it from others of the method."""
    methods = list(METHOD_NAMES)
    mine = [other.variant for other in rows if other.method == row.method]
    return methods.index(row.method) if row.method in methods else 0, mine.index(row.variant)


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"{name[: NAME - 1]}…"


def _base_new_charts(rows: Sequence[Runs], tables: Sequence[SweepTable]) -> list[Markup]:
    data = [table.data for table in tables if table.data != AVERAGE]
    if len(data) == 1:
        return _target_charts(rows, tables)
    rows = plain(rows)
    drawn = []
    for half in ("base", "new"):
        series = []
        for row in rows:
            found = {_short(data_title(name)): _accuracies(row, name, half) for name in data}
            series.append(charts.Bars(row.label, {name: v for name, v in found.items() if v}, *_place(row, rows)))
        said = "; ".join(f"{s.name}: " + ", ".join(f"{n} {summary(v)}" for n, v in s.values.items()) for s in series)
        svg = charts.level_bars(
            series, title=f"{half.capitalize()} classes", x_label="accuracy in %", description=f"Bars, {said}."
        )
        drawn.append(blocks.chart(svg, "Means over seeds; the thin lines reach one standard deviation to both sides."))
    firsts = {row.method: row for row in reversed(rows)}
    if {"coop", "cocoop"} <= firsts.keys():
        drawn += [_gains(firsts["coop"], firsts["cocoop"], data, half) for half in ("new", "base")]
    return drawn


def _accuracies(row: Runs, data: str, test: str, shots: int | None = None) -> list[float]:
    runs = row.on(data, shots).values()
    return [record["tests"][test]["accuracy"] for record in runs if test in record["tests"]]


def _gains(coop: Runs, cocoop: Runs, data: Sequence[str], half: str) -> Markup:
    """As the paper's figure of CoCoOp over CoOp."""
    pairs = {_short(data_title(n)): (_accuracies(coop, n, half), _accuracies(cocoop, n, half)) for n in data}
    changes = {name: fmean(after) - fmean(before) for name, (before, after) in pairs.items() if before and after}
    ordered = dict(sorted(changes.items(), key=lambda pair: -pair[1]))
    if not ordered:
        return Markup()
    svg = charts.level_changes(
        ordered,
        title=f"CoCoOp over CoOp, {half} classes",
        x_label="change in percentage points",
        description="Bars: " + ", ".join(f"{name} {value:+.1f}" for name, value in ordered.items()) + ".",
    )
    return blocks.chart(svg, f"Where CoCoOp is more accurate than CoOp on {half} classes, and where less.")


def _few_shot_charts(rows: Sequence[Runs], tables: Sequence[SweepTable]) -> list[Markup]:
    """One chart a table, from its cells."""
    drawn = []
    for table in tables:
        shots = [int(column.name.split()[0]) for column in table.columns]
        last, lines = max(shots), []
        for row in rows:
            cells = next((r.cells for r in table.rows if (r.method, r.variant) == (row.method, row.variant)), ())
            points = [(count, cell) for count, cell in zip(shots, cells, strict=False) if cell is not None]
            x, y = [count for count, _ in points], [cell.mean for _, cell in points]
            spread = [cell.std or 0.0 for _, cell in points]
            if not points:
                continue
            colour, style = _place(row, rows)
            if row.method == "zero-shot":
                # What learns nothing is as good with any number of shots.
                x, y, spread, style = [0, last], y * 2, [], style + 1
            lines.append(charts.Line(x, y, colour, row.label, spread, style))
        svg = charts.curves(
            lines,
            title=short_title(table),
            x_label="training photos a class",
            y_label="accuracy in %",
            description="; ".join(f"{line.name}: {_points(line)}" for line in lines if line.name) + ".",
            x_ticks=shots,
        )
        drawn.append(blocks.chart(svg, "Means over seeds; bars reach one standard deviation up and down."))
    return drawn


def _points(line: charts.Line) -> str:
    return ", ".join(f"{x:g} shots {y:.1f}" for x, y in zip(line.x, line.y, strict=True))


def _target_charts(rows: Sequence[Runs], tables: Sequence[SweepTable]) -> list[Markup]:
    """One chart a table, from its cells."""
    drawn = []
    place = {(row.method, row.variant): _place(row, plain(rows)) for row in plain(rows)}
    for table in tables:
        series = [
            charts.Bars(
                row.label,
                {
                    _short(c.name): cell.values
                    for c, cell in zip(table.columns, row.cells, strict=True)
                    if cell and c.style == "spread"
                },
                *place[row.method, row.variant],
            )
            for row in table.rows
            if (row.method, row.variant) in place
        ]
        said = "; ".join(f"{s.name}: " + ", ".join(f"{n} {summary(v)}" for n, v in s.values.items()) for s in series)
        svg = charts.level_bars(series, title=short_title(table), x_label="accuracy in %", description=f"Bars, {said}.")
        drawn.append(blocks.chart(svg, "Means over seeds; the thin lines reach one standard deviation to both sides."))
    return drawn


_CHARTS = {
    "base-to-new": _base_new_charts,
    "cross-dataset": _target_charts,
    "domain": _target_charts,
    "few-shot": _few_shot_charts,
}


def reliability_chart(rows: Sequence[Runs], data: str, test: str) -> Markup:
    """Accuracy by confidence of some rows on one test; of base and new classes together, all photos only."""
    lines = []
    if rows[0].records[0]["protocol"] == "together" and test != "all":
        return Markup()
    for row in rows:
        found = reliability_of(row.on(data).values(), test)
        if found is not None:
            name = f"{row.label}, ECE {found.ece:.1f}"
            colour, style = _place(row, rows)
            lines.append(charts.Line(found.confidence, found.accuracy, colour, name, style=style))
    if not lines:
        return Markup()
    ends = "; ".join(line.name for line in lines)
    svg = charts.reliability(lines, title="Accuracy by confidence", description=f"Reliability diagram. {ends}.")
    return blocks.chart(svg, "Bins of equal width that hold photos; all seeds together, ECE is their mean.")


def loss_charts(protocols: Mapping[str, Sequence[Runs]]) -> list[Markup]:
    """The loss of each method on training photos, a chart a protocol; runs of one epoch have no curve."""
    drawn = []
    for protocol, rows in protocols.items():
        for row in plain(rows):
            histories = [record["history"] for record in row.records if len(record["history"]) > 1]
            if not histories:
                continue
            lines = [
                charts.Line([e["epoch"] for e in h], [e["loss"] for e in h], _place(row, rows)[0]) for h in histories
            ]
            where = PROTOCOLS.get(protocol, protocol)
            ends = f"{fmean(h[0]['loss'] for h in histories):.2f} to {fmean(h[-1]['loss'] for h in histories):.2f}"
            svg = charts.curves(
                lines,
                title=f"{row.label}: loss",
                x_label="epoch",
                y_label="loss",
                description=f"{where}, {row.label}: loss from the first epoch to the last, on average {ends}.",
            )
            about = f"{where}; {len(lines)} run{'s' * (len(lines) > 1)}, on average {ends}."
            drawn.append(blocks.chart(svg, about))
    return drawn
