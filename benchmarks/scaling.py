"""Measure the cost of labelling images, and estimate larger jobs with a model that is checked on this machine.

Usage: python benchmarks/scaling.py RUN [--images 250 500 1000 2000] [--classes 10 100 1000] [--output bench/scaling]

RUN is a CoCoOp run. The Markdown that is printed is shown in docs/scaling.md. Images are generated (JPEG, 500 x 375)
and labelled by `cocoop predict RUN DIRECTORY --output DIR` in separate processes with one thread each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

GPU_RATE = 400e12
"""Operations per second of an H100 in bf16: assumed, 40 % of its nominal 989e12."""
GPU_PRICE = 2.5
"""US dollars per hour for it, with its share of a machine: assumed."""
CORES_PER_GPU = 16
"""CPU cores that decode for one GPU: assumed."""
DECODE_SECONDS = 0.005
"""Seconds for a JPEG of 500 x 375 pixels on one core, with resizing: assumed, near the measurement here."""
BYTES_PER_IMAGE = 100e3
"""Size of such a JPEG: assumed."""
READ_RATE = 2e9
"""Bytes per second that one machine of 8 GPUs reads from an object store: assumed."""


@dataclass(frozen=True)
class Work:
    """Operations, counted in matrix products and attention."""

    image: float
    """Work of the image tower per image."""
    text: float
    """Work of the text tower per image and class."""


def main() -> None:
    """Measure, estimate, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--output", type=Path, default=Path("bench/scaling"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        sizes = sorted(arguments.images)
        for number, image in zip(range(sizes[-1]), made_images(), strict=False):
            image.save(Path(directory) / f"{number:06}.jpg", quality=90)
        parts = measure_parts(arguments.run, Path(directory), arguments.classes)
        growth = measure_growth(arguments.run, Path(directory), sizes)
        together = measure_growth(arguments.run, Path(directory), sizes[-1:], processes=2)
    print_parts(parts)
    print_growth(growth, together)
    draw(parts, growth, arguments.output / "scaling.png")
    print_model(vit_b16())


def made_images() -> Iterator[Image.Image]:
    """Noise on slopes of colour: about as large as a photo when compressed."""
    generator = np.random.default_rng(0)
    slope = np.linspace(0, 1, 500)[None, :, None] * np.linspace(0.3, 1, 375)[:, None, None]
    while True:
        colours = generator.uniform(0, 255, (2, 3))
        pixels = colours[0] + slope * (colours[1] - colours[0]) + generator.normal(0, 12, (375, 500, 3))
        yield Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def measure_parts(run: Path, directory: Path, class_counts: list[int]) -> list[dict[str, Any]]:
    """Return seconds per image and counted work of decoding, image tower and text tower, on one thread."""
    from probes import matmul_rate, matmul_work, median_seconds
    from random_towers import imagenet_names

    from cocoop import from_pretrained
    from cocoop.data import open_image, test_transform

    method = from_pretrained(run).eval()
    cpu = torch.device("cpu")
    transform = test_transform(method.backbone.preprocessing)
    paths = sorted(directory.iterdir())[:8]
    images = torch.stack([transform(open_image(path)) for path in paths])
    features = method.backbone.encode_image(images)
    names = imagenet_names(max(class_counts))

    def row(part: str, call: Any, images: int) -> dict[str, Any]:
        seconds = median_seconds({part: call}, 3, cpu)[part] / images
        return {
            "part": part,
            "seconds": seconds,
            "work": matmul_work(call) / images,
            "rate": matmul_rate(cpu, torch.float32),
        }

    rows = [
        row("decode and resize", lambda: [transform(open_image(path)) for path in paths], len(paths)),
        row("image tower", lambda: method.backbone.encode_image(images), len(images)),
    ]
    for count in class_counts:
        method.set_classes(names[:count])
        scorer = method.scorer()
        rows.append(
            row(f"text tower, {count:,} classes", lambda scorer=scorer: scorer(features[:2]), 2) | {"classes": count}
        )
    return rows


def measure_growth(run: Path, directory: Path, sizes: list[int], processes: int = 1) -> list[dict[str, float]]:
    """Measure wall time and peak memory of labelling growing numbers of images, divided among processes."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as home:
            for index in range(processes):
                part = Path(home) / f"images-{index}"
                part.mkdir()
                for path in sorted(directory.iterdir())[:size][index::processes]:
                    (part / path.name).symlink_to(path)
            started = time.perf_counter()
            working = [label(run, Path(home), index) for index in range(processes)]
            peaks = []
            for process in working:
                _, status, usage = os.wait4(process.pid, 0)
                if status:
                    sys.exit(f"cocoop predict ended with {os.waitstatus_to_exitcode(status)}")
                peaks.append(usage.ru_maxrss * 1024)
            rows.append({"images": size, "seconds": time.perf_counter() - started, "peak": max(peaks)})
    return rows


def label(run: Path, home: Path, index: int) -> subprocess.Popen[bytes]:
    """Start the command line on one part of the images."""
    command = ["predict", str(run), str(home / f"images-{index}"), "--output", str(home / f"labels-{index}")]
    command += ["--skip-unreadable", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "cocoop", *command], env=environment, stderr=subprocess.DEVNULL)


def vit_b16() -> Work:
    """Count the work of ViT-B/16 on its architecture with random weights."""
    import open_clip
    from probes import matmul_work
    from random_towers import imagenet_names, random_backbone

    from cocoop import CoCoOp

    # Its fused attention would not be counted.
    torch.backends.mha.set_fastpath_enabled(False)
    tower = open_clip.create_model("ViT-B-16", pretrained=None).visual.eval()
    with torch.no_grad():
        image = matmul_work(lambda: tower(torch.zeros(1, 3, 224, 224)))
        few, many = (CoCoOp(random_backbone("ViT-B/16"), imagenet_names(count), seed=1) for count in (100, 1000))
        feature = torch.randn(1, 512)
        texts = [matmul_work(lambda m=method: m.scorer()(feature)) for method in (few, many)]
    return Work(image, (texts[1] - texts[0]) / 900)


def print_parts(rows: list[dict[str, Any]]) -> None:
    """Print the first table."""
    print("\n| part | ms a photo | GFLOP a photo | share of the rate of matrix products |\n|---|---|---|---|")
    for row in rows:
        share = row["work"] / row["seconds"] / row["rate"]
        work, of_rate = (f"{row['work'] / 1e9:.1f}", f"{share:.0%}") if row["work"] else ("", "")
        print(f"| {row['part']} | {1000 * row['seconds']:.1f} | {work} | {of_rate} |")


def print_growth(growth: list[dict[str, float]], together: list[dict[str, float]]) -> None:
    """Print the second table, beside the predictions of a straight line."""
    slope, start = line(growth)
    print("\n| images | processes | seconds | predicted by a straight line | peak memory of a process |")
    print("|---|---|---|---|---|")
    for processes, rows in ((1, growth), (2, together)):
        for row in rows:
            said = start + slope * row["images"] / processes
            memory = f"{row['peak'] / 2**20:.0f} MiB"
            print(f"| {row['images']:,} | {processes} | {row['seconds']:.1f} | {said:.1f} | {memory} |")
    print(f"\n{1000 * slope:.1f} ms a photo and {start:.1f} s to start.")


def line(rows: list[dict[str, float]]) -> tuple[float, float]:
    """Return slope and intercept of the least-squares line through seconds over images."""
    slope, start = np.polyfit([row["images"] for row in rows], [row["seconds"] for row in rows], 1)
    return float(slope), float(start)


def costs(work: Work, images: float, classes: float, gpus: int, *, conditional: bool) -> dict[str, float]:
    """Return the seconds of each part; they overlap, so the longest is the time."""
    return {
        "reading": images * BYTES_PER_IMAGE / (READ_RATE * max(1.0, gpus / 8)),
        "decoding": images * DECODE_SECONDS / (CORES_PER_GPU * gpus),
        "image tower": images * work.image / (GPU_RATE * gpus),
        "text tower": images * classes * work.text / (GPU_RATE * gpus) if conditional else 0.0,
    }


def print_model(work: Work) -> None:
    """Print the third table: ViT-B/16 on H100s."""
    print(f"\nViT-B/16: {work.image / 1e9:.1f} GFLOP a photo, {work.text / 1e6:.0f} MFLOP a photo and class.")
    print("\n| images | classes | prompt | 1 GPU | 8 GPUs | 64 GPUs | US dollars | bottleneck (1, 8, 64 GPUs) |")
    print("|---|---|---|---|---|---|---|---|")
    for images in (1e6, 1e9):
        for classes, conditional in ((1e3, False), (1e3, True), (1e4, True), (1e5, True)):
            parts = [costs(work, images, classes, gpus, conditional=conditional) for gpus in (1, 8, 64)]
            # On a GPU the towers take turns.
            times = [max(p["reading"], p["decoding"], p["image tower"] + p["text tower"]) for p in parts]
            money = times[1] / 3600 * GPU_PRICE * 8
            names = ", ".join(dict.fromkeys(max(p, key=lambda name, p=p: p[name]) for p in parts))
            kind = "CoCoOp" if conditional else "static (CoOp, zero-shot)"
            cells = " | ".join(duration(seconds) for seconds in times)
            print(f"| {images:.0e} | {classes:,.0f} | {kind} | {cells} | {money:,.0f} | {names} |")


def duration(seconds: float) -> str:
    """Return a time in a readable unit."""
    for unit, size in (("years", 3600 * 24 * 365), ("days", 3600 * 24), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"


def draw(parts: list[dict[str, Any]], growth: list[dict[str, float]], path: Path) -> None:
    """Draw seconds and memory over images, and seconds over classes."""
    import matplotlib.pyplot as plt

    figure, (time_axis, memory_axis, class_axis) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    images = [row["images"] for row in growth]
    slope, start = line(growth)
    time_axis.plot(
        [0, images[-1]], [start, start + slope * images[-1]], color="#f2a65a", linewidth=4, label="straight line"
    )
    time_axis.plot(images, [row["seconds"] for row in growth], "o", color="#1d3557", label="measured")
    time_axis.set(title="Time is linear in images", xlabel="images", ylabel="seconds", ylim=(0, None))
    memory_axis.plot(images, [row["peak"] / 2**20 for row in growth], "o-", color="#1d3557")
    memory_axis.set(title="Memory is constant", xlabel="images", ylabel="peak MiB of the process", ylim=(0, None))
    texts = [row for row in parts if "classes" in row]
    share = texts[-1]["work"] / texts[-1]["seconds"]
    counts = [row["classes"] for row in texts]
    class_axis.loglog(
        counts, [row["work"] / share for row in texts], color="#f2a65a", linewidth=4, label="counted work"
    )
    class_axis.loglog(counts, [row["seconds"] for row in texts], "o", color="#1d3557", label="measured")
    class_axis.set(title="CoCoOp's text side is linear in classes", xlabel="classes", ylabel="seconds a photo")
    for axis in (time_axis, class_axis):
        axis.legend(frameon=False)
    for axis in (time_axis, memory_axis, class_axis):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    print(f"\nWritten: {path}")


if __name__ == "__main__":
    main()
