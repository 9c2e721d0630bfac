"""Encoding images to features: with a cache, ahead of the training steps, and with any batch size."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from cocoop.config import TrainConfig, parse_bytes
from cocoop.data import load_data, loader
from cocoop.errors import ConfigError, DataError
from cocoop.evaluation.evaluate import evaluate
from cocoop.inference.predictor import predict
from cocoop.methods import CoCoOp
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import (
    Features,
    TrainingFeatures,
    encode_split,
    find_training_images,
    hash_training_images,
)


@pytest.fixture
def images(tmp_path):
    """A directory of three classes with seven training and four test images of noise."""
    generator = random.Random(0)
    for name in ("ant", "bee", "cat"):
        for split, count in (("train", 7), ("test", 4)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = bytes(generator.randrange(256) for _ in range(40 * 30 * 3))
                Image.frombytes("RGB", (40, 30), pixels).save(tmp_path / "photos" / split / name / f"{i}.png")
    return tmp_path / "photos"


def record_calls(backbone, monkeypatch):
    """Record the number of images of each call of the image tower."""
    calls = []
    encode = backbone.encode_image
    monkeypatch.setattr(backbone, "encode_image", lambda images, **o: calls.append(len(images)) or encode(images, **o))
    return calls


def equal(one: Features, other: Features) -> bool:
    return torch.equal(one.features, other.features) and one.paths == other.paths and one.labels.equal(other.labels)


def test_second_run_encodes_only_images_that_are_not_in_the_cache(images, tmp_path, tiny_backbone, monkeypatch):
    data = load_data(images)
    plain = encode_split(tiny_backbone, data, workers=0)
    calls = record_calls(tiny_backbone, monkeypatch)
    first = encode_split(tiny_backbone, data, workers=0, cache=FeatureCache(tmp_path / "cache", tiny_backbone))
    assert sum(calls) == 12
    (images / "test/ant/0.png").rename(images / "test/ant/9.png")
    Image.new("RGB", (40, 30)).save(images / "test/bee/1.png")
    data = load_data(images)
    calls.clear()
    second = encode_split(tiny_backbone, data, workers=0, cache=FeatureCache(tmp_path / "cache", tiny_backbone))
    assert calls == [1], "only the changed image is encoded again"
    assert equal(first, plain)
    changed = [i for i, path in enumerate(second.paths) if path.endswith("bee/1.png")]
    for path, feature in zip(second.paths, second.features, strict=True):
        old = path.replace("ant/9", "ant/0")
        assert torch.equal(feature, plain.features[plain.paths.index(old)]) == (second.paths.index(path) not in changed)


def test_unreadable_images_are_reported_with_and_without_the_cache(images, tmp_path, tiny_backbone):
    (images / "test/cat/2.png").write_bytes(b"not an image")
    data = load_data(images)
    for _ in range(2):
        cache = FeatureCache(tmp_path / "cache", tiny_backbone)
        with pytest.raises(DataError, match=r"1 image could not be read .*cat/2.png"):
            encode_split(tiny_backbone, data, workers=0, cache=cache)
        kept = encode_split(tiny_backbone, data, workers=0, skip_unreadable=True, cache=cache)
        assert len(kept.paths) == 11
        assert [unreadable.path for unreadable in kept.unreadable] == ["test/cat/2.png"]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_small_batches_are_encoded_together_with_the_same_augmentation(images, tiny_backbone, monkeypatch, batch_size):
    """Each step gets the same features as if its batch were encoded alone."""
    config = TrainConfig(batch_size=batch_size, workers=0, seed=3)
    calls = record_calls(tiny_backbone, monkeypatch)
    ahead = list(TrainingFeatures(tiny_backbone, load_data(images), config).batches(epoch=2))
    assert len(calls) == 1
    assert calls[0] == (20 if batch_size == 4 else 21)
    monkeypatch.setattr("cocoop.training.features.IMAGES_AHEAD", 1)
    alone = list(TrainingFeatures(tiny_backbone, load_data(images), config).batches(epoch=2))
    assert [len(batch.labels) for batch in ahead] == [len(batch.labels) for batch in alone]
    for one, other in zip(ahead, alone, strict=True):
        assert one.paths == other.paths
        assert one.labels.equal(other.labels)
        torch.testing.assert_close(one.features, other.features, rtol=1e-5, atol=1e-5)


def test_unreadable_image_is_missing_from_its_own_batch_only(images, tiny_backbone):
    (images / "train/bee/3.png").write_bytes(b"not an image")
    config = TrainConfig(batch_size=3, workers=0)
    source = TrainingFeatures(tiny_backbone, load_data(images), config)
    sizes = [len(batch.labels) for batch in source.batches(epoch=1)]
    assert sorted(sizes) == [2, 3, 3, 3, 3, 3, 3]
    assert [unreadable.path for unreadable in source.unreadable] == ["train/bee/3.png"]


def test_evaluation_compares_the_shortlist_with_the_exact_answers(images, tiny_backbone):
    data = load_data(images)
    method = CoCoOp(tiny_backbone, data.classnames, seed=0)
    tests = encode_split(tiny_backbone, data, workers=0)
    exact = [int(row.argmax()) for row in method.logits(tests.features)]
    all_classes, one_class = (evaluate(method, tests, shortlist=k) for k in (3, 1))
    assert list(all_classes.predicted) == list(one_class.predicted) == exact
    assert all_classes.shortlist.predicted == all_classes.predicted
    assert all_classes.shortlist.outside == 0
    wrong = sum(a != b for a, b in zip(one_class.shortlist.predicted, exact, strict=True))
    assert one_class.shortlist.outside == wrong
    assert one_class.record()["shortlist"]["exact_answer_outside"] == wrong
    assert "shortlist" not in evaluate(method, tests).record()


def test_prediction_with_a_shortlist_has_only_its_classes(images, tiny_backbone):
    method = CoCoOp(tiny_backbone, ["ant", "bee", "cat"], seed=0)
    paths = sorted((images / "test/ant").iterdir())
    for whole, short in zip(predict(method, paths, top_k=3), predict(method, paths, top_k=3, shortlist=2), strict=True):
        assert len(whole.classes) == 3
        assert len(short.classes) == 2
        assert sum(short.probabilities) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("512 MiB", 2**29), ("1.5g", 3 * 2**29), ("1000000", 10**6), ("64K", 2**16), ("1tb", 2**40)],
)
def test_parse_bytes(text, size):
    assert parse_bytes("memory_budget", text) == size


@pytest.mark.parametrize("text", ["", "much", "-1G", "2 PiB", "1e9"])
def test_parse_bytes_refuses_other_text(text):
    with pytest.raises(ConfigError, match=r"`memory_budget` is .*; it must be a size such as 2GiB or 512MiB"):
        parse_bytes("memory_budget", text)


def test_each_image_is_read_hashed_and_decoded_once(images, tmp_path, tiny_backbone, monkeypatch):
    data = load_data(images)
    read, decoded = [], []
    read_bytes, open_image = Path.read_bytes, loader.open_image
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    monkeypatch.setattr(loader, "open_image", lambda *a, name: decoded.append(name) or open_image(*a, name=name))
    paths = [data.path_of(item) for item in data.test]
    for decodings in (paths, []):
        read.clear()
        decoded.clear()
        cache = FeatureCache(tmp_path / "cache", tiny_backbone)
        tests = encode_split(tiny_backbone, data, workers=0, cache=cache)
        assert find_training_images(tests, {tests.hashes[3]}) == {tests.paths[3]}
        assert [path for path in read if path.suffix == ".png"] == paths
        assert decoded == [str(path) for path in decodings]


def test_training_images_are_found_by_content(images, tiny_backbone):
    (images / "test/cat/3.png").write_bytes((images / "train/ant/0.png").read_bytes())
    data = load_data(images)
    tests = encode_split(tiny_backbone, data, workers=0)
    assert find_training_images(tests, hash_training_images(data)) == {"test/cat/3.png"}
    assert find_training_images(tests, set()) == set()
    assert "test/cat/3.png" not in tests.without({"test/cat/3.png"}).paths
