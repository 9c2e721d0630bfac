"""Readers for `fuzz.py`: every kind of file that a user may open, with its reader and valid examples."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from PIL import Image
from tiny_models import openai_model, save_open_clip, save_openai_archive, save_transformers

from cocoop import CoCoOp, TrainConfig, evaluate, fit, from_pretrained, load_backbone, load_data
from cocoop.backbones.openai_files import from_file
from cocoop.checkpoints.model_card import model_card
from cocoop.checkpoints.pretrained import method_config
from cocoop.checkpoints.reference import read_reference
from cocoop.data import open_image
from cocoop.data.catalog.archives import unpack
from cocoop.data.class_names import read_renames
from cocoop.data.shards.scan import read_shard
from cocoop.experiments.plans import Grid, few_shot
from cocoop.experiments.records import read_sweep
from cocoop.experiments.sweep import sweep
from cocoop.inference.bulk.job_directory import JobDirectory
from cocoop.inference.onnx import OnnxPrompt, export_onnx
from cocoop.inference.predictor import Prediction
from cocoop.report.sweep_page import sweep_page
from cocoop.report.sweep_tables import sweep_tables
from cocoop.report.sweep_text import failure_table, sweep_csv, sweep_latex, sweep_markdown
from cocoop.storage.json_files import read_json_lines
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.run_directory import epochs_done, trained_image_hashes

__all__ = ["TRACE", "Reader", "make_readers"]

TRACE = Path(tempfile.gettempdir()) / "cocoop-fuzz-was-here"
"""File that an executed pickle leaves behind."""


JOB = {"model": "run", "classes": ["cat", "dog"], "top_k": 2, "runtime": "torch"}
"""Settings of a labelling job."""


class Reader(NamedTuple):
    """Reader of one kind of file."""

    name: str
    """Name of the file."""
    read: Callable[[Path], Any]
    """Function that reads the file, in a directory with the files that belong to it."""
    seeds: list[bytes]
    """Valid files of this kind."""
    beside: dict[str, bytes]
    """Other files in the directory."""
    title: str = ""
    """Name in the table, if it differs from the file's."""


def make_readers() -> Iterator[Reader]:
    """Return a reader for each kind of file that a user may open, with valid examples."""
    backbone = load_backbone("lite")
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        images = list(make_images(home / "photos"))
        whole = load_data(home / "photos")
        data = whole.few_shot(2, seed=1)
        method = CoCoOp(backbone, data.classnames, seed=1)
        cache = FeatureCache(home / "cache", backbone)
        config = TrainConfig(epochs=1, batch_size=4, workers=0, cache_features=True)
        fit(method, data, config, run=home / "run", cache=cache)
        measured = evaluate(method, whole, workers=0).record()
        grid = Grid(shots=(2,), seeds=(1,), preset="cached", changes={"epochs": 1})
        sweep(home / "sweep", few_shot(whole, grid), backbone, cache=cache, workers=0)
        records = [path.read_bytes() for path in sorted((home / "sweep").rglob("record.json"))]
        clip, huggingface = save_open_clip(home / "clip", "vit", half=True), save_transformers(home / "hf", half=True)
        tiny = load_backbone(f"local-dir:{clip}")
        export_onnx(CoCoOp(tiny, data.classnames, seed=1), home / "export")
        torch.save(reference_state(method), home / "model.pth.tar-10")
        torch.save(reference_state(method), home / "legacy.tar", _use_new_zipfile_serialization=False)
        references = [(home / name).read_bytes() for name in ("model.pth.tar-10", "legacy.tar")]
        save_openai_archive(home / "openai.pt", openai_model("vit"))
        archive = (home / "openai.pt").read_bytes()
        shards, archives, labels = make_shards(home, images), make_archives(home), make_labels(home)
        models = {"open_clip_config.json": contents(clip), "config.json": contents(huggingface)}
        run, exported = contents(home / "run"), contents(home / "export")
    pickles = [pickle.dumps({"state_dict": {"ctx": [1, 2]}}, protocol) for protocol in (2, 4)] + [evil_pickle()]

    def saved(path: Path) -> object:
        return from_pretrained(path.parent, backbone=backbone)

    def cached(path: Path) -> object:
        # It is named by the hash of what is in it, which alone would tell any damage.
        path.rename(path.with_stem(hashlib.sha256(path.read_bytes()).hexdigest()))
        cache = FeatureCache(path.parent, backbone)
        cache.directory = path.parent
        return cache.load().get("x")

    def carded(path: Path) -> object:
        return str(model_card(method_config(method), directory=path.parent, repo_id="user/name"))

    facts = {"data": "photos", "backbone": "lite", "shots": 2, "seed": 1, "classes": "all", "train": {"epochs": 1}}
    results = {"method": "cocoop", **facts, **measured}
    halves = {"base": measured, "new": measured, "harmonic_mean": 81.0}
    methods = [{"method": name, **halves} for name in ("zero-shot", "coop", "cocoop")]
    compared = {**facts, "compare": "cached", "methods": methods}
    rows = [("a/1.jpg", "cat", "train"), ("a/2.jpg", "dog", "test"), ("b/3.jpg", "tree frog", "val")]
    csv = "path,class,split\n" + "".join(",".join(row) + "\n" for row in rows)
    lines = "".join(json.dumps({"path": p, "class": c, "split": s}) + "\n" for p, c, s in rows)
    split = {name: [[f"{name}/1.jpg", 0, "cat"], [f"{name}/2.jpg", 1, "dog"]] for name in ("train", "val", "test")}
    splits = [json.dumps(split).encode()]
    state, prompt = [run["training.safetensors"]], run["prompt.safetensors"]
    described, graph = exported["export.json"], exported["model.onnx"]

    yield Reader("photo.jpg", open_image, images, {})
    yield Reader("manifest.csv", load_data, [csv.encode(), csv.encode("utf-16"), csv.replace(",", ";").encode()], {})
    yield Reader("manifest.jsonl", load_data, [lines.encode()], {})
    yield Reader("split.json", lambda path: load_data(path, image_root=path.parent), splits, {})
    yield Reader("renames.json", read_renames, [b'{"cat": "tabby cat", "dog": "corgi"}'], {})
    yield Reader("renames.csv", read_renames, [b"old,new\ncat,tabby cat\n"], {})
    yield Reader("record.json", reported, records, {})
    yield Reader("results.json", carded, [json.dumps(results).encode()], {})
    yield Reader("base_to_new.json", carded, [json.dumps(compared).encode()], {})
    yield Reader("config.json", saved, [run["config.json"]], {"prompt.safetensors": prompt})
    yield Reader("prompt.safetensors", saved, [prompt], {"config.json": run["config.json"]})
    yield Reader(
        "training.safetensors", lambda p: epochs_done(p.parent), state, {"training.json": run["training.json"]}
    )
    yield Reader("metrics.jsonl", read_json_lines, [run["metrics.jsonl"]], {})
    yield Reader("images.json", lambda path: trained_image_hashes(path.parent), [run["images.json"]], {})
    yield Reader("features.safetensors", cached, [shard_bytes(cache)], {})
    yield Reader("model.pth.tar-10", read_reference, [*references, *pickles], {})
    yield Reader("ViT-B-32.pt", lambda path: from_file(path, "ViT-B-32"), [archive, *pickles], {})
    for file, content in models.items():
        yield Reader(file, loaded, [content.pop(file)], content, f"{file} (local-dir)")
    yield Reader("export.json", lambda path: OnnxPrompt(path.parent), [described], {"model.onnx": graph})
    yield Reader("model.onnx", resealed, [graph], {"export.json": described})
    yield Reader("_job.json", job_of, [json.dumps(JOB).encode()], {})
    yield Reader("files-1.parquet", lambda path: JobDirectory(str(path.parent)).labelled_in([path.name]), [labels], {})
    for name, packed in archives.items():
        yield Reader(name, lambda path: unpack(path, path.parent / "unpacked"), packed, {})
    for name, packed in shards.items():
        yield Reader(name, lambda path: list(read_shard(str(path))), [packed], {})


def contents(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.suffix}


def reported(path: Path) -> object:
    """Report a record, as `cocoop report` does."""
    run = path.parent / "runs" / "one"
    run.mkdir(parents=True)
    path.rename(run / "record.json")
    sweep = read_sweep(path.parent)
    tables, failures = sweep_tables(sweep, "match"), failure_table(sweep)
    made = sweep_page(sweep, "match"), sweep_csv(tables)
    return made, sweep_markdown(tables, failures), sweep_latex(tables, failures)


def loaded(path: Path) -> object:
    """Load the model of a directory."""
    return load_backbone(f"local-dir:{path.parent}")


def job_of(path: Path) -> object:
    """Resume a labelling job."""
    JobDirectory(str(path.parent)).start(JOB)
    return None


def resealed(path: Path) -> object:
    """Load an exported graph with a matching checksum, as an attacker would write it."""
    description = json.loads((path.parent / "export.json").read_text())
    description.pop("checksum", None)
    description["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "export.json").write_text(json.dumps(description))
    size = description["preprocessing"]["size"]
    return OnnxPrompt(path.parent)(torch.zeros(1, 3, size, size))


def shard_bytes(cache: FeatureCache) -> bytes:
    """Return a shard of features as stored on disk."""
    features = cache._features
    keys = sorted(features)
    return safetensors.torch.save({"features": torch.stack([features[k] for k in keys])}, {"images": json.dumps(keys)})


def make_images(directory: Path) -> Iterator[bytes]:
    """Write images of every format in two classes, and return their bytes."""
    generator = random.Random(0)
    for number in range(12):
        pixels = Image.frombytes("RGB", (40, 30), generator.randbytes(3600))
        path = directory / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels.save(path)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        for mode in ("RGB", "L", "P", "CMYK", "RGBA"):
            content = io.BytesIO()
            try:
                pixels.convert(mode).save(content, kind)
            except (OSError, ValueError):
                continue
            yield content.getvalue()
    content = io.BytesIO()
    pixels.save(content, "GIF", save_all=True, append_images=[pixels] * 20)
    yield content.getvalue()
    content = io.BytesIO()
    # A bomb: 400 million pixels in a few KB.
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    yield content.getvalue()


def make_shards(home: Path, images: list[bytes]) -> dict[str, bytes]:
    """Return a WebDataset tar file and a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tarfile.open(home / "shard.tar", "w") as tar:
        for number, image in enumerate(images[:6]):
            for suffix, content in (("jpg", image), ("cls", b"cat"), ("json", b'{"label": "cat", "split": "train"}')):
                info = tarfile.TarInfo(f"{number:03}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    table = pa.table({"image": images[:6], "label": ["cat", "dog"] * 3, "path": [f"{i}.jpg" for i in range(6)]})
    pq.write_table(table, home / "shard.parquet", row_group_size=2)
    return {name: (home / name).read_bytes() for name in ("shard.tar", "shard.parquet")}


def make_labels(home: Path) -> bytes:
    """Return labels of a few files."""
    found = [Prediction(f"photos/{i}.jpg", ("cat", "dog"), (0.75, 0.25)) for i in range(5)]
    (home / "labels").mkdir()
    JobDirectory(str(home / "labels")).write(
        "files-1.parquet", [*found, Prediction("photos/5.jpg", (), (), "it is empty")]
    )
    return (home / "labels" / "files-1.parquet").read_bytes()


def make_archives(home: Path) -> dict[str, list[bytes]]:
    """Return images in a zip file and in tar files, and tar files with odd sparse members."""
    with zipfile.ZipFile(home / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((home / "photos").rglob("*.png")):
            archive.write(path, path.relative_to(home))
    for name in ("photos.tar", "photos.tar.gz"):
        with tarfile.open(home / name, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.add(home / "photos", "photos")
    archives = {name: [(home / name).read_bytes()] for name in ("photos.zip", "photos.tar", "photos.tar.gz")}
    for said in ({"map": "a,b"}, {"map": "0,9,x"}, {"size": "x"}, {"realsize": "x"}, {"major": "1", "minor": "0"}):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
            member = tarfile.TarInfo("photos/1.png")
            member.size, member.pax_headers = 10, {f"GNU.sparse.{name}": value for name, value in said.items()}
            tar.addfile(member, io.BytesIO(bytes(10)))
        archives["photos.tar"].append(content.getvalue())
    return archives


def reference_state(method: CoCoOp) -> dict[str, Any]:
    """Return a small checkpoint in the format of the papers' code."""
    tensors = {"ctx": method.context.detach()}
    tensors |= {name: tensor.detach() for name, tensor in method.learned().items() if name != "context"}
    tensors |= {"token_prefix": torch.randn(2, 1, 512), "token_suffix": torch.randn(2, 72, 512)}
    return {"state_dict": tensors, "epoch": 10, "val_result": None}


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {TRACE}",)


def evil_pickle() -> bytes:
    """Return a pickle that would run a command."""
    return pickle.dumps({"state_dict": _Evil()}, 2)
