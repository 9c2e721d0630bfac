"""`cocoop demo` in real processes, with the bundled images and backbone and a small training."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from made_images import environment
from pages import Page

from cocoop.experiments.records import read_sweep

COMMAND = [sys.executable, "-m", "cocoop", "demo"]
SMALL = ["--shots", "2", "--test-images", "2", "--seeds", "4", "7", "--epochs", "2"]


def run(*arguments, directory):
    return subprocess.run(
        arguments, cwd=directory, env=environment(COLUMNS="100"), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo in a directory where an earlier demo and its user left files."""
    directory = tmp_path_factory.mktemp("somewhere")
    (directory / "my demo").mkdir()
    (directory / "my demo" / "README.txt").write_text("This directory was made by `cocoop demo`.\n")
    (directory / "my demo" / "report.html").write_text("an old page")
    (directory / "my demo" / "notes.txt").write_text("mine")
    done = run(*COMMAND, "--output", "my demo", *SMALL, directory=directory)
    assert done.returncode == 0, done.stderr
    page = Page((directory / "my demo" / "report.html").read_text(encoding="utf-8"))
    return directory, done, read_sweep(directory / "my demo").records, page


def test_only_files_of_the_demo_are_written(demo):
    directory = demo[0] / "my demo"
    assert (directory / "notes.txt").read_text() == "mine"
    names = ["README.txt", "images", "notes.txt", "report", "report.html", "runs"]
    assert sorted(path.name for path in directory.iterdir()) == names
    assert [path.name for path in demo[0].iterdir()] == ["my demo"]


def test_records_are_those_of_the_settings(demo):
    runs = sorted((record["method"], record["seed"]) for record in demo[2])
    assert runs == [("cocoop", 4), ("cocoop", 7), ("coop", 4), ("coop", 7), ("zero-shot", None)]
    for record in demo[2]:
        assert record["classes"] == 9
        assert record["train_images"] == (0 if record["method"] == "zero-shot" else 18)
        assert [test["images"] for test in record["tests"].values()] == [18, 18]
        assert len(record["history"]) == (0 if record["method"] == "zero-shot" else 2)


def test_the_table_shows_the_mean_accuracies_of_the_records(demo):
    _, done, records, page = demo
    printed = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    for method, name in (("zero-shot", "zero-shot CLIP"), ("coop", "CoOp"), ("cocoop", "CoCoOp")):
        values = [record["tests"]["base"]["accuracy"] for record in records if record["method"] == method]
        shown = f"{sum(values) / len(values):.1f}"
        rows = [row for row in printed if row[0].startswith(name) and len(row) == 7]
        assert rows, done.stdout
        assert rows[0][1].startswith(shown)
        assert shown in page.words()


def test_the_page_needs_no_other_files(demo):
    page = demo[3]
    assert page.fetched() == []
    assert page.broken_links() == []
    images = page.all("img")
    assert len(images) == 18
    assert all(image.get("alt", "").startswith("Drawing: ") for image in images)
    charts = page.all("svg")
    assert len(charts) >= 3
    assert all(chart.get("role") == "img" and len(chart.get("aria-label")) > 40 for chart in charts)


def test_the_printed_command_runs(demo):
    directory, done, _, page = demo
    (command,) = re.findall(r"^  (cocoop predict .*)$", done.stderr, flags=re.MULTILINE)
    assert "cocoop predict" in page.words()
    predicted = run(sys.executable, "-m", *shlex.split(command), "--format", "jsonl", directory=directory)
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout)["predictions"][0]["class"]


def test_running_the_demo_again_repeats_no_run(demo):
    directory, _, records, _ = demo
    again = run(*COMMAND, "--output", "my demo", *SMALL, directory=directory)
    assert again.returncode == 0, again.stderr
    assert read_sweep(directory / "my demo").records == records


def test_a_foreign_directory_is_refused_at_once(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("mine")
    done = run(*COMMAND, directory=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "cocoop: 'demo' holds 'thesis.tex', which is not from an earlier demo, so nothing was written; choose another "
        "--output.\n"
    )
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--shots", "25"), "--shots is 25; it must be from 1 to 24."),
        (("--test-images", "0"), "--test-images is 0; it must be from 1 to 20."),
        (("--seeds", "1", "1"), "--seeds is [1, 1]; give one or more values, each once."),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_written(option, message, tmp_path):
    done = run(*COMMAND, *option, directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"cocoop: {message}"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_says_so_in_one_line(tmp_path):
    process = subprocess.Popen(
        COMMAND,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("demo/runs/*zero-shot*/record.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "cocoop: Interrupted. Finished runs are kept; the same command continues."
    assert "Traceback" not in stderr
