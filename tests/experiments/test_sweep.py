"""Sweeps in real processes: each run is done once, by several processes and however often they are killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from made_images import cocoop, environment, make_images

import cocoop as package
from cocoop.errors import DamageWarning
from cocoop.experiments.plans import Grid, base_to_new
from cocoop.experiments.records import read_record
from cocoop.experiments.sweep import sweep

pytestmark = pytest.mark.usefixtures("one_thread")

LISTS = ("--seeds", "1", "2", "--shots", "2", "--preset", "cached", "--epochs", "30", "--warmup-epochs", "0")
COMMAND = ("bench", "base-to-new", "photos", *LISTS, "--output", "sweep")
RUNS = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=10)
    return directory


@pytest.fixture(scope="module")
def undisturbed(home):
    """The records of an undisturbed sweep, by run."""
    done = cocoop(*COMMAND[:-1], "undisturbed", cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"Done now: {RUNS}; before: 0; failed: 0." in done.stderr
    return numbers(home / "undisturbed")


def files(directory, name="record.json"):
    return {path.parent.name: path for path in sorted(directory.glob(f"runs/*/{name}"))}


def numbers(directory):
    """Return what must not depend on interruptions: everything but time, memory and machine."""
    records = {name: read_record(path) for name, path in files(directory).items()}
    for record in records.values():
        for key in ("seconds", "peak_memory_bytes", "finished"):
            del record[key]
        for epoch in record["history"]:
            del epoch["seconds"]
    return records


def start(home, output):
    command = [sys.executable, "-m", "cocoop", *COMMAND[:-1], output]
    return subprocess.Popen(
        command,
        cwd=home,
        env=environment(COCOOP_CACHE=str(home / "cache")),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_record_describes_the_run_and_its_tests(undisturbed, home):
    assert len(undisturbed) == RUNS
    record = next(record for record in undisturbed.values() if (record["method"], record["seed"]) == ("cocoop", 2))
    data = package.load_data(home / "photos")
    about = {
        "format": 1,
        "protocol": "base-to-new",
        "data": "photos",
        "shots": 2,
        "preset": "cached",
        "changes": {"epochs": 30, "warmup_epochs": 0},
        "backbone": "lite",
        "precision": "fp32",
        "classes": 2,
        "train_images": 4,
        "split_sha256": data.fingerprint,
    }
    assert about.items() <= record.items()
    assert (record["train"]["epochs"], record["train"]["seed"], record["train"]["cache_features"]) == (30, 2, True)
    assert record["settings"]["context"] == "a photo of a"
    assert len(record["history"]) == 30
    assert set(record["versions"]) == {"cocoop", "python", "torch", "torchvision", "open_clip_torch"}
    assert set(record["machine"]) == {"processor", "threads", "device"}
    assert set(record["tests"]) == {"base", "new"}
    for test in record["tests"].values():
        assert (test["images"], test["skipped"], test["overlap"], test["data"]) == (6, 0, 0, "photos")
        mistakes = sum(count for *_, count in test["confusions"])
        assert test["accuracy"] == pytest.approx(100 * (1 - mistakes / 6))
        assert sum(count for count, *_ in test["reliability"]) == 6


def test_a_run_directory_can_be_loaded(home, undisturbed):
    (run,) = (home / "undisturbed" / "runs").glob("base-to-new-photos-cocoop-*seed1-*")
    done = cocoop("predict", run, "photos/sea/00.png", "--classes", "sea, sun", cwd=home)
    assert done.returncode == 0, done.stderr


def test_a_sweep_that_is_killed_repeatedly_loses_no_run_and_repeats_none(home, undisturbed):
    sweep_directory, finished = home / "killed", {}
    for kills in range(1, 6):
        process = start(home, "killed")
        # Kill it after its first record, or every other time as soon as it has started training; leave the last alone.
        before = len(files(sweep_directory))
        deadline = time.monotonic() + (120 if kills < 5 else 0)
        while process.poll() is None and time.monotonic() < deadline:
            learning = set(files(sweep_directory, "training.json")) - set(files(sweep_directory))
            if len(files(sweep_directory)) > before or (kills % 2 and learning):
                break
            time.sleep(0.05)
        if process.poll() is None and kills < 5:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for name, stamp in finished.items():
            assert files(sweep_directory)[name].stat().st_mtime_ns == stamp, "a finished run was done twice"
        finished = {name: path.stat().st_mtime_ns for name, path in files(sweep_directory).items()}
        if process.returncode == 0:
            break
    assert kills == 5
    assert process.returncode == 0
    # To the last digit, as if undisturbed.
    assert numbers(sweep_directory) == undisturbed


def test_ctrl_c_prints_one_line_and_keeps_finished_runs(home):
    process = start(home, "stopped")
    deadline = time.monotonic() + 120
    while not files(home / "stopped", "training.json") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "cocoop: Interrupted. Finished runs are kept; the same command continues."
    assert "Traceback" not in told
    assert 1 <= len(files(home / "stopped")) < RUNS
    assert not files(home / "stopped", "failure.json")


def test_two_processes_share_a_sweep(home, undisturbed):
    both = [start(home, "shared"), start(home, "shared")]
    told = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    counts = [text.split("Done now: ")[1].split(";")[0] for text in told]
    assert sum(map(int, counts)) == RUNS, told
    assert numbers(home / "shared") == undisturbed


def test_other_settings_make_another_run(home, tiny_backbone):
    data = package.load_data(home / "photos")
    quick = {"methods": ["coop"], "shots": [2], "seeds": [1], "preset": "cached"}
    directory = home / "changed"

    def done(**changes):
        runs = base_to_new(data, Grid(**quick, changes=changes))
        return sweep(directory, runs, tiny_backbone, workers=0)["done"]

    assert [done(epochs=2), done(epochs=2), done(epochs=3), done(epochs=2, learning_rate=0.1), done(epochs=2)] == [
        1,
        0,
        1,
        1,
        0,
    ]
    assert len(files(directory)) == 3
    # With one test image less, the training stays and is evaluated again.
    fewer = package.Dataset(data.classnames, data.train, data.val, data.test[:-1], data.image_root, data.name)
    fewer = base_to_new(fewer, Grid(**quick))
    assert sweep(directory, fewer, tiny_backbone, workers=0)["done"] == 1


def test_a_damaged_record_is_made_again_from_its_training(home, tiny_backbone):
    data = package.load_data(home / "photos")
    runs = base_to_new(data, Grid(methods=["coop"], shots=[2], seeds=[1], preset="cached", changes={"epochs": 2}))
    directory = home / "damaged"
    sweep(directory, runs, tiny_backbone, workers=0)
    before = numbers(directory)
    (record,) = files(directory).values()
    record.write_text(record.read_text()[:100])
    weights = record.with_name("training.safetensors").stat().st_mtime_ns
    with pytest.warns(DamageWarning, match=rf"'{record}' is damaged: .*\. It is written again\."):
        assert sweep(directory, runs, tiny_backbone, workers=0) == {"done": 1, "done before": 0, "failed": 0}
    assert numbers(directory) == before
    assert record.with_name("training.safetensors").stat().st_mtime_ns == weights


def test_a_failed_run_is_recorded_and_tried_again(home):
    target = make_images(home / "target", per_class=4, seed=3)
    unreadable = target / "sun" / "00.png"
    good = unreadable.read_bytes()
    unreadable.write_bytes(b"no photo")
    command = ("bench", "cross-dataset", "photos", "--targets", "target", "--all-images")
    lists = ("--methods", "coop", "--seeds", "1", "--shots", "2", "--preset", "cached", "--epochs", "2")
    done = cocoop(*command, *lists, "--output", "failing", cwd=home)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "[1/1] cross-dataset-photos-coop-epochs-2-2shot-seed1: failed: 1 image could not be read" in done.stderr
    assert lines[-1] == (
        "cocoop: 1 of 1 runs failed; the reasons are above and in the report. The same command tries them again."
    )
    (failure,) = files(home / "failing", "failure.json").values()
    content = json.loads(failure.read_text())
    assert content["reason"].startswith("1 image could not be read ('sun/00.png'")
    assert (content["details"], content["method"], content["seed"], content["backbone"]) == ("", "coop", 1, "lite")
    # Repaired, and with another method that never failed.
    unreadable.write_bytes(good)
    done = cocoop(*command, *lists, "--output", "failing", "--methods", "coop", "zero-shot", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "Done now: 2; before: 0; failed: 0." in done.stderr
    assert not failure.exists()
    assert len(files(home / "failing")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("base-to-new", "nowhere"), "There is no 'nowhere'"),
        (("base-to-new", "photos", "--shots", "0"), "--shots is 0; it must be at least 1."),
        (("base-to-new", "photos", "--seeds", "1", "1"), "--seeds is [1, 1]; give one or more values, each once."),
        (
            ("domain", "photos", "--targets", "photos"),
            "The target 'photos' is the source itself, which is tested anyway",
        ),
        (("few-shot", "photos", "--learning-rate", "-1"), "--learning-rate is -1.0; it must be a positive number."),
    ],
)
def test_mistakes_are_one_line_before_anything_is_computed(home, arguments, message):
    done = cocoop("bench", *arguments, cwd=home)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (home / "bench").exists()


def test_bench_help_lists_the_experiments(home):
    done = cocoop("bench", "--help")
    for name in ("base-to-new", "cross-dataset", "domain", "few-shot", "together"):
        assert f"• {name} " in done.stdout
    wrong = cocoop("bench", "base-to-old")
    assert wrong.returncode == 2
    assert "base-to-old" in wrong.stderr
