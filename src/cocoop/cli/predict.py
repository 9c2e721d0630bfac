"""`cocoop predict`: classify images with a trained prompt."""

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

from cocoop.cli.console import image_progress, line, note, out
from cocoop.cli.options import Device, OptionalInt, optional_flag, pick_device, split_class_names
from cocoop.config import Precision
from cocoop.data.find_images import find_images
from cocoop.data.shards.source import shard_kind
from cocoop.errors import ConfigError

if TYPE_CHECKING:
    from cocoop.inference.predictor import ModelSpec, Prediction

__all__ = ["PredictCommand"]


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Classify images with a trained prompt, among the classes of its training or any others."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run directory of `cocoop train`, or hub repository USER/NAME (USER/NAME@REVISION)."""
    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTO ...", help_behavior_hint="(required)")
    ]
    """Images or directories of images; with --output also shards (.tar, .parquet), here or at s3://, gs://, ..."""
    classes: Annotated[str | None, optional_flag("NAMES", "those of the training")] = None
    """Class names separated by commas, trained on or not: "tabby cat, maine coon"."""
    top_k: int = 1
    """Number of classes to print for each image."""
    format: Annotated[Literal["table", "csv", "jsonl"] | None, optional_flag("{table,csv,jsonl}", "table")] = None
    """Output format: a table, CSV, or one JSON object per line."""
    batch_size: int = 64
    """Images per batch."""
    workers: Annotated[
        int,
        tyro.conf.arg(
            help="Processes that decode images; 0 is fastest for a few. With --output: threads that read and decode, "
            "in each process with a model; 0: 1, or 16 for remote files."
        ),
    ] = 0
    """Processes or threads that read."""
    skip_unreadable: bool = False
    """Print the reason for unreadable images instead of failing."""
    shortlist: OptionalInt = None
    """CoCoOp: compute only the INT most promising classes of each image."""
    precision: Annotated[Precision | None, optional_flag("{fp32,bf16,fp16}", "as in training")] = None
    """Data type of the frozen towers."""
    device: Device = "auto"
    """Device to compute on."""
    runtime: Literal["torch", "onnx"] = "torch"
    """Library that computes; with onnx, RUN is a directory of `cocoop export`."""
    output: Annotated[str | None, optional_flag("DIR", "print")] = None
    """For very many images: write Parquet files here, also at s3://...; run the same command again to resume."""
    engine: Literal["local", "ray"] = "local"
    """With --output: this process, or workers on a Ray cluster: that of RAY_ADDRESS, or a new one on this machine."""
    ray_workers: Annotated[int | None, optional_flag("INT", "2")] = None
    """With --engine ray: number of processes, each with a model."""

    def run(self) -> None:
        """Predict and print the results, or label images into files."""
        if self.output is not None:
            self._label_images(self.output)
        else:
            self._predict()

    def _predict(self) -> None:
        if self.engine != "local" or self.ray_workers is not None:
            raise ConfigError("--engine ray and --ray-workers are for labelling into files; add --output DIR.")
        for image in self.images:
            if "://" in image:
                raise ConfigError(f"'{image}' is not on this machine; add --output DIR to label remote images.")
            if shard_kind(image) is not None and Path(image).is_file():
                raise ConfigError(f"'{image}' is a shard; add --output DIR to label the images in it.")
        images = find_images(self.images)

        from cocoop.inference.predictor import predict

        predictions = predict(
            self._model(),
            images,
            top_k=self.top_k,
            batch_size=self.batch_size,
            workers=self.workers,
            skip_unreadable=self.skip_unreadable,
        )
        shown = self.format or "table"
        # Lines printed to a terminal show progress by themselves, and a bar would mix with them.
        visible = shown == "table" or not sys.stdout.isatty()
        with image_progress("classifying", visible=visible) as progress:
            FORMATS[shown](_report_progress(predictions, len(images), progress))

    def _model(self) -> ModelSpec:
        from cocoop.inference.predictor import ModelSpec

        return ModelSpec(
            source=self.source,
            classes=None if self.classes is None else tuple(split_class_names(self.classes)),
            runtime=self.runtime,
            precision=self.precision,
            # Ray workers pick their own device; ONNX runs on the CPU only.
            device=self.device if self.engine == "ray" or self.runtime == "onnx" else pick_device(self.device),
            shortlist=self.shortlist,
        )

    def _label_images(self, output: str) -> None:
        if self.format is not None:
            raise ConfigError(
                f"--format {self.format} cannot be combined with --output, which writes Parquet; omit one."
            )
        model = self._model()

        from cocoop.inference.bulk.job import label_images

        try:
            with image_progress("labelling", "chunks") as progress:
                summary = label_images(
                    model,
                    self.images,
                    output,
                    top_k=self.top_k,
                    batch_size=self.batch_size,
                    workers=self.workers,
                    engine=self.engine,
                    ray_workers=self.ray_workers,
                    on_progress=progress,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted. {output} keeps the labels written so far; run the same command again to resume."
            ) from None
        rate = summary.images / max(summary.seconds, 1e-9)
        note(
            f"{summary.images:,} images in {summary.seconds:.0f} s, {rate:.1f} per second; "
            f"{summary.unreadable:,} unreadable."
        )
        if summary.files_before:
            note(f"Output files of earlier runs: {summary.files_before:,}.")
        note(f"Labels are in {output}; read them with pandas.read_parquet({output!r}), for example.")


def _report_progress(
    predictions: Iterable[Prediction], total: int, progress: Callable[[int, int], None]
) -> Iterator[Prediction]:
    for done, prediction in enumerate(predictions, 1):
        progress(done, total)
        yield prediction


def _table(predictions: Iterable[Prediction]) -> None:
    table = Table("image", "class", show_edge=False)
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
"""Printers by the name of the format."""
