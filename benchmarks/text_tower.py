"""Time of CoCoOp's text side, forward and backward: ours beside the published computation, interleaved, medians.

Usage: python benchmarks/text_tower.py [--classes 50] [--batch 8] [--rounds 3]
The shape is ViT-B/16's text tower with random weights; the names are ImageNet's; fp32.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from cocoop import CoCoOp
from conftest import make_tiny_backbone
from oracle import conditional_logits


def step(logits, learned, labels):
    """Forward and backward; returns seconds of each and the gradients."""
    start = time.perf_counter()
    loss = F.cross_entropy(logits(), labels)
    middle = time.perf_counter()
    gradients = torch.autograd.grad(loss, learned)
    return middle - start, time.perf_counter() - middle, gradients


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    names = list(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES))[: arguments.classes]
    backbone = make_tiny_backbone(width=512, layers=12, heads=8, embed_dim=512)
    for name, parameter in backbone.text_tower.named_parameters():
        if ".ln_" not in f".{name}":
            parameter.data *= 0.02 / 0.15
    method = CoCoOp(backbone, names, seed=0)
    learned = list(method.learned().values())
    x = torch.randn(arguments.batch, 512)
    labels = torch.arange(arguments.batch) % len(names)

    def published():
        return conditional_logits(backbone, names, x, method.context, method.meta_net)

    def ours():
        return method.logits(x)

    step(ours, learned, labels)
    times: dict[str, list[tuple[float, float]]] = {"published": [], "ours": []}
    gradients = {}
    for _ in range(arguments.rounds):
        for name, logits in (("published", published), ("ours", ours)):
            forward, backward, gradients[name] = step(logits, learned, labels)
            times[name].append((forward, backward))
    print(f"{len(names)} classes, batch {arguments.batch}, {torch.get_num_threads()} threads, fp32, seconds (medians)")
    print(f"{'':<12}{'forward':>10}{'backward':>10}{'step':>10}")
    steps = {}
    for name, rows in times.items():
        forward, backward = (statistics.median(row[i] for row in rows) for i in (0, 1))
        steps[name] = statistics.median(sum(row) for row in rows)
        print(f"{name:<12}{forward:>10.3f}{backward:>10.3f}{steps[name]:>10.3f}")
    print(f"ratio of a step: {steps['published'] / steps['ours']:.1f}")
    worst = max(
        ((a - b).abs().max() / b.abs().max()).item()
        for a, b in zip(gradients["ours"], gradients["published"], strict=True)
    )
    print(f"largest difference of a gradient, relative to its largest entry: {worst:.1e}")


if __name__ == "__main__":
    main()
