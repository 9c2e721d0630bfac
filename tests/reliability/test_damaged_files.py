"""Files with a flipped bit or cut anywhere are refused by name or made again, never half used."""

import hashlib
import json
import os
import random
import re
from pathlib import Path

import pytest
import torch
from local_server import serve
from made_images import make_images

import cocoop
from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.data.catalog.download import download
from cocoop.errors import CocoopError, DamageWarning
from cocoop.experiments.plans import Grid, base_to_new
from cocoop.experiments.records import read_sweep
from cocoop.experiments.sweep import sweep
from cocoop.inference.predictor import Prediction
from cocoop.methods import CoCoOp
from cocoop.storage.json_files import read_json, write_json
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split
from cocoop.training.fit import fit
from cocoop.training.run_directory import RunDirectory, epochs_done, trained_image_hashes

pytestmark = pytest.mark.usefixtures("one_thread")

DAMAGES = 40
"""Number of flipped bits per file, and of cuts."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_data(make_images(tmp_path_factory.mktemp("photos"), per_class=6))


@pytest.fixture(scope="module")
def run(images, tiny_backbone, tmp_path_factory):
    """A finished run of two epochs."""
    directory = tmp_path_factory.mktemp("run")
    train(images, tiny_backbone, directory)
    return directory


def train(images, backbone, directory):
    data = images.few_shot(2, seed=1)
    config = TrainConfig(epochs=2, batch_size=4, workers=0, cache_features=True)
    method = CoCoOp(backbone, data.classnames, seed=1)
    return method, fit(method, data, config, run=directory, resume=True)


def damaged(content: bytes, seed: int):
    """Yield the content with one random bit flipped, and cut at a random position."""
    chance = random.Random(seed)
    for _ in range(DAMAGES):
        position, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        yield content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]
        yield content[: chance.randrange(len(content))]


def try_read(read):
    """Return the error message of a reader and None, or None and its result."""
    try:
        return None, read()
    except CocoopError as error:
        return str(error), None


READERS = {
    "training.safetensors": lambda run: RunDirectory(run, {}).load()[0].epoch,
    "training.json": lambda run: read_json(run / "training.json"),
    "metrics.jsonl": None,
    "images.json": trained_image_hashes,
    "prompt.safetensors": None,
}


@pytest.mark.parametrize("name", READERS)
def test_damage_of_a_run_is_noticed(name, run, images, tiny_backbone):
    def read():
        if READERS[name] is not None:
            return READERS[name](run)
        if name == "prompt.safetensors":
            return cocoop.from_pretrained(run, backbone=tiny_backbone)
        return train(images, tiny_backbone, run)[1].history

    file = run / name
    whole = file.read_bytes()
    true = read()
    try:
        for content in damaged(whole, seed=len(name)):
            file.write_bytes(content)
            message, found = try_read(read)
            if message is None:
                # White space is insignificant in JSON.
                assert name.endswith((".json", ".jsonl"))
                assert found == true
            else:
                # A file that cannot be read or describes another run is refused and stays unchanged.
                assert name in message or "was started with" in message
                assert file.read_bytes() == content
    finally:
        file.write_bytes(whole)


def test_damage_of_a_record_is_noticed(images, tiny_backbone, tmp_path):
    plan = base_to_new(images, Grid(methods=("zero-shot",)))
    sweep(tmp_path, plan, tiny_backbone, workers=0)
    (file,) = tmp_path.glob("runs/*/record.json")
    whole, true = file.read_bytes(), read_sweep(tmp_path).records
    for content in damaged(whole, seed=3):
        file.write_bytes(content)
        message, found = try_read(lambda: read_sweep(tmp_path).records)
        if message is None:
            assert found == true
        else:
            assert "record.json" in message


@pytest.mark.parametrize("name", ["config.json", "prompt.safetensors", "training.safetensors", "training.json"])
def test_damage_of_the_name_of_a_checksum_is_noticed(name, run, tiny_backbone):
    def read_all():
        cocoop.from_pretrained(run, backbone=tiny_backbone)
        epochs_done(run)
        read_json(run / "training.json")

    # Random flips would miss the few bits of these names.
    file = run / name
    whole = file.read_bytes()
    for seal in (b"cocoop", b"checksum", b"saved_as"):
        for place in [found.start() for found in re.finditer(seal, whole)]:
            for bit in range(8 * len(seal)):
                content = bytearray(whole)
                content[place + bit // 8] ^= 1 << bit % 8
                file.write_bytes(content)
                message, _ = try_read(read_all)
                file.write_bytes(whole)
                assert message is not None, (seal, bit)


def test_damaged_features_are_encoded_again(images, tiny_backbone, tmp_path):
    true = encode_split(tiny_backbone, images, workers=0, cache=FeatureCache(tmp_path, tiny_backbone))
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    for content in damaged(whole, seed=4):
        shard.write_bytes(content)
        cache = FeatureCache(tmp_path, tiny_backbone)
        with pytest.warns(DamageWarning, match=shard.name):
            again = encode_split(tiny_backbone, images, workers=0, cache=cache)
        assert torch.equal(again.features, true.features)
        # The same content has the same name, so the shard is replaced.
        assert shard.read_bytes() == whole


def test_damage_of_settings_is_refused_or_reads_as_an_edit(run, tiny_backbone, tmp_path):
    """config.json has no checksum, since users may edit it, but its content must be valid and the weights unchanged."""
    for name in ("config.json", "prompt.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    whole = (run / "config.json").read_bytes()
    true = cocoop.from_pretrained(run, backbone=tiny_backbone)
    refused = 0
    for content in damaged(whole, seed=5):
        (tmp_path / "config.json").write_bytes(content)
        message, method = try_read(lambda: cocoop.from_pretrained(tmp_path, backbone=tiny_backbone))
        refused += message is not None
        if method is not None:
            assert len(content) >= len(whole) - 1, "a truncated file must be refused"
            assert torch.equal(method.context, true.context)
    assert refused >= DAMAGES


def test_damage_of_an_export_description_is_noticed(tmp_path):
    """The description holds the checksum of the graph; test_onnx.py tests the graph."""
    description = {"format": 1, "classnames": ["ant", "bee"], "sha256": {"model.onnx": "0" * 64}}
    write_json(tmp_path / "export.json", description, with_checksum=True)
    whole = (tmp_path / "export.json").read_bytes()
    for content in damaged(whole, seed=6):
        (tmp_path / "export.json").write_bytes(content)
        message, found = try_read(lambda: read_json(tmp_path / "export.json"))
        assert found == description if message is None else "export.json" in message


def test_damage_of_bulk_labels_is_named(tmp_path):
    from cocoop.inference.bulk.job_directory import JobDirectory

    job = JobDirectory(str(tmp_path))
    job.write("files-1.parquet", [Prediction(f"photos/{n}.jpg", (f"class {n}",), (0.5,)) for n in range(200)])
    part = tmp_path / "files-1.parquet"
    whole, true = part.read_bytes(), job.labelled_in(["files-1.parquet"])
    assert len(true) == 200
    for content in damaged(whole, seed=7):
        part.write_bytes(content)
        message, found = try_read(lambda: job.labelled_in(["files-1.parquet"]))
        # What does not concern the paths is not read when a job goes on.
        assert found == true if message is None else "files-1.parquet' is damaged" in message


def test_damaged_shard_index_is_made_again_with_a_warning(tmp_path, monkeypatch):
    import tarfile

    monkeypatch.setenv("COCOOP_CACHE", str(tmp_path / "cache"))
    images = make_images(tmp_path / "photos", per_class=3)
    with tarfile.open(tmp_path / "all-0.tar", "w") as tar:
        for number, image in enumerate(sorted(images.rglob("*.png"))):
            tar.add(image, f"{number}.png")
            (tmp_path / "class").write_text(image.parent.name)
            tar.add(tmp_path / "class", f"{number}.cls")
    true = load_data(tmp_path / "all-0.tar")
    (index,) = (tmp_path / "cache" / "shards").iterdir()
    whole = index.read_bytes()
    for content in damaged(whole, seed=8):
        index.write_bytes(content)
        with pytest.warns(DamageWarning, match=index.name):
            assert load_data(tmp_path / "all-0.tar") == true
        assert index.read_bytes() == whole


def test_damaged_partial_download_is_downloaded_again(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    whole = random.Random(9).randbytes(20_000)
    checksum = f"sha256:{hashlib.sha256(whole).hexdigest()}"
    part, target = tmp_path / "a.zip.part", tmp_path / "a.zip"
    with serve() as web:
        url = web.put("/a.zip", whole)
        for content in damaged(whole, seed=9):
            part.write_bytes(content)
            download(url, target, checksum=checksum)
            assert target.read_bytes() == whole
            target.unlink()


def test_content_is_flushed_before_the_rename(tmp_path, monkeypatch):
    """A power failure loses nothing: the content, the name and the directory are flushed in this order."""
    path, order = tmp_path / "a.json", []
    sync, replace = os.fsync, Path.replace

    def record_sync(descriptor):
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(("sync", "directory" if target.is_dir() else "content", path.exists()))
        sync(descriptor)

    def record_replace(source, target):
        order.append(("rename", target.name, path.exists()))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_json(path, {"epoch": 1})
    assert order == [("sync", "content", False), ("rename", "a.json", False), ("sync", "directory", True)]
    assert read_json(path) == {"epoch": 1}


def test_settings_can_be_edited_but_not_records(run, tiny_backbone, tmp_path):
    config = json.loads((run / "config.json").read_text())
    assert "checksum" not in config
    record = tmp_path / "record.json"
    write_json(record, {"accuracy": 81.25}, with_checksum=True)
    assert read_json(record) == {"accuracy": 81.25}
    edited = record.read_text().replace("81.25", "91.25")
    record.write_text(edited)
    with pytest.raises(CocoopError, match=r"record.json' is damaged: its checksum does not match"):
        read_json(record)
    # A record without a checksum can be edited.
    without = {name: value for name, value in json.loads(edited).items() if name != "checksum"}
    record.write_text(json.dumps(without))
    assert read_json(record) == {"accuracy": 91.25}


def test_prompt_without_a_checksum_is_read(run, tiny_backbone, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "prompt.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    tensors = load_file(tmp_path / "prompt.safetensors")
    save_file(tensors, tmp_path / "prompt.safetensors")
    method = cocoop.from_pretrained(Path(tmp_path), backbone=tiny_backbone)
    assert torch.equal(method.context, tensors["context"])
