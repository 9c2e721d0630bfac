"""Speed records as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

__all__ = ["methods_line", "speed_plot", "speed_table"]


def speed_table(record: Mapping[str, Any]) -> Table:
    """One row a size: seconds of a step and of an evaluation, peak memory, and how many times less than published."""
    machine = record["machine"]
    rate = median(case["matmul_operations_per_second"] for case in record["cases"]) / 1e9
    table = Table(
        title=f"CoCoOp, text tower of {machine['shape']}, ours in {machine['precision']}, published in fp32",
        caption=(
            f"{machine['name']}, {machine['threads']} threads, torch {machine['torch']}; "
            f"matrix products at {rate:.0f} GFLOP/s.\n"
            "C classes, B images, M context vectors; published → ours, and how many times less.\n"
            "rate: share of the rate at that time which our step reaches, counting its matrix products alone.\n"
            "~ the published computation was measured on fewer prompts and scaled in proportion."
        ),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("C", "B", "M", "training step", "times", "rate", "evaluation", "times", "peak memory", "times"):
        table.add_column(name, justify="right")
    for case in record["cases"]:
        theirs, ours = case["published"], case["ours"]
        about = "~" if theirs["scaled_by"] > 1 else ""
        memory = ["", ""]
        if "memory_ratio" in case:
            pair = f"{about}{_size(theirs['peak_bytes'])} → {_size(ours['peak_bytes'])}"
            memory = [pair, f"{case['memory_ratio']:.1f}"]
        table.add_row(
            *(str(case[name]) for name in ("classes", "batch", "context_length")),
            f"{about}{_seconds(theirs['step_seconds'])} → {_seconds(ours['step_seconds'])}",
            f"{case['step_ratio']:.1f}",
            f"{case['rate_share']:.0%}",
            f"{about}{_seconds(theirs['evaluation_seconds'])} → {_seconds(ours['evaluation_seconds'])}",
            f"{case['evaluation_ratio']:.1f}",
            *memory,
        )
    return table


def methods_line(record: Mapping[str, Any]) -> str:
    """A CoCoOp step beside a CoOp step, in one sentence."""
    m = record["methods"]
    return (
        f"A step of {m['batch']} images and {m['classes']} classes: CoOp {_seconds(m['coop_seconds'])}, CoCoOp "
        f"{_seconds(m['cocoop_seconds'])}, {m['time_ratio']:.1f} times; "
        f"the arithmetic demands {m['arithmetic_ratio']:.1f} times."
    )


def speed_plot(record: Mapping[str, Any], path: Path) -> None:
    """Seconds of a step and of an evaluation against the number of classes, published beside ours, as an image file."""
    from matplotlib.figure import Figure

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
        axis.plot(classes, floor, ":", color="#777777", label="floor of a step: its matrix products alone")
        axis.set(xscale="log", yscale="log", xlabel="classes", title=f"{batch} image{'s' * (batch > 1)} at once")
        axis.set_xticks(classes, [str(c) for c in classes])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=min(3, 1 + len(batches)), frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _line(axis: Any, x: Sequence[float], y: Sequence[float], label: str, colour: str, style: str) -> None:
    axis.plot(x, y, style, marker="o", markersize=4, color=colour, label=label)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(size: float) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
