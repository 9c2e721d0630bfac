"""Records of a sweep as data frames: tables, charts and pages select from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from cocoop.report.published import as_published, printable
from cocoop.report.tables import METHOD_NAMES

__all__ = [
    "PROTOCOLS",
    "Record",
    "Results",
    "class_accuracies",
    "confusions_of",
    "gained_and_lost",
    "merge_reliability",
    "read_results",
    "row_label",
    "variant_of",
    "varying_settings",
]

Record = Mapping[str, Any]

PROTOCOLS = {
    "base-to-new": "Base to new classes",
    "cross-dataset": "Other data sets",
    "domain": "Other domains",
    "few-shot": "Few shots",
    "together": "Base and new classes together",
}
"""Titles of the experiments, in the order of the report."""

_SETTINGS = ("backbone", "precision", "shots", "preset")
_RUN = ["row", "data", "shots", "seed"]
_NUMBERS = ["accuracy", "macro_f1", "ece", "classes", "images", "skipped", "overlap"]
_DETAILS = ["per_class", "confusions", "reliability"]


@dataclass(frozen=True)
class Results:
    """The runs of one experiment. A row of a table is one method with the same settings on all data sets and seeds."""

    protocol: str
    """Name of the experiment, as in records."""
    rows: pd.DataFrame
    """One line per row: method, variant, label, changed, as_published, and the number of its zero-shot row (or -1)."""
    runs: pd.DataFrame
    """One line per run: row, data, shots, seed, split_sha256, training and evaluation seconds, memory, history."""
    tests: pd.DataFrame
    """One line per run and test: row, data, shots, seed, test and its numbers. Zero-shot has 0 shots and seed -1."""

    @property
    def data(self) -> list[str]:
        """Names of the data sets that were trained on."""
        return list(self.runs["data"].unique())

    @property
    def plain_rows(self) -> pd.DataFrame:
        """Rows with published settings; for a method without any, all of its rows."""
        unchanged = self.rows.loc[~self.rows.changed, "method"]
        return self.rows[~self.rows.changed | ~self.rows.method.isin(unchanged)]

    def compared_rows(self) -> list[pd.DataFrame]:
        """Group the rows to compare: a zero-shot row, and the row with the most shots of each other method."""
        plain = self.plain_rows
        groups = (group.drop_duplicates("method", keep="last") for _, group in plain.groupby("baseline", sort=False))
        return [group.sort_index() for group in groups]


def row_label(method: str, variant: str) -> str:
    """Return the name of a row."""
    return METHOD_NAMES.get(method, method) + (f" ({variant})" if variant else "")


def read_results(records: Sequence[Record]) -> dict[str, Results]:
    """Group the records of a sweep by experiment, in the order of `PROTOCOLS`; unknown experiments come last."""
    varying = varying_settings(records)
    names = dict.fromkeys([*PROTOCOLS, *(record["protocol"] for record in records)])
    groups = {name: [record for record in records if record["protocol"] == name] for name in names}
    return {name: _results(name, group, varying) for name, group in groups.items() if group}


def _results(protocol: str, records: Sequence[Record], varying: Sequence[str]) -> Results:
    rows, runs, tests = [], [], []
    for number, ((method, variant), members) in enumerate(_group(records, varying).items()):
        rows.append(
            {
                "method": method,
                "variant": variant,
                "label": row_label(method, variant),
                "changed": any(record["changes"] for record in members),
                "as_published": all(map(as_published, members)),
                "backbone": members[0]["backbone"],
                "precision": members[0]["precision"],
            }
        )
        # Runs that were repeated on other images have the same data set, shots and seed; the last one counts.
        for (data, shots, seed), record in {_sample_key(record): record for record in members}.items():
            run = {"row": number, "data": data, "shots": shots, "seed": seed}
            runs.append(
                {
                    **run,
                    "split_sha256": record["split_sha256"],
                    "training": record["seconds"]["training"] if record["train"] else None,
                    "evaluation": record["seconds"]["evaluation"],
                    "memory": record["peak_memory_bytes"] / 2**30,
                    "history": record["history"],
                }
            )
            tests += [{**numbers, **run, "test": printable(test)} for test, numbers in record["tests"].items()]
    table = pd.DataFrame(rows)
    table["baseline"] = [_baseline(row, table) for row in table.itertuples()]
    return Results(
        protocol,
        table,
        pd.DataFrame(runs),
        pd.DataFrame(tests, columns=[*_RUN, "test", *_NUMBERS, *_DETAILS]),
    )


def _sample_key(record: Record) -> tuple[str, int, int]:
    return printable(record["data"]), record["shots"] or 0, -1 if record["seed"] is None else record["seed"]


def _baseline(row: Any, rows: pd.DataFrame) -> int:
    """Return the zero-shot row with the backbone of a row, in its precision if possible; -1 if there is none."""
    found = rows[(rows.method == "zero-shot") & (rows.backbone == row.backbone)]
    return next(iter([*found.index[found.precision == row.precision], *found.index]), -1)


def varying_settings(records: Iterable[Record]) -> list[str]:
    """Return the names of the settings that differ between the runs of a sweep."""
    records = list(records)
    return [name for name in _SETTINGS if len({_setting(record, name) for record in records} - {None}) > 1]


def variant_of(record: Record, varying: Iterable[str]) -> str:
    """Describe how a run differs from others of its method: changed settings, then those that vary in the sweep.

    Args:
        record: a record or a failure; a failure lacks some settings.
        varying: as `varying_settings` returns them.
    """
    settings = [(name, _setting(record, name)) for name in varying]
    changes = [f"{name} {_value_text(value)}" for name, value in sorted(record["changes"].items())]
    others = [f"{value} shots" if name == "shots" else str(value) for name, value in settings if value is not None]
    return printable(", ".join([*changes, *others]))


def _value_text(value: object) -> str:
    if value == "":
        # An empty context stands for a random start.
        return "random"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _setting(record: Record, name: str) -> Any:
    """Return a setting, or None where it does not matter: few-shot tables have shots as columns; zero-shot has none."""
    if name in ("shots", "preset") and record["method"] == "zero-shot":
        return None
    return None if name == "shots" and record["protocol"] == "few-shot" else record.get(name)


def _group(records: Iterable[Record], varying: Sequence[str]) -> dict[tuple[str, str], list[Record]]:
    """Group records into rows by method and variant: zero-shot, CoOp, CoCoOp, published settings first.

    A changed setting can be the published one for some runs: with `epochs=50`, CoOp trains on one shot (or on ImageNet)
    as published and elsewhere with a changed setting. The changed row includes such runs.
    """
    records = sorted(records, key=_order)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["method"], variant_of(record, varying)), []).append(record)
    shared = {key: _shared(group, records) for key, group in groups.items()}
    used = {id(record) for others in shared.values() for record in others}
    return {
        key: sorted([*group, *shared[key]], key=_order)
        for key, group in groups.items()
        if any(id(record) not in used for record in group)
    }


def _shared(group: Sequence[Record], records: Iterable[Record]) -> list[Record]:
    """Return runs of other rows whose published settings equal the changed settings of this row."""
    first, done = group[0], {(record["data"], record["shots"]) for record in group}
    changes = first["changes"]

    def fits(record: Record) -> bool:
        settings = {**record["settings"], **(record["train"] or {})}
        return (
            (record["data"], record["shots"]) not in done
            and all(record[name] == first[name] for name in ("method", "backbone", "precision", "preset"))
            and (record["shots"] == first["shots"] or record["protocol"] == "few-shot")
            and record["changes"].items() <= changes.items()
            and all(settings.get(name) == value for name, value in changes.items())
        )

    return [record for record in records if fits(record)] if changes else []


def _order(record: Record) -> tuple[Any, ...]:
    methods = [*METHOD_NAMES, record["method"]]
    # A setting can be a number in one run and a string in another.
    changes = [
        (name, (0, value, "") if isinstance(value, int | float) else (1, 0, str(value)))
        for name, value in sorted(record["changes"].items())
    ]
    settings = record["backbone"], record["precision"], record["shots"] or 0, changes
    return methods.index(record["method"]), record["method"], *settings


def class_accuracies(tests: pd.DataFrame) -> dict[str, float]:
    """Return the accuracy of each class in percent, averaged over the seeds that have it."""
    values: dict[str, list[float]] = {}
    for per_class in tests["per_class"]:
        for name, accuracy in per_class.items():
            values.setdefault(name, []).append(accuracy)
    return {name: fmean(accuracies) for name, accuracies in values.items()}


def gained_and_lost(
    before: Mapping[str, float], after: Sequence[Mapping[str, float]], count: int
) -> tuple[list[str], list[str]]:
    """Return the classes that gained most and those that lost most, by the mean change over methods.

    Args:
        before: accuracy by class.
        after: the same for each method; at least one.
        count: maximum number of names in each list. Classes without a change are in neither.
    """
    names = [name for name in before if all(name in accuracies for accuracies in after)]
    change = {name: fmean(accuracies[name] for accuracies in after) - before[name] for name in names}
    gained = sorted((name for name in names if change[name] > 0), key=lambda name: -change[name])
    lost = sorted((name for name in names if change[name] < 0), key=lambda name: change[name])
    return gained[:count], lost[:count]


def confusions_of(tests: pd.DataFrame) -> dict[str, Counter[str]]:
    """Count, for each true class, the wrong predictions of all seeds."""
    mistakes: dict[str, Counter[str]] = {}
    for confusions in tests["confusions"]:
        for truth, predicted, images in confusions:
            mistakes.setdefault(truth, Counter())[predicted] += images
    return mistakes


def merge_reliability(tests: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Return confidence and accuracy of the bins that hold images, weighted over seeds by their number of images."""
    bins = []
    for seeds in zip(*tests["reliability"], strict=True):
        images = sum(count for count, *_ in seeds)
        if images:
            bins.append([sum(seed[0] * seed[i] for seed in seeds) / images for i in (1, 2)])
    return [confidence for confidence, _ in bins], [accuracy for _, accuracy in bins]
