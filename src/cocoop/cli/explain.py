"""`cocoop explain`: show what a prompt learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from cocoop.cli.console import image_progress, note, out
from cocoop.cli.options import DATA_HELP, Device, ReadingOptions, optional_flag, pick_device
from cocoop.config import ClassSubset, Precision

__all__ = ["ExplainCommand"]


@dataclass(frozen=True, kw_only=True)
class ExplainCommand:
    """Show what a prompt learned: words near its context; with DATA, also how images shift it and whether it matters.

    Writes explain.json and explain.html."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Directory written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    data: Annotated[
        tyro.conf.Positional[Path | None],
        tyro.conf.arg(metavar="DATA", help_behavior_hint="(default: words only)", help=f"For CoCoOp. {DATA_HELP}"),
    ] = None
    """The data set."""
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    classes: ClassSubset = "all"
    """All classes of DATA, the base ones (the first half, rounded up), or the new ones (the rest)."""
    all_images: bool = False
    """Use all images, not only test images; of data without splits, these are 3 in 10."""
    words: int = 5
    """Vocabulary words to name for each context vector."""
    seeds: int = 5
    """Number of times that the control draws noise and other images."""
    output: Annotated[Path | None, optional_flag("PATH", "explain, in RUN; for a hub repository, here")] = None
    """Directory to write to."""
    batch_size: int = 64
    """Images encoded at once."""
    workers: int = 2
    """Processes that decode images."""
    skip_unreadable: bool = False
    """Leave unreadable images out and count them, instead of failing."""
    precision: Annotated[Precision | None, optional_flag("{fp32,bf16,fp16}", "as in training")] = None
    """Data type of the frozen towers."""
    device: Device = "auto"
    """Device to compute on."""

    def run(self) -> None:
        """Explain the prompt, print the tables and write the files."""
        data = None
        if self.data is not None:
            data = self.reading.read(self.data).select(self.classes)
            data = data.all_for_testing() if self.all_images else data
            data.check_files(["test"])

        from cocoop import explain
        from cocoop.report.explain_page import write_explanation

        with image_progress("encoding test images") as on_encode, image_progress("control", "passes") as on_control:
            record = explain(
                self.source,
                data,
                words=self.words,
                seeds=self.seeds,
                batch_size=self.batch_size,
                workers=self.workers,
                skip_unreadable=self.skip_unreadable,
                precision=self.precision,
                device=pick_device(self.device),
                on_encode=on_encode,
                on_control=on_control,
            )
        _print(record)
        run = Path(self.source)
        files = write_explanation(record, self.output or (run if run.is_dir() else Path()) / "explain")
        note(f"Written: {', '.join(map(str, files))}.")


def _print(record: dict[str, Any]) -> None:
    from cocoop.report.explain_page import CONTROL_HEAD, control_rows, word_head, word_rows

    _table("Words near the context, with distances", word_head(record), word_rows(record))
    note(f"The nearest other word of a word is {record['word_distance']:.3f} away (median).")
    if "shifts" not in record:
        return
    shifts = record["shifts"]
    lengths = {
        "context vectors (mean)": shifts["context_norm"],
        "shift (mean)": shifts["norm_mean"],
        "common to all images": shifts["constant"],
        "different from image to image (RMS)": shifts["spread"],
    }
    _table(
        "How far images shift the prompt",
        ["shift of the context by Meta-Net", "length", "% of the context's"],
        [[name, f"{x:.3f}", f"{100 * x / shifts['context_norm']:.1f}"] for name, x in lengths.items()],
    )
    if shifts["between_classes"] is not None:
        note(f"{shifts['between_classes']:.0%} of the variance is between classes, the rest within them.")
    _table(f"Control on {shifts['images']} images", CONTROL_HEAD, control_rows(record))


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)
