"""The page of a sweep: what was found, tables, plots and single classes, all made from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from cocoop.experiments.records import Sweep
from cocoop.report import blocks
from cocoop.report.page import Section, page
from cocoop.report.published import AVERAGE, data_title
from cocoop.report.sweep_cells import ShowPublished, SweepTable
from cocoop.report.sweep_charts import accuracy_charts, loss_charts, reliability_chart, short_title
from cocoop.report.sweep_classes import compared, gained_and_lost, mean_per_class, worst_classes
from cocoop.report.sweep_runs import PROTOCOLS, Record, Runs, by_protocol, collect
from cocoop.report.sweep_tables import H_OF_AVERAGES, sweep_tables
from cocoop.report.sweep_text import FAILURE_HEAD, Grid, Line, failure_rows, grid
from cocoop.report.sweep_words import findings, joined
from cocoop.report.tables import METHOD_NAMES

__all__ = ["sweep_page"]

CHANGED, WORST = 6, 5
"""Classes that gained (or lost) most, and worst classes of a method, that are shown."""
CHARTS = 4
"""Charts that are shown at once; more are folded."""
UNFOLDED = 2
"""Parts of a protocol that are shown at once; of more, only the titles are."""


def sweep_page(sweep: Sweep, show: ShowPublished = "match") -> str:
    """The page.

    Args:
        sweep: its records; at least one.
        show: when published numbers are shown.
    """
    tables = sweep_tables(sweep, show)
    protocols = {name: collect(records, sweep.records) for name, records in by_protocol(sweep.records).items()}
    sections = [Section(title="What was found", body=_found(sweep, tables))]
    sections += [
        Section(title=PROTOCOLS.get(protocol, protocol), lead=LEADS.get(protocol, ""), body=_results(rows, mine))
        for protocol, rows in protocols.items()
        if (mine := [table for table in tables if table.protocol == protocol and table.kind == "accuracy"])
    ]
    sections += [
        Section(
            title="Class by class",
            lead="The classes that gained most from learning, and those that lost most; means over seeds.",
            body=_folded(protocols, _changes),
        ),
        Section(
            title="What is mistaken for what",
            lead="Of each method the classes with the lowest accuracy, and what their photos are taken for.",
            body=_folded(protocols, _worst),
        ),
        Section(
            title="Calibration",
            lead=(
                "Of the photos that a method is 80% sure of, 80% should be right: then the line is on the diagonal. "
                "Below it, the method is too sure. ECE is the mean distance from the diagonal, weighted by photos."
            ),
            body=_folded(protocols, reliability_chart),
        ),
        Section(title="More measures", body=_more(tables)),
        Section(
            title="How training went",
            lead="The loss on training photos, one line a run.",
            body=_side_by_side(loss_charts(protocols)),
        ),
        Section(title="Time and memory", body=Markup("\n").join(_costs(tables))),
    ]
    if sweep.failures:
        rows = [(row, ()) for row in failure_rows(sweep)]
        body = blocks.grouped_table(FAILURE_HEAD, [("", rows)], caption="Runs without a result, and why.", words=True)
        sections.append(Section(title="Failed runs", body=body))
    sections.append(Section(title="Settings and versions", body=_settings(sweep)))
    return page(
        title=_headline(sweep),
        kicker="cocoop report",
        lead=(
            "Zero-shot CLIP, CoOp and CoCoOp side by side: how well they name photos of classes that were learned, of "
            "classes never seen, and of other places. Every number here comes from the records of the runs."
        ),
        sections=[section for section in sections if section.body],
        footer=f"Made from records of cocoop {_all(sweep.records, lambda r: r['versions']['cocoop'])}, the last of "
        f"{max(r['finished'] for r in sweep.records)[:10]}. Nothing on this page is fetched.",
    )


LEADS = {
    "base-to-new": (
        "Learned on the base classes, the first half; tested on their photos and on those of the new classes, which "
        "training never saw. H, the harmonic mean of the two, is high only if both are."
    ),
    "cross-dataset": "Learned on one data set and tested, unchanged, on others with other classes.",
    "domain": "Learned on photos of some kinds and tested on the same classes in photos of other kinds.",
    "few-shot": "Learned on all classes from a few photos of each, and tested on others of the same classes.",
    "together": "Learned on base classes; every photo is named among base and new classes together.",
}


def _headline(sweep: Sweep) -> str:
    count, data = len(sweep.records), {name for record in sweep.records for name in record["data"].split("+")}
    return f"{count} run{'s' * (count > 1)} on {len(data)} data set{'s' * (len(data) > 1)}"


def _all(records: Sequence[Record], fact: Callable[[Record], object]) -> str:
    """All values of a fact, in the order they are met; those that are None are left out."""
    values = dict.fromkeys(fact(record) for record in records)
    return joined([str(value) for value in values if value is not None])


def _found(sweep: Sweep, tables: Sequence[SweepTable]) -> Markup:
    sentences = blocks.findings(findings(sweep, tables))
    first = next((table for table in tables if table.protocol == "base-to-new"), None)
    # The scoreboard colours its methods by their position.
    if first is None or [row.method for row in first.rows if not row.published][:3] != list(METHOD_NAMES):
        return sentences
    names = [column.name for column in first.columns]
    shown = {"base": "base", "new": "new", "H": H_OF_AVERAGES if H_OF_AVERAGES in names else "H"}
    scores = []
    for row in first.rows[:3]:
        cells = {name: row.cells[names.index(column)] for name, column in shown.items()}
        means = {name: f"{cell.mean:.1f}" for name, cell in cells.items() if cell is not None}
        scores.append(blocks.Score(row.label, first.title, means))
    return Markup("\n").join([blocks.scoreboard(scores), sentences])


def _results(rows: Sequence[Runs], tables: Sequence[SweepTable]) -> Markup:
    """Tables of one protocol, the average first, then those of single data sets below each other; and charts."""
    averages = [table for table in tables if table.data == AVERAGE]
    singles = [table for table in tables if table.data != AVERAGE]
    parts = [_table(table) for table in averages]
    drawn = accuracy_charts(rows, tables)
    parts.append(_side_by_side(drawn[:CHARTS]))
    if drawn[CHARTS:]:
        parts.append(blocks.fold("More charts", _side_by_side(drawn[CHARTS:])))
    if len({table.columns for table in singles}) == 1 and len(singles) > 1:
        lines = [
            Line(": ".join(filter(None, (data_title(table.data), line.heading))), line.cells, line.best)
            for table in singles
            for line in grid(table).lines
        ]
        said = dict.fromkeys(note for table in singles for note in table.notes)
        notes = [note for note in said if not any(n != note and n.startswith(note[:-1]) for n in said)]
        parts.append(Markup("<h3>Each data set</h3>"))
        parts.append(_grid(Grid(grid(singles[0]).head, tuple(lines)), " ".join(notes)))
    else:
        parts += [_table(table) for table in singles]
    return Markup("\n").join(parts)


def _side_by_side(drawn: Sequence[Markup]) -> Markup:
    return blocks.side_by_side(drawn) if drawn else Markup()


def _table(table: SweepTable) -> Markup:
    return Markup("<h3>{}</h3>\n{}").format(short_title(table), _grid(grid(table, screen=True), " ".join(table.notes)))


def _grid(words: Grid, caption: str) -> Markup:
    groups = [(heading, [(line.cells, line.best) for line in lines]) for heading, lines in words.groups]
    return blocks.grouped_table(words.head, groups, caption=caption)


Part = Callable[[Sequence[Runs], str, str], Markup]
"""Makes something of the compared rows of one data set and test; empty where there is nothing to show."""


def _folded(protocols: dict[str, list[Runs]], part: Part) -> Markup:
    """The same part for every protocol, data set and test, each behind its title."""
    made: list[Markup] = []
    for protocol, rows in protocols.items():
        folds = []
        groups = compared(rows)
        for group in groups:
            of = f", {group[0].variant}" if len(groups) > 1 and group[0].variant else ""
            for data in dict.fromkeys(name for row in group for name in row.data):
                here = [_at_most_shots(row) for row in group if data in row.data]
                tests = dict.fromkeys(t for row in here for r in row.on(data).values() for t in r["tests"])
                for test in tests:
                    body = part(here, data, test)
                    if body:
                        folds.append((f"{_test_title(protocol, data, test)}{of}", body))
        if folds:
            made.append(Markup("<h3>{}</h3>").format(PROTOCOLS.get(protocol, protocol)))
            made += [blocks.fold(title, body, unfolded=len(folds) <= UNFOLDED) for title, body in folds]
    return Markup("\n").join(made)


def _at_most_shots(row: Runs) -> Runs:
    """Its runs of most shots only: single classes are not compared over shots."""
    most = max(row.shots)
    return Runs(row.method, row.variant, tuple(r for r in row.records if (r["shots"] or 0) == most))


def _test_title(protocol: str, data: str, test: str) -> str:
    words = {"base": "base classes", "new": "new classes", "all": "all photos", "test": "", "source": ""}
    if protocol in ("cross-dataset", "domain") and test != "source":
        return f"{data_title(data)} to {data_title(test)}"
    return ", ".join(filter(None, (data_title(data), words.get(test, test))))


def _changes(rows: Sequence[Runs], data: str, test: str) -> Markup:
    zero, learners = [r for r in rows if r.method == "zero-shot"], [r for r in rows if r.method != "zero-shot"]
    if not zero or not learners:
        return Markup()
    before = mean_per_class(zero[0].on(data), test)
    after = [mean_per_class(row.on(data), test) for row in learners]
    groups = dict(zip(("gained most", "lost most"), gained_and_lost(before, after, CHANGED), strict=True))
    shown = {
        heading: [blocks.ChangeRow(n, before[n], [numbers[n] - before[n] for numbers in after]) for n in names]
        for heading, names in groups.items()
        if names
    }
    return blocks.change_table(shown, [row.label for row in learners], before=zero[0].label) if shown else Markup()


def _worst(rows: Sequence[Runs], data: str, test: str) -> Markup:
    groups, seeds = [], set()
    for row in rows:
        runs = row.on(data)
        lines = [
            ((w.name, f"{w.accuracy:.0f}", ", ".join(f"{name} ({images})" for name, images in w.taken_for)), ())
            for w in worst_classes(runs, test, WORST)
        ]
        seeds |= {len(runs)} if row.method != "zero-shot" else set()
        if lines:
            groups.append((row.label, lines))
    over = f", of all seeds together ({joined([str(n) for n in sorted(seeds)])})" if seeds - {1} else ""
    caption = f"Accuracy in %; behind a name, how many photos of the class are taken for it{over}."
    head = ("class", "accuracy", "taken for")
    return blocks.grouped_table(head, groups, caption=caption, words=True) if groups else Markup()


def _more(tables: Sequence[SweepTable]) -> Markup:
    made = [
        blocks.fold(table.title.removesuffix(", more measures"), _grid(grid(table), " ".join(table.notes)))
        for table in tables
        if table.kind == "more"
    ]
    return Markup("\n").join(made)


def _costs(tables: Sequence[SweepTable]) -> list[Markup]:
    return [
        Markup("<h3>{}</h3>\n{}").format(table.title.partition(": ")[0], _grid(grid(table), " ".join(table.notes)))
        for table in tables
        if table.kind == "cost"
    ]


def _settings(sweep: Sweep) -> Markup:
    records = sweep.records
    learned = [record for record in records if record["method"] != "zero-shot"]
    values: dict[str, object] = {
        "Backbone": _all(records, lambda r: f"{r['backbone']} in {r['precision']}"),
        "Data sets": _all(records, lambda r: data_title(r["data"])),
        "Seeds": ", ".join(map(str, sorted({record["seed"] for record in learned}))) or "none",
        "Shots": ", ".join(map(str, sorted({record["shots"] for record in learned}))) or "none",
        "Preset": _all(learned, lambda r: PRESETS.get(r["preset"], r["preset"])),
    }
    for method in dict.fromkeys(record["method"] for record in learned):
        mine = [r for r in learned if r["method"] == method and not r["changes"]]
        values[METHOD_NAMES.get(method, method)] = _all(mine, lambda r: _training(r)) or "with changed settings only"
    values["Machine"] = _all(
        records, lambda r: f"{r['machine']['processor']}, {r['machine']['threads']} threads, {r['machine']['device']}"
    )
    for library in dict.fromkeys(name for record in records for name in record["versions"]):
        values[library] = _all(records, lambda r, library=library: r["versions"].get(library))  # type: ignore[misc]
    return blocks.facts({name: value for name, value in values.items() if value})


PRESETS = {
    "paper": "as published",
    "cached": "as published, but from photos encoded once, without augmentation",
}


def _training(record: Record) -> str:
    train = record["train"]
    return f"{train['epochs']} epochs, batches of {train['batch_size']}, learning rate {train['learning_rate']:g}"
