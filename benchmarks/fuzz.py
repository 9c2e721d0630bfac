"""Broken and hostile files for every reader: does each give a result or a `CocoopError` with a message, in time?

Usage: python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--processes 2] [--output bench/fuzz]

Real files of each kind are damaged at random: flipped bits, cut, spliced, filled with what numbers, names and lengths
should never be, or replaced by a file of another kind. Any other exception, a refusal without a message or with pages
of it, a reader that takes more than ten seconds, or a process that dies is a finding; its input is kept in OUTPUT. The
exit code is 1 if there is any.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from cocoop import CoCoOp, TrainConfig, fit, from_pretrained, load_backbone, load_data
from cocoop.backbones.openai_files import from_file
from cocoop.data import open_photo
from cocoop.data.names import read_renames
from cocoop.data.shards import read_shard
from cocoop.errors import CocoopError
from cocoop.feature_cache import FeatureCache
from cocoop.files import read_json_lines, write_json
from cocoop.records import read_record
from cocoop.reference_checkpoints import read_reference
from cocoop.runs import epochs_done, photos_learned

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

SECONDS = 10
"""Longer is a hang."""
LONGEST_MESSAGE = 1500
"""Characters; a message is some lines, not pages."""
CHUNK = 250
"""Inputs that one process takes before it gives way to a fresh one."""
MEMORY = 6 << 30
"""Bytes of address space beyond what a process has at its start."""

NASTY = [
    b"NaN", b"1e999", b"-1", b"99999999999999999999999", b"[]", b"{}", b"null", b"true", b'"\\ud800"', b'""',
    b"[" * 5000, b'{"a":' * 5000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"../../../../etc/passwd", b"/etc/passwd",
    b"<script>", b"\r\n",
    "\u202e\U0001f468\u200d\U0001f469".encode(), b'"' + b"x" * 100_000 + b'"', b"%s%n", b"cat\x1b[31m", b"\x80\x04\x95",
]  # fmt: skip
"""What lengths, numbers and names should never be."""


class Reader(NamedTuple):
    """How a kind of file is read."""

    name: str
    """Of the file."""
    read: Callable[[Path], Any]
    """Reads the file, in a folder of its own beside what belongs to it."""
    seeds: list[bytes]
    """Whole files of this kind."""
    beside: dict[str, bytes]
    """What lies beside it."""


def main() -> None:
    """Fuzz, print, leave with 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("bench/fuzz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    readers = list(make_readers())
    with tempfile.TemporaryDirectory() as home:
        for reader in readers:
            # Else all would be refused for another reason than its damage.
            assert attempt(reader, reader.seeds[0], Path(home)) == "read", reader.name
    started = time.perf_counter()
    totals: dict[str, Counter[str]] = {reader.name: Counter() for reader in readers}
    findings: list[tuple[str, str]] = []
    chunks = [(first, min(CHUNK, arguments.inputs - first)) for first in range(0, arguments.inputs, CHUNK)]
    # Forks, which have everything loaded; each is fresh, so that nothing one input does is left for the next chunk.
    context = multiprocessing.get_context("fork")
    running: dict[Any, tuple[Any, int, float]] = {}
    while chunks or running:
        while chunks and len(running) < arguments.processes:
            first, count = chunks.pop(0)
            receiver, sender = context.Pipe(duplex=False)
            work = (readers, first, count, arguments.seed, arguments.output, sender)
            process = context.Process(target=take_chunk, args=work)
            process.start()
            sender.close()
            running[receiver] = (process, first, time.monotonic())
        for receiver in multiprocessing.connection.wait(list(running), timeout=1.0):
            process, first, _ = running.pop(receiver)
            try:
                counts, found = receiver.recv()
                for name, counter in counts.items():
                    totals[name].update(counter)
                findings += found
            except EOFError:
                process.join()
                findings.append((f"inputs {first} to {first + CHUNK}", f"the process died with {process.exitcode}"))
            process.join()
        for receiver, (process, first, since) in list(running.items()):
            if time.monotonic() - since > CHUNK * SECONDS:
                process.kill()
                findings.append((f"inputs {first} to {first + CHUNK}", "the process hung"))
                del running[receiver]
    report(totals, findings, time.perf_counter() - started)
    sys.exit(1 if findings else 0)


def take_chunk(readers: list[Reader], first: int, count: int, seed: int, output: Path, sender: Any) -> None:
    """Try some inputs and send what became of them."""
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, hang)
    counts: dict[str, Counter[str]] = {reader.name: Counter() for reader in readers}
    findings = []
    with tempfile.TemporaryDirectory() as home:
        for number in range(first, first + count):
            chance = random.Random(f"{seed}:{number}")
            reader = readers[number % len(readers)]
            content = damaged(reader, readers, chance)
            outcome = attempt(reader, content, Path(home))
            counts[reader.name][outcome if outcome in ("read", "refused") else "finding"] += 1
            if outcome not in ("read", "refused"):
                output.mkdir(parents=True, exist_ok=True)
                (output / f"{number}-{reader.name}").write_bytes(content)
                findings.append((f"{number}-{reader.name}", outcome))
    sender.send((counts, findings))


def attempt(reader: Reader, content: bytes, home: Path) -> str:
    """`read`, `refused`, or what went wrong."""
    for name, beside in reader.beside.items():
        (home / name).write_bytes(beside)
    path = home / reader.name
    path.write_bytes(content)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(path)
    except CocoopError as error:
        message = str(error)
        if not 10 <= len(message) <= LONGEST_MESSAGE:
            return f"a message of {len(message)} characters: {message[:80]!r}"
        return "refused"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:120]} ({Path(where.filename).name}:{where.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for entry in home.iterdir():
            if entry.is_file():
                entry.unlink()
    return "read"


def hang(_number: int, _frame: Any) -> None:
    """Ends a reader that takes too long."""
    raise TimeoutError(f"more than {SECONDS} seconds")


def damaged(reader: Reader, readers: list[Reader], chance: random.Random) -> bytes:
    """A file of this kind after one to four accidents."""
    content = bytearray(chance.choice(reader.seeds))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        accident = chance.randrange(9)
        if accident == 0 and content:
            for _ in range(chance.randint(1, 16)):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif accident == 1:
            del content[place:]
        elif accident == 2:
            del content[place : place + chance.randint(1, 64)]
        elif accident == 3:
            content[place:place] = chance.randbytes(chance.randint(1, 64))
        elif accident == 4:
            content[place : place + chance.randint(0, 16)] = chance.choice(NASTY)
        elif accident == 5:
            content[place : place + 8] = chance.choice([0, 2**31 - 1, 2**32 - 1, 2**63 - 1]).to_bytes(8, "little")
        elif accident == 6:
            piece = content[place : place + chance.randint(1, 2000)]
            content[place:place] = piece * chance.randint(1, 20)
        elif accident == 7:
            other = chance.choice(chance.choice(readers).seeds)
            content[place:] = other[chance.randrange(len(other) + 1) :]
        elif chance.random() < 0.2:
            content = bytearray(chance.choice(chance.choice(readers).seeds))
    return bytes(content)


def make_readers() -> Iterator[Reader]:
    """Every kind of file that a user may open, with whole examples."""
    from tiny_models import openai_model, save_openai_archive

    backbone = load_backbone("lite")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        photos = list(make_photos(home / "photos"))
        data = load_data(home / "photos").few_shot(2, seed=1)
        method = CoCoOp(backbone, data.classnames, seed=1)
        cache = FeatureCache(home / "cache", backbone)
        config = TrainConfig(epochs=1, batch_size=4, workers=0, cache_features=True)
        fit(method, data, config, run=home / "run", cache=cache)
        run = {path.name: path.read_bytes() for path in (home / "run").iterdir() if path.suffix}
        (shard,) = (home / "cache").rglob("*.safetensors")
        write_json(
            home / "record.json", {"format": 1, "protocol": "base-to-new", "tests": {"base": {"accuracy": 81.0}}}
        )
        write_json(home / "sealed.json", {"format": 1, "seed": 1, "history": [{"epoch": 1}]}, sealed=True)
        records = [(home / name).read_bytes() for name in ("record.json", "sealed.json")]
        torch.save(reference_state(method), home / "model.pth.tar-10")
        torch.save(reference_state(method), home / "legacy.tar", _use_new_zipfile_serialization=False)
        references = [(home / name).read_bytes() for name in ("model.pth.tar-10", "legacy.tar")]
        save_openai_archive(home / "openai.pt", openai_model("vit"))
        archive = (home / "openai.pt").read_bytes()
        shards = make_shards(home, photos)
    pickles = [pickle.dumps({"state_dict": {"ctx": [1, 2]}}, protocol) for protocol in (2, 4)] + [evil_pickle()]

    def saved(path: Path) -> object:
        return from_pretrained(path.parent, backbone=backbone)

    def cached(path: Path) -> object:
        cache = FeatureCache(path.parent, backbone)
        cache.folder = path.parent
        return cache.find(["x"])

    rows = [("a/1.jpg", "cat", "train"), ("a/2.jpg", "dog", "test"), ("b/3.jpg", "tree frog", "val")]
    csv = "path,class,split\n" + "".join(",".join(row) + "\n" for row in rows)
    lines = "".join(json.dumps({"path": p, "class": c, "split": s}) + "\n" for p, c, s in rows)
    split = {name: [[f"{name}/1.jpg", 0, "cat"], [f"{name}/2.jpg", 1, "dog"]] for name in ("train", "val", "test")}
    yield Reader("photo.jpg", open_photo, photos, {})
    yield Reader("manifest.csv", load_data, [csv.encode(), csv.encode("utf-16"), csv.replace(",", ";").encode()], {})
    yield Reader("manifest.jsonl", load_data, [lines.encode()], {})
    splits = [json.dumps(split).encode()]
    yield Reader("split.json", lambda path: load_data(path, image_root=path.parent), splits, {})
    yield Reader("renames.json", read_renames, [b'{"cat": "tabby cat", "dog": "corgi"}'], {})
    yield Reader("renames.csv", read_renames, [b"old,new\ncat,tabby cat\n"], {})
    yield Reader("record.json", read_record, records, {})
    yield Reader("config.json", saved, [run["config.json"]], {"prompt.safetensors": run["prompt.safetensors"]})
    yield Reader("prompt.safetensors", saved, [run["prompt.safetensors"]], {"config.json": run["config.json"]})
    state = [run["training.safetensors"]]
    yield Reader(
        "training.safetensors", lambda p: epochs_done(p.parent), state, {"training.json": run["training.json"]}
    )
    yield Reader("metrics.jsonl", read_json_lines, [run["metrics.jsonl"]], {})
    yield Reader("photos.json", lambda path: photos_learned(path.parent), [run["photos.json"]], {})
    yield Reader(shard.name, cached, [shard_bytes(cache)], {})
    yield Reader("model.pth.tar-10", read_reference, [*references, *pickles], {})
    yield Reader("ViT-B-32.pt", lambda path: from_file(path, "ViT-B-32"), [archive, *pickles], {})
    for name, content in shards.items():
        yield Reader(name, lambda path: list(read_shard(str(path))), [content], {})


def shard_bytes(cache: FeatureCache) -> bytes:
    """A shard of features as it lies on the disk."""
    import safetensors.torch

    features = cache._features
    keys = sorted(features)
    return safetensors.torch.save({"features": torch.stack([features[k] for k in keys])}, {"photos": json.dumps(keys)})


def make_photos(folder: Path) -> Iterator[bytes]:
    """Photos of every format, written in two classes, and as bytes."""
    generator = random.Random(0)
    for number in range(12):
        pixels = Image.frombytes("RGB", (40, 30), generator.randbytes(3600))
        path = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
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


def make_shards(home: Path, photos: list[bytes]) -> dict[str, bytes]:
    """A tar file of WebDataset and a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tarfile.open(home / "shard.tar", "w") as tar:
        for number, photo in enumerate(photos[:6]):
            for suffix, content in (("jpg", photo), ("cls", b"cat"), ("json", b'{"label": "cat", "split": "train"}')):
                info = tarfile.TarInfo(f"{number:03}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    table = pa.table({"image": photos[:6], "label": ["cat", "dog"] * 3, "path": [f"{i}.jpg" for i in range(6)]})
    pq.write_table(table, home / "shard.parquet", row_group_size=2)
    return {name: (home / name).read_bytes() for name in ("shard.tar", "shard.parquet")}


def reference_state(method: CoCoOp) -> dict[str, Any]:
    """A checkpoint as the papers' code writes it, in short."""
    tensors = {"ctx": method.context.detach()}
    tensors |= {name: tensor.detach() for name, tensor in method.learned().items() if name != "context"}
    tensors |= {"token_prefix": torch.randn(2, 1, 512), "token_suffix": torch.randn(2, 72, 512)}
    return {"state_dict": tensors, "epoch": 10, "val_result": None}


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch /tmp/cocoop-fuzz-was-here",)


def evil_pickle() -> bytes:
    """A pickle that would run a command."""
    return pickle.dumps({"state_dict": _Evil()}, 2)


def report(totals: dict[str, Counter[str]], findings: list[tuple[str, str]], seconds: float) -> None:
    """A Markdown table, then the findings."""
    print("| file | inputs | read | refused with a message | findings |\n|---|---|---|---|---|")
    whole: Counter[str] = Counter()
    for name, counter in totals.items():
        whole.update(counter)
        shown = name if len(name) < 30 else "features (cache).safetensors"
        print(
            f"| {shown} | {counter.total():,} | {counter['read']:,} | {counter['refused']:,} | {counter['finding']} |"
        )
    print(f"| all | {whole.total():,} | {whole['read']:,} | {whole['refused']:,} | {len(findings)} |")
    print(f"\n{seconds:.0f} s")
    if Path("/tmp/cocoop-fuzz-was-here").exists():
        findings.append(("a pickle", "ran a command"))
    kinds: dict[str, list[str]] = {}
    for name, what in findings:
        kinds.setdefault(f"{name.partition('-')[2]}: {what}", []).append(name)
    for what, names in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        print(f"{len(names)} x {what}  e.g. {names[0]}")


if __name__ == "__main__":
    main()
