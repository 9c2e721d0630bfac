"""Compare one process with several: loss of every step, final prompts, test accuracy, seconds per step.

Usage: python benchmarks/processes.py DATA [--processes 2] [--shots 16] [--epochs 2] [--output bench/processes]

DATA is anything that `cocoop train` takes. torchrun starts each number of processes, one after the other, with one
thread per process; images are encoded before the time is taken. CoCoOp's work is divided in two ways: batches of 8 by
image, and batches of one by class.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

CASES = {"batch 8, photos shared out": (8, False), "batch 1, classes shared out": (1, True)}
"""Batch size, and True if classes are divided instead of images."""


def main() -> None:
    """Run all numbers of processes, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--splits", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--backbone", default="lite")
    parser.add_argument("--output", type=Path, default=Path("bench/processes"))
    arguments = parser.parse_args()
    if "WORLD_SIZE" in os.environ:
        work(arguments)
        return
    results = [launched(count, arguments) for count in (1, arguments.processes)]
    for case in CASES:
        one, several = (result[case] for result in results)
        apart = max(abs(a - b) for a, b in zip(one["losses"], several["losses"], strict=True))
        prompts = max(abs(a - b) for a, b in zip(one["prompt"], several["prompt"], strict=True))
        print(
            f"{case}: {len(one['losses'])} steps, losses apart by at most {apart:.1e}, prompts by {prompts:.1e}; "
            f"test accuracy {one['accuracy']:.2f} and {several['accuracy']:.2f} %; a step "
            f"{1000 * one['seconds']:.0f} and {1000 * several['seconds']:.0f} ms, "
            f"{one['seconds'] / several['seconds']:.2f} times as fast"
        )
    draw(results, arguments)


def launched(count: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the results of a number of processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COCOOP_COUNT": str(count)}
    subprocess.run([*launcher, *sys.argv], env=environment, check=True)
    result: dict[str, Any] = json.loads((arguments.output / f"{count}.json").read_text())
    return result


def work(arguments: argparse.Namespace) -> None:
    """Run all cases in one of the processes."""
    import torch

    from cocoop import CoCoOp, TrainConfig, encode_split, evaluate, fit, load_backbone, load_data
    from cocoop.training.distributed import Processes, launched_engine
    from cocoop.training.feature_cache import FeatureCache, default_cache_directory

    torch.set_num_threads(1)
    engine = launched_engine("cpu")
    processes = Processes(engine)
    backbone = load_backbone(arguments.backbone)
    data = (
        load_data(arguments.data, data_root=arguments.data_root, splits=arguments.splits)
        .few_shot(arguments.shots, seed=1)
        .base()
    )
    cache = FeatureCache(default_cache_directory(), backbone)
    tests = encode_split(backbone, data, cache=cache, processes=processes)
    encode_split(backbone, data, "train", cache=cache, processes=processes)
    results = {}
    for case, (batch, by_classes) in CASES.items():
        method = CoCoOp(backbone, data.classnames, seed=1)
        config = TrainConfig(epochs=arguments.epochs, batch_size=batch, warmup_epochs=0, cache_features=True)
        steps: list[tuple[float, int, float]] = []

        def on_step(report, steps=steps):
            steps.append((report.loss * report.images, report.images, time.perf_counter()))

        fit(method, data, config, engine=engine, class_parallel=by_classes, cache=cache, on_step=on_step)
        # What is reported are means of an epoch so far.
        losses = [steps[0][0] / batch]
        for (before, images_before, _), (sum_so_far, images, _) in pairwise(steps):
            losses.append((sum_so_far - (before if images > images_before else 0)) / batch)
        results[case] = {
            "losses": losses,
            "prompt": torch.cat([t.detach().flatten() for t in method.learned().values()]).tolist(),
            "accuracy": evaluate(method, tests, engine=engine).accuracy,
            "seconds": median(b - a for (*_, a), (*_, b) in pairwise(steps)),
        }
    if processes.is_first:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / f"{processes.count}.json").write_text(json.dumps(results))


def draw(results: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Draw the losses of one process and of several over the steps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(CASES), figsize=(11, 3.6), layout="constrained")
    for axis, case in zip(axes, CASES, strict=True):
        one, several = (smoothed(result[case]["losses"]) for result in results)
        axis.plot(one, color="#f2a65a", linewidth=5, label="1 process")
        axis.plot(several, color="#1d3557", linewidth=1.2, linestyle="--", label=f"{arguments.processes} processes")
        axis.set(title=f"CoCoOp, {case}", xlabel="step", ylabel="loss (mean of 25 steps)")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.output / "processes.png", dpi=120)
    print(f"Written: {arguments.output / 'processes.png'}")


def smoothed(losses: list[float], width: int = 25) -> list[float]:
    """Return the running mean."""
    return [sum(losses[max(0, i + 1 - width) : i + 1]) / min(width, i + 1) for i in range(len(losses))]


if __name__ == "__main__":
    main()
