"""The feature cache: features are found by content, the directory can be shared, and damage is noticed."""

import os
import subprocess
import sys
import time

import pytest
import torch
from paths import DRIVER_PATH
from tiny_backbone import make_tiny_backbone

from cocoop.backbones.fingerprint import image_side_key, model_key
from cocoop.errors import CheckpointError, DamageWarning
from cocoop.training.feature_cache import FeatureCache, default_cache_directory

WRITER = """
import os, sys, torch
from pathlib import Path
sys.path[:0] = sys.argv[3].split(os.pathsep)
from tiny_backbone import make_tiny_backbone
from cocoop.training.feature_cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]), make_tiny_backbone())
for i in range(40):
    key = f"{int(sys.argv[2]) + i:064x}"
    cache.add({key: torch.full((48,), float(int(sys.argv[2]) + i))})
    assert key in cache.load()
"""


def test_cache_returns_features_added_by_another_run(tmp_path, tiny_backbone):
    features = {f"{i:064x}": torch.randn(48) for i in range(5)}
    FeatureCache(tmp_path, tiny_backbone).add(features)
    found = FeatureCache(tmp_path, tiny_backbone).load()
    assert found.keys() == features.keys()
    assert all(torch.equal(found[key], features[key]) for key in features)


def test_cache_separates_towers_precisions_and_preprocessing(tmp_path, tiny_backbone):
    FeatureCache(tmp_path, tiny_backbone).add({"a" * 64: torch.zeros(48)})
    others = [make_tiny_backbone(seed=1), make_tiny_backbone(precision="bf16"), make_tiny_backbone()]
    others[2].preprocessing = others[2].preprocessing.__class__(size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert len({image_side_key(backbone) for backbone in (*others, tiny_backbone)}) == 4
    for backbone in others:
        assert FeatureCache(tmp_path, backbone).load() == {}
    assert FeatureCache(tmp_path, make_tiny_backbone()).load().keys() == {"a" * 64}


def test_cache_removes_temporary_files_older_than_a_day(tmp_path, tiny_backbone):
    FeatureCache(tmp_path, tiny_backbone).add({"a" * 64: torch.ones(48)})
    (shard,) = tmp_path.rglob("*.safetensors")
    old, new = (shard.with_name(f".{'b' * 64}.safetensors.{end}") for end in ("x1", "x2"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert FeatureCache(tmp_path, tiny_backbone).load()
    assert sorted(shard.parent.iterdir()) == sorted([new, shard])


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, "cut", "flip"])
def test_cache_warns_about_a_damaged_shard_and_skips_it(tmp_path, tiny_backbone, damage):
    cache = FeatureCache(tmp_path, tiny_backbone)
    cache.add({"a" * 64: torch.ones(48)})
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes({"cut": whole[:-3], "flip": whole[:-1] + b"\x01"}.get(damage, damage))
    cache = FeatureCache(tmp_path, tiny_backbone)
    with pytest.warns(DamageWarning, match=f"'{shard}' is damaged; its images are encoded again. It can be deleted."):
        assert cache.load() == {}
    # Adding the same features replaces the shard.
    cache.add({"a" * 64: torch.ones(48)})
    again = FeatureCache(tmp_path, tiny_backbone)
    assert torch.equal(again.load()["a" * 64], torch.ones(48))


def test_two_processes_can_write_one_cache(tmp_path, tiny_backbone):
    tests = DRIVER_PATH
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), start, tests], stderr=subprocess.PIPE, text=True)
        for start in ("0", "20")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    cache = FeatureCache(tmp_path, tiny_backbone)
    found = cache.load()
    assert [found[f"{i:064x}"][0].item() for i in range(60)] == list(range(60))
    assert not list(tmp_path.rglob(".*"))


def test_cache_raises_if_the_directory_cannot_be_written(tmp_path, tiny_backbone):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(CheckpointError, match="Cannot create the directory"):
        FeatureCache(tmp_path / "file", tiny_backbone).add({"a" * 64: torch.ones(48)})


def test_default_cache_directory_follows_environment_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("COCOOP_CACHE", str(tmp_path))
    assert default_cache_directory() == tmp_path / "features"
    monkeypatch.delenv("COCOOP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_directory() == tmp_path / "xdg" / "cocoop" / "features"


def test_cache_separates_architectures_with_the_same_weights():
    """Activations, heads and epsilons change the feature, though they are not weights."""

    def key(activation, heads, eps):
        backbone = make_tiny_backbone()
        torch.manual_seed(0)
        attention = torch.nn.MultiheadAttention(48, heads, batch_first=True)
        backbone.image_tower = torch.nn.Sequential(attention, activation, torch.nn.LayerNorm(48, eps=eps))
        return image_side_key(backbone)

    towers = [
        (torch.nn.GELU(), 4, 1e-5),
        (torch.nn.SiLU(), 4, 1e-5),
        (torch.nn.GELU("tanh"), 4, 1e-5),
        (torch.nn.GELU(), 8, 1e-5),
        (torch.nn.GELU(), 4, 1e-6),
    ]
    assert len({key(*tower) for tower in towers}) == len(towers)
    assert key(*towers[0]) == key(*towers[0])


def test_cache_without_a_directory_stays_in_memory(tmp_path, tiny_backbone, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = FeatureCache(None, tiny_backbone)
    cache.add({"a" * 64: torch.ones(48)})
    assert torch.equal(cache.load()["a" * 64], torch.ones(48))
    assert not list(tmp_path.iterdir())


def test_model_key_depends_on_the_text_tower_but_not_on_its_memory_budget():
    backbone = make_tiny_backbone()
    key = model_key(backbone)
    backbone.text_tower.memory_budget = 2**20
    assert model_key(backbone) == key == model_key(make_tiny_backbone())
    with torch.no_grad():
        backbone.text_tower.positional_embedding[0, 0] += 1e-3
    others = [backbone, make_tiny_backbone("gelu"), make_tiny_backbone(precision="bf16"), make_tiny_backbone()]
    others[-1].logit_scale += 1
    assert len({key, *map(model_key, others)}) == 5
