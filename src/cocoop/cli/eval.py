"""`cocoop eval`: measure a trained prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cocoop.cli.console import accuracy_table, image_progress, line, note, out, silence_other_ranks
from cocoop.cli.options import DataOptions, Device, OptionalInt, optional_flag, pick_device
from cocoop.config import ClassSubset, Precision

if TYPE_CHECKING:
    from cocoop.evaluation.evaluate_run import RunEvaluation

__all__ = ["EvalCommand"]


@dataclass(frozen=True, kw_only=True)
class EvalCommand:
    """Measure a trained prompt on the test images of a data set, with that data set's classes."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run directory, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    images: DataOptions
    classes: ClassSubset = "all"
    """Measure on all classes, on the base ones (the first half, rounded up), or on the new ones (the rest)."""
    all_images: bool = False
    """Measure on all images instead of the test split, which has 3 in 10 images of data without splits."""
    format: Literal["table", "json"] = "table"
    """Output format; json includes the accuracy of each class."""
    batch_size: int = 64
    """Images at once."""
    workers: int = 2
    """Processes that decode images."""
    skip_unreadable: bool = False
    """Leave unreadable images out and count them, instead of failing."""
    shortlist: OptionalInt = None
    """CoCoOp: also measure with only the INT most promising classes of each image computed."""
    precision: Annotated[Precision | None, optional_flag("{fp32,bf16,fp16}", "as in training")] = None
    """Data type of the frozen towers."""
    device: Device = "auto"
    """Device to compute on."""

    def run(self) -> None:
        """Measure and print; errors in the data are reported before PyTorch is imported."""
        silence_other_ranks()
        data = self.images.load()

        from cocoop.evaluation.evaluate_run import evaluate_run
        from cocoop.training.distributed import launched_engine

        device = pick_device(self.device)
        result = evaluate_run(
            self.source,
            data,
            classes=self.classes,
            all_images=self.all_images,
            batch_size=self.batch_size,
            workers=self.workers,
            skip_unreadable=self.skip_unreadable,
            shortlist=self.shortlist,
            precision=self.precision,
            device=device,
            engine=launched_engine(device),
            progress=image_progress,
        )
        self._print_notes(result)
        evaluation = result.evaluation
        if self.format == "json":
            about = {"run": self.source, "method": result.method, "data": result.data, "classes": self.classes}
            record = {**about, "classes_not_trained_on": result.new_classes, **evaluation.record()}
            line(json.dumps(record, ensure_ascii=False))
        else:
            title = f"{result.method} on {result.data}"
            out.print(accuracy_table(title, [(f"{self.classes} classes", evaluation)]))

    def _print_notes(self, result: RunEvaluation) -> None:
        evaluation = result.evaluation
        if result.unreadable:
            note(f"Left out of the test: {result.unreadable}.")
        if result.training_images:
            note(f"Left out: {result.training_images} images that the prompt was trained on.")
        if result.other_images:
            note(
                f"Measured on {len(evaluation.labels)} test images; --all-images adds the other {result.other_images}."
            )
        if result.missing_classes:
            note(
                f"Chosen among the {len(evaluation.classnames)} classes of {result.data}, without "
                f"{result.missing_classes} trained ones."
            )
        # JSON has a field for these.
        if result.new_classes and self.format == "table":
            note(f"{result.new_classes} of the {len(evaluation.classnames)} classes were not trained on.")
        if evaluation.shortlist and self.format == "table":
            shortlist = evaluation.record()["shortlist"]
            note(
                f"With a shortlist of {shortlist['size']} classes: {shortlist['accuracy']:.1f} %; the exact answer was "
                f"outside it for {shortlist['exact_answer_outside']} of {len(evaluation.labels)} images."
            )
