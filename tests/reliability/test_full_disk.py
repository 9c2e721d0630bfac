"""A full disk: the error names the file, the last state is kept, and the work continues once there is space."""

import contextlib
import hashlib
import random
import re
import resource
import subprocess
from pathlib import Path

import pytest
import torch
from local_server import serve
from made_images import cocoop, make_images
from tiny_models import save_open_clip

from cocoop import load_backbone
from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.data.catalog.download import download
from cocoop.errors import CheckpointError, CocoopError, DataError
from cocoop.experiments.plans import Grid, base_to_new
from cocoop.experiments.records import read_sweep
from cocoop.experiments.sweep import SweepCallbacks, sweep
from cocoop.inference.bulk.job import label_images
from cocoop.inference.predictor import ModelSpec
from cocoop.methods import CoCoOp
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split
from cocoop.training.fit import fit
from cocoop.training.run_directory import epochs_done

pytestmark = pytest.mark.usefixtures("one_thread")


FULL = "(No space left on device|File too large)"


class Disk:
    """A file system of two MB; without the right to mount one, a directory with a limit on the size of files."""

    def __init__(self, directory: Path, *, mounted: bool) -> None:
        self.directory = directory
        self.mounted = mounted

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    def fill(self, *_) -> None:
        """Use up all space."""
        if not self.mounted:
            limit_file_size(0)
            return
        with (self / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    def free(self) -> None:
        if self.mounted:
            (self / "filler").unlink()
        else:
            limit_file_size(resource.RLIM_INFINITY)


def limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture(params=["mounted", "limited"])
def disk(request, tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory]
    mounted = request.param == "mounted"
    if mounted and subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk; the test with a limit on file sizes replaces it")
    yield Disk(directory, mounted=mounted)
    if mounted:
        subprocess.run(["umount", directory], check=True)
    else:
        limit_file_size(resource.RLIM_INFINITY)


@pytest.fixture
def data(tmp_path):
    return load_data(make_images(tmp_path / "photos", per_class=6)).few_shot(2, seed=1)


def train(backbone, data, run, **options):
    method = CoCoOp(backbone, data.classnames, seed=1)
    config = TrainConfig(epochs=4, batch_size=4, workers=0, cache_features=True, learning_rate=0.05)
    return method, fit(method, data, config, run=run, resume=True, **options)


def test_training_stops_with_its_last_epoch_and_resumes(disk, data, tiny_backbone, tmp_path):
    def fill_after_two(entry):
        if entry["epoch"] == 2:
            disk.fill()

    run = disk / "run"
    with pytest.raises(CheckpointError, match=rf"^Cannot write '{run}/[a-z.]+': {FULL}\.$"):
        train(tiny_backbone, data, run, on_epoch=fill_after_two)
    assert epochs_done(run) == 2
    assert not [path for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    disk.free()
    resumed, result = train(tiny_backbone, data, run)
    assert len(result.history) == 4
    undisturbed, _ = train(tiny_backbone, data, tmp_path / "undisturbed")
    for name, tensor in undisturbed.learned().items():
        assert torch.equal(resumed.learned()[name], tensor), name


def test_sweep_keeps_its_runs_and_continues_with_the_rest(disk, data, tiny_backbone):
    class FillAfterRun(SweepCallbacks):
        def finished(self, *_):
            disk.fill()

    few = {"seeds": (1,), "shots": (2,), "changes": {"epochs": 2}}
    plan = base_to_new(data, Grid(methods=("zero-shot", "coop"), preset="cached", **few))
    with pytest.raises(CocoopError, match=rf"^Cannot write '{disk / 'sweep'}/.*': {FULL}\.$"):
        sweep(disk / "sweep", plan, tiny_backbone, workers=0, callbacks=FillAfterRun())
    assert [record["method"] for record in read_sweep(disk / "sweep").records] == ["zero-shot"]
    disk.free()
    counts = sweep(disk / "sweep", plan, tiny_backbone, workers=0)
    assert counts == {"done": 1, "done before": 1, "failed": 0}
    assert read_sweep(disk / "sweep").failures == []


def test_features_and_prompts_are_written_completely_or_not_at_all(disk, data, tiny_backbone):
    method = CoCoOp(tiny_backbone, data.classnames, seed=1)
    method.save_pretrained(disk / "prompt")
    before = {path.name: path.read_bytes() for path in (disk / "prompt").iterdir()}
    disk.fill()
    with torch.no_grad():
        method.context += 1
    with pytest.raises(CheckpointError, match=rf"Cannot write '.*prompt.safetensors': {FULL}"):
        method.save_pretrained(disk / "prompt")
    assert {path.name: path.read_bytes() for path in (disk / "prompt").iterdir()} == before
    with pytest.raises(CheckpointError, match=rf"Cannot write '.*': {FULL}"):
        encode_split(tiny_backbone, data, workers=0, cache=FeatureCache(disk / "cache", tiny_backbone))
    assert not list(disk.directory.rglob("*.safetensors.*"))
    disk.free()
    cache = FeatureCache(disk / "cache", tiny_backbone)
    encode_split(tiny_backbone, data, workers=0, cache=cache)


def test_bulk_labelling_continues_once_there_is_space(disk, data, tmp_path):
    save_open_clip(tmp_path / "tiny", "vit")

    CoCoOp(load_backbone(f"local-dir:{tmp_path / 'tiny'}"), data.classnames, seed=1).save_pretrained(
        tmp_path / "prompt"
    )
    model = ModelSpec(source=str(tmp_path / "prompt"))
    label_images(model, [str(tmp_path / "photos" / "sun")], str(disk / "labels"))
    disk.fill()
    with pytest.raises(CheckpointError, match=rf"Cannot write '.*labels/files-.*parquet': {FULL}"):
        label_images(model, [str(tmp_path / "photos")], str(disk / "labels"))
    disk.free()
    assert label_images(model, [str(tmp_path / "photos")], str(disk / "labels")).images == 18


def test_download_continues_once_there_is_space(disk, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = random.Random(0).randbytes(300_000)
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with serve() as web:
        # The server does not report the length; otherwise the download would not be started.
        url = web.put("/a.zip", content, chunked=True)
        disk.fill()
        with pytest.raises(DataError, match=rf"^Cannot write '.*a\.zip\.part.*': {FULL}\.$"):
            download(url, disk / "a.zip", checksum=checksum)
        assert not (disk / "a.zip").exists()
        disk.free()
        download(url, disk / "a.zip", checksum=checksum)
    assert (disk / "a.zip").read_bytes() == content


def test_command_line_prints_one_line(disk, data, tmp_path):
    save_open_clip(tmp_path / "tiny", "vit")
    disk.fill()
    options = ("--backbone", f"local-dir:{tmp_path / 'tiny'}", "--shots", "2", "--epochs", "1", "--compare", "none")
    # Worker processes need files in shared memory, to which the limit also applies.
    options += ("--workers", "0")
    done = cocoop("train", tmp_path / "photos", *options, "--output", disk / "run", cwd=tmp_path)
    disk.free()
    assert done.returncode == 1
    assert re.fullmatch(rf"cocoop: Cannot write '{disk / 'run'}.*': {FULL}\.", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
