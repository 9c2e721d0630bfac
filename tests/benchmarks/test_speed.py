"""`benchmarks/speed.py` on a tiny tower: the record says what was measured, and ratios follow from its numbers."""

import json
import subprocess
import sys
import time

import pytest
import torch
from made_images import environment
from paths import ROOT
from PIL import Image
from probes import matmul_work, median_seconds, peak_bytes
from random_towers import imagenet_names

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    flags = "--shape tiny --classes 5 40 --batch 1 --context-length 4 --rounds 1 --published-prompts 20 --threads 1"
    command = [sys.executable, ROOT / "benchmarks" / "speed.py", *flags.split(), "--output", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "speed.json").read_text()), done.stdout, directory


def test_ratios_follow_from_the_recorded_numbers(measured):
    record, _, _ = measured
    for case in record["cases"]:
        published, ours = case["published"], case["ours"]
        assert case["step_ratio"] == pytest.approx(published["step_seconds"] / ours["step_seconds"])
        assert case["evaluation_ratio"] == pytest.approx(published["evaluation_seconds"] / ours["evaluation_seconds"])
        assert case["memory_ratio"] == pytest.approx(published["peak_bytes"] / ours["peak_bytes"])
        assert case["floor_seconds"] * case["matmul_operations_per_second"] == case["step_matmul_operations"]
        assert case["published_rows"] == 77 * case["classes"] > 10 * case["rows"]


def test_scaled_measurements_are_marked(measured):
    record, printed, _ = measured
    small, large = record["cases"]
    assert (small["published"]["measured_prompts"], small["published"]["scaled_by"]) == (5, 1)
    assert (large["published"]["measured_prompts"], large["published"]["scaled_by"]) == (20, 2)
    assert printed.count("~") >= 4
    assert "scaled in proportion" in " ".join(printed.split())


def test_a_cocoop_step_needs_the_arithmetic_of_all_its_images(measured):
    """CoCoOp encodes a set of prompts for each of 32 images; CoOp encodes one."""
    methods = measured[0]["methods"]
    assert 28 < methods["arithmetic_ratio"] < 33
    assert methods["time_ratio"] == pytest.approx(methods["cocoop_seconds"] / methods["coop_seconds"])


def test_the_plot_is_an_image(measured):
    with Image.open(measured[2] / "speed.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(2**24)) > 20


def test_peak_memory_counts_tensors_that_live_at_the_same_time():
    """Two of three tensors of 4 MB live at the same time."""

    def call():
        a = torch.ones(10**6)
        b = a * 2
        del a
        return (b * 2).sum()

    assert 8e6 <= peak_bytes(call, CPU) < 8.1e6


def test_matmul_work_counts_forward_and_backward():
    x, w = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3)
    assert matmul_work(lambda: (x @ w).sum().backward()) == 2 * (2 * 5 * 7 * 3)


def test_calls_are_timed_in_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    median_seconds(calls, 3, CPU, turn=0)
    assert order == ["a", "b"] * 3


def test_a_short_call_is_repeated_within_its_turn():
    """A short call is slow the first time, because another call has filled the caches."""
    times = iter([0.05, *[0.001] * 1000])
    seconds = median_seconds({"short": lambda: time.sleep(next(times))}, 1, CPU, turn=0.1)
    assert seconds["short"] < 0.04


@pytest.mark.parametrize("count", [2, 1000, 2500])
def test_imagenet_names_are_distinct(count):
    names = imagenet_names(count)
    assert len({name.lower() for name in names}) == len(names) == count
    assert names[0] == "tench"


@pytest.mark.parametrize("flags", ["--shape huge", "--rounds 0", "--published-prompts 1", "--batch 0", "--classes 1"])
def test_settings_out_of_range_are_refused_before_measuring(flags):
    command = [sys.executable, ROOT / "benchmarks" / "speed.py", *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode != 0
    assert flags.split()[0].removeprefix("--").replace("-", "_") in done.stderr.replace("-", "_")
