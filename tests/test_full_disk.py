"""A full disk: one line that names the file, the last good state stays, and the work goes on once there is room."""

import contextlib
import subprocess
from pathlib import Path

import pytest
import torch

from cocoop import load_backbone
from cocoop.bulk.job import label_photos
from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.errors import CheckpointError, CocoopError
from cocoop.feature_cache import FeatureCache
from cocoop.features import encode_split
from cocoop.methods import CoCoOp
from cocoop.prediction import Model
from cocoop.protocols import Grid, base_to_new, sweep
from cocoop.records import read_sweep
from cocoop.runs import epochs_done
from cocoop.train import fit
from made_photos import make_photos
from tiny_models import save_open_clip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def disk(tmp_path):
    """A disk of two MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        # Without the right to mount: an image file of that size cannot be had either.
        pytest.fail(f"this test makes a small disk, which takes root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def data(tmp_path):
    return load_data(make_photos(tmp_path / "photos", per_class=6)).few_shot(2, seed=1)


def fill(disk: Path) -> Path:
    """Take all that is left; deleted, it is free again."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return filler


def train(backbone, data, run, **options):
    method = CoCoOp(backbone, data.classnames, seed=1)
    config = TrainConfig(epochs=4, batch_size=4, workers=0, cache_features=True, learning_rate=0.05)
    return method, fit(method, data, config, run=run, resume=True, **options)


def test_a_training_stops_with_its_last_epoch_and_goes_on(disk, data, tiny_backbone, tmp_path):
    def fill_after_two(entry):
        if entry["epoch"] == 2:
            fill(disk)

    run = disk / "run"
    with pytest.raises(CheckpointError, match=rf"^Cannot write '{run}/[a-z.]+': No space left on device\.$"):
        train(tiny_backbone, data, run, on_epoch=fill_after_two)
    assert epochs_done(run) == 2
    assert not [path for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]
    (disk / "filler").unlink()
    resumed, result = train(tiny_backbone, data, run)
    assert len(result.history) == 4
    undisturbed, _ = train(tiny_backbone, data, tmp_path / "undisturbed")
    for name, tensor in undisturbed.learned().items():
        assert torch.equal(resumed.learned()[name], tensor), name


def test_a_sweep_records_why_and_does_the_run_again(disk, data, tiny_backbone):
    plan = base_to_new(data, Grid(methods=("coop",), seeds=(1,), shots=(2,), preset="cached", changes={"epochs": 2}))
    filler = fill(disk)
    with pytest.raises(CocoopError, match="No space left on device"):
        sweep(disk / "sweep", plan, tiny_backbone, workers=0)
    filler.unlink()
    sweep(disk / "sweep", plan, tiny_backbone, workers=0)
    found = read_sweep(disk / "sweep")
    assert (len(found.records), found.failures) == (1, [])


def test_features_and_prompts_are_whole_or_not_there(disk, data, tiny_backbone):
    method = CoCoOp(tiny_backbone, data.classnames, seed=1)
    method.save_pretrained(disk / "prompt")
    before = {path.name: path.read_bytes() for path in (disk / "prompt").iterdir()}
    filler = fill(disk)
    with torch.no_grad():
        method.context += 1
    with pytest.raises(CheckpointError, match=r"Cannot write '.*prompt.safetensors': No space left on device"):
        method.save_pretrained(disk / "prompt")
    assert {path.name: path.read_bytes() for path in (disk / "prompt").iterdir()} == before
    with pytest.raises(CheckpointError, match="No space left on device"):
        encode_split(tiny_backbone, data, workers=0, cache=FeatureCache(disk / "cache", tiny_backbone))
    assert not list(disk.rglob("*.safetensors.*"))
    filler.unlink()
    cache = FeatureCache(disk / "cache", tiny_backbone)
    encode_split(tiny_backbone, data, workers=0, cache=cache)
    assert cache.damaged == []


def test_labels_in_bulk_go_on_once_there_is_room(disk, data, tmp_path):
    save_open_clip(tmp_path / "tiny", "vit")

    CoCoOp(load_backbone(f"local-dir:{tmp_path / 'tiny'}"), data.classnames, seed=1).save_pretrained(
        tmp_path / "prompt"
    )
    model = Model(source=str(tmp_path / "prompt"))
    label_photos(model, [str(tmp_path / "photos" / "sun")], str(disk / "labels"))
    filler = fill(disk)
    with pytest.raises(CheckpointError, match=r"Cannot write '.*labels/files-.*parquet': No space left on device"):
        label_photos(model, [str(tmp_path / "photos")], str(disk / "labels"))
    filler.unlink()
    assert label_photos(model, [str(tmp_path / "photos")], str(disk / "labels")).photos == 18
