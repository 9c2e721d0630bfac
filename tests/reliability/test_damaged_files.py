"""One wrong byte, or a file cut anywhere: named and refused, or made anew, never half-used."""

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
from cocoop.experiments import Grid, base_to_new, sweep
from cocoop.experiments.records import read_sweep
from cocoop.inference.predictor import Prediction
from cocoop.methods import CoCoOp
from cocoop.storage.json_files import read_json, write_json
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split
from cocoop.training.fit import fit
from cocoop.training.run_directory import epochs_done, trained_image_hashes

pytestmark = pytest.mark.usefixtures("one_thread")

DAMAGES = 40
"""Places in each file at which a bit is flipped, and as many at which it is cut."""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_data(make_images(tmp_path_factory.mktemp("photos"), per_class=6))


@pytest.fixture(scope="module")
def run(images, tiny_backbone, tmp_path_factory):
    """A run of two epochs, which could go on."""
    directory = tmp_path_factory.mktemp("run")
    train(images, tiny_backbone, directory)
    return directory


def train(images, backbone, directory):
    data = images.few_shot(2, seed=1)
    config = TrainConfig(epochs=2, batch_size=4, workers=0, cache_features=True)
    method = CoCoOp(backbone, data.classnames, seed=1)
    return method, fit(method, data, config, run=directory, resume=True)


def damaged(content: bytes, seed: int):
    """The content with one bit flipped somewhere, and cut somewhere."""
    chance = random.Random(seed)
    for _ in range(DAMAGES):
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        yield content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
        yield content[: chance.randrange(len(content))]


def refusal(read):
    """The message of a reader that refuses, or what it has read."""
    try:
        return None, read()
    except CocoopError as error:
        return str(error), None


READERS = {
    "training.safetensors": epochs_done,
    "training.json": lambda run: read_json(run / "training.json"),
    "metrics.jsonl": None,
    "images.json": trained_image_hashes,
    "prompt.safetensors": None,
}


@pytest.mark.parametrize("name", READERS)
def test_every_damage_of_a_run_is_noticed(name, run, images, tiny_backbone):
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
            message, found = refusal(read)
            if message is None:
                # White space means nothing in JSON.
                assert name.endswith((".json", ".jsonl"))
                assert found == true
            else:
                # What cannot be read, or says that it is of another run, is refused; nothing was changed.
                assert name in message or "was begun with" in message
                assert file.read_bytes() == content
    finally:
        file.write_bytes(whole)


def test_every_damage_of_a_record_is_noticed(images, tiny_backbone, tmp_path):
    plan = base_to_new(images, Grid(methods=("zero-shot",)))
    sweep(tmp_path, plan, tiny_backbone, workers=0)
    (file,) = tmp_path.glob("runs/*/record.json")
    whole, true = file.read_bytes(), read_sweep(tmp_path).records
    for content in damaged(whole, seed=3):
        file.write_bytes(content)
        message, found = refusal(lambda: read_sweep(tmp_path).records)
        if message is None:
            assert found == true
        else:
            assert "record.json" in message


@pytest.mark.parametrize("name", ["config.json", "prompt.safetensors", "training.safetensors", "training.json"])
def test_a_flip_in_the_name_of_a_seal_is_noticed(name, run, tiny_backbone):
    def all_is_read():
        cocoop.from_pretrained(run, backbone=tiny_backbone)
        epochs_done(run)
        read_json(run / "training.json")

    # Forty flips at random miss the few bits of these names.
    file = run / name
    whole = file.read_bytes()
    for seal in (b"cocoop", b"checksum", b"saved_as"):
        for place in [found.start() for found in re.finditer(seal, whole)]:
            for bit in range(8 * len(seal)):
                content = bytearray(whole)
                content[place + bit // 8] ^= 1 << bit % 8
                file.write_bytes(content)
                message, _ = refusal(all_is_read)
                file.write_bytes(whole)
                assert message is not None, (seal, bit)


def test_damaged_features_are_passed_over_and_made_anew(images, tiny_backbone, tmp_path):
    true = encode_split(tiny_backbone, images, workers=0, cache=FeatureCache(tmp_path, tiny_backbone))
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    for content in damaged(whole, seed=4):
        shard.write_bytes(content)
        cache = FeatureCache(tmp_path, tiny_backbone)
        with pytest.warns(DamageWarning, match=shard.name):
            again = encode_split(tiny_backbone, images, workers=0, cache=cache)
        assert torch.equal(again.features, true.features)
        # The same content has the same name: the shard is whole again.
        assert shard.read_bytes() == whole


def test_every_damage_of_settings_is_refused_or_reads_as_an_edit(run, tiny_backbone, tmp_path):
    """config.json has no checksum, since people may edit it; but what it says must make sense, and the weights stay."""
    for name in ("config.json", "prompt.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    whole = (run / "config.json").read_bytes()
    true = cocoop.from_pretrained(run, backbone=tiny_backbone)
    refused = 0
    for content in damaged(whole, seed=5):
        (tmp_path / "config.json").write_bytes(content)
        message, method = refusal(lambda: cocoop.from_pretrained(tmp_path, backbone=tiny_backbone))
        refused += message is not None
        if method is not None:
            assert len(content) >= len(whole) - 1, "a file that was cut is refused"
            assert torch.equal(method.context, true.context)
    assert refused >= DAMAGES


def test_every_damage_of_a_description_of_an_export_is_noticed(tmp_path):
    """The graph is known by the checksum in it; see test_export.py for the graph."""
    description = {"format": 1, "classnames": ["ant", "bee"], "sha256": {"model.onnx": "0" * 64}}
    write_json(tmp_path / "export.json", description, with_checksum=True)
    whole = (tmp_path / "export.json").read_bytes()
    for content in damaged(whole, seed=6):
        (tmp_path / "export.json").write_bytes(content)
        message, found = refusal(lambda: read_json(tmp_path / "export.json"))
        assert found == description if message is None else "export.json" in message


def test_every_damage_of_labels_in_bulk_is_named(tmp_path):
    from cocoop.inference.bulk.job_directory import JobDirectory

    job = JobDirectory(str(tmp_path))
    job.write("files-1.parquet", [Prediction(f"photos/{n}.jpg", (f"class {n}",), (0.5,)) for n in range(200)])
    part = tmp_path / "files-1.parquet"
    whole, true = part.read_bytes(), job.labelled_in(["files-1.parquet"])
    assert len(true) == 200
    for content in damaged(whole, seed=7):
        part.write_bytes(content)
        message, found = refusal(lambda: job.labelled_in(["files-1.parquet"]))
        # What does not concern the paths is not read when a job goes on.
        assert found == true if message is None else "files-1.parquet' is damaged" in message


def test_every_damage_of_the_index_of_a_shard_is_told_and_made_anew(tmp_path, monkeypatch):
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


def test_every_damage_of_a_part_of_a_download_is_fetched_anew(tmp_path, monkeypatch):
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


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """What a loss of power needs: content, then name, then the folder that holds the name, each synced in turn."""
    path, order = tmp_path / "a.json", []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor):
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(("sync", "folder" if place.is_dir() else "content", path.exists()))
        sync(descriptor)

    def note_replace(source, target):
        order.append(("rename", target.name, path.exists()))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_json(path, {"epoch": 1})
    assert order == [("sync", "content", False), ("rename", "a.json", False), ("sync", "folder", True)]
    assert read_json(path) == {"epoch": 1}


def test_settings_may_be_edited_and_records_not(run, tiny_backbone, tmp_path):
    config = json.loads((run / "config.json").read_text())
    assert "checksum" not in config
    record = tmp_path / "record.json"
    write_json(record, {"accuracy": 81.25}, with_checksum=True)
    assert read_json(record) == {"accuracy": 81.25}
    edited = record.read_text().replace("81.25", "91.25")
    record.write_text(edited)
    with pytest.raises(CocoopError, match=r"record.json' is damaged: its checksum does not match"):
        read_json(record)
    # Who means it takes the checksum out, and files of older versions have none.
    without = {name: value for name, value in json.loads(edited).items() if name != "checksum"}
    record.write_text(json.dumps(without))
    assert read_json(record) == {"accuracy": 91.25}


def test_a_prompt_without_a_checksum_is_read(run, tiny_backbone, tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "prompt.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    tensors = load_file(tmp_path / "prompt.safetensors")
    save_file(tensors, tmp_path / "prompt.safetensors")
    method = cocoop.from_pretrained(Path(tmp_path), backbone=tiny_backbone)
    assert torch.equal(method.context, tensors["context"])
