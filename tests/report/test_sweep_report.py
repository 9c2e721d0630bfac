"""`cocoop report` on made-up sweeps: exact numbers, their notes, and names that need escaping."""

from __future__ import annotations

import csv
import io
import math
import os
import random
import re
import statistics
import subprocess
import sys
from xml.etree import ElementTree

import pandas as pd
import pytest
from made_images import cocoop, environment
from pages import Page
from rich.console import Console
from sweep_records import METHODS, PAPER, failure, numbers, record, write_sweep

from cocoop.experiments.records import Sweep, read_sweep
from cocoop.report import charts
from cocoop.report.published import AVERAGE, as_published, data_title, paper_data, published_number
from cocoop.report.results import class_accuracies, confusions_of, gained_and_lost, merge_reliability
from cocoop.report.sweep_page import sweep_page
from cocoop.report.sweep_tables import sweep_tables
from cocoop.report.sweep_text import failure_table, formatted, sweep_csv, sweep_latex, sweep_markdown, sweep_rich

NASTY = """<img src="http://evil.example/x.png"/> & 50%_{a}\\$#~^ | *b*"""
MINUS = "\N{MINUS SIGN}"


def made_sweep(data=("caltech101", "split_zhou_OxfordPets"), seeds=(1, 2, 3), classes=3, **more):
    """Records of every protocol, with a variant."""
    draw = random.Random(0)
    names = {name: tuple(f"class {k} of {name}" for k in range(classes)) for name in data}

    def test(name, accuracy):
        return numbers(round(accuracy + draw.gauss(0, 1.5), 2), data=name, names=names.get(name, ("cat", "dog")))

    at = {"zero-shot": (65, 66), "coop": (83, 52), "cocoop": (80, 62)}
    records = []
    for name in data:
        shift = draw.uniform(-15, 12)
        for method, (base, new) in at.items():
            for seed in (1,) if method == "zero-shot" else seeds:
                common = {"data": name, "seed": seed, **more}
                halves = {"base": test(name, base + shift), "new": test(name, new + shift * 0.8)}
                records.append(record(method, halves, **common))
                together = {half: test(name, value + shift - 5) for half, value in (("base", base), ("new", new))}
                records.append(record(method, together | {"all": test(name, base)}, protocol="together", **common))
                for shots in (None,) if method == "zero-shot" else (1, 4, 16):
                    tests = {"test": test(name, base - 20 / (shots or 1) + shift)}
                    records.append(record(method, tests, protocol="few-shot", **{**common, "shots": shots}))
    for method, (base, new) in at.items():
        for seed in (1,) if method == "zero-shot" else seeds:
            for protocol, targets in (("cross-dataset", data), ("domain", ("imagenetv2", "imagenet-a"))):
                tests = {"source": test("imagenet", base)} | {target: test(target, new) for target in targets}
                records.append(record(method, tests, protocol=protocol, data="imagenet", seed=seed, **more))
    first = {"base": test(data[0], 81), "new": test(data[0], 50)}
    records.append(record("cocoop", first, data=data[0], changes={"learning_rate": 0.02}, **more))
    return records


def made_tables(records, show="match"):
    return sweep_tables(Sweep(records, []), show)


def table(tables, title):
    """Return the only table with this title (without the experiment)."""
    (found,) = [t for t in tables if t.title.partition(": ")[2] == title]
    return found


def cell(found, label, column, group=None):
    """Return a cell by the names of its row and column; None if there is none."""
    (key,) = [key for key, heading in found.columns.items() if heading == column]
    cells = [c for c in found.cells.itertuples() if (c.label, c.column) == (label, key) and group in (None, c.group)]
    assert len(cells) <= 1
    return cells[0] if cells else None


def lines(found):
    return [(heading, *cells) for heading, rows in formatted(found).groups for cells, _ in rows]


def labels(found, group=""):
    return list(found.cells.label[found.cells.group == group].unique())


def papers_records():
    """Return the paper's eleven rows as records of one seed."""
    records = []
    for title in sorted(paper_data()):
        for method in METHODS:
            tests = {half: published_number("base-to-new", title, method, half) for half in ("base", "new")}
            records.append(record(method, tests, data=title, **PAPER))
    return records


def test_averages_of_the_papers_rows_are_its_printed_averages():
    """Table 1: average base, new and H of CLIP, CoOp and CoCoOp; the mean of the data sets' Hs differs."""
    found = table(made_tables(papers_records(), "never"), "average of 11 data sets")
    printed = {"zero-shot CLIP": (69.34, 74.22, 71.70), "CoOp": (82.69, 63.22, 71.66), "CoCoOp": (80.47, 71.69, 75.83)}
    for label, numbers_ in printed.items():
        means = [cell(found, label, name).mean for name in ("base", "new", "H of averages")]
        assert means == pytest.approx(numbers_, abs=0.0051)
    # The Hs as printed, with two decimals, have a mean of 75.44; before rounding it is 75.4345.
    printed_hs = [round(published_number("base-to-new", title, "cocoop", "H"), 2) for title in paper_data()]
    assert round(statistics.fmean(printed_hs), 2) == 75.44
    assert cell(found, "CoCoOp", "mean of Hs").mean == pytest.approx(75.4345, abs=1e-4)
    assert cell(found, "CoCoOp", "Δ new").mean == pytest.approx(71.69 - 74.22, abs=0.006)
    assert found.data == AVERAGE


def test_h_of_averages_and_mean_of_hs_are_computed_for_each_seed():
    accuracies = {"a": {1: (80, 60), 2: (90, 40)}, "b": {1: (60, 60), 2: (70, 80)}}
    records = [
        record("coop", dict(zip(("base", "new"), pair, strict=True)), data=data, seed=seed)
        for data, by_seed in accuracies.items()
        for seed, pair in by_seed.items()
    ]
    found = table(made_tables(records), "average of 2 data sets")
    base, new = cell(found, "CoOp", "base"), cell(found, "CoOp", "new")
    # Seeds 1 and 2 have 70 and 80 on base classes, and 60 and 60 on new ones.
    assert (base.mean, base.std, base.n) == (75, pytest.approx(math.sqrt(50)), 2)
    assert (new.mean, new.std, new.n) == (60, 0, 2)
    h = 2 * 70 * 60 / 130, 2 * 80 * 60 / 140
    assert cell(found, "CoOp", "H of averages").mean == pytest.approx(sum(h) / 2)
    first, second = (2 * 80 * 60 / 140 + 60) / 2, (2 * 90 * 40 / 130 + 2 * 70 * 80 / 150) / 2
    assert cell(found, "CoOp", "mean of Hs").mean == pytest.approx((first + second) / 2)
    assert cell(found, "CoOp", "mean of Hs").std == pytest.approx(statistics.stdev([first, second]))
    assert "H of averages: H of the average accuracies, as the paper prints it" in " ".join(found.notes)


def test_means_deviations_and_differences_of_one_data_set():
    records = [record("zero-shot", {"base": 60.0, "new": 50.0})]
    records += [record("coop", {"base": b, "new": n}, seed=s) for s, b, n in ((1, 80, 40), (2, 82, 44), (3, 87, 42))]
    found = table(made_tables(records), "photos")
    hs = [2 * b * n / (b + n) for b, n in ((80, 40), (82, 44), (87, 42))]
    h_zero = 2 * 60 * 50 / 110
    assert lines(found) == [
        ("", "zero-shot CLIP", "60.0", "50.0", f"{h_zero:.1f}", "", "", ""),
        (
            "",
            "CoOp",
            # (80, 82, 87): mean 83, squares 9 + 1 + 16 over n - 1 = 2.
            "83.0 ± 3.6",
            "42.0 ± 2.0",
            f"{sum(hs) / 3:.1f} ± {statistics.stdev(hs):.1f}",
            "+23.0",
            f"{MINUS}8.0",
            f"+{sum(hs) / 3 - h_zero:.1f}",
        ),
    ]
    text = formatted(found)
    ((_, rows),) = text.groups
    assert [{text.head[i] for i in best} for _, best in rows] == [{"new"}, {"base", "H"}]
    assert "Mean ± sample standard deviation (n - 1) over 3 seeds; n is given where there are fewer." in found.notes


def test_a_missing_seed_is_marked():
    records = [record("coop", {"base": 80, "new": 40}, seed=s) for s in (1, 2, 3)]
    records += [record("cocoop", {"base": 70, "new": 60}, seed=s) for s in (1, 3)]
    records += [record("zero-shot", {"base": 70, "new": 60})]
    found = made_tables(records)[0]
    assert lines(found)[1][2] == "80.0 ± 0.0"
    assert lines(found)[2][2] == "70.0 ± 0.0 (n = 2)"
    assert lines(found)[0][2] == "70.0", "zero-shot has no seeds to miss"
    assert "over 3 seeds; n is given where there are fewer." in found.notes[-1]


def test_rows_are_named_by_their_settings_and_compared_with_their_own_zero_shot():
    records = []
    for backbone, base in (("lite", 60.0), ("ViT-B/16", 70.0)):
        records.append(record("zero-shot", {"base": base, "new": 50.0}, backbone=backbone))
        records.append(record("coop", {"base": 80.0, "new": 40.0}, backbone=backbone))
    more = {"backbone": "lite", "changes": {"learning_rate": 0.02}}
    records.append(record("coop", {"base": 75.0, "new": 40.0}, **more))
    records.append(record("coop", {"base": 65.0, "new": 45.0}, backbone="lite", shots=4))
    records.append(record("cocoop", {"base": 65.0, "new": 45.0}, backbone="lite", preset="cached"))
    found = made_tables(records, "never")[0]
    assert {line[1]: line[5] for line in lines(found)} == {
        "zero-shot CLIP (ViT-B/16)": "",
        "zero-shot CLIP (lite)": "",
        "CoOp (ViT-B/16, 16 shots, paper)": "+10.0",
        "CoOp (lite, 4 shots, paper)": "+5.0",
        "CoOp (lite, 16 shots, paper)": "+20.0",
        "CoOp (learning_rate 0.02, lite, 16 shots, paper)": "+15.0",
        "CoCoOp (lite, 16 shots, cached)": "+5.0",
    }


def test_methods_that_lack_data_sets_are_not_averaged_with_the_others():
    records = [record(m, {"base": 80, "new": 40}, data=d) for m in METHODS for d in ("a", "b", "c")]
    records = [r for r in records if (r["method"], r["data"]) != ("cocoop", "c")]
    records.append(record("coop", {"base": 10, "new": 10}, data="a", changes={"epochs": 1}))
    found = table(made_tables(records), "average of 2 data sets")
    assert labels(found) == ["zero-shot CLIP", "CoOp", "CoCoOp"]
    assert "Not averaged, because not all methods have them yet: c." in found.notes
    assert "Not shown, because they lack some of the data sets: CoOp (epochs 1)." in found.notes


def test_a_note_says_that_rows_are_of_different_images():
    records = [record("coop", {"base": 80, "new": 40}), record("cocoop", {"base": 80, "new": 40}, split_sha256="cd")]
    assert "Not all rows were measured on the same images" in made_tables(records)[0].notes[-1]


def test_targets_are_averaged_over_those_that_all_runs_have():
    source = {"protocol": "cross-dataset", "data": "imagenet"}
    records = [
        record("zero-shot", {"source": 66, "dtd": 44, "caltech101": 92, "mine": 10}, **source),
        record("coop", {"source": 71, "dtd": 40, "caltech101": 90}, seed=1, **source),
        record("coop", {"source": 73, "dtd": 44, "caltech101": 94}, seed=2, **source),
    ]
    found = table(made_tables(records), "trained on ImageNet")
    assert formatted(found).head == ["method", "source", "DTD", "Caltech101", "mine", "average of targets"]
    assert lines(found)[0][1:] == ("zero-shot CLIP", "66.0", "44.0", "92.0", "10.0", "68.0")
    average = cell(found, "CoOp", "average of targets")
    assert (average.mean, average.std) == (67, pytest.approx(math.sqrt(8)))
    assert cell(found, "CoOp", "mine") is None
    assert "Not in the average, because not all runs have it: mine." in found.notes


def test_domains_that_are_each_left_out_once_share_a_table():
    names = ("art", "photo", "sketch")
    records = [
        record(
            "coop", {"source": 90, name: 50 + 10 * i}, protocol="domain", data="+".join(n for n in names if n != name)
        )
        for i, name in enumerate(names)
    ]
    found = table(made_tables(records), "each left out once")
    assert formatted(found).head == ["method", "art", "photo", "sketch", "average"]
    assert lines(found) == [("", "CoOp", "50.0", "60.0", "70.0", "60.0")]


def test_few_shot_columns_are_shots_and_zero_shot_has_none():
    few = {"protocol": "few-shot", "data": "a"}
    records = [record("zero-shot", {"test": 50}, **few)]
    records += [record("coop", {"test": 50 + k + s}, shots=k, seed=s, **few) for k in (16, 1) for s in (1, 3)]
    found = made_tables(records)[0]
    assert formatted(found).head == ["method", "0 shots", "1 shot", "16 shots"]
    assert lines(found) == [
        ("", "zero-shot CLIP", "50.0", "", ""),
        ("", "CoOp", "", "53.0 ± 1.4", "68.0 ± 1.4"),
    ]


def test_runs_with_the_changed_settings_as_published_join_the_changed_row():
    """CoOp trains for 50 epochs on one shot, so `epochs=50` changes only runs of more shots."""
    train = {"epochs": 50, "batch_size": 32, "learning_rate": 0.002}
    few = {"protocol": "few-shot", "data": "a", "train": train}
    records = [
        record("coop", {"test": 60}, shots=1, **few),
        record("coop", {"test": 70}, shots=4, changes={"epochs": 50}, **few),
    ]
    assert lines(made_tables(records)[0]) == [("", "CoOp (epochs 50)", "60.0", "70.0")]


def test_more_measures_and_costs():
    records = [record("zero-shot", {"base": 60, "new": 50}), record("coop", {"base": 80, "new": 40}, seed=4)]
    tables = made_tables(records)
    assert [t.kind for t in tables] == ["accuracy", "more", "cost"]
    assert lines(tables[1])[1] == ("base", "CoOp", "79.0", "3.5", "3", "700", "3")
    assert [line[0] for line in lines(tables[1])] == ["base", "base", "new", "new"]
    assert lines(tables[2]) == [
        ("photos", "zero-shot CLIP", "", "4.0", "1.0"),
        ("photos", "CoOp", "104.0", "4.0", "1.0"),
    ]


@pytest.mark.parametrize("name", ["oxford-pets", "OxfordPets", "pets", "split_zhou_OxfordPets", "OXFORD_PETS"])
def test_published_numbers_are_found_by_every_name_of_a_data_set(name):
    assert data_title(name) == "OxfordPets"
    assert published_number("base-to-new", name, "cocoop", "new") == 97.69
    assert published_number("cross-dataset", "imagenet", "coop", name) == 89.14


def test_published_numbers_of_the_other_experiments():
    assert published_number("domain", "ImageNet", "zero-shot", "imagenet-a") == 47.77
    assert published_number("domain", "ImageNet", "cocoop", "source") == 71.02
    assert published_number("together", AVERAGE, "coop", "all") == 65.55
    assert published_number("base-to-new", "dtd", "zero-shot", "H") == pytest.approx(2 * 53.24 * 59.9 / 113.14)
    for nothing in [("base-to-new", "mine", "coop", "new"), ("base-to-new", "columns", "coop", "new")]:
        assert published_number(*nothing) is None
    assert published_number("cross-dataset", "imagenet", "zero-shot", "dtd") is None
    assert published_number("cross-dataset", "caltech101", "coop", "dtd") is None
    assert published_number("few-shot", "dtd", "coop", "16 shots") is None


@pytest.mark.parametrize(
    ("method", "more", "same"),
    [
        ("coop", PAPER, True),
        ("zero-shot", PAPER, True),
        ("coop", {"backbone": "vit-b/16"}, True),
        ("coop", {"backbone": "ViT-B/32"}, False),
        ("coop", PAPER | {"shots": 4}, False),
        ("coop", PAPER | {"preset": "cached"}, False),
        ("coop", PAPER | {"changes": {"epochs": 3}}, False),
    ],
)
def test_as_published_compares_the_settings_with_the_papers(method, more, same):
    made = record(method, {"base": 80, "new": 40}, data="dtd", **more)
    assert as_published(made) is same
    assert bool(labels(made_tables([made])[0], "paper, ViT-B/16")) is same


def test_published_numbers_stand_below_ours():
    records = [record(m, {"base": 80, "new": 40}, data="dtd", **PAPER) for m in ("zero-shot", "coop")]
    assert lines(made_tables(records, "match")[0])[2:] == [
        ("paper, ViT-B/16", "zero-shot CLIP", "53.2", "59.9", "56.4", "", "", ""),
        ("paper, ViT-B/16", "CoOp", "79.4", "41.2", "54.2", "+26.2", f"{MINUS}18.7", f"{MINUS}2.1"),
    ]
    assert [labels(t, "paper, ViT-B/16") for t in made_tables(records, "never")] == [[], [], []]
    assert not any("directions" in note for note in made_tables(records, "always")[0].notes)
    others = [{**r, "backbone": "lite"} for r in records]
    assert len(lines(made_tables(others, "match")[0])) == 2
    shown = made_tables(others, "always")[0]
    assert [heading for heading, *_ in lines(shown)] == ["", "", "paper, ViT-B/16", "paper, ViT-B/16"]
    assert "only the direction of a difference can be compared with ours" in shown.notes[-1]


def test_csv_has_one_number_a_row():
    records = [record("zero-shot", {"base": 60, "new": 50}, data="dtd", **PAPER)]
    records += [record("coop", {"base": b, "new": 40}, data="dtd", seed=b, **PAPER) for b in (80, 83)]
    rows = list(csv.reader(io.StringIO(sweep_csv(made_tables(records)))))
    assert rows[0] == ["protocol", "data", "method", "variant", "test", "measure", "mean", "std", "n"]
    assert ["base-to-new", "dtd", "coop", "", "base", "accuracy", "81.5", "2.121320344", "2"] in rows
    assert [
        "base-to-new",
        "dtd",
        "coop",
        "",
        "base",
        "accuracy, difference to zero-shot",
        "21.5",
        "2.121320344",
        "2",
    ] in rows
    assert ["base-to-new", "dtd", "coop", "paper, ViT-B/16", "new", "accuracy", "41.18", "", ""] in rows
    assert ["base-to-new", "dtd", "coop", "", "new", "ECE", "3.5", "0", "2"] in rows
    assert ["base-to-new", "dtd", "zero-shot", "", "", "peak memory GiB", "1", "", "1"] in rows
    assert all(len(row) == 9 for row in rows)


def test_latex_and_markdown_escape_names():
    name = r"a&b%c_d#e$f~g^h\i{j}<k>[l]|m*n`o"
    tables = made_tables([record("coop", {"base": 80, "new": 40}, data=name, changes={"x_y": "[z"})])
    failures = failure_table(Sweep([], [failure("coop", "no % reason\nat all", data=name)]))
    latex = sweep_latex(tables, failures)
    escaped = (
        r"a\&b\%c\_d\#e\$f\textasciitilde{}g\textasciicircum{}h\textbackslash{}i\{j\}"
        r"\textless{}k\textgreater{}{[}l]|m*n`o"
    )
    assert rf"\caption{{Base to new classes: {escaped}}}" in latex
    assert r"CoOp (x\_y {[}z) & 80.0 & 40.0 & 53.3" in latex
    assert latex.splitlines()[-1] == f"% failed: CoOp, base-to-new, {name}, 1, 16, no % reason at all"
    body = latex.replace(r"\{", "").replace(r"\}", "").rpartition("% failed")[0]
    assert body.count("{") == body.count("}")
    markdown = sweep_markdown(tables, failures)
    assert markdown.startswith("## Base to new classes: " + r"a\&b%c\_d\#e\$f\~g^h\\i\{j\}\<k\>\[l\]\|m\*n\`o" + "\n")
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows[:3]}) == 1


def test_a_terminal_shows_names_unchanged_and_transposes_wide_tables():
    targets = {f"t{k}": 50 + k for k in range(10)}
    tests = {"source": 70, **targets}
    made = made_tables([record("coop", tests, protocol="cross-dataset", data="[bold]x")])
    file = io.StringIO()
    failed = [failure("cocoop", "out of [red]memory", data="[b]")]
    failures = failure_table(Sweep([], failed))
    assert failures.groups == [("", [(["CoCoOp", "base-to-new", "[b]", "1", "16", "out of [red]memory"], set())])]
    Console(file=file, width=100).print(sweep_rich(made[:1], failures))
    text = file.getvalue()
    assert "Other data sets: trained on [bold]x" in text
    assert "out of [red]memory" in text
    shown = [[part.strip() for part in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert ["t9", "59.0"] in shown
    assert ["average of targets", "54.5"] in shown
    assert text.count("Accuracy in %.") == 1


def test_classes_that_gained_or_lost_and_their_confusions():
    tests = [numbers(50) | {"per_class": per_class} for per_class in ({"a": 10, "b": 90, "c": 50}, {"a": 30, "b": 100})]
    tests[0]["confusions"] = [["a", "b", 5], ["a", "c", 4], ["b", "a", 1]]
    tests[1]["confusions"] = [["a", "c", 3]]
    frame = pd.DataFrame(tests)
    assert class_accuracies(frame) == {"a": 20, "b": 95, "c": 50}
    assert {name: counts.most_common() for name, counts in confusions_of(frame).items()} == {
        "a": [("c", 7), ("b", 5)],
        "b": [("a", 1)],
    }
    before = {"a": 50, "b": 50, "c": 50, "d": 50}
    after = [{"a": 90, "b": 20, "c": 50}, {"a": 60, "b": 60, "c": 50}]
    assert gained_and_lost(before, after, 6) == (["a"], ["b"])


def test_bins_of_seeds_are_weighted_by_their_images():
    bins = [[[0, 0, 0], [10, 40, 30]], [[0, 0, 0], [30, 44, 50]]]
    assert merge_reliability(pd.DataFrame({"reliability": bins})) == ([43], [45])
    assert merge_reliability(pd.DataFrame({"reliability": []})) == ([], [])


def bars_of(svg, colour):
    """Return the left and right ends of the bars of a colour, in points, without its key in the legend."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: var\(--method-{colour}\)', svg)
    ends = [[float(x) for x in re.findall(r"[ML] ([-\d.]+) [-\d.]+", path)] for path in paths]
    return [(min(xs), max(xs)) for xs in ends if max(xs) - min(xs) != pytest.approx(18, abs=0.5)]


def test_horizontal_bars_are_as_long_as_the_means():
    coop = charts.Bars("CoOp", {"$x_1$ <b>": (55.0, 7.1), "b": (20.0, math.nan)}, 1)
    series = [coop, charts.Bars("CoCoOp", {"b": (80.0, math.nan)}, 2)]
    svg = charts.horizontal_bars(series, title="T", x_label="%", description="d")
    (left, a), (_, b) = bars_of(svg, 2)
    ((_, c),) = bars_of(svg, 3)
    assert [(end - left) / (a - left) * 55 for end in (b, c)] == pytest.approx([20, 80], rel=1e-3)
    assert "$x_1$ <b>" in "".join(ElementTree.fromstring(svg).itertext())


def test_long_names_of_many_methods_leave_room_for_the_bars():
    name = "CoCoOp (learning_rate 0.02, ViT-B/16, 16 shots, cached)"
    series = [charts.Bars(f"{name} {k}", {"b": (80.0, math.nan)}, k % 3, k // 3) for k in range(8)]
    svg = charts.horizontal_bars(series, title="T", x_label="%", description="d")
    width = float(ElementTree.fromstring(svg).get("viewBox").split()[2])
    found = bars_of(svg, 1)
    assert len(found) == 3
    assert all(right - left > width / 2 for left, right in found)


def test_gains_and_losses_lie_on_both_sides():
    svg = charts.horizontal_changes({"up": 8.0, "down": -4.0}, title="T", x_label="points", description="d")
    ((middle, up),) = bars_of(svg, 3)
    ((down, end),) = bars_of(svg, 2)
    assert end == pytest.approx(middle)
    assert (up - middle) / (middle - down) == pytest.approx(2, rel=1e-3)
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"+8.0", f"{MINUS}4.0", "up", "down"} <= set(texts)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A sweep of all experiments; the names of its second data set, a class and a failure need escaping."""
    records = made_sweep(data=("caltech101", NASTY), seeds=(1, 2))
    for made in records:
        for test in made["tests"].values():
            test["per_class"][NASTY] = 1.5
            test["confusions"].insert(0, [NASTY, f"{NASTY} again", 3])
    failures = [failure("cocoop", f"the loss is not finite {NASTY}", data=NASTY, seed=3)]
    return write_sweep(tmp_path_factory.mktemp("made") / "my sweep", records, failures)


@pytest.fixture(scope="module")
def reported(directory):
    done = cocoop("report", directory, "--published", "always", COLUMNS="100")
    assert done.returncode == 0, done.stderr
    return done, directory / "report"


def test_the_command_writes_all_files_and_names_them(reported):
    done, made = reported
    assert sorted(path.name for path in made.iterdir()) == ["report.html", "tables.csv", "tables.md", "tables.tex"]
    assert (
        done.stderr
        == "Written: "
        + ", ".join(str(made / name) for name in ("report.html", "tables.md", "tables.csv", "tables.tex"))
        + ".\n"
    )
    assert "Base to new classes: average of 2 data sets" in done.stdout
    assert f"the loss is not finite {NASTY}" in done.stdout


def test_the_page_is_complete_and_loads_nothing(reported, directory):
    page = Page((reported[1] / "report.html").read_text(encoding="utf-8"))
    assert page.fetched() == []
    assert page.broken_links() == []
    assert page.all("img") == []
    words = page.words()
    assert words.count(NASTY) > 20
    assert "data sets, 1 failed" in page.words(page.all("h1")[0])
    titles = [page.words(heading) for heading in page.all("h2")]
    assert titles[0] == "At a glance"
    assert titles[-2:] == ["Failed runs", "Settings and versions"]
    assert {"Base to new classes", "Few shots", "Class by class", "Confusions", "Calibration"} < set(titles)
    assert "CoCoOp (learning_rate 0.02)" in words
    assert "paper, ViT-B/16" in words
    assert [page.words(kicker) for kicker in page.all("p", "kicker")] == ["cocoop report"]
    assert len(page.all("svg")) > 20


def test_the_page_starts_with_the_numbers_of_its_first_table(directory):
    sweep = read_sweep(directory)
    page = Page(sweep_page(sweep, "never"))
    first = sweep_tables(sweep, "never")[0]
    assert first.title == "Base to new classes: average of 2 data sets"
    columns = ("base", "new", "H of averages")
    names = ("zero-shot CLIP", "CoOp", "CoCoOp")
    assert [[page.words(dd) for dd in page.all("dd", within=card)] for card in page.all("div", "score")] == [
        [f"{cell(first, name, column).mean:.1f}" for column in columns] for name in names
    ]
    assert "paper, ViT-B/16" not in page.words()


def test_one_method_on_one_data_set_is_enough_for_a_page():
    page = Page(sweep_page(Sweep([record("cocoop", {"base": 80, "new": 60})], [])))
    assert page.broken_links() == []
    assert "Class by class" not in page.words(), "there is no zero-shot to compare with"
    assert page.tables()[0][1] == ["CoCoOp", "80.0", "60.0", f"{2 * 80 * 60 / 140:.1f}", "", "", ""]


def test_a_name_that_is_not_utf_8_is_escaped(tmp_path):
    name = b"caf\xe9".decode(errors="surrogateescape")
    made = [record(method, {"base": 80, "new": 60}, data=data) for method in METHODS for data in (name, "b")]
    for test in (half for one in made for half in one["tests"].values()):
        test["per_class"][name] = 0.0
    done = cocoop("report", write_sweep(tmp_path, made), PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr
    Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert r"caf\udce9" in (tmp_path / "report" / "tables.csv").read_text(encoding="utf-8")


def test_output_names_another_directory(directory, tmp_path):
    done = cocoop("report", directory, "--output", tmp_path / "here", "--published", "never")
    assert done.returncode == 0, done.stderr
    assert "paper" not in (tmp_path / "here" / "tables.md").read_text(encoding="utf-8").replace("the paper prints", "")
    assert len(list((tmp_path / "here").iterdir())) == 4


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "empty" / "runs").mkdir(parents=True)
    failed = write_sweep(tmp_path / "failed", [], [failure("coop", "no memory")])
    for given, message in [
        (
            tmp_path / "nothing",
            f"cocoop: There is no sweep in '{tmp_path / 'nothing'}'; give a directory written by `cocoop bench` or "
            "`cocoop.sweep`.\n",
        ),
        (tmp_path / "empty", f"cocoop: No run in '{tmp_path / 'empty'}' has finished yet.\n"),
        (failed, f"cocoop: No run in '{failed}' has finished yet. 1 failed, the first with: no memory\n"),
    ]:
        done = cocoop("report", given)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", message)
        assert not (given / "report").exists()


def test_a_report_imports_no_pytorch(tmp_path):
    write_sweep(tmp_path, [record("cocoop", {"base": 80, "new": 60})])
    code = "import sys, cocoop; print(cocoop.write_report(sys.argv[1]).files[0]); sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env=environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'report' / 'report.html'}\n"), done.stderr


def test_a_missing_extra_is_one_line(tmp_path):
    write_sweep(tmp_path / "sweep", [record("cocoop", {"base": 80, "new": 60})])
    # Hide pandas from the command.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'pandas' else f(n, *a)"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = cocoop("report", tmp_path / "sweep", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (1, "cocoop: Reports need pandas: pip install 'cocoop[report]'\n")


def test_data_sets_have_the_names_of_the_catalog():
    # Reports read records alone, so the table of the paper's numbers repeats the names of the catalog.
    from cocoop.data.catalog.table import CATALOG

    for name, entry in CATALOG.items():
        for alias in (name, entry.title, *entry.aliases):
            assert data_title(alias) == entry.title
