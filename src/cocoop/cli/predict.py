"""`cocoop predict`: what is on these photos?"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from cocoop.cli.console import counting, line, out
from cocoop.cli.options import Device, OptionalInt, class_names, left_out, pick_device
from cocoop.config import Precision, check_whole
from cocoop.data.search import find_photos
from cocoop.errors import ConfigError

if TYPE_CHECKING:
    from cocoop.prediction import Prediction, Predictor

__all__ = ["PredictCommand"]


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Classify photos with a trained prompt, among the classes it was trained on or any others."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    images: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PHOTO ...", help_behavior_hint="(required)")
    ]
    """Photos, or folders of photos."""
    classes: Annotated[str | None, left_out("NAMES", "those it was trained on")] = None
    """Class names separated by commas, trained on or not: "tabby cat, maine coon"."""
    top_k: int = 1
    """How many classes to name for each photo."""
    format: Literal["table", "csv", "jsonl"] = "table"
    """How to print: a table, CSV, or one JSON object a line."""
    batch_size: int = 64
    """Photos at once."""
    workers: int = 0
    """Processes that decode photos; 0 is quickest for a few."""
    skip_bad_images: bool = False
    """Print unreadable photos with the reason instead of failing."""
    shortlist: OptionalInt = None
    """CoCoOp: compute only the INT most promising classes of each photo."""
    precision: Annotated[Precision | None, left_out("{fp32,bf16,fp16}", "as in training")] = None
    """Number type of the frozen towers."""
    device: Device = "auto"
    """Where to compute."""
    runtime: Literal["torch", "onnx"] = "torch"
    """What computes; onnx takes a folder of `cocoop export` as RUN."""

    def run(self) -> None:
        """Predict and print."""
        check_whole("top_k", self.top_k, 1)
        names = None if self.classes is None else class_names(self.classes)
        photos = find_photos(self.images)

        from cocoop.prediction import predict

        method = self._exported() if self.runtime == "onnx" else self._trained(names)
        predictions = predict(
            method,
            photos,
            top_k=self.top_k,
            batch_size=self.batch_size,
            workers=self.workers,
            skip_bad_images=self.skip_bad_images,
            shortlist=self.shortlist,
        )
        # Lines that come as they are found show progress themselves, and a bar would run into them.
        visible = self.format == "table" or not sys.stdout.isatty()
        with counting("classifying", visible=visible) as progress:
            FORMATS[self.format](_counted(predictions, len(photos), progress))

    def _trained(self, names: list[str] | None) -> Predictor:
        from cocoop.checkpoint import from_pretrained

        method = from_pretrained(self.source, precision=self.precision, device=pick_device(self.device))
        if names is not None:
            method.set_classes(names)
        return method

    def _exported(self) -> Predictor:
        for flag, value in (("classes", self.classes), ("precision", self.precision), ("shortlist", self.shortlist)):
            if value is not None:
                raise ConfigError(
                    f"--{flag} cannot change what was exported; export again with it, or use --runtime torch."
                    if flag == "classes"
                    else f"--{flag} is no part of what was exported; leave it out, or use --runtime torch."
                )
        from cocoop.export.folder import OnnxPrompt

        return OnnxPrompt(self.source)


def _counted(
    predictions: Iterable[Prediction], total: int, progress: Callable[[int, int], None]
) -> Iterator[Prediction]:
    for done, prediction in enumerate(predictions, 1):
        progress(done, total)
        yield prediction


def _table(predictions: Iterable[Prediction]) -> None:
    table = Table("photo", "class", show_edge=False)
    table.add_column("probability", justify="right")
    for p in predictions:
        if p.error is not None:
            table.add_row(p.path, f"unreadable: {p.error}", "", style="red")
        for rank, (name, probability) in enumerate(zip(p.classes, p.probabilities, strict=True)):
            table.add_row("" if rank else p.path, name, f"{probability:.3f}")
    out.print(table)


def _csv(predictions: Iterable[Prediction]) -> None:
    line(_csv_row(["path", "rank", "class", "probability", "error"]))
    for p in predictions:
        if p.error is not None:
            line(_csv_row([p.path, "", "", "", p.error]))
        for rank, (name, probability) in enumerate(zip(p.classes, p.probabilities, strict=True), 1):
            line(_csv_row([p.path, rank, name, f"{probability:.6f}", ""]))


def _csv_row(cells: list[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _json_lines(predictions: Iterable[Prediction]) -> None:
    for p in predictions:
        best = [
            {"class": name, "probability": round(probability, 6)}
            for name, probability in zip(p.classes, p.probabilities, strict=True)
        ]
        row = {"path": p.path, "predictions": best} | ({} if p.error is None else {"error": p.error})
        line(json.dumps(row, ensure_ascii=False))


FORMATS: dict[str, Callable[[Iterable[Prediction]], None]] = {
    "table": _table,
    "csv": _csv,
    "jsonl": _json_lines,
}
"""How predictions are printed, by the name of the format."""
