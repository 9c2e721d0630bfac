"""Work that is killed at random moments, repeatedly: nothing is lost, and the results are the same bit for bit."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crash_driver import CASES
from local_server import serve
from made_images import environment, make_images
from paths import DRIVER_PATH, SUPPORT
from tiny_backbone import make_tiny_backbone

from cocoop.data import load_data
from cocoop.experiments.records import read_sweep
from cocoop.storage.tensor_files import read_tensors
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split
from cocoop.training.run_directory import epochs_done

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = [8, pytest.param(50, marks=pytest.mark.slow)]
"""Smallest number of kills."""


def drive(work: str, directory: Path, kills: int, *, workers: int = 0) -> int:
    command = [sys.executable, SUPPORT / "crash_driver.py", work, directory, str(kills), str(workers)]
    paths = environment(PYTHONPATH=DRIVER_PATH, no_proxy="127.0.0.1")
    done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("kills", KILLS)
def test_killed_training_ends_with_the_same_bits(kills, tmp_path):
    make_images(tmp_path / "photos", per_class=6)
    assert drive("train", tmp_path, kills) >= kills
    runs = [path for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert runs
    for run in runs:
        undisturbed = tmp_path / f"undisturbed-{int(run.name) % len(CASES)}"
        assert epochs_done(run) == 8
        for name in ("training.safetensors", "prompt.safetensors", "config.json", "training.json", "images.json"):
            assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), f"{run.name}: {name}"
        # Temporary files of a killed process are removed on resume.
        assert not [path.name for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]
        assert read_tensors(run / "training.safetensors")[1]["epoch"] == 8


def test_training_is_the_same_bit_for_bit_with_any_number_of_workers(tmp_path):
    for workers in (0, 2):
        make_images(tmp_path / str(workers) / "photos", per_class=6)
        drive("train", tmp_path / str(workers), 0, workers=workers)
    for number in range(len(CASES)):
        one, other = (tmp_path / workers / f"undisturbed-{number}" / "training.safetensors" for workers in "02")
        assert one.read_bytes() == other.read_bytes(), CASES[number]


@pytest.mark.parametrize("kills", [4, KILLS[1]])
def test_killed_sweep_ends_with_the_same_numbers(kills, tmp_path):
    make_images(tmp_path / "photos", per_class=10)
    assert drive("sweep", tmp_path, kills) >= kills
    expected = records(tmp_path / "undisturbed")
    assert len(expected) == 3
    sweeps = [path for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert sweeps
    for directory in sweeps:
        assert records(directory) == expected
        for run in (directory / "runs").iterdir():
            for name in ("training.safetensors", "prompt.safetensors"):
                whole = tmp_path / "undisturbed" / "runs" / run.name / name
                assert not whole.exists() or (run / name).read_bytes() == whole.read_bytes(), f"{run}: {name}"


def records(directory):
    """Return the records of a sweep without entries that depend on the clock and the machine."""
    found = read_sweep(directory)
    assert found.failures == []
    for record in found.records:
        for name in ("seconds", "peak_memory_bytes", "finished"):
            del record[name]
        for epoch in record["history"]:
            del epoch["seconds"]
    return found.records


@pytest.mark.parametrize("kills", KILLS)
def test_feature_cache_of_two_killed_processes_is_complete(kills, tmp_path):
    make_images(tmp_path / "photos", per_class=10)
    assert drive("encode", tmp_path, kills) >= kills
    backbone, data = make_tiny_backbone(), load_data(tmp_path / "photos")
    true = encode_split(backbone, data, "train", batch_size=2, workers=0)
    cache = FeatureCache(tmp_path / "cache", backbone)
    assert len(true.hashes) == len(data.train)
    found = torch.stack([cache.load()[sha256] for sha256 in true.hashes])
    torch.testing.assert_close(found, true.features, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_download_is_continued_to_the_end(kills, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = random.Random(0).randbytes(3_000_000)
    digest = hashlib.sha256(content).hexdigest()
    with serve() as web:
        (tmp_path / "address").write_text(f"{web.put('/a.bin', content, pace=0.01)} sha256:{digest}")
        assert drive("download", tmp_path, kills) >= kills
        continued = [requested for requested in web.ranges if requested]
    files = list(tmp_path.glob("*.bin"))
    assert files
    assert all(file.read_bytes() == content for file in files)
    assert continued, "some downloads must have been continued"
