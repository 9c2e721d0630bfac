"""The tables of a sweep as numbers; `sweep_text` formats them.

H is computed for each seed and then averaged. A table over several data sets averages their accuracies for each seed;
the H of these averages is what the paper prints (75.83 for CoCoOp), and differs from the mean of the data sets' Hs
(75.44).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, harmonic_mean
from typing import Any, Literal

import pandas as pd

from cocoop.experiments.records import Sweep
from cocoop.report.published import AVERAGE, PAPER, ShowPublished, data_title, paper_data, published_number
from cocoop.report.results import PROTOCOLS, Results, read_results, row_label

__all__ = ["DELTA", "H_OF_AVERAGES", "SweepTable", "sweep_tables"]

H_OF_AVERAGES, MEAN_OF_HS, AVERAGE_OF_TARGETS = "H of averages", "mean of Hs", "average of targets"
DELTA = "\N{GREEK CAPITAL LETTER DELTA} "

DELTA_NOTE = f"{DELTA.strip()}: difference from zero-shot with the same backbone, in percentage points."
H_NOTE = "H = 2 base new / (base + new) of each seed, then averaged."
OTHER_SETTINGS_NOTE = (
    "The paper used other settings (ViT-B/16, 16 shots, images augmented in every epoch): only the direction of "
    "a difference can be compared with ours."
)
OWN_TESTS = ("base", "new", "all", "test", "source")
"""Tests that are not named after a data set."""


@dataclass(frozen=True)
class SweepTable:
    """A table of means and standard deviations."""

    title: str
    """Experiment and data set."""
    protocol: str
    """Name of the experiment, as in records."""
    data: str
    """Name of the data set that was trained on; `AVERAGE` for several."""
    columns: Mapping[str, str]
    """Heading of each column, by its key."""
    cells: pd.DataFrame
    """One line per cell: group, method, variant, label, column, data, test, measure, style, mean, std, n.

    `std` (n - 1) is missing for a single value, and `n` for a published one. `style` is spread, signed, mean or count.
    """
    notes: tuple[str, ...] = ()
    """Sentences below the table."""
    kind: Literal["accuracy", "more", "cost"] = "accuracy"
    """Accuracies, further measures, or costs."""

    @property
    def measured(self) -> pd.DataFrame:
        """The cells that are not published numbers."""
        return self.cells[self.cells.group != PAPER]


Builder = partial[SweepTable]
"""Builder of a table of accuracies; see `_accuracy_table` for its keyword arguments."""


def sweep_tables(sweep: Sweep, show: ShowPublished = "match") -> list[SweepTable]:
    """Return all tables of a sweep: for each experiment accuracies (averages first), further measures, and costs.

    Args:
        sweep: its records.
        show: when to show published numbers.
    """
    tables: list[SweepTable] = []
    for protocol, results in read_results(sweep.records).items():
        accuracies = _BUILDERS.get(protocol, _transfer)(results, partial(_accuracy_table, results, show))
        tables += [table for table in accuracies if len(table.cells)]
        tables += [_more_measures(results, data) for data in results.data]
        tables.append(_costs(results))
    return tables


def _accuracy_table(
    results: Results,
    show: ShowPublished,
    *,
    title: str,
    data: str,
    columns: Mapping[str, str],
    values: pd.DataFrame,
    notes: Sequence[str],
    deltas: Sequence[str] = (),
    published: Callable[[str], Mapping[str, float]] = lambda _: {},
) -> SweepTable:
    """Make a table of accuracies.

    Args:
        results: runs of the experiment.
        show: when to show published numbers.
        title: title without the experiment.
        data: name of the training data set, or `AVERAGE`.
        columns: heading of each column, by its key.
        values: one line per number, with row, column, seed and value.
        notes: sentences below the table.
        deltas: columns whose differences from zero-shot are shown too.
        published: returns the paper's numbers for a method, by column.
    """
    measured = _statistics(values, ["row", "column"], results.rows).assign(group="")
    matching = set(measured.method[measured.as_published])
    shown = {"match": matching, "always": set(measured.method), "never": set()}[show]
    methods = dict.fromkeys(["zero-shot", *measured.method])
    cells = _concat(measured.astype({"row": object, "baseline": object}), _published_cells(methods, published))
    cells = _concat(cells.assign(style="spread"), _differences(cells, deltas).assign(style="signed"))
    cells = cells[(cells.group == "") | cells.method.isin(shown)].reset_index(drop=True)
    test = cells["column"].str.removeprefix(DELTA)
    measure = test.isin(["H", H_OF_AVERAGES, MEAN_OF_HS]).map({True: "H", False: "accuracy"})
    measure = measure.mask(cells["style"] == "signed", measure + ", difference to zero-shot")
    notes = [*notes, *_seed_notes(measured)]
    if set(cells.method[cells.group == PAPER]) - matching:
        notes.append(OTHER_SETTINGS_NOTE)
    if results.runs.loc[results.runs["data"] == data, "split_sha256"].nunique() > 1:
        notes.append("Not all rows were measured on the same images or class names: their split_sha256 differ.")
    return SweepTable(
        title=_title(results.protocol, title),
        protocol=results.protocol,
        data=data,
        columns={**columns, **{DELTA + name: DELTA + columns[name] for name in deltas}},
        cells=cells.assign(data=data, test=test, measure=measure),
        notes=tuple(notes),
    )


def _statistics(values: pd.DataFrame, keys: list[str], rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation (n - 1) and n of the values by row and other keys, with the facts of the row."""
    groups = values.dropna(subset="value").groupby(keys, sort=False)["value"]
    statistics = groups.agg(mean="mean", std="std", n="count").reset_index().astype({"n": float})
    return statistics.join(rows, on="row").sort_values("row", kind="stable")


def _concat(*frames: pd.DataFrame) -> pd.DataFrame:
    """Concatenate all frames that are not empty; pandas 2 warns about empty ones."""
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1])


def _published_cells(methods: Iterable[str], published: Callable[[str], Mapping[str, float]]) -> pd.DataFrame:
    cells = [
        {"row": method, "method": method, "label": row_label(method, ""), "column": column, "mean": number}
        for method in methods
        for column, number in published(method).items()
    ]
    frame = pd.DataFrame(cells, columns=["row", "method", "label", "column", "mean"])
    return frame.assign(baseline="zero-shot", group=PAPER, variant=PAPER, std=float("nan"), n=float("nan"))


def _differences(cells: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Subtract the mean of each row's zero-shot row from its means; the standard deviations stay."""
    before = cells[["row", "column", "mean"]].set_axis(["baseline", "column", "before"], axis="columns")
    learned = cells[cells["column"].isin(columns) & (cells.method != "zero-shot")]
    both = learned.merge(before, on=["baseline", "column"])
    return both.assign(mean=both["mean"] - both["before"], column=DELTA + both["column"])


def _seed_notes(cells: pd.DataFrame) -> list[str]:
    seeds = cells.n[cells.method != "zero-shot"].max()
    note = f"Mean ± sample standard deviation (n - 1) over {seeds:.0f} seeds; n is given where there are fewer."
    return [note] if seeds > 1 else []


def _title(protocol: str, text: str) -> str:
    return f"{PROTOCOLS.get(protocol, protocol)}: {text}"


def _average_title(data: Sequence[str]) -> str:
    return f"average of {len(data)} data sets"


def _shots(count: int) -> str:
    return f"{count} shot{'s' * (count != 1)}"


def _values(results: Results) -> pd.DataFrame:
    """Return all accuracies, with the test as the column."""
    tests = results.tests.rename(columns={"test": "column", "accuracy": "value"})
    return tests[["row", "data", "seed", "column", "value"]]


def _with_h(values: pd.DataFrame, name: str = "H") -> pd.DataFrame:
    """Add the harmonic mean of base and new accuracy of each seed."""
    wide = values.pivot(
        index=[key for key in values if key not in ("column", "value")], columns="column", values="value"
    )
    wide = wide.reindex(columns=["base", "new"])
    total = wide["base"] + wide["new"]
    wide[name] = 2 * wide["base"] * wide["new"] / total.mask(total == 0, 1)
    return wide.melt(ignore_index=False).dropna(subset="value").reset_index()


def _average(values: pd.DataFrame, over: str, names: Sequence[str]) -> pd.DataFrame:
    """Average values for each seed that has all of these data sets (or tests).

    Args:
        values: long frame, as `_values` returns it.
        over: name of the key to average over.
        names: the values of this key that count.
    """
    keys = [key for key in values if key not in (over, "value")]
    means = values[values[over].isin(names)].groupby(keys, sort=False)["value"].agg(["mean", "count"])
    return means.loc[means["count"] == len(names), "mean"].rename("value").reset_index()


def _base_to_new(results: Results, table: Builder) -> list[SweepTable]:
    values, halves = _with_h(_values(results)), ("base", "new", "H")
    singles = [
        table(
            title=data_title(data),
            data=data,
            columns=_headings(*halves),
            values=values[values["data"] == data],
            deltas=halves,
            published=partial(_published, results.protocol, [data], halves),
            notes=("Accuracy in %.", H_NOTE, DELTA_NOTE),
        )
        for data in results.data
    ]
    common = _common_data(results)
    if len(common) < 2:
        return singles
    means = _average(values, "data", common)
    averages = [_with_h(means[means["column"] != "H"], H_OF_AVERAGES), means[means["column"] == "H"]]
    average = table(
        title=_average_title(common),
        data=AVERAGE,
        columns=_headings("base", "new", H_OF_AVERAGES, MEAN_OF_HS),
        values=_concat(*averages).replace({"column": {"H": MEAN_OF_HS}}),
        deltas=("base", "new", H_OF_AVERAGES),
        published=partial(_published_averages, common),
        notes=(
            "Accuracy in %, averaged over data sets for each seed.",
            f"{H_OF_AVERAGES}: H of the average accuracies, as the paper prints it; "
            f"{MEAN_OF_HS}: average of the data sets' Hs.",
            DELTA_NOTE,
            *_left_out(results, common),
        ),
    )
    return [average, *singles]


def _together(results: Results, table: Builder) -> list[SweepTable]:
    tests = ("base", "new", "all")
    options: dict[str, Any] = {}
    if {data_title(name) for name in _common_data(results)} == paper_data():
        # The paper prints only the average.
        options["published"] = partial(_published, results.protocol, [AVERAGE], tests)
    note = "Accuracy in % on base images, new images and all images, each classified among base and new classes."
    common = {"columns": _headings(*tests), "deltas": ("all",), "notes": (note, DELTA_NOTE)}
    return _each_data_set(results, _values(results), partial(table, **common), **options)


def _few_shot(results: Results, table: Builder) -> list[SweepTable]:
    values = _values(results).assign(column=results.tests["shots"].map(_shots))[results.tests["test"] == "test"]
    columns = _headings(*map(_shots, sorted(set(results.runs["shots"].tolist()))))
    note = "Accuracy in % on the test images, by number of training images per class; zero-shot uses none."
    return _each_data_set(results, values, partial(table, columns=columns, notes=(note,)))


def _each_data_set(results: Results, values: pd.DataFrame, table: Builder, **average: Any) -> list[SweepTable]:
    """Make a table for each data set; their average comes first if several data sets have all methods.

    Args:
        results: runs of the experiment.
        values: long frame, as `_values` returns it.
        table: builds a table from a title, a data set and values.
        average: further options of the average.
    """
    common = _common_data(results)
    tables = [table(title=data_title(data), data=data, values=values[values["data"] == data]) for data in results.data]
    if len(common) < 2:
        return tables
    means = _average(values, "data", common)
    notes = (*table.keywords["notes"], *_left_out(results, common))
    return [table(title=_average_title(common), data=AVERAGE, values=means, **average | {"notes": notes}), *tables]


def _transfer(results: Results, table: Builder) -> list[SweepTable]:
    return [*_leave_one_out(results, table), *(_targets(results, table, data) for data in results.data)]


def _targets(results: Results, table: Builder, data: str) -> SweepTable:
    """Make the table of one source and its targets."""
    values = _values(results)
    values = values[values["data"] == data]
    columns = {test: "source" if test == "source" else data_title(test) for test in values["column"].unique()}
    counts, runs = values["column"].value_counts(), (results.runs["data"] == data).sum()
    targets = [test for test in columns if test != "source"]
    common = [test for test in targets if counts[test] == runs]
    missing = [columns[test] for test in targets if test not in common]
    if len(common) > 1:
        average = _average(values, "column", common).assign(column=AVERAGE_OF_TARGETS)
        values, columns = _concat(values, average), columns | {AVERAGE_OF_TARGETS: AVERAGE_OF_TARGETS}

    def published(method: str) -> dict[str, float]:
        numbers = _published(results.protocol, [data], list(columns), method)
        printed = [numbers[test] for test in common if test in numbers]
        return numbers | ({AVERAGE_OF_TARGETS: fmean(printed)} if printed and len(printed) == len(common) else {})

    note = f"Not in the average, because not all runs have it: {', '.join(missing)}."
    return table(
        title=f"trained on {data_title(data)}",
        data=data,
        columns=columns,
        values=values,
        published=published,
        notes=("Accuracy in %.", *([note] if missing else [])),
    )


def _leave_one_out(results: Results, table: Builder) -> list[SweepTable]:
    """Return one table of all domains if each was the only target once, else an empty list."""
    values = _values(results)
    values = values[values["column"] != "source"]
    targets = values.groupby("data", sort=False)["column"].unique()
    domains = list(targets.explode())
    if len(targets) < 2 or len(set(domains)) < len(targets) or len(domains) > len(targets):
        return []
    average = _average(values.drop(columns="data"), "column", domains).assign(column=AVERAGE)
    return [
        table(
            title="each left out once",
            data=AVERAGE,
            columns={name: data_title(name) for name in domains} | {AVERAGE: AVERAGE},
            values=_concat(values, average),
            notes=("Accuracy in % on each domain, trained on all others.",),
        )
    ]


_BUILDERS: dict[str, Callable[[Results, Builder], list[SweepTable]]] = {
    "base-to-new": _base_to_new,
    "few-shot": _few_shot,
    "together": _together,
}


def _headings(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _published(protocol: str, data: Sequence[str], columns: Sequence[str], method: str) -> dict[str, float]:
    """Return the published numbers averaged over data sets, for the columns that are printed for all of them."""
    found = {}
    for column in columns:
        numbers = [published_number(protocol, name, method, column) for name in data]
        printed = [number for number in numbers if number is not None]
        if printed and len(printed) == len(numbers):
            found[column] = fmean(printed)
    return found


def _published_averages(data: Sequence[str], method: str) -> dict[str, float]:
    means = _published("base-to-new", data, ("base", "new", "H"), method)
    if len(means) < 3:
        return {}
    base, new = means["base"], means["new"]
    return {"base": base, "new": new, H_OF_AVERAGES: harmonic_mean([base, new]), MEAN_OF_HS: means["H"]}


def _common_data(results: Results) -> list[str]:
    """Return the data sets that all rows with published settings have; variants are often tried on few."""
    runs = results.runs[results.runs["row"].isin(results.plain_rows.index)]
    counts = runs.groupby("data", sort=False)["row"].nunique()
    return [name for name in results.data if counts.get(name) == len(results.plain_rows)]


def _left_out(results: Results, common: Sequence[str]) -> list[str]:
    others = [data_title(name) for name in results.data if name not in common]
    data = results.runs.groupby("row")["data"].agg(set)
    lacking = results.rows.label[[not set(common) <= names for names in data]]
    notes = {
        "Not averaged, because not all methods have them yet": ", ".join(others),
        "Not shown, because they lack some of the data sets": "; ".join(lacking),
    }
    return [f"{note}: {names}." for note, names in notes.items() if names]


_MORE = pd.DataFrame(
    [
        ("macro_f1", "macro F1", "macro F1", "spread"),
        ("ece", "ECE", "ECE", "spread"),
        ("classes", "classes", "classes", "count"),
        ("images", "images", "images", "count"),
        ("missing", "not measured", "images not measured", "count"),
    ],
    columns=["column", "heading", "measure", "style"],
)
_COSTS = pd.DataFrame(
    [
        ("training", "training, s", "training seconds", "mean"),
        ("evaluation", "evaluation, s", "evaluation seconds", "mean"),
        ("memory", "peak memory, GiB", "peak memory GiB", "mean"),
    ],
    columns=["column", "heading", "measure", "style"],
)


def _measures(results: Results, values: pd.DataFrame, measures: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of several measures of runs or tests, by group, data set and test."""
    long = values.melt(["row", "group", "data", "test"], list(measures["column"]), var_name="column")
    return _statistics(long, ["row", "group", "data", "test", "column"], results.rows).merge(measures, on="column")


def _more_measures(results: Results, data: str) -> SweepTable:
    """Make the table of macro F1, calibration error and counts of each test."""
    tests = results.tests[results.tests["data"] == data]
    if results.protocol == "few-shot":
        tests = tests.assign(test=tests["shots"].map(_shots))
        tests["group"] = tests["test"]
    else:
        tests = tests.assign(group=tests["test"].map(lambda name: name if name in OWN_TESTS else data_title(name)))
    cells = _measures(results, tests.assign(missing=tests["skipped"] + tests["overlap"]), _MORE)
    notes = (
        "Macro F1 and expected calibration error (ECE; 15 bins of equal width) in %.",
        "Not measured: images that are unreadable or were also trained on.",
        *_seed_notes(cells),
    )
    title = f"{_title(results.protocol, data_title(data))}, more measures"
    return SweepTable(
        title, results.protocol, data, dict(zip(_MORE["column"], _MORE["heading"], strict=True)), cells, notes, "more"
    )


def _costs(results: Results) -> SweepTable:
    """Make the table of wall time and memory of a run, by data set."""
    runs = results.runs.assign(test="", group=results.runs["data"].map(data_title))
    if results.protocol == "few-shot":
        runs["test"] = runs["shots"].map(_shots)
        runs["group"] += ", " + runs["test"]
    note = (
        "Wall time of a run in seconds, without encoding test images, and the peak resident memory of its process; "
        "means over seeds."
    )
    title = f"{PROTOCOLS.get(results.protocol, results.protocol)}: time and memory"
    columns = dict(zip(_COSTS["column"], _COSTS["heading"], strict=True))
    return SweepTable(title, results.protocol, "", columns, _measures(results, runs, _COSTS), (note,), "cost")
