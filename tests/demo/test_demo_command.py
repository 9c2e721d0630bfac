"""`cocoop demo` as its user runs it: a real process, real pictures, the bundled backbone, a small study."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pages import Page

import cocoop
from cocoop.demo.home import Home
from cocoop.evaluation.metrics import harmonic_mean

COMMAND = [sys.executable, "-m", "cocoop", "demo"]
SMALL = ["--shots", "2", "--test-pictures", "2", "--seeds", "4", "7", "--epochs", "2", "--processes", "2"]


def run(*arguments, directory):
    environment = {**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=directory, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demonstration, in a folder where an earlier one and its user left things."""
    directory = tmp_path_factory.mktemp("somewhere")
    Home(directory / "my demo").claim()
    (directory / "my demo" / "report.html").write_text("an old page")
    (directory / "my demo" / "notes.txt").write_text("mine")
    (directory / "my demo" / "pictures" / "test" / "kite").mkdir(parents=True)
    (directory / "my demo" / "pictures" / "test" / "kite" / "mine.jpg").write_text("no picture")
    done = run(*COMMAND, "--output", "my demo", *SMALL, directory=directory)
    assert done.returncode == 0, done.stderr
    results = json.loads((directory / "my demo" / "results.json").read_text())
    page = Page((directory / "my demo" / "report.html").read_text(encoding="utf-8"))
    return directory, done, results, page


def test_nothing_but_the_demonstrations_own_files_is_touched(demo):
    directory = demo[0] / "my demo"
    assert (directory / "notes.txt").read_text() == "mine"
    assert (directory / "pictures" / "test" / "kite" / "mine.jpg").read_text() == "no picture"
    assert sorted(path.name for path in directory.iterdir()) == [
        "README.txt",
        "notes.txt",
        "pictures",
        "report.html",
        "results.json",
        "runs",
    ]
    assert [path.name for path in demo[0].iterdir()] == ["my demo"]


def test_records_add_up(demo):
    results = demo[2]
    pairs = [(record["method"], record["seed"]) for record in results["records"]]
    assert pairs == [(method, seed) for method in ("zero-shot", "coop", "cocoop") for seed in (4, 7)]
    classes = results["classes"]
    assert (len(classes["base"]), len(classes["new"])) == (9, 9)
    assert not set(classes["base"]) & set(classes["new"])
    for record in results["records"]:
        for half in ("base", "new"):
            named = record["predictions"][half]
            assert len(named) == 18
            assert set(named.values()) <= set(classes[half])
            right = sum(results["truth"][path] == name for path, name in named.items())
            assert record[half]["accuracy"] == pytest.approx(100 * right / 18)
        expected = harmonic_mean(record["base"]["accuracy"], record["new"]["accuracy"])
        assert record["harmonic_mean"] == pytest.approx(expected)
        assert len(record["history"]) == (0 if record["method"] == "zero-shot" else 2)


def test_the_table_in_the_terminal_and_on_the_page_is_that_of_the_records(demo):
    _, done, results, page = demo
    rows = []
    for method, name in (("zero-shot", "zero-shot CLIP"), ("coop", "CoOp"), ("cocoop", "CoCoOp")):
        first, second = (record for record in results["records"] if record["method"] == method)
        cells = [name]
        for values in zip(
            *((r["base"]["accuracy"], r["new"]["accuracy"], r["harmonic_mean"]) for r in (first, second)), strict=True
        ):
            mean = sum(values) / 2
            # With two values, the deviation of n - 1 is their distance over the root of 2.
            cells.append(f"{mean:.1f} ± {abs(values[0] - values[1]) / 2**0.5:.1f}")
        rows.append(cells)
    printed = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert printed == rows
    assert page.tables()[0] == [["method", "base", "new", "H"], *rows]
    for words in (done.stdout, page.words()):
        assert "mean ± standard deviation (n - 1) over 2 seeds; H is the mean of the seeds' H" in " ".join(
            words.split()
        )


def test_changes_of_a_class_are_its_means_over_the_seeds(demo):
    results, page = demo[2], demo[3]
    shown = {row[0]: row[1:] for row in page.tables()[1][1:] if len(row) > 1}
    for half in ("base", "new"):
        for name in results["classes"][half]:
            means = []
            for method in ("zero-shot", "coop", "cocoop"):
                values = [r[half]["per_class"][name] for r in results["records"] if r["method"] == method]
                means.append(sum(values) / len(values))
            changes = [f"{mean - means[0]:+.0f}".replace("-", "\N{MINUS SIGN}") for mean in means[1:]]
            assert shown[name] == [f"{means[0]:.0f}", *("0" if c[1:] == "0" else c for c in changes)]


def test_the_page_stands_alone(demo):
    page = demo[3]
    assert page.fetched() == []
    assert page.broken_links() == []
    pictures = page.all("img")
    assert len(pictures) >= 18 + 12
    assert all(picture.get("alt", "").startswith("Drawing: ") for picture in pictures)
    charts = page.all("svg")
    # One of bars; loss and accuracy of two methods.
    assert len(charts) == 5
    assert all(chart.get("role") == "img" and len(chart.get("aria-label")) > 40 for chart in charts)


def test_sample_cards_say_what_was_predicted(demo):
    results, page = demo[2], demo[3]
    first = [record for record in results["records"] if record["seed"] == 4]
    said = {
        (results["truth"][path], *(record["predictions"][half][path] for record in first))
        for half in ("base", "new")
        for path in first[0]["predictions"][half]
    }
    cards = page.all("li", "sample")
    verdicts = set()
    for card in cards:
        truth = page.words(page.all("h4", within=card)[0])
        guesses = [(g, "right") for g in page.all("span", "right", card)] + [
            (g, "wrong") for g in page.all("span", "wrong", card)
        ]
        named = {}
        for item in card.iter("li"):
            if item is not card:
                method, guess = (page.words(part) for part in list(item))
                named[method] = guess[2:].rsplit(", ", 1)
        names = tuple(named[method][0] for method in ("zero-shot", "CoOp", "CoCoOp"))
        assert (truth, *names) in said
        assert all((name == truth) == (verdict == "right") for name, verdict in named.values())
        assert len(guesses) == 3
        verdicts |= {verdict for _, verdict in named.values()}
    assert verdicts == {"right", "wrong"}


def test_settings_and_commands_are_those_of_this_run(demo):
    _, done, results, page = demo
    words = page.words()
    assert "2 epochs, 32 pictures a step, SGD with rate 0.002" in words
    assert results["versions"]["torch"] in words
    prompt = "cocoop predict 'my demo/runs/cocoop-seed4'"
    assert any(page.words(code).startswith(f"{prompt} 'my demo/pictures/test/kite'") for code in page.all("code"))
    assert f"{prompt} 'my demo/pictures/test/apple/000.jpg'" in " ".join(done.stderr.split())


def test_the_saved_prompts_predict_what_the_records_say(demo):
    directory, _, results, _ = demo
    home, backbone = Home(directory / "my demo"), cocoop.load_backbone("lite")
    for record in results["records"]:
        if record["seed"] != 4 or record["method"] == "zero-shot":
            continue
        method = cocoop.from_pretrained(home.runs / f"{record['method']}-seed4", backbone=backbone)
        assert list(method.classnames) == results["classes"]["base"]
        for half in ("base", "new"):
            method.set_classes(results["classes"][half])
            named = record["predictions"][half]
            predicted = cocoop.predict(method, [home.pictures / path for path in named], batch_size=2)
            assert [p.classes[0] for p in predicted] == list(named.values())


def test_the_command_line_predicts_right_after(demo):
    directory, _, results, _ = demo
    prompt = f"my demo/{results['run']}"
    picture = "my demo/pictures/test/moon/001.jpg"
    names = ",".join(results["classes"]["new"])
    done = run(
        sys.executable,
        "-m",
        "cocoop",
        "predict",
        prompt,
        picture,
        "--classes",
        names,
        "--format",
        "jsonl",
        directory=directory,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    record = next(r for r in results["records"] if (r["method"], r["seed"]) == ("cocoop", 4))
    assert told["predictions"][0]["class"] == record["predictions"]["new"]["test/moon/001.jpg"]


def test_the_directory_of_somebody_else_is_refused_at_once(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("mine")
    done = run(*COMMAND, directory=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "cocoop: 'demo' holds 'thesis.tex', which is not from an earlier demonstration, so nothing was written; "
        "give another folder with --output.\n"
    )
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["thesis.tex"]


def test_ctrl_c_is_one_line_and_leaves_no_process(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*COMMAND, "--processes", "1"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for(lambda: list(tmp_path.glob("demo/pictures/train/*/*.jpg")))
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "cocoop: Stopped. Run the demonstration again to begin anew."
    assert "Traceback" not in stderr
    _wait_for(lambda: not _members(process.pid))


def _members(group: int) -> list[str]:
    """Processes of a group that still live."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            states.append(stat.parent.name)
    return states


def _wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
