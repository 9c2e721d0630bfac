"""`cocoop bench`: measurements."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cocoop.cli.console import note, out
from cocoop.report.speed import methods_line, speed_plot, speed_table
from cocoop.speed.measure import Backbones, Case, Plan, machine, measure_case, measure_methods
from cocoop.storage.files import write_json

__all__ = ["SpeedCommand"]


@dataclass(frozen=True, kw_only=True)
class SpeedCommand:
    """Time and memory of CoCoOp's text side on this machine, beside the published computation.

    A text tower of a published shape with random weights, ImageNet's class names: what is measured does not depend on
    what was learned. About half an hour on 2 cores; --classes 10 50 --batch 1 takes a minute."""

    classes: tuple[int, ...] = (10, 50, 100, 397, 1000)
    """Numbers of classes, C."""
    batch: tuple[int, ...] = (1, 8)
    """Images at once, B."""
    context_length: tuple[int, ...] = (4, 16)
    """Context vectors, M."""
    plan: Plan = field(default_factory=Plan)
    threads: int | None = None
    """Threads of a CPU; as PyTorch chooses if not given."""
    output: Path = Path("bench")
    """Folder for speed.json and speed.png."""

    def run(self) -> None:
        """Measure, print, write."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        # All sizes first: a wrong one must not wait for the others.
        cases = [
            Case(classes=c, batch=b, context_length=m)
            for m in self.context_length
            for b in self.batch
            for c in self.classes
        ]
        about, backbones = machine(self.plan), Backbones.of(self.plan)
        measured: list[dict[str, Any]] = []
        record = {"plan": dataclasses.asdict(self.plan), "machine": about, "cases": measured}
        for case in cases:
            done = measure_case(case, self.plan, backbones)
            measured.append(done)
            note(
                f"{case.classes} classes, {case.batch} images, {case.context_length} context vectors: "
                f"{done['ours']['step_seconds']:.3f} s a step, {done['step_ratio']:.1f} times faster than published"
            )
            # Written after each size, so that a long measurement that is stopped leaves what it has.
            write_json(self.output / "speed.json", record)
        record["methods"] = measure_methods(self.plan, backbones.ours)
        write_json(self.output / "speed.json", record)
        speed_plot(record, self.output / "speed.png")
        out.print(speed_table(record))
        out.print(methods_line(record), highlight=False)
        note(f"Written: {self.output / 'speed.json'}, {self.output / 'speed.png'}.")
