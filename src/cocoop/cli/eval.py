"""`cocoop eval`: measure a trained prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cocoop.cli.console import accuracy_table, counting, line, note, out, silence_other_ranks
from cocoop.cli.options import DataOptions, Device, OptionalInt, left_out, pick_device
from cocoop.config import ClassSubset, Precision

if TYPE_CHECKING:
    from cocoop.evaluation.evaluate import Evaluation

__all__ = ["EvalCommand"]


@dataclass(frozen=True, kw_only=True)
class EvalCommand:
    """Measure a trained prompt on the test photos of a data set, with that data set's classes."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    images: DataOptions
    classes: ClassSubset = "all"
    """All classes, or the base ones (the first half, rounded up), or the new ones (the rest)."""
    all_images: bool = False
    """Measure on every photo, not only those for testing; of data without splits, these are 3 in 10."""
    format: Literal["table", "json"] = "table"
    """How to print the numbers; json has the accuracy of each class."""
    batch_size: int = 64
    """Photos at once."""
    workers: int = 2
    """Processes that decode photos."""
    skip_unreadable: bool = False
    """Leave unreadable photos out and count them, instead of failing."""
    shortlist: OptionalInt = None
    """CoCoOp: also measure what computing only the INT most promising classes of each photo changes."""
    precision: Annotated[Precision | None, left_out("{fp32,bf16,fp16}", "as in training")] = None
    """Number type of the frozen towers."""
    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Measure and print."""
        silence_other_ranks()
        data = self.images.load().select(self.classes)
        if self.all_images:
            data = data.all_for_testing()
        data.check_files(["test"])

        from cocoop.checkpoints.pretrained import from_pretrained
        from cocoop.cli.encoding import encode_images
        from cocoop.evaluation.evaluate import evaluate
        from cocoop.training.distributed import Processes, launched_engine
        from cocoop.training.features import overlap
        from cocoop.training.run_directory import trained_image_hashes

        device = pick_device(self.device)
        engine = launched_engine(device)
        processes = Processes(engine)
        method = from_pretrained(self.source, precision=self.precision, device=device)
        if data.train:
            note(
                f"Measured on {len(data.test)} test photos; --all-images adds the {len(data.train + data.val)} others."
            )
        unseen = set(data.classnames) - set(method.classnames)
        others = set(method.classnames) - set(data.classnames)
        if others:
            note(f"Chosen among the {len(data.classnames)} classes of {data.name}, without {len(others)} trained ones.")
        method.set_classes(data.classnames)
        tests = encode_images(
            method.backbone,
            data,
            batch_size=self.batch_size,
            workers=self.workers,
            skip_unreadable=self.skip_unreadable,
            processes=processes,
        )
        # A run on the hub does not say which photos it learned from.
        learned = overlap(tests, data.image_root, trained_image_hashes(Path(self.source)), processes=processes)
        if learned:
            note(f"Left out: {len(learned)} photos that it learned from.")
            tests = tests.without(learned)
        with counting("classifying") as progress:
            result = evaluate(
                method,
                tests,
                batch_size=self.batch_size,
                shortlist=self.shortlist,
                engine=engine,
                on_progress=progress,
            )
        self._print(result, {"run": self.source, "method": method.key, "data": data.name}, len(unseen))

    def _print(self, result: Evaluation, about: dict[str, Any], unseen: int) -> None:
        if self.format == "json":
            record = {**about, "classes": self.classes, "classes_not_trained_on": unseen, **result.record()}
            line(json.dumps(record, ensure_ascii=False))
            return
        out.print(accuracy_table(f"{about['method']} on {about['data']}", [(f"{self.classes} classes", result)]))
        if result.shortlist:
            short = result.record()["shortlist"]
            note(
                f"With a shortlist of {short['size']} classes: {short['accuracy']:.1f} %; the exact answer was outside "
                f"it for {short['exact_answer_outside']} of {len(result.labels)} photos."
            )
        if unseen:
            note(f"{unseen} of the {len(result.classnames)} classes were not trained on.")
