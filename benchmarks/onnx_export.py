"""ONNX beside PyTorch: parity, size and time an image, for each method; a Markdown table.

Usage: python benchmarks/onnx_export.py [--backbone lite] [--classes 50] [--threads 1]

Names are ImageNet's; prompts are as they begin, since what was learned changes no time.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from random_towers import imagenet_names

from cocoop import CoCoOp, CoOp, ZeroShot, load_backbone
from cocoop.inference.onnx import OnnxPrompt, export
from cocoop.inference.onnx_comparison import milliseconds_an_image, pytorch_bytes


def main() -> None:
    """Export each method, print."""
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
    print(
        "| method | probabilities apart | MB, PyTorch | MB, ONNX | ms an image, PyTorch (1, 8 at once) | ONNX (1, 8) |"
    )
    print("|---|---|---|---|---|---|")
    for name, method in methods.items():
        with tempfile.TemporaryDirectory() as home:
            report = export(method, Path(home) / "onnx")
            prompt = OnnxPrompt(report.directory, threads=arguments.threads)
            times = milliseconds_an_image(method, prompt, rounds=5)
        by_torch, by_onnx = (", ".join(f"{pair[side]:.1f}" for pair in times.values()) for side in (0, 1))
        sizes = f"{pytorch_bytes(method) / 1e6:.0f} | {report.onnx_bytes / 1e6:.0f}"
        print(f"| {name} | {report.difference:.1e} | {sizes} | {by_torch} | {by_onnx} |", flush=True)


if __name__ == "__main__":
    main()
