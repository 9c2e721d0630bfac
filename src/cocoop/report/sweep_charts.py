"""The charts of a sweep, drawn from its tables and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from markupsafe import Markup

from cocoop.report import blocks, charts
from cocoop.report.published import AVERAGE, data_title
from cocoop.report.results import PROTOCOLS, Results, merge_reliability
from cocoop.report.sweep_tables import SweepTable
from cocoop.report.tables import METHOD_NAMES, plus_minus, signed

__all__ = ["accuracy_charts", "loss_charts", "reliability_chart", "short_title"]

MAX_NAME_LENGTH = 24
"""Maximum length of a name in a chart; longer names would leave no room for the bars."""
BARS_CAPTION = "Means over seeds; the thin lines extend one standard deviation to both sides."


def accuracy_charts(results: Results, tables: Sequence[SweepTable]) -> list[Markup]:
    """Draw the charts of an experiment from its tables of accuracies; few-shot has curves, the others have bars."""
    if results.protocol == "few-shot":
        return [_few_shot_curves(results, table) for table in tables]
    if results.protocol in ("cross-dataset", "domain"):
        return [_bars(results, table.cells.replace({"column": table.columns}), short_title(table)) for table in tables]
    singles = [table for table in tables if table.data != AVERAGE]
    if results.protocol != "base-to-new":
        return []
    if len(singles) == 1:
        return [_bars(results, singles[0].cells, short_title(singles[0]))]
    # One chart for each half, with the data sets as groups.
    cells = pd.concat(
        [table.cells.assign(test=table.cells["column"], column=data_title(table.data)) for table in singles]
    )
    halves = [(half, cells[cells["test"] == half]) for half in ("base", "new")]
    gains = [_gains(part, half) for half, part in reversed(halves)]
    return [*(_bars(results, part, f"{half.capitalize()} classes") for half, part in halves), *filter(None, gains)]


def short_title(table: SweepTable) -> str:
    """Return the title of a table without its experiment."""
    title = table.title.partition(": ")[2]
    return title if title == data_title(table.data) else title[:1].upper() + title[1:]


def _colours_and_styles(rows: pd.DataFrame) -> dict[int, tuple[int, int]]:
    """Return colour and style by row: rows of one method share its colour and differ in style."""
    methods = list(METHOD_NAMES)
    styles = rows.groupby("method").cumcount()
    return {
        row: (methods.index(method) if method in methods else 0, int(style))
        for row, method, style in zip(rows.index, rows.method, styles, strict=True)
    }


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _bars(results: Results, cells: pd.DataFrame, title: str) -> Markup:
    """Draw the accuracies of the plain rows, with the columns of the table as groups."""
    rows, where = results.plain_rows, PROTOCOLS.get(results.protocol, results.protocol)
    cells = cells[(cells["style"] == "spread") & cells.row.isin(rows.index)]
    series = [
        charts.Bars(
            rows.label[row],
            {_short(cell.column): (cell.mean, cell.std) for cell in cells[cells.row == row].itertuples()},
            *look,
        )
        for row, look in _colours_and_styles(rows).items()
        if row in set(cells.row)
    ]
    values = [
        f"{one.name}: " + ", ".join(f"{name} {plus_minus(*value)}" for name, value in one.values.items())
        for one in series
    ]
    svg = charts.horizontal_bars(
        series, title=title, x_label="accuracy in %", description=f"{where}, {title}. {'; '.join(values)}."
    )
    return blocks.chart(svg, BARS_CAPTION)


def _gains(cells: pd.DataFrame, half: str) -> Markup:
    """Draw the gains of CoCoOp over CoOp on each data set, as in the paper's figure."""
    firsts = cells[(cells["style"] == "spread") & (cells.group == "")].drop_duplicates(["method", "column"])
    means = firsts.pivot(index="column", columns="method", values="mean").reindex(columns=["coop", "cocoop"])
    gains = (means["cocoop"] - means["coop"]).dropna().sort_values(ascending=False)
    if gains.empty:
        return Markup()
    svg = charts.horizontal_changes(
        {_short(name): gain for name, gain in gains.items()},
        title=f"CoCoOp over CoOp, {half} classes",
        x_label="change in percentage points",
        description=f"Gains on {half} classes: " + ", ".join(f"{name} {signed(gain)}" for name, gain in gains.items()),
    )
    return blocks.chart(svg, f"Gains and losses of CoCoOp against CoOp on {half} classes.")


def _few_shot_curves(results: Results, table: SweepTable) -> Markup:
    shots = {column: int(column.split()[0]) for column in table.columns}
    lines = []
    for row, (colour, style) in _colours_and_styles(results.rows).items():
        cells = table.cells[table.cells.row == row]
        if cells.empty:
            continue
        x, y, spread = [shots[column] for column in cells["column"]], list(cells["mean"]), list(cells["std"].fillna(0))
        if results.rows.method[row] == "zero-shot":
            # Zero-shot does not depend on the number of shots.
            x, y, spread, style = [0, max(shots.values())], y * 2, [], style + 1
        lines.append(charts.Line(x, y, colour, results.rows.label[row], spread, style))
    values = [
        f"{line.name}: " + ", ".join(f"{x:g} shots {y:.1f}" for x, y in zip(line.x, line.y, strict=True))
        for line in lines
    ]
    svg = charts.curves(
        lines,
        title=short_title(table),
        x_label="training images of each class",
        y_label="accuracy in %",
        description=f"{table.title}. {'; '.join(values)}.",
        x_ticks=list(shots.values()),
    )
    return blocks.chart(svg, "Means over seeds; bars extend one standard deviation up and down.")


def reliability_chart(results: Results, rows: pd.DataFrame, tests: pd.DataFrame) -> Markup:
    """Draw accuracy by confidence of some rows on one test; for base and new classes together, on all images only."""
    if results.protocol == "together" and "all" not in set(tests["test"]):
        return Markup()
    lines = []
    for row, (colour, style) in _colours_and_styles(rows).items():
        mine = tests[tests["row"] == row]
        confidence, accuracy = merge_reliability(mine)
        if confidence:
            name = f"{rows.label[row]}, ECE {mine['ece'].mean():.1f}"
            lines.append(charts.Line(confidence, accuracy, colour, name, style=style))
    if not lines:
        return Markup()
    ends = "; ".join(line.name for line in lines)
    where = f"{PROTOCOLS.get(results.protocol, results.protocol)}, {tests['data'].iloc[0]}, {tests['test'].iloc[0]}"
    svg = charts.reliability(lines, title="Accuracy by confidence", description=f"Reliability, {where}: {ends}.")
    return blocks.chart(svg, "Bins of equal width that hold images, over all seeds; ECE is the mean over seeds.")


def loss_charts(results: Mapping[str, Results]) -> list[Markup]:
    """Draw one chart of the training loss per row; runs of one epoch have no curve."""
    return [
        _loss_chart(PROTOCOLS.get(protocol, protocol), one.plain_rows.label[row], histories, look[0])
        for protocol, one in results.items()
        for row, look in _colours_and_styles(one.plain_rows).items()
        if (histories := [history for history in one.runs.history[one.runs["row"] == row] if len(history) > 1])
    ]


def _loss_chart(experiment: str, label: str, histories: Sequence[Sequence[Mapping[str, Any]]], colour: int) -> Markup:
    first, last = (fmean(history[epoch]["loss"] for history in histories) for epoch in (0, -1))
    svg = charts.curves(
        [charts.Line([e["epoch"] for e in epochs], [e["loss"] for e in epochs], colour) for epochs in histories],
        title=f"{label}: loss",
        x_label="epoch",
        y_label="loss",
        description=f"{experiment}, {label}: loss by epoch, on average from {first:.2f} to {last:.2f}.",
    )
    runs = f"{len(histories)} run{'s' * (len(histories) > 1)}"
    return blocks.chart(svg, f"{experiment}; {runs}, on average from {first:.2f} to {last:.2f}.")
