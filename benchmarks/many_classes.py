"""Measure training steps with very many classes: time, and memory against a budget.

Usage: python benchmarks/many_classes.py [--classes 1000 2000 4000] [--batch 8] [--budget-mib 2048]
"""

from __future__ import annotations

import argparse
import time

from probes import peak_bytes
from random_towers import imagenet_names, random_backbone


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--budget-mib", type=int, nargs="+", default=[2048])
    parser.add_argument("--shape", default="ViT-B/16")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    import torch

    from cocoop.methods import CoCoOp

    backbone = random_backbone(arguments.shape, device=arguments.device)
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters())
    print(f"weights {weights / 2**20:.0f} MiB; the peak is what a step holds beyond them")
    print(f"{'classes':>8} {'batch':>6} {'budget':>8} {'peak MiB':>9} {'s/step':>8} {'ms/class/image':>15}")
    for classes in arguments.classes:
        method = CoCoOp(backbone, imagenet_names(classes), seed=0)
        features = torch.randn(arguments.batch, backbone.embed_dim).to(backbone.device)
        labels = (torch.arange(arguments.batch) % classes).to(backbone.device)

        def step(method: CoCoOp = method, features: torch.Tensor = features, labels: torch.Tensor = labels) -> None:
            for loss, _ in method.losses(features, labels):
                loss.backward()

        for budget in arguments.budget_mib:
            backbone.text_tower.memory_budget = budget * 2**20
            peak = peak_bytes(step, backbone.device)
            start = time.perf_counter()
            step()
            seconds = time.perf_counter() - start
            each = seconds / classes / arguments.batch * 1000
            print(
                f"{classes:>8} {arguments.batch:>6} {budget:>8} {peak / 2**20:>9.0f} {seconds:>8.2f} {each:>15.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
