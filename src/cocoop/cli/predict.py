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

from cocoop.cli.console import counting, line, note, out
from cocoop.cli.options import Device, OptionalInt, class_names, left_out, pick_device
from cocoop.config import Precision, check_int
from cocoop.data.find_images import find_images
from cocoop.data.shards.source import shard_kind
from cocoop.errors import ConfigError

if TYPE_CHECKING:
    from cocoop.inference.predictor import Model, Prediction

__all__ = ["PredictCommand"]


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Classify photos with a trained prompt, among the classes it was trained on or any others."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    images: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTO ...", help_behavior_hint="(required)")
    ]
    """Photos, or folders of photos; with --output also shards (.tar, .parquet), here or at s3://, gs://, ..."""
    classes: Annotated[str | None, left_out("NAMES", "those it was trained on")] = None
    """Class names separated by commas, trained on or not: "tabby cat, maine coon"."""
    top_k: int = 1
    """How many classes to name for each photo."""
    format: Annotated[Literal["table", "csv", "jsonl"] | None, left_out("{table,csv,jsonl}", "table")] = None
    """How to print: a table, CSV, or one JSON object a line."""
    batch_size: int = 64
    """Photos at once."""
    workers: Annotated[
        int,
        tyro.conf.arg(
            help="Processes that decode photos; 0 is quickest for a few. With --output: threads that read and decode, "
            "in each process with a model; 0: 1, or 16 where photos are not on this machine."
        ),
    ] = 0
    """Processes or threads that read."""
    skip_unreadable: bool = False
    """Print unreadable photos with the reason instead of failing."""
    shortlist: OptionalInt = None
    """CoCoOp: compute only the INT most promising classes of each photo."""
    precision: Annotated[Precision | None, left_out("{fp32,bf16,fp16}", "as in training")] = None
    """Number type of the frozen towers."""
    device: Device = "auto"
    """Where to compute."""
    runtime: Literal["torch", "onnx"] = "torch"
    """What computes; onnx takes a folder of `cocoop export` as RUN."""
    output: Annotated[str | None, left_out("DIR", "print")] = None
    """For very many photos: write Parquet files here, also at s3://...; the same command goes on after a stop."""
    engine: Literal["local", "ray"] = "local"
    """With --output: this process, or workers on the Ray cluster that RAY_ADDRESS names, or else on this machine."""
    ray_workers: Annotated[int | None, left_out("INT", "2")] = None
    """With --engine ray: processes, each with a model of its own."""

    def run(self) -> None:
        """Predict and print."""
        check_int("top_k", self.top_k, 1)
        check_int("workers", self.workers, 0)
        if self.ray_workers is not None:
            check_int("ray_workers", self.ray_workers, 1)
            if self.engine != "ray":
                raise ConfigError("--ray-workers needs --engine ray; add it, or leave --ray-workers out.")
        names = None if self.classes is None else class_names(self.classes)
        if self.runtime == "onnx":
            self._check_exported()
        if self.output is not None:
            self._label_all(names, self.output)
            return
        if self.engine != "local":
            raise ConfigError("--engine ray writes files; say where with --output.")
        for image in self.images:
            if "://" in image:
                raise ConfigError(f"'{image}' is not on this machine; what is elsewhere is labelled with --output DIR.")
            if shard_kind(image) is not None and Path(image).is_file():
                raise ConfigError(f"'{image}' is a shard; the photos in it are labelled with --output DIR.")
        images = find_images(self.images)

        from cocoop.inference.predictor import predict

        method = self._model(names).load()
        predictions = predict(
            method,
            images,
            top_k=self.top_k,
            batch_size=self.batch_size,
            workers=self.workers,
            skip_unreadable=self.skip_unreadable,
            shortlist=self.shortlist,
        )
        shown = self.format or "table"
        # Lines that come as they are found show progress themselves, and a bar would run into them.
        visible = shown == "table" or not sys.stdout.isatty()
        with counting("classifying", visible=visible) as progress:
            FORMATS[shown](_counted(predictions, len(images), progress))

    def _model(self, names: list[str] | None) -> Model:
        from cocoop.inference.predictor import Model

        return Model(
            source=self.source,
            classes=None if names is None else tuple(names),
            runtime=self.runtime,
            precision=self.precision,
            # What Ray's workers have, they know themselves.
            device=self.device if self.engine == "ray" else pick_device(self.device),
            shortlist=self.shortlist,
        )

    def _label_all(self, names: list[str] | None, output: str) -> None:
        """Label into files, with progress and a summary."""
        if self.format is not None:
            raise ConfigError(
                f"--format {self.format} is for what is printed, and --output writes Parquet; leave one of them out."
            )

        from cocoop.inference.bulk.job import label_images

        try:
            with counting("labelling", "pieces") as progress:
                done = label_images(
                    self._model(names),
                    self.images,
                    output,
                    top_k=self.top_k,
                    batch_size=self.batch_size,
                    threads=self.workers,
                    engine=self.engine,
                    workers=2 if self.ray_workers is None else self.ray_workers,
                    on_progress=progress,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Stopped. {output} keeps what is labelled; the same command goes on.") from None
        rate = done.images / max(done.seconds, 1e-9)
        note(f"{done.images:,} photos in {done.seconds:.0f} s, {rate:.1f} a second; {done.unreadable:,} unreadable.")
        if done.pieces_before:
            note(f"Parts that were there before: {done.pieces_before:,}.")
        note(f"Labels are in {output}: pandas.read_parquet({output!r}), for example.")

    def _check_exported(self) -> None:
        if self.device not in ("auto", "cpu"):
            raise ConfigError(
                f"--device is {self.device!r}, but onnx computes on the CPU; leave it out, or use --runtime torch."
            )
        for flag, value in (("classes", self.classes), ("precision", self.precision), ("shortlist", self.shortlist)):
            if value is not None:
                raise ConfigError(
                    f"--{flag} cannot change what was exported; export again with it, or use --runtime torch."
                    if flag == "classes"
                    else f"--{flag} is no part of what was exported; leave it out, or use --runtime torch."
                )


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
