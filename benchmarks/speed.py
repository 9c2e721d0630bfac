"""Compare CoCoOp's text side with the published computation: training steps, evaluation and memory.

    python benchmarks/speed.py                              # all sizes: about half an hour on 2 cores
    python benchmarks/speed.py --classes 10 50 --batch 1    # a minute

The text tower has a published shape and random weights, the class names are ImageNet's, and the image features are
random, because the image tower is the same in both. The published computation takes one image after the other; beyond
`--published-prompts` prompts (classes x images) it is measured on fewer prompts and scaled in proportion, and the
record says so.

Shapes: B images, C classes, M context vectors.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from probes import matmul_rate, matmul_work, median_seconds, peak_bytes
from random_towers import imagenet_names, random_backbone
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cocoop.backbones.backbone import DTYPES, Backbone
from cocoop.config import Precision
from cocoop.methods import CoCoOp, CoOp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from reference import conditional_logits


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Compare CoCoOp's text side with the published computation."""

    classes: tuple[int, ...] = (10, 50, 100, 397, 1000)
    """Numbers of classes, C."""
    batch: tuple[int, ...] = (1, 8)
    """Images at once, B."""
    context_length: tuple[int, ...] = (4, 16)
    """Context vectors, M."""
    shape: Literal["ViT-B/16", "ViT-L/14", "tiny"] = "ViT-B/16"
    """Shape of the text tower."""
    precision: Precision = "fp32"
    """Number type of our towers; the published computation stays in fp32."""
    rounds: int = 3
    """Turns of each computation; the median counts."""
    published_prompts: int = 100
    """Most prompts (classes x images) for which the published computation is really run."""
    memory: bool = True
    """Also measure peak memory, in a step of its own."""
    device: str = "cpu"
    """Device to compute on."""
    threads: int | None = None
    """CPU threads; None leaves the choice to PyTorch."""
    output: Path = Path("bench")
    """Directory for speed.json and speed.png."""

    def __post_init__(self) -> None:
        """Check the numbers, so that a wrong one is found before anything is measured."""
        for name in ("classes", "published_prompts"):
            values = getattr(self, name)
            if min(values if isinstance(values, tuple) else (values,)) < 2:
                raise ValueError(f"{name} must be 2 or more")
        if min(*self.batch, *self.context_length, self.rounds) < 1:
            raise ValueError("batch, context_length and rounds must be 1 or more")


class Case(NamedTuple):
    """Size of one measurement."""

    classes: int
    batch: int
    context_length: int


class Task:
    """One method on random features, ready to be timed."""

    def __init__(self, backbone: Backbone, case: Case, kind: type[CoOp] | type[CoCoOp] = CoCoOp) -> None:
        self.case, self.device = case, backbone.device
        names = imagenet_names(case.classes)
        self.method: Any = kind(backbone, names, None, context_length=case.context_length, seed=0)
        features = torch.randn(case.batch, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
        self.features = features.to(self.device)
        self.labels = (torch.arange(case.batch) % case.classes).to(self.device)
        self.scorer = self.method.scorer()

    def step(self) -> None:
        """Take the gradients of a training step, without the optimiser."""
        for loss, _ in self.method.losses(self.features, self.labels):
            loss.backward()

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Classify the batch."""
        return self.scorer(self.features).argmax(-1)

    def published_step(self) -> None:
        """Take the same gradients by the published computation."""
        F.cross_entropy(self._published_logits(), self.labels).backward()

    @torch.no_grad()
    def published_evaluate(self) -> Tensor:
        """Classify the batch by the published computation."""
        return self._published_logits().argmax(-1)

    def _published_logits(self) -> Tensor:
        method = self.method
        return conditional_logits(method.backbone, method.classnames, self.features, method.context, method.meta_net)


def measure_case(case: Case, settings: Settings, ours: Backbone, fp32: Backbone) -> dict[str, Any]:
    """Measure one size.

    Returns:
        Plain JSON: for `published` and `ours` the seconds of a training step and of an evaluation of the batch, and the
        peak bytes of the step; the ratios; our matrix-product work, the machine's rate, our share of it.
    """
    task = Task(ours, case)
    affordable = min(case.classes, settings.published_prompts)
    batch = min(case.batch, max(1, settings.published_prompts // affordable))
    published = Task(fp32, case._replace(classes=affordable, batch=batch))
    scale = case.classes * case.batch / (affordable * batch)
    task.step()
    calls = {
        "published step": published.published_step,
        "step": task.step,
        "published evaluation": published.published_evaluate,
        "evaluation": task.evaluate,
    }
    # The rate changes with the machine's other work, so it is measured before and after.
    before = matmul_rate(task.device, DTYPES[settings.precision])
    seconds = median_seconds(calls, settings.rounds, task.device)
    rate = max(before, matmul_rate(task.device, DTYPES[settings.precision]))
    work = matmul_work(task.step)
    record: dict[str, Any] = {
        **case._asdict(),
        "rows": task.method.prompts.rows,
        "published_rows": 77 * case.classes,
        "published": {
            "step_seconds": seconds["published step"] * scale,
            "evaluation_seconds": seconds["published evaluation"] * scale,
            "measured_prompts": affordable * batch,
            "scaled_by": scale,
        },
        "ours": {"step_seconds": seconds["step"], "evaluation_seconds": seconds["evaluation"]},
        "step_matmul_operations": work,
        "matmul_operations_per_second": rate,
        "rate_share": work / seconds["step"] / rate,
        "floor_seconds": work / rate,
        "step_ratio": seconds["published step"] * scale / seconds["step"],
        "evaluation_ratio": seconds["published evaluation"] * scale / seconds["evaluation"],
    }
    if settings.memory:
        record["published"]["peak_bytes"] = int(peak_bytes(published.published_step, task.device) * scale)
        record["ours"]["peak_bytes"] = peak_bytes(task.step, task.device)
        record["memory_ratio"] = record["published"]["peak_bytes"] / record["ours"]["peak_bytes"]
    return record


def compare_methods(settings: Settings, backbone: Backbone, *, classes: int = 50, batch: int = 32) -> dict[str, Any]:
    """Measure a CoCoOp step beside a CoOp step of the same batch: seconds, and the arithmetic that each needs."""
    case = Case(classes, batch, 4)
    calls = {kind.key: Task(backbone, case, kind).step for kind in (CoOp, CoCoOp)}
    for call in calls.values():
        call()
    seconds = median_seconds(calls, settings.rounds, backbone.device)
    work = {key: matmul_work(call) for key, call in calls.items()}
    return {
        **case._asdict(),
        "coop_seconds": seconds["coop"],
        "cocoop_seconds": seconds["cocoop"],
        "time_ratio": seconds["cocoop"] / seconds["coop"],
        "arithmetic_ratio": work["cocoop"] / work["coop"],
    }


def describe_machine(settings: Settings) -> dict[str, Any]:
    """Describe what is measured on."""
    device = torch.device(settings.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": settings.device,
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "shape": settings.shape,
        "precision": settings.precision,
        "matmul_operations_per_second": matmul_rate(device, DTYPES[settings.precision]),
    }


def speed_table(record: Mapping[str, Any]) -> Table:
    """Make a table with a row for each size: published and ours, and the ratio."""
    machine = record["machine"]
    rate = median(case["matmul_operations_per_second"] for case in record["cases"]) / 1e9
    table = Table(
        title=f"CoCoOp, text tower of {machine['shape']}, ours in {machine['precision']}, published in fp32",
        caption=(
            f"{machine['name']}, {machine['threads']} threads, torch {machine['torch']}; "
            f"matrix products at {rate:.0f} GFLOP/s.\n"
            "C classes, B images, M context vectors; published → ours, and their ratio.\n"
            "rate: share of the machine's matrix-product rate that our step reaches.\n"
            "~ the published computation was measured on fewer prompts and scaled in proportion."
        ),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("C", "B", "M", "training step", "times", "rate", "evaluation", "times", "peak memory", "times"):
        table.add_column(name, justify="right")
    for case in record["cases"]:
        theirs, ours = case["published"], case["ours"]
        approximately = "~" if theirs["scaled_by"] > 1 else ""
        memory = ["", ""]
        if "memory_ratio" in case:
            pair = f"{approximately}{_size(theirs['peak_bytes'])} → {_size(ours['peak_bytes'])}"
            memory = [pair, f"{case['memory_ratio']:.1f}"]
        table.add_row(
            *(str(case[name]) for name in ("classes", "batch", "context_length")),
            f"{approximately}{_seconds(theirs['step_seconds'])} → {_seconds(ours['step_seconds'])}",
            f"{case['step_ratio']:.1f}",
            f"{case['rate_share']:.0%}",
            f"{approximately}{_seconds(theirs['evaluation_seconds'])} → {_seconds(ours['evaluation_seconds'])}",
            f"{case['evaluation_ratio']:.1f}",
            *memory,
        )
    return table


def methods_line(record: Mapping[str, Any]) -> str:
    """Describe a CoCoOp step beside a CoOp step in one sentence."""
    m = record["methods"]
    return (
        f"A step of {m['batch']} images and {m['classes']} classes: CoOp {_seconds(m['coop_seconds'])}, CoCoOp "
        f"{_seconds(m['cocoop_seconds'])}, {m['time_ratio']:.1f} times; "
        f"the arithmetic needs {m['arithmetic_ratio']:.1f} times."
    )


def speed_plot(record: Mapping[str, Any], path: Path) -> None:
    """Draw the seconds of a step and of an evaluation over the number of classes."""
    cases = record["cases"]
    batches = sorted({case["batch"] for case in cases})
    context = min(case["context_length"] for case in cases)
    figure = Figure(figsize=(4.6 * len(batches), 4.2), layout="constrained")
    axes = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
    styles = (("step", "step_seconds", "-"), ("evaluation", "evaluation_seconds", "--"))
    for axis, batch in zip(axes, batches, strict=True):
        chosen = [c for c in cases if c["batch"] == batch and c["context_length"] == context]
        classes = [c["classes"] for c in chosen]
        for what, key, style in styles:
            _line(axis, classes, [c["published"][key] for c in chosen], f"published, {what}", "#b4543a", style)
            _line(axis, classes, [c["ours"][key] for c in chosen], f"cocoop, {what}", "#1f6f8b", style)
        floor = [c["floor_seconds"] for c in chosen]
        axis.plot(classes, floor, ":", color="#777777", label="lower bound of a step: its matrix products alone")
        axis.set(xscale="log", yscale="log", xlabel="classes", title=f"{batch} image{'s' * (batch > 1)} at once")
        axis.set_xticks(classes, [str(c) for c in classes])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=min(3, 1 + len(batches)), frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _line(axis: Any, x: list[int], y: list[float], label: str, colour: str, style: str) -> None:
    axis.plot(x, y, style, marker="o", markersize=4, color=colour, label=label)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def main() -> None:
    """Measure, print and write."""
    settings = tyro.cli(Settings, config=(tyro.conf.FlagCreatePairsOff,))
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    cases = [Case(c, b, m) for m in settings.context_length for b in settings.batch for c in settings.classes]
    fp32 = random_backbone(settings.shape, "fp32", settings.device)
    ours = fp32
    if settings.precision != "fp32":
        ours = random_backbone(settings.shape, settings.precision, settings.device)
    plan = dataclasses.asdict(settings) | {"output": str(settings.output)}
    record: dict[str, Any] = {"plan": plan, "machine": describe_machine(settings), "cases": []}
    settings.output.mkdir(parents=True, exist_ok=True)
    progress, results = Console(stderr=True), Console(highlight=False)

    def write() -> None:
        (settings.output / "speed.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    for case in cases:
        measured = measure_case(case, settings, ours, fp32)
        record["cases"].append(measured)
        progress.print(
            f"{case.classes} classes, {case.batch} images, {case.context_length} context vectors: "
            f"{measured['ours']['step_seconds']:.3f} s a step, {measured['step_ratio']:.1f} times faster than published"
        )
        # Written after each size, so that a stopped measurement keeps what it has.
        write()
    record["methods"] = compare_methods(settings, ours)
    write()
    speed_plot(record, settings.output / "speed.png")
    results.print(speed_table(record))
    results.print(methods_line(record))


if __name__ == "__main__":
    main()
