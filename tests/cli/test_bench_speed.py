"""`cocoop bench`: real measurements of a tiny tower; what is checked is that the record says what was measured."""

import json
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from cocoop.errors import ConfigError
from cocoop.speed.measure import Case, Plan, imagenet_names
from cocoop.speed.probes import matmul_work, median_seconds, peak_bytes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    flags = "--shape tiny --classes 5 40 --batch 1 --context-length 4 --rounds 1 --published-prompts 20 --threads 1"
    command = [sys.executable, "-m", "cocoop", "bench", *flags.split(), "--output", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads((directory / "speed.json").read_text()), done.stdout, directory


def test_ratios_are_those_of_the_numbers_beside_them(measured):
    record, _, _ = measured
    for case in record["cases"]:
        published, ours = case["published"], case["ours"]
        assert case["step_ratio"] == pytest.approx(published["step_seconds"] / ours["step_seconds"])
        assert case["evaluation_ratio"] == pytest.approx(published["evaluation_seconds"] / ours["evaluation_seconds"])
        assert case["memory_ratio"] == pytest.approx(published["peak_bytes"] / ours["peak_bytes"])
        assert case["floor_seconds"] * case["matmul_operations_per_second"] == case["step_matmul_operations"]
        assert case["published_rows"] == 77 * case["classes"] > 10 * case["rows"]


def test_what_was_scaled_is_marked(measured):
    record, printed, _ = measured
    small, large = record["cases"]
    assert (small["published"]["measured_prompts"], small["published"]["scaled_by"]) == (5, 1)
    assert (large["published"]["measured_prompts"], large["published"]["scaled_by"]) == (20, 2)
    assert printed.count("~") >= 4
    assert "scaled in proportion" in " ".join(printed.split())


def test_a_step_of_cocoop_demands_the_arithmetic_of_its_images(measured):
    """32 images bring 32 sets of prompts; CoOp has one."""
    methods = measured[0]["methods"]
    assert 28 < methods["arithmetic_ratio"] < 33
    assert methods["time_ratio"] == pytest.approx(methods["cocoop_seconds"] / methods["coop_seconds"])


def test_the_plot_is_a_picture(measured):
    with Image.open(measured[2] / "speed.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(2**24)) > 20


def test_peak_memory_is_what_is_held_at_once():
    """Two of three tensors of 4 MB live at the same time."""

    def call():
        a = torch.ones(10**6)
        b = a * 2
        del a
        return (b * 2).sum()

    assert 8e6 <= peak_bytes(call, CPU) < 8.1e6


def test_work_counts_forward_and_backward_products():
    x, w = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3)
    assert matmul_work(lambda: (x @ w).sum().backward()) == 2 * (2 * 5 * 7 * 3)


def test_calls_take_turns():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    median_seconds(calls, 3, CPU, turn=0)
    assert order == ["a", "b"] * 3


def test_a_short_call_is_repeated_within_its_turn():
    """Its first time, after what another call left behind, must not be the one that counts."""
    times = iter([0.05, *[0.001] * 1000])
    seconds = median_seconds({"short": lambda: time.sleep(next(times))}, 1, CPU, turn=0.1)
    assert seconds["short"] < 0.04


@pytest.mark.parametrize("count", [2, 1000, 2500])
def test_names_are_as_many_as_asked_for_and_all_different(count):
    names = imagenet_names(count)
    assert len({name.lower() for name in names}) == len(names) == count
    assert names[0] == "tench"


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match="--shape is 'huge'; it must be one of ViT-B/16, ViT-L/14, tiny"):
        Plan(shape="huge")
    with pytest.raises(ConfigError, match="--rounds is 0; it must be a whole number from 1 up"):
        Plan(rounds=0)
    with pytest.raises(ConfigError, match="--published-prompts is 1; it must be a whole number from 2 up"):
        Plan(published_prompts=1)
    with pytest.raises(ConfigError, match="--batch is 0; it must be a whole number from 1 up"):
        Case(classes=2, batch=0, context_length=4)
