"""Made-up records of sweeps for tests of reports."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path

METHODS = ("zero-shot", "coop", "cocoop")
PAPER = {"backbone": "ViT-B/16"}


def numbers(accuracy, *, data="photos", names=("cat", "dog", "owl"), seed=0):
    """Return the numbers of one test, with classes around the accuracy and two confusions."""
    draw = random.Random(f"{accuracy} {data} {seed}")
    per_class = {name: min(100.0, max(0.0, accuracy + draw.uniform(-30, 30))) for name in names}
    bins = [[0, 0, 0]] * 5 + [[10 * k, 6.67 * k + 3, min(100, 6.67 * k + draw.uniform(-8, 8))] for k in range(5, 15)]
    return {
        "data": data,
        "classes": len(names),
        "images": 700,
        "skipped": 1,
        "overlap": 2,
        "accuracy": accuracy,
        "macro_f1": accuracy - 1,
        "ece": 3.5,
        "per_class": per_class,
        "confusions": [[names[0], names[1], 9], [names[1], names[-1], 4]],
        "reliability": bins,
    }


def record(method, tests, *, protocol="base-to-new", data="photos", seed=1, **more):
    """Return a complete record; `tests` holds accuracies, or numbers as `numbers` returns them."""
    zero = method == "zero-shot"
    tests = {name: value if isinstance(value, dict) else numbers(value, seed=seed) for name, value in tests.items()}
    halves = [tests[half]["accuracy"] for half in ("base", "new") if half in tests]
    epochs = 8 if method == "coop" else 4
    return {
        "format": 1,
        "protocol": protocol,
        "data": data,
        "method": method,
        "seed": None if zero else seed,
        "shots": None if zero else 16,
        "preset": "paper",
        "changes": {},
        "backbone": "lite",
        "precision": "fp32",
        "settings": {"context": "a photo of a"},
        "train": None if zero else {"epochs": epochs, "batch_size": 1, "learning_rate": 0.002},
        "classes": 3,
        "train_images": 0 if zero else 48,
        "split_sha256": "ab" * 32,
        "tests": tests,
        "harmonic_mean": statistics.harmonic_mean(halves) if len(halves) == 2 else None,
        "history": []
        if zero
        else [
            {"epoch": e, "loss": 2.0 / e, "accuracy": 50.0 + e, "learning_rate": 0.002, "images": 48, "seconds": 1.0}
            for e in range(1, epochs + 1)
        ],
        "seconds": {"training": 0.0 if zero else 100.0 + seed, "evaluation": 4.0},
        "peak_memory_bytes": 2**30,
        "versions": {"cocoop": "0.1", "python": "3.11", "torch": "2.6", "open_clip_torch": "2.30"},
        "machine": {"processor": "made up", "threads": 1, "device": "cpu"},
        "finished": "2026-01-02T03:04:05Z",
        **more,
    }


def failure(method, reason, **more):
    kept = ("format", "protocol", "data", "method", "seed", "shots", "preset", "changes", "backbone")
    whole = record(method, {}, **more)
    return {name: whole[name] for name in kept} | {"reason": reason, "details": "", "failed": "2026-01-02T03:04:05Z"}


def write_sweep(directory: Path, records, failures=()) -> Path:
    for number, content in enumerate([*records, *failures]):
        run = directory / "runs" / f"{number:04}"
        run.mkdir(parents=True)
        name = "failure.json" if "reason" in content else "record.json"
        (run / name).write_text(json.dumps(content), encoding="utf-8")
    return directory
