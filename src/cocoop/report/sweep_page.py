"""The page of a sweep: tables, charts and results by class, made from its records only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from cocoop.experiments.records import Sweep
from cocoop.report import blocks
from cocoop.report.page import Section, page
from cocoop.report.published import AVERAGE, ShowPublished, data_title
from cocoop.report.results import (
    PROTOCOLS,
    Record,
    Results,
    class_accuracies,
    confusions_of,
    gained_and_lost,
    read_results,
)
from cocoop.report.sweep_charts import accuracy_charts, loss_charts, reliability_chart, short_title
from cocoop.report.sweep_tables import H_OF_AVERAGES, SweepTable, sweep_tables
from cocoop.report.sweep_text import failure_table, formatted
from cocoop.report.tables import METHOD_NAMES

__all__ = ["sweep_page"]

CHANGED, WORST = 6, 5
"""Numbers of classes to show: those that gained (or lost) most, and the worst ones of each method."""
CONFUSED = 3
"""Number of predicted classes shown for each of the worst classes."""
CHARTS = 4
"""Number of charts shown at once; more are folded."""
UNFOLDED = 2
"""Number of folds of an experiment that are open at first; if there are more, all are closed."""


LEAD = (
    "Zero-shot CLIP, CoOp and CoCoOp side by side: accuracy on classes seen in training, on new classes, and on other "
    "data sets. Every number comes from the records of the runs."
)


def sweep_page(
    sweep: Sweep,
    published: ShowPublished = "match",
    *,
    kicker: str = "cocoop report",
    title: str | None = None,
    lead: str = LEAD,
    before: Sequence[Section] = (),
    after: Sequence[Section] = (),
) -> str:
    """Return the page as HTML.

    Args:
        sweep: its records; at least one.
        published: when to show published numbers.
        kicker: line above the title.
        title: title; None: the number of runs and data sets.
        lead: paragraph below the title.
        before: sections after the first one, before the tables.
        after: sections at the end.
    """
    tables, results = sweep_tables(sweep, published), read_results(sweep.records)
    sections = [Section(title="At a glance", body=_scoreboard(tables)), *before]
    sections += [
        Section(title=PROTOCOLS.get(protocol, protocol), lead=LEADS.get(protocol, ""), body=_results(one, accuracies))
        for protocol, one in results.items()
        if (accuracies := [table for table in tables if table.protocol == protocol and table.kind == "accuracy"])
    ]
    sections += [
        Section(
            title="Class by class",
            lead="The classes that gained most from training, and those that lost most; means over seeds.",
            body=_folded(results, _changes),
        ),
        Section(
            title="Confusions",
            lead="The classes with the lowest accuracy of each method, and the classes predicted instead.",
            body=_folded(results, _worst),
        ),
        Section(
            title="Calibration",
            lead=(
                "A well calibrated method is right on 80% of the images on which it is 80% confident: its line is on "
                "the diagonal. Below the diagonal, it is overconfident. ECE is the mean distance from the diagonal, "
                "weighted by images."
            ),
            body=_folded(results, reliability_chart),
        ),
        Section(title="More measures", body=_more(tables)),
        Section(
            title="Training",
            lead="The loss on training images, one line per run.",
            body=_side_by_side(loss_charts(results)),
        ),
        Section(title="Time and memory", body=_costs(tables)),
        Section(title="Failed runs", body=_failed(sweep)),
        Section(title="Settings and versions", body=_settings(sweep)),
        *after,
    ]
    return page(
        title=title or _headline(sweep),
        kicker=kicker,
        lead=lead,
        sections=[section for section in sections if section.body],
        footer=f"Made from records of cocoop {_distinct(sweep.records, lambda r: r['versions']['cocoop'])}, "
        f"the last of {max(r['finished'] for r in sweep.records)[:10]}. This page loads nothing from the network.",
    )


LEADS = {
    "base-to-new": (
        "Trained on the base classes, the first half of all classes; tested on their images, and on images of the new "
        "classes, which training never saw. H, the harmonic mean of the two, is high only if both are."
    ),
    "cross-dataset": "Trained on one data set and tested, unchanged, on others with other classes.",
    "domain": "Trained on images of one kind and tested on the same classes in images of other kinds.",
    "few-shot": "Trained on a few images of each class and tested on other images of the same classes.",
    "together": "Trained on the base classes; each image is classified among base and new classes together.",
}


def _headline(sweep: Sweep) -> str:
    data = {name for record in sweep.records for name in record["data"].split("+")}
    failed = f", {len(sweep.failures)} failed" if sweep.failures else ""
    return f"{_count(len(sweep.records), 'run')} on {_count(len(data), 'data set')}{failed}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _distinct(records: Sequence[Record], value: Callable[[Record], object]) -> str:
    """List the different values in the order of the records, without None."""
    values = dict.fromkeys(value(record) for record in records)
    return ", ".join(str(value) for value in values if value is not None)


def _scoreboard(tables: Sequence[SweepTable]) -> Markup:
    """Return the base-to-new numbers of zero-shot CLIP, CoOp and CoCoOp as cards."""
    first = next((table for table in tables if table.protocol == "base-to-new"), None)
    if first is None:
        return Markup()
    cells = first.measured[first.measured["style"] == "spread"].drop_duplicates(["method", "column"])
    # The cards take the colours of the methods by their position.
    if list(cells.method.unique())[:3] != list(METHOD_NAMES):
        return Markup()
    columns = {"base": "base", "new": "new", H_OF_AVERAGES: "H", "H": "H"}
    scores = []
    for method in METHOD_NAMES:
        mine = cells[(cells.method == method) & cells["column"].isin(columns)]
        numbers = {columns[cell.column]: f"{cell.mean:.1f}" for cell in mine.itertuples()}
        scores.append(blocks.Score(mine.label.iloc[0], first.title, numbers))
    return blocks.scoreboard(scores)


def _results(results: Results, tables: Sequence[SweepTable]) -> Markup:
    """Return averages, charts and single tables of an experiment."""
    averages = [table for table in tables if table.data == AVERAGE]
    singles = [table for table in tables if table.data != AVERAGE]
    drawn = accuracy_charts(results, tables)
    parts = [*map(_table, averages), _side_by_side(drawn[:CHARTS])]
    if drawn[CHARTS:]:
        parts.append(blocks.fold("More charts", _side_by_side(drawn[CHARTS:])))
    if len(singles) > 1 and all(table.columns == singles[0].columns for table in singles):
        texts = [(data_title(table.data), formatted(table)) for table in singles]
        groups = [
            (f"{title}: {heading}" if heading else title, rows)
            for title, text in texts
            for heading, rows in text.groups
        ]
        notes = dict.fromkeys(note for table in singles for note in table.notes)
        parts.append(Markup("<h3>Each data set</h3>"))
        parts.append(blocks.grouped_table(texts[0][1].head, groups, caption=" ".join(notes)))
    else:
        parts += map(_table, singles)
    return Markup("\n").join(parts)


def _side_by_side(drawn: Sequence[Markup]) -> Markup:
    return blocks.side_by_side(drawn) if drawn else Markup()


def _table(table: SweepTable) -> Markup:
    return Markup("<h3>{}</h3>\n{}").format(short_title(table), _grouped(table, screen=True))


def _grouped(table: SweepTable, *, screen: bool = False) -> Markup:
    text = formatted(table, screen=screen)
    return blocks.grouped_table(text.head, text.groups, caption=" ".join(table.notes))


Renderer = Callable[[Results, pd.DataFrame, pd.DataFrame], Markup]
"""Renders rows with their numbers on one test; returns empty markup if there is nothing to show."""


def _folded(results: Mapping[str, Results], render: Renderer) -> Markup:
    """Render each experiment, data set and test in a fold of its own."""
    parts: list[Markup] = []
    for protocol, one in results.items():
        folds = [
            (title + variant, body)
            for rows, variant in _rows_to_compare(one)
            for title, tests in _each_test(one, rows)
            if (body := render(one, rows[rows.index.isin(tests["row"])], tests))
        ]
        if folds:
            parts.append(Markup("<h3>{}</h3>").format(PROTOCOLS.get(protocol, protocol)))
            parts += [blocks.fold(title, body, unfolded=len(folds) <= UNFOLDED) for title, body in folds]
    return Markup("\n").join(parts)


def _rows_to_compare(results: Results) -> list[tuple[pd.DataFrame, str]]:
    """Return the groups of rows to compare, each with the suffix that distinguishes its titles."""
    groups = results.compared_rows()
    variants = [rows.variant.iloc[0] if len(groups) > 1 else "" for rows in groups]
    return [(rows, f", {variant}" if variant else "") for rows, variant in zip(groups, variants, strict=True)]


def _each_test(results: Results, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the title and numbers of each data set and test, for each row only those with the most shots."""
    tests = results.tests[results.tests["row"].isin(rows.index)]
    tests = tests[tests["shots"] == tests.groupby("row")["shots"].transform("max")]
    for (data, test), part in tests.groupby(["data", "test"], sort=False):
        if results.protocol in ("cross-dataset", "domain") and test != "source":
            title = f"{data_title(data)} to {data_title(test)}"
        else:
            title = ", ".join(filter(None, (data_title(data), TESTS.get(test, test))))
        yield title, part


TESTS = {"base": "base classes", "new": "new classes", "all": "all images", "test": "", "source": ""}


def _changes(_results: Results, rows: pd.DataFrame, tests: pd.DataFrame) -> Markup:
    zero_shot, trained = rows[rows.method == "zero-shot"], rows[rows.method != "zero-shot"]
    if zero_shot.empty or trained.empty:
        return Markup()
    accuracies = {row: class_accuracies(tests[tests["row"] == row]) for row in rows.index}
    before, after = accuracies[zero_shot.index[0]], [accuracies[row] for row in trained.index]
    groups = {
        heading: [blocks.ChangeRow(name, before[name], [one[name] - before[name] for one in after]) for name in names]
        for heading, names in zip(("gained most", "lost most"), gained_and_lost(before, after, CHANGED), strict=True)
        if names
    }
    return blocks.change_table(groups, list(trained.label), before=zero_shot.label.iloc[0]) if groups else Markup()


def _worst(_results: Results, rows: pd.DataFrame, tests: pd.DataFrame) -> Markup:
    groups = []
    for row, label in rows.label.items():
        mine = tests[tests["row"] == row]
        accuracies, mistakes = class_accuracies(mine), confusions_of(mine)
        worst = sorted((name for name in accuracies if accuracies[name] < 100), key=accuracies.__getitem__)[:WORST]
        predicted = [
            ", ".join(f"{other} ({count})" for other, count in mistakes.get(name, Counter()).most_common(CONFUSED))
            for name in worst
        ]
        lines = [((name, f"{accuracies[name]:.0f}", text), ()) for name, text in zip(worst, predicted, strict=True)]
        if lines:
            groups.append((label, lines))
    caption = "Accuracy in %; in brackets, the number of images with this prediction, over all seeds together."
    head = ("class", "accuracy", "predicted instead")
    return blocks.grouped_table(head, groups, caption=caption, words=True) if groups else Markup()


def _more(tables: Sequence[SweepTable]) -> Markup:
    return Markup("\n").join(
        blocks.fold(table.title.removesuffix(", more measures"), _grouped(table))
        for table in tables
        if table.kind == "more"
    )


def _costs(tables: Sequence[SweepTable]) -> Markup:
    return Markup("\n").join(
        Markup("<h3>{}</h3>\n{}").format(table.title.partition(": ")[0], _grouped(table))
        for table in tables
        if table.kind == "cost"
    )


def _failed(sweep: Sweep) -> Markup:
    text = failure_table(sweep)
    caption = "Runs without a result, and the reasons."
    return blocks.grouped_table(text.head, text.groups, caption=caption, words=True) if sweep.failures else Markup()


def _settings(sweep: Sweep) -> Markup:
    records = sweep.records
    learned = [record for record in records if record["train"]]
    values: dict[str, object] = {
        "Backbone": _distinct(records, lambda r: f"{r['backbone']} in {r['precision']}"),
        "Data sets": _distinct(records, lambda r: data_title(r["data"])),
        "Seeds": ", ".join(map(str, sorted({record["seed"] for record in learned}))) or "none",
        "Shots": ", ".join(map(str, sorted({record["shots"] for record in learned}))) or "none",
        "Preset": _distinct(learned, lambda r: PRESETS.get(r["preset"], r["preset"])),
    }
    for method in dict.fromkeys(record["method"] for record in learned):
        mine = [r for r in learned if r["method"] == method and not r["changes"]]
        values[METHOD_NAMES.get(method, method)] = _distinct(mine, _training) or "with changed settings only"
    values["Machine"] = _distinct(
        records, lambda r: f"{r['machine']['processor']}, {r['machine']['threads']} threads, {r['machine']['device']}"
    )
    for library in dict.fromkeys(name for record in records for name in record["versions"]):
        values[library] = _distinct(records, lambda r, library=library: r["versions"].get(library))  # type: ignore[misc]
    return blocks.facts({name: value for name, value in values.items() if value})


PRESETS = {"paper": "as published", "cached": "as published, but with images encoded once, without augmentation"}


def _training(record: Record) -> str:
    train = record["train"]
    return f"{train['epochs']} epochs, batches of {train['batch_size']}, learning rate {train['learning_rate']:g}"
