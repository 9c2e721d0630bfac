"""Runs of a sweep that belong together: those that differ in data and seed alone are one row of every table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cocoop.report.published import as_published
from cocoop.report.tables import METHOD_NAMES

__all__ = [
    "PROTOCOLS",
    "Record",
    "Runs",
    "baseline",
    "by_protocol",
    "collect",
    "differing_facts",
    "plain",
    "run_label",
    "variant_of",
]

Record = Mapping[str, Any]

PROTOCOLS = {
    "base-to-new": "Base to new classes",
    "cross-dataset": "Other data sets",
    "domain": "Other domains",
    "few-shot": "Few shots",
    "together": "Base and new classes together",
}
"""Titles, in the order of the report."""

_FACTS = ("backbone", "precision", "shots", "preset")


@dataclass(frozen=True)
class Runs:
    """A method with certain settings, on all its data sets and with all its seeds."""

    method: str
    """Its key."""
    variant: str
    """In what its settings differ from others of the sweep; empty if in nothing."""
    records: tuple[Record, ...]
    """Of all its runs."""

    @property
    def label(self) -> str:
        """The row's name."""
        return run_label(self.method, self.variant)

    @property
    def changed(self) -> bool:
        """Whether its settings were changed from the published ones on purpose."""
        return any(record["changes"] for record in self.records)

    @property
    def as_published(self) -> bool:
        """Whether its settings are the paper's."""
        return all(map(as_published, self.records))

    @property
    def data(self) -> tuple[str, ...]:
        """Names of the data sets it was run on."""
        return tuple(dict.fromkeys(record["data"] for record in self.records))

    @property
    def shots(self) -> tuple[int, ...]:
        """Numbers of shots, in order; zero-shot has 0."""
        return tuple(sorted({record["shots"] or 0 for record in self.records}))

    def on(self, data: str, shots: int | None = None) -> dict[int | None, Record]:
        """Its runs on a data set by seed, in the order of seeds; with one number of shots only, if that is given."""
        chosen = [r for r in self.records if r["data"] == data and shots in (None, r["shots"] or 0)]
        return {record["seed"]: record for record in sorted(chosen, key=lambda record: record["seed"] or 0)}


def run_label(method: str, variant: str) -> str:
    """A method and its variant as a name."""
    return METHOD_NAMES.get(method, method) + (f" ({variant})" if variant else "")


def by_protocol(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records by their protocol, the known ones first."""
    groups: dict[str, list[Record]] = {protocol: [] for protocol in PROTOCOLS}
    for record in records:
        groups.setdefault(record["protocol"], []).append(record)
    return {protocol: group for protocol, group in groups.items() if group}


def variant_of(record: Record, differing: Iterable[str]) -> str:
    """The settings of a run that tell it from others.

    Args:
        record: or a failure; facts it does not have are left out.
        differing: names of facts that are not the same in the whole sweep.
    """
    words = {"shots": f"{record.get('shots')} shots"}
    facts = [words.get(fact, str(record[fact])) for fact in differing if _fact(record, fact) is not None]
    return ", ".join([*(f"{name} {_word(value)}" for name, value in sorted(record["changes"].items())), *facts])


def _word(value: object) -> str:
    if value == "":
        # What a context without words is.
        return "random"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fact(record: Record, fact: str) -> Any:
    """A setting, where it matters: shots are the columns of few-shot tables, and zero-shot learns nothing."""
    if fact in ("shots", "preset") and record["method"] == "zero-shot":
        return None
    return None if fact == "shots" and record["protocol"] == "few-shot" else record.get(fact)


def differing_facts(records: Iterable[Record]) -> list[str]:
    """Names of the facts that are not the same in all of these records, where they matter."""
    records = list(records)
    return [fact for fact in _FACTS if len({_fact(r, fact) for r in records} - {None}) > 1]


def collect(records: Sequence[Record], sweep: Sequence[Record]) -> list[Runs]:
    """Records of one protocol as rows: zero-shot first, then CoOp and CoCoOp, each as published before its variants.

    Args:
        records: of the protocol.
        sweep: all records, which decide what a row must be told apart by.
    """
    differing = differing_facts(sweep)
    records = sorted(records, key=_order)
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault((record["method"], variant_of(record, differing)), []).append(record)
    adopted = {key: _adopted(group, records) for key, group in groups.items()}
    given_away = {id(record) for others in adopted.values() for record in others}
    return [
        Runs(method, variant, tuple(sorted([*group, *adopted[method, variant]], key=_order)))
        for (method, variant), group in groups.items()
        if any(id(record) not in given_away for record in group)
    ]


def _adopted(group: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    """Runs whose own published settings are what a group was changed to, where the group has none.

    With `--epochs 50`, CoOp learns from one shot, or ImageNet, as published, and all else as changed; yet they are one
    row.
    """
    first, there = group[0], {(record["data"], record["shots"]) for record in group}
    changes = first["changes"]
    if not changes:
        return []
    alike = ("method", "backbone", "precision", "preset")

    def fits(record: Record) -> bool:
        settings = {**record["settings"], **(record["train"] or {})}
        return (
            (record["data"], record["shots"]) not in there
            and all(record[name] == first[name] for name in alike)
            and (record["shots"] == first["shots"] or record["protocol"] == "few-shot")
            and record["changes"].items() <= changes.items()
            and all(settings.get(name) == value for name, value in changes.items())
        )

    return [record for record in records if fits(record)]


def plain(rows: Sequence[Runs]) -> list[Runs]:
    """Of each method the rows without changed settings, or all of them where there is none."""
    unchanged = {row.method for row in rows if not row.changed}
    return [row for row in rows if not row.changed or row.method not in unchanged]


def _order(record: Record) -> tuple[Any, ...]:
    methods = list(METHOD_NAMES)
    method = methods.index(record["method"]) if record["method"] in methods else len(methods)
    # Values of a setting may be numbers and words; numbers are in their own order.
    changes = [
        (name, (0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value)))
        for name, value in sorted(record["changes"].items())
    ]
    return method, record["method"], record["backbone"], record["precision"], record["shots"] or 0, changes


def baseline(row: Runs, rows: Sequence[Runs]) -> Runs | None:
    """The zero-shot row that belongs to a row: that of its backbone, in its precision if there is one."""
    first = row.records[0]
    same = [r for r in rows if r.method == "zero-shot" and r.records[0]["backbone"] == first["backbone"]]
    return min(same, key=lambda r: (r.records[0]["precision"] != first["precision"], r.changed), default=None)
