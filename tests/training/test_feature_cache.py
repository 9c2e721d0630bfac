"""Features on disk: found by content, safe to share, never half-used."""

import os
import subprocess
import sys
import time

import pytest
import torch
from paths import DRIVER_PATH

from cocoop.backbones.fingerprint import image_side_key, model_key
from cocoop.errors import CheckpointError, DamageWarning
from cocoop.training.feature_cache import FeatureCache, default_cache_directory, hash_image
from conftest import make_tiny_backbone

WRITER = """
import os, sys, torch
from pathlib import Path
sys.path[:0] = sys.argv[3].split(os.pathsep)
from conftest import make_tiny_backbone
from cocoop.training.feature_cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]), make_tiny_backbone())
for i in range(40):
    key = f"{int(sys.argv[2]) + i:064x}"
    cache.add({key: torch.full((48,), float(int(sys.argv[2]) + i))})
    assert len(cache.find([key])) == 1
"""


def test_what_was_added_is_found_by_another_run(tmp_path, tiny_backbone):
    features = {f"{i:064x}": torch.randn(48) for i in range(5)}
    FeatureCache(tmp_path, tiny_backbone).add(features)
    found = FeatureCache(tmp_path, tiny_backbone).find([*features, "f" * 64])
    assert found.keys() == features.keys()
    assert all(torch.equal(found[key], features[key]) for key in features)


def test_another_tower_precision_or_preprocessing_finds_nothing(tmp_path, tiny_backbone):
    FeatureCache(tmp_path, tiny_backbone).add({"a" * 64: torch.zeros(48)})
    others = [make_tiny_backbone(seed=1), make_tiny_backbone(precision="bf16"), make_tiny_backbone()]
    others[2].preprocessing = others[2].preprocessing.__class__(size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert len({image_side_key(backbone) for backbone in (*others, tiny_backbone)}) == 4
    for backbone in others:
        assert FeatureCache(tmp_path, backbone).find(["a" * 64]) == {}
    assert FeatureCache(tmp_path, make_tiny_backbone()).find(["a" * 64])


def test_what_a_killed_process_left_a_day_ago_is_removed(tmp_path, tiny_backbone):
    FeatureCache(tmp_path, tiny_backbone).add({"a" * 64: torch.ones(48)})
    (shard,) = tmp_path.rglob("*.safetensors")
    old, new = (shard.with_name(f".{'b' * 64}.safetensors.{end}") for end in ("x1", "x2"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert FeatureCache(tmp_path, tiny_backbone).find(["a" * 64])
    assert sorted(shard.parent.iterdir()) == sorted([new, shard])


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, "cut", "flip"])
def test_a_damaged_shard_is_named_and_passed_over(tmp_path, tiny_backbone, damage):
    cache = FeatureCache(tmp_path, tiny_backbone)
    cache.add({"a" * 64: torch.ones(48)})
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes({"cut": whole[:-3], "flip": whole[:-1] + b"\x01"}.get(damage, damage))
    cache = FeatureCache(tmp_path, tiny_backbone)
    with pytest.warns(DamageWarning, match=f"'{shard}' is damaged; its photos are encoded again. It can be deleted."):
        assert cache.find(["a" * 64]) == {}
    # What is encoded anew takes its place.
    cache.add({"a" * 64: torch.ones(48)})
    again = FeatureCache(tmp_path, tiny_backbone)
    assert torch.equal(again.find(["a" * 64])["a" * 64], torch.ones(48))


def test_two_processes_share_a_directory(tmp_path, tiny_backbone):
    tests = DRIVER_PATH
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), start, tests], stderr=subprocess.PIPE, text=True)
        for start in ("0", "20")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    cache = FeatureCache(tmp_path, tiny_backbone)
    found = cache.find([f"{i:064x}" for i in range(60)])
    assert [feature[0].item() for feature in found.values()] == list(range(60))
    assert not list(tmp_path.rglob(".*"))


def test_a_image_is_known_by_its_bytes(tmp_path):
    one, copy, other = (tmp_path / name for name in ("one.jpg", "copy.jpg", "other.jpg"))
    one.write_bytes(b"pixels")
    copy.write_bytes(b"pixels")
    other.write_bytes(b"pixelz")
    assert hash_image(one) == hash_image(copy) != hash_image(other)
    assert hash_image(tmp_path / "absent.jpg") is None


def test_a_directory_that_cannot_be_written_is_one_clear_error(tmp_path, tiny_backbone):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match="Cannot write"):
        FeatureCache(tmp_path / "file", tiny_backbone).add({"a" * 64: torch.ones(48)})


def test_the_default_directory_heeds_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COCOOP_CACHE", str(tmp_path))
    assert default_cache_directory() == tmp_path / "features"
    monkeypatch.delenv("COCOOP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_directory() == tmp_path / "xdg" / "cocoop" / "features"


def test_the_same_weights_in_another_architecture_find_nothing(tiny_backbone):
    """Activations, heads and epsilons are no weights, and change the feature."""

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


def test_without_a_directory_features_stay_in_memory(tmp_path, tiny_backbone, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = FeatureCache(None, tiny_backbone)
    cache.add({"a" * 64: torch.ones(48)})
    assert torch.equal(cache.find(["a" * 64, "b" * 64])["a" * 64], torch.ones(48))
    assert not list(tmp_path.iterdir())


def test_a_models_key_sees_the_text_side_and_no_budget():
    backbone = make_tiny_backbone()
    key = model_key(backbone)
    backbone.text_tower.memory_budget = 2**20
    assert model_key(backbone) == key == model_key(make_tiny_backbone())
    with torch.no_grad():
        backbone.text_tower.positional_embedding[0, 0] += 1e-3
    others = [backbone, make_tiny_backbone("gelu"), make_tiny_backbone(precision="bf16"), make_tiny_backbone()]
    others[-1].logit_scale += 1
    assert len({key, *map(model_key, others)}) == 5
