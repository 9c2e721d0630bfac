"""Compare ONNX with PyTorch for each method: parity, size, milliseconds per image. Prints a Markdown table.

Usage: python benchmarks/onnx_export.py [--backbone lite] [--classes 50] [--threads 1]

Class names are ImageNet's; prompts are untrained, since training does not change the time.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from probes import median_seconds
from random_towers import imagenet_names

from cocoop import CoCoOp, CoOp, Method, ZeroShot, load_backbone
from cocoop.inference.onnx import OnnxPrompt, export_onnx


def main() -> None:
    """Export and measure each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="lite")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.backbone)
    names = imagenet_names(arguments.classes)
    methods = {
        "zero-shot": ZeroShot(backbone, names),
        "CoOp": CoOp(backbone, names, seed=1),
        "CoCoOp": CoCoOp(backbone, names, seed=1),
    }
    print("| method | largest difference | MB, PyTorch | MB, ONNX | ms per image, PyTorch (batch 1, 8) | ONNX (1, 8) |")
    print("|---|---|---|---|---|---|")
    for name, method in methods.items():
        with tempfile.TemporaryDirectory() as home:
            report = export_onnx(method, Path(home) / "onnx")
            prompt = OnnxPrompt(report.directory, threads=arguments.threads)
            times = milliseconds_per_image(method, prompt)
        by_torch, by_onnx = (", ".join(f"{pair[side]:.1f}" for pair in times.values()) for side in (0, 1))
        sizes = f"{report.torch_bytes / 1e6:.0f} | {report.onnx_bytes / 1e6:.0f}"
        print(f"| {name} | {report.difference:.1e} | {sizes} | {by_torch} | {by_onnx} |", flush=True)


def milliseconds_per_image(
    method: Method, exported: OnnxPrompt, batches: Sequence[int] = (1, 8)
) -> dict[int, tuple[float, float]]:
    """Return median milliseconds per image in PyTorch and in onnxruntime, by batch size."""
    size, scorer = method.preprocessing.size, method.image_scorer()
    times = {}
    for batch in batches:
        images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        calls = {"torch": lambda images=images: scorer(images), "onnx": lambda images=images: exported(images)}
        seconds = median_seconds(calls, 5, torch.device("cpu"), turn=0.3)
        times[batch] = (1000 * seconds["torch"] / batch, 1000 * seconds["onnx"] / batch)
    return times


if __name__ == "__main__":
    main()
