"""Tables of a sweep as numbers: what is averaged over what, and in which order. How they look is `sweep_text`'s.

H is computed for each seed and then averaged. Where data sets are averaged, their accuracies are averaged for each
seed first; the H of these averages is what the paper prints (75.83 for CoCoOp), and differs from the mean of the data
sets' Hs (75.44).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, harmonic_mean

from cocoop.experiments.records import Sweep
from cocoop.report.published import AVERAGE, data_title, paper_data, published_number
from cocoop.report.sweep_cells import DELTA, Cell, Column, Draft, Row, Seeds, ShowPublished, SweepTable, seed_notes
from cocoop.report.sweep_runs import PROTOCOLS, Record, Runs, by_protocol, collect, plain

__all__ = ["H_OF_AVERAGES", "sweep_tables"]

H_OF_AVERAGES, MEAN_OF_HS = "H of averages", "mean of Hs"


def _columns(*names: str, deltas: Sequence[str] = ()) -> tuple[Column, ...]:
    measures = {"H": "H", H_OF_AVERAGES: "H", MEAN_OF_HS: "H"}
    plain = [Column(name, measures.get(name, "accuracy"), name) for name in names]
    changes = [
        Column(DELTA + name, f"{measures.get(name, 'accuracy')}, difference to zero-shot", name, "signed")
        for name in deltas
    ]
    return (*plain, *changes)


DELTA_NOTE = f"{DELTA.strip()}: difference to zero-shot with the same backbone, in percentage points."
H_NOTE = "H = 2 base new / (base + new) of each seed, then averaged."


def sweep_tables(sweep: Sweep, show: ShowPublished = "match") -> list[SweepTable]:
    """All tables of a sweep: of each protocol the accuracies, average first, then more measures, then the costs.

    Args:
        sweep: its records.
        show: when published numbers are shown.
    """
    tables: list[SweepTable] = []
    for protocol, records in by_protocol(sweep.records).items():
        rows = collect(records, sweep.records)
        data = list(dict.fromkeys(name for row in rows for name in row.data))
        drafts = _DRAFTS.get(protocol, _transfer)
        made = [table for table in (draft.filled(rows, show) for draft in drafts(protocol, rows, data)) if table.rows]
        tables += [_with_warning(table, rows) for table in made]
        tables += [_more(protocol, rows, name) for name in data]
        tables.append(_costs(protocol, rows, data))
    return tables


def _with_warning(table: SweepTable, rows: Sequence[Runs]) -> SweepTable:
    """Say so where rows of one table were not measured on the same photos."""
    if len({record["split_sha256"] for row in rows for record in row.records if record["data"] == table.data}) < 2:
        return table
    warning = "Not all rows are of the same photos or class names: their split_sha256 differ."
    return replace(table, notes=(*table.notes, warning))


def _accuracies(runs: Mapping[int | None, Record], test: str) -> Seeds:
    return {seed: record["tests"][test]["accuracy"] for seed, record in runs.items() if test in record["tests"]}


def _h(base: Seeds, new: Seeds) -> Seeds:
    return {seed: harmonic_mean([base[seed], new[seed]]) for seed in base if seed in new}


def _shots(count: int) -> str:
    return f"{count} shot{'s' * (count != 1)}"


def _title(protocol: str, data: str) -> str:
    return f"{PROTOCOLS.get(protocol, protocol)}: {data}"


def _base_to_new(protocol: str, rows: Sequence[Runs], data: Sequence[str]) -> list[Draft]:
    def halves(runs: Mapping[int | None, Record]) -> dict[str, Seeds]:
        base, new = _accuracies(runs, "base"), _accuracies(runs, "new")
        return {"base": base, "new": new, "H": _h(base, new)}

    def of(name: str) -> Draft:
        return Draft(
            _title(protocol, data_title(name)),
            protocol,
            name,
            _columns("base", "new", "H", deltas=("base", "new", "H")),
            lambda runs: halves(runs.on(name)),
            lambda method: _theirs(protocol, [name], method, ("base", "new", "H")),
            ("Accuracy in %.", H_NOTE, DELTA_NOTE),
        )

    def averaged(among: Sequence[str]) -> Draft:
        def ours(runs: Runs) -> dict[str, Seeds]:
            single = [halves(runs.on(name)) for name in among]
            means = {column: _mean_of([numbers[column] for numbers in single]) for column in ("base", "new", "H")}
            return _both_hs(means)

        def theirs(method: str) -> dict[str, float]:
            means = _theirs(protocol, among, method, ("base", "new", "H"))
            both = _both_hs({name: {None: value} for name, value in means.items()})
            return {name: value[None] for name, value in both.items() if value}

        return Draft(
            _average_title(protocol, among),
            protocol,
            AVERAGE,
            _columns("base", "new", H_OF_AVERAGES, MEAN_OF_HS, deltas=("base", "new", H_OF_AVERAGES)),
            ours,
            theirs,
            (
                "Accuracy in %, averaged over data sets for each seed.",
                f"{H_OF_AVERAGES}: H of the average accuracies, as the paper prints it; "
                f"{MEAN_OF_HS}: the Hs of the data sets, averaged.",
                DELTA_NOTE,
                *_left_out(rows, among, data),
            ),
        )

    among = _common(rows, data)
    return [*([averaged(among)] if len(among) > 1 else []), *map(of, data)]


def _both_hs(means: Mapping[str, Seeds]) -> dict[str, Seeds]:
    base, new = means.get("base", {}), means.get("new", {})
    return {"base": base, "new": new, H_OF_AVERAGES: _h(base, new), MEAN_OF_HS: means.get("H", {})}


def _together(protocol: str, rows: Sequence[Runs], data: Sequence[str]) -> list[Draft]:
    tests = ("base", "new", "all")
    about = ("Accuracy in %, all photos among base and new classes together: of base photos, of new ones, of all.",)

    def of(names: Sequence[str]) -> Draft:
        average = len(names) > 1
        whole = average and {data_title(name) for name in names} == paper_data()
        return Draft(
            _average_title(protocol, names) if average else _title(protocol, data_title(names[0])),
            protocol,
            AVERAGE if average else names[0],
            _columns(*tests, deltas=("all",)),
            lambda runs: {test: _mean_of([_accuracies(runs.on(name), test) for name in names]) for test in tests},
            lambda method: _theirs(protocol, [AVERAGE], method, tests) if whole else {},
            (*about, DELTA_NOTE, *(_left_out(rows, names, data) if average else ())),
        )

    among = _common(rows, data)
    return [*([of(among)] if len(among) > 1 else []), *(of([name]) for name in data)]


def _few_shot(protocol: str, rows: Sequence[Runs], data: Sequence[str]) -> list[Draft]:
    shots = sorted({count for row in rows for count in row.shots})

    def of(names: Sequence[str]) -> Draft:
        average = len(names) > 1
        return Draft(
            _average_title(protocol, names) if average else _title(protocol, data_title(names[0])),
            protocol,
            AVERAGE if average else names[0],
            tuple(Column(_shots(count), test=_shots(count)) for count in shots),
            lambda runs: {
                _shots(count): _mean_of([_accuracies(runs.on(name, count), "test") for name in names])
                for count in shots
            },
            notes=(
                "Accuracy in % on the test photos, by training photos a class; zero-shot learns from none.",
                *(_left_out(rows, names, data) if average else ()),
            ),
        )

    among = _common(rows, data)
    return [*([of(among)] if len(among) > 1 else []), *(of([name]) for name in data)]


def _transfer(protocol: str, rows: Sequence[Runs], data: Sequence[str]) -> list[Draft]:
    def of(name: str) -> Draft:
        runs_here = [runs for runs in (row.on(name) for row in rows) if runs]
        records = [record for runs in runs_here for record in runs.values()]
        tests = list(dict.fromkeys(test for record in records for test in record["tests"]))
        targets = [test for test in tests if test != "source"]
        everywhere = [t for t in targets if all(t in record["tests"] for record in records)]
        heads = {test: "source" if test == "source" else data_title(test) for test in tests}
        average = "average of targets"

        def ours(runs: Runs) -> dict[str, Seeds]:
            numbers = {heads[test]: _accuracies(runs.on(name), test) for test in tests}
            return numbers | {average: _mean_of([numbers[heads[target]] for target in everywhere])}

        def theirs(method: str) -> dict[str, float]:
            numbers = _theirs(protocol, [name], method, heads.values())
            their_targets = [numbers.get(heads[target]) for target in everywhere]
            known = [number for number in their_targets if number is not None]
            return numbers | ({average: fmean(known)} if known and len(known) == len(everywhere) else {})

        missing = [heads[target] for target in targets if target not in everywhere]
        return Draft(
            _title(protocol, f"learned on {data_title(name)}"),
            protocol,
            name,
            (
                *(Column(heads[test], test=test) for test in tests),
                *([Column(average, test=average)] if len(everywhere) > 1 else []),
            ),
            ours,
            theirs,
            (
                "Accuracy in %.",
                *([f"Not in the average, because not all runs have it: {', '.join(missing)}."] if missing else []),
            ),
        )

    return [*_left_out_once(protocol, rows, data), *(of(name) for name in data)]


def _left_out_once(protocol: str, rows: Sequence[Runs], data: Sequence[str]) -> list[Draft]:
    """One table for domains of which each was the only target of the others; empty for other experiments."""
    target_of: dict[str, str] = {}
    for name in data:
        targets = {test for row in rows for r in row.on(name).values() for test in r["tests"] if test != "source"}
        if len(targets) == 1:
            target_of[name] = targets.pop()
    if len(data) < 2 or len(set(target_of.values())) < len(data):
        return []

    def ours(runs: Runs) -> dict[str, Seeds]:
        numbers = {data_title(target): _accuracies(runs.on(name), target) for name, target in target_of.items()}
        return numbers | {AVERAGE: _mean_of(list(numbers.values()))}

    columns = [
        *(Column(data_title(target), test=target) for target in target_of.values()),
        Column(AVERAGE, test=AVERAGE),
    ]
    notes = ("Accuracy in % on each domain, learned from all others.",)
    return [Draft(_title(protocol, "each left out once"), protocol, AVERAGE, tuple(columns), ours, notes=notes)]


_DRAFTS: dict[str, Callable[[str, Sequence[Runs], Sequence[str]], list[Draft]]] = {
    "base-to-new": _base_to_new,
    "cross-dataset": _transfer,
    "domain": _transfer,
    "few-shot": _few_shot,
    "together": _together,
}


def _mean_of(numbers: Sequence[Seeds]) -> Seeds:
    """The mean over data sets for each seed that all of them have."""
    if not numbers:
        return {}
    return {seed: fmean(n[seed] for n in numbers) for seed in numbers[0] if all(seed in n for n in numbers)}


def _theirs(protocol: str, data: Sequence[str], method: str, columns: Iterable[str]) -> dict[str, float]:
    """Published numbers, averaged over data sets; a column that is not printed for all of them is left out."""
    found: dict[str, float] = {}
    for column in columns:
        numbers = [published_number(protocol, name, method, column) for name in data]
        known = [number for number in numbers if number is not None]
        if known and len(known) == len(numbers):
            found[column] = fmean(known)
    return found


def _common(rows: Sequence[Runs], data: Sequence[str]) -> list[str]:
    """Data sets that all rows have; rows with changed settings do not count, as they are often tried on few."""
    return [name for name in data if all(name in row.data for row in plain(rows))]


def _average_title(protocol: str, data: Sequence[str]) -> str:
    return _title(protocol, f"average of {len(data)} data sets")


def _left_out(rows: Sequence[Runs], among: Sequence[str], data: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if len(among) < len(data):
        others = ", ".join(data_title(name) for name in data if name not in among)
        notes.append(f"Not averaged, because not all methods have them yet: {others}.")
    lacking = [row.label for row in rows if not set(among) <= set(row.data)]
    if lacking:
        notes.append(f"Not shown, because they lack some of the data sets: {'; '.join(lacking)}.")
    return tuple(notes)


def _more(protocol: str, rows: Sequence[Runs], data: str) -> SweepTable:
    """Macro F1 and ECE of each test, and of how many classes and photos."""
    columns = (
        Column("macro F1", "macro F1"),
        Column("ECE", "ECE"),
        Column("classes", "classes", style="count"),
        Column("images", "images", style="count"),
        Column("not measured", "photos not measured", style="count"),
    )
    made: dict[str, list[Row]] = {}
    for row in rows:
        for shots in row.shots if protocol == "few-shot" else (None,):
            runs = row.on(data, shots)
            for test in dict.fromkeys(test for record in runs.values() for test in record["tests"]):
                numbers = [record["tests"][test] for record in runs.values() if test in record["tests"]]
                values = (
                    tuple(n["macro_f1"] for n in numbers),
                    tuple(n["ece"] for n in numbers),
                    tuple(n["classes"] for n in numbers),
                    tuple(n["images"] for n in numbers),
                    tuple(n["skipped"] + n["overlap"] for n in numbers),
                )
                group = _shots(shots) if shots is not None else test if test in _OWN_TESTS else data_title(test)
                cells = tuple(map(Cell, values))
                test = _shots(shots) if shots is not None else test
                made.setdefault(group, []).append(Row(row.method, row.variant, cells, group, test=test))
    found = [row for group in made.values() for row in group]
    notes = (
        "Macro F1 and expected calibration error (ECE; 15 bins of equal width) in %.",
        "Not measured: photos that cannot be read, or that were also trained on.",
        *seed_notes(found),
    )
    title = f"{_title(protocol, data_title(data))}, more measures"
    return SweepTable(title, protocol, data, columns, tuple(found), notes, "more")


_OWN_TESTS = ("base", "new", "all", "test", "source")


def _costs(protocol: str, rows: Sequence[Runs], data: Sequence[str]) -> SweepTable:
    """Wall time and memory of a run, by data set."""
    columns = (
        Column("training, s", "training seconds", style="mean"),
        Column("evaluation, s", "evaluation seconds", style="mean"),
        Column("peak memory, GiB", "peak memory GiB", style="mean"),
    )
    made = []
    for name in data:
        for row in rows:
            for shots in row.shots if protocol == "few-shot" else (None,):
                runs = list(row.on(name, shots).values())
                if not runs:
                    continue
                training = tuple(r["seconds"]["training"] for r in runs if row.method != "zero-shot")
                cells = (
                    Cell(training) if training else None,
                    Cell(tuple(r["seconds"]["evaluation"] for r in runs)),
                    Cell(tuple(r["peak_memory_bytes"] / 2**30 for r in runs)),
                )
                test = "" if shots is None else _shots(shots)
                group = ", ".join(filter(None, (data_title(name), test)))
                made.append(Row(row.method, row.variant, cells, group, name, test))
    # Rows of a group must follow each other.
    order = list(dict.fromkeys(row.group for row in made))
    made.sort(key=lambda row: order.index(row.group))
    notes = (
        "Wall time of a run in seconds, encoding of test photos not included, and the largest resident memory of its "
        "process; means over seeds.",
    )
    title = f"{PROTOCOLS.get(protocol, protocol)}: time and memory"
    return SweepTable(title, protocol, "", columns, tuple(made), notes, "cost")
