"""Runs that are interrupted, killed, resumed, confused with one another or damaged."""

import json
import shutil
import signal
import subprocess
import sys

import filelock
import pytest
import torch
from made_images import environment, make_images
from paths import DRIVER_PATH, SUPPORT
from resume_driver import CASES

import cocoop
from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.errors import CheckpointError, ConfigError
from cocoop.methods import CoCoOp, CoOp
from cocoop.storage.tensor_files import read_tensors
from cocoop.training import run_directory
from cocoop.training.fit import fit
from cocoop.training.run_directory import epochs_done

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = {"training.json", "training.safetensors", "metrics.jsonl", "images.json", "config.json", "prompt.safetensors"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("photos"), per_class=6)


@pytest.fixture
def data(images):
    return load_data(images).few_shot(3, seed=1)


def history(lines: str):
    """Return metrics without those that depend on the clock."""
    epochs = [json.loads(line) for line in lines.splitlines()]
    return [{name: value for name, value in epoch.items() if name not in ("seconds", "checksum")} for epoch in epochs]


@pytest.fixture(scope="module")
def driven(images, tmp_path_factory):
    """The runs of all cases, made by separate processes."""
    directory = tmp_path_factory.mktemp("driven")
    command = [sys.executable, str(SUPPORT / "resume_driver.py"), str(images), str(directory)]
    done = subprocess.run(command, env=environment(PYTHONPATH=DRIVER_PATH), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return directory


@pytest.mark.parametrize("case", CASES)
def test_run_stopped_within_an_epoch_resumes_bit_for_bit(case, driven):
    codes = json.loads((driven / case / "codes.json").read_text())
    undisturbed, stopped = driven / case / "undisturbed", driven / case / "stopped"
    assert codes["undisturbed"] == codes["resumed"] == 0
    assert codes["stopped"] == (130 if case.endswith("SIGINT") else -signal.SIGKILL)

    whole = history((undisturbed / "metrics.jsonl").read_text())
    assert [epoch["epoch"] for epoch in whole] == [1, 2, 3, 4]
    assert history(codes["metrics_when_stopped"]) == whole[:2]
    assert history((stopped / "metrics.jsonl").read_text()) == whole
    for name in ("training.safetensors", "prompt.safetensors"):
        assert (stopped / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.parametrize("case", CASES)
def test_run_directory_holds_its_files_and_nothing_else(case, driven):
    # These were killed in a step, not while a temporary file was being renamed.
    names = {path.name for path in (driven / case / "stopped").iterdir()}
    assert names == FILES | {".lock"}


def test_state_holds_momentum_and_epoch(driven):
    tensors, metadata = read_tensors(driven / "coop-cached-SIGINT" / "stopped" / "training.safetensors")
    assert set(tensors) == {"learned.context", "momentum.context"}
    assert metadata == {"epoch": 4, "scaler": {}}
    assert tensors["momentum.context"].abs().max() > 0


def small(data, backbone, **changes):
    method = CoOp(backbone, data.classnames, context="a photo of a")
    return method, TrainConfig(**({"epochs": 2, "batch_size": 4, "workers": 0, "cache_features": True} | changes))


def test_ctrl_c_returns_the_method_of_the_last_completed_epoch(data, tiny_backbone, tmp_path):
    reference, config = small(data, tiny_backbone, epochs=3)
    after_epoch = {}

    def stop_in_epoch_2(report):
        if report.epoch == 2 and report.images == 4:
            raise KeyboardInterrupt

    def remember(report):
        if report.epoch == 1:
            after_epoch["context"] = reference.context.detach().clone()

    fit(reference, data, config, on_step=remember)
    method, config = small(data, tiny_backbone, epochs=3)
    result = fit(method, data, config, run=tmp_path, on_step=stop_in_epoch_2)
    assert result.interrupted
    assert [epoch["epoch"] for epoch in result.history] == [1]
    assert torch.equal(method.context, after_epoch["context"])
    assert torch.equal(cocoop.from_pretrained(tmp_path, backbone=tiny_backbone).context, after_epoch["context"])


def test_run_without_a_completed_epoch_can_be_started_again(data, tiny_backbone, tmp_path):
    def stop(report):
        raise KeyboardInterrupt

    method, config = small(data, tiny_backbone)
    assert fit(method, data, config, run=tmp_path, on_step=stop).interrupted
    assert epochs_done(tmp_path) == 0
    untrained = cocoop.from_pretrained(tmp_path, backbone=tiny_backbone)
    assert torch.equal(untrained.context, method.context)
    method, config = small(data, tiny_backbone, epochs=1, batch_size=2)
    fit(method, data, config, run=tmp_path)
    assert epochs_done(tmp_path) == 1
    assert json.loads((tmp_path / "training.json").read_text())["train"]["batch_size"] == 2


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory, tiny_backbone):
    """A finished run, to be copied by tests."""
    run = tmp_path_factory.mktemp("finished") / "run"
    data = load_data(images).few_shot(3, seed=1)
    method, config = small(data, tiny_backbone)
    fit(method, data, config, run=run, about={"shots": 3})
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def again(run, data, backbone, *, resume=True, about=None, **changes):
    method, config = small(data, backbone, **changes)
    return fit(method, data, config, run=run, resume=resume, about={"shots": 3} if about is None else about)


def test_run_is_not_overwritten_by_another(run, data, tiny_backbone):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(
        CheckpointError, match=r"'.*run' already holds a run of 2 epochs; pass `resume=True` to continue it, or"
    ):
        again(run, data, tiny_backbone, resume=False)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_resuming_a_finished_run_only_repairs_its_prompt(run, data, tiny_backbone):
    good = (run / "prompt.safetensors").read_bytes()
    metrics = (run / "metrics.jsonl").read_bytes()
    # A crash between writing the state and the prompt leaves an old prompt.
    CoOp(tiny_backbone, data.classnames, context="a photo of a").save_pretrained(run)
    assert (run / "prompt.safetensors").read_bytes() != good
    result = again(run, data, tiny_backbone)
    assert [epoch["epoch"] for epoch in result.history] == [1, 2]
    assert (run / "prompt.safetensors").read_bytes() == good
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_resume_drops_metrics_that_are_ahead_of_the_state(images, data, tiny_backbone, tmp_path):
    run = tmp_path / "run"
    method, config = small(data, tiny_backbone, epochs=3)

    def stop(report):
        if report.epoch == 3:
            raise KeyboardInterrupt

    fit(method, data, config, run=run, on_step=stop)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "loss": 99.0}\n')
    method, config = small(data, tiny_backbone, epochs=3)
    result = fit(method, data, config, run=run, resume=True)
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3]
    assert result.history[2]["loss"] != 99.0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 2},
            "was started with `batch_size=4`, but now it is 2; resume with the same settings, or",
        ),
        ({"learning_rate": 0.5}, "was started with `learning_rate=0.002`, but now it is 0.5"),
        ({"epochs": 9}, "was started with `epochs=2`, but now it is 9"),
        ({"cache_features": False}, "was started with `cache_features=True`, but now it is False"),
        ({"about": {"shots": 8}}, "was started with `shots=3`, but now it is 8"),
    ],
)
def test_resume_refuses_other_settings(changes, message, run, data, tiny_backbone):
    with pytest.raises(ConfigError, match=message):
        again(run, data, tiny_backbone, **changes)


def test_resume_accepts_another_number_of_workers(run, data, tiny_backbone):
    assert len(again(run, data, tiny_backbone, workers=1).history) == 2


def test_resume_refuses_other_images_and_methods(run, images, data, tiny_backbone):
    with pytest.raises(ConfigError, match=r"was started with other images or classes of '.*'; resume with the"):
        again(run, load_data(images).few_shot(2, seed=1), tiny_backbone)
    config = TrainConfig(epochs=2, batch_size=4, workers=0, cache_features=True)
    with pytest.raises(ConfigError, match='was started with `method="coop"`, but now it is "cocoop"'):
        fit(CoCoOp(tiny_backbone, data.classnames), data, config, run=run, resume=True, about={"shots": 3})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("training.safetensors", b"rubbish", "training.safetensors' is damaged"),
        ("training.safetensors", None, "is incomplete: it has no training.safetensors"),
        ("training.json", b"{", "training.json' is damaged"),
        ("training.json", b"[]", "training.json' must hold a JSON object, not list"),
        ("metrics.jsonl", b"", "metrics.jsonl' is damaged: it has 0 epochs, but the checkpoint has 2"),
        ("metrics.jsonl", b"{\n", "metrics.jsonl' is damaged: Expecting property name"),
        ("metrics.jsonl", None, "Cannot read '.*metrics.jsonl': No such file or directory"),
    ],
)
def test_resume_names_the_damaged_file(name, content, message, run, data, tiny_backbone):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        again(run, data, tiny_backbone)


def test_resume_refuses_a_truncated_state(run, data, tiny_backbone):
    state = run / "training.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"training.safetensors' is damaged"):
        again(run, data, tiny_backbone)


def test_run_directory_in_use_is_refused(run, data, tiny_backbone):
    with filelock.FileLock(run / ".lock"), pytest.raises(CheckpointError, match=r"Another process is training in '.*'"):
        again(run, data, tiny_backbone)
    assert len(again(run, data, tiny_backbone).history) == 2


def test_resume_removes_temporary_files_of_a_killed_run(run, data, tiny_backbone):
    (run / ".training.safetensors.k3_1xq").write_bytes(b"half")
    (run / ".own").write_text("not ours")
    again(run, data, tiny_backbone)
    assert {path.name for path in run.iterdir()} == FILES | {".lock", ".own"}


def test_saved_method_is_not_overwritten_by_a_run(data, tiny_backbone, tmp_path):
    method, config = small(data, tiny_backbone)
    method.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a saved method that belongs to no run; use another directory"):
        fit(method, data, config, run=tmp_path)


def test_run_cannot_be_created_below_a_file(data, tiny_backbone, tmp_path):
    (tmp_path / "file").write_text("")
    method, config = small(data, tiny_backbone)
    with pytest.raises(CheckpointError, match=r"Cannot create the directory '.*file/run': Not a directory"):
        fit(method, data, config, run=tmp_path / "file" / "run")


def test_run_interrupted_twice_resumes_bit_for_bit(data, tiny_backbone, tmp_path):
    """The state to which a run returns must not share memory with the optimiser."""

    def stop(report):
        if report.epoch == 3 and report.images == 8:
            raise KeyboardInterrupt

    reference, config = small(data, tiny_backbone, epochs=4)
    fit(reference, data, config, run=tmp_path / "whole")
    directory = tmp_path / "stopped"
    for on_step in (stop, stop, None):
        method, config = small(data, tiny_backbone, epochs=4)
        result = fit(method, data, config, run=directory, resume=directory.exists(), on_step=on_step)
        assert result.interrupted == (on_step is stop)
    state, expected = (read_tensors(place / "training.safetensors")[0] for place in (directory, tmp_path / "whole"))
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_resume_compares_about_separately_from_settings_of_the_same_name(data, tiny_backbone, tmp_path):
    method = cocoop.CoCoOp(tiny_backbone, data.classnames, seed=0)
    config = TrainConfig(epochs=1, workers=0, cache_features=True)
    fit(method, data, config, run=tmp_path / "run", about={"context": "a photo of a"})
    with pytest.raises(cocoop.ConfigError, match='`context="a photo of a"`, but now it is "a picture of a"'):
        fit(method, data, config, run=tmp_path / "run", resume=True, about={"context": "a picture of a"})


def test_resume_reads_its_state_once(run, data, tiny_backbone, monkeypatch):
    read = []
    read_tensors = run_directory.read_tensors
    monkeypatch.setattr(run_directory, "read_tensors", lambda path: read.append(path.name) or read_tensors(path))
    assert len(again(run, data, tiny_backbone).history) == 2
    assert read == ["training.safetensors"]
