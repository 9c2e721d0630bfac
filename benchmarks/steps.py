"""Measure training steps with the optimiser on random features, and extrapolate the papers' runs.

Usage: python benchmarks/steps.py [--device cuda] [--compile] [--precision bf16] [--steps 2000]

The base-to-new run: 50 classes, batch 1, 16 shots, 10 epochs: 8,000 steps. ImageNet: 1,000 classes, 160,000 steps.
Both are extrapolated from the steps that were run.
"""

from __future__ import annotations

import argparse
import time

import torch
from random_towers import imagenet_names, random_backbone

from cocoop.methods import CoCoOp

RUNS = {"base-to-new, 50 classes": (50, 8_000), "ImageNet, 1,000 classes": (1000, 160_000)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--shape", default="ViT-B/16")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--compile", action="store_true", help="torch.compile the text tower, with CUDA graphs")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    for name, (classes, steps) in RUNS.items():
        backbone = random_backbone(arguments.shape, arguments.precision, arguments.device)
        if arguments.compile:
            backbone.text_tower.compile(mode="reduce-overhead")
        method = CoCoOp(backbone, imagenet_names(classes), seed=0)
        optimizer = torch.optim.SGD(method.learned().values(), lr=2e-3, momentum=0.9, weight_decay=5e-4)
        features = torch.randn(256, backbone.embed_dim, generator=torch.Generator().manual_seed(0)).to(device)
        labels = (torch.arange(256) % classes).to(device)

        def step(i: int, method: CoCoOp = method, optimizer: torch.optim.SGD = optimizer, x: torch.Tensor = features,
                 y: torch.Tensor = labels) -> None:  # fmt: skip
            optimizer.zero_grad()
            row = slice(i % 256, i % 256 + 1)
            for loss, _ in method.losses(x[row], y[row]):
                loss.backward()
            optimizer.step()

        for i in range(3):
            step(i)
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(arguments.steps):
            step(i)
        if device.type == "cuda":
            torch.cuda.synchronize()
        each = (time.perf_counter() - start) / arguments.steps
        print(
            f"{name}: {each * 1000:.2f} ms a step over {arguments.steps} steps; {steps:,} steps: {each * steps:.0f} s"
        )


if __name__ == "__main__":
    main()
