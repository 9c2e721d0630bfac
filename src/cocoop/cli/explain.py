"""`cocoop explain`: what a prompt learned."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from cocoop.cli.console import image_progress, note, out
from cocoop.cli.options import DATA_HELP, Device, ReadingOptions, left_out, pick_device
from cocoop.config import ClassSubset, Precision, check_int
from cocoop.errors import ConfigError
from cocoop.version import __version__

if TYPE_CHECKING:
    from cocoop.data import Dataset
    from cocoop.methods import CoCoOp

__all__ = ["ExplainCommand"]


@dataclass(frozen=True, kw_only=True)
class ExplainCommand:
    """Show what a prompt learned: words near its context; with DATA, also how far photos move it, and to what use.

    Written are explain.json and explain.html."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    data: Annotated[
        tyro.conf.Positional[Path | None],
        tyro.conf.arg(metavar="DATA", help_behavior_hint="(default: words only)", help=f"For CoCoOp. {DATA_HELP}"),
    ] = None
    """The data set."""
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    classes: ClassSubset = "all"
    """All classes of DATA, or the base ones (the first half, rounded up), or the new ones (the rest)."""
    all_images: bool = False
    """Look at every photo, not only those for testing; of data without splits, these are 3 in 10."""
    words: int = 5
    """Vocabulary words to name for each context vector."""
    seeds: int = 5
    """How often the control draws noise and other photos."""
    output: Annotated[Path | None, left_out("PATH", "explain, in the folder of the run; for a hub's, here")] = None
    """Folder for what is made."""
    batch_size: int = 64
    """Photos at once."""
    workers: int = 2
    """Processes that decode photos."""
    skip_unreadable: bool = False
    """Leave unreadable photos out and count them, instead of failing."""
    precision: Annotated[Precision | None, left_out("{fp32,bf16,fp16}", "as in training")] = None
    """Number type of the frozen towers."""
    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Look, print, write."""
        check_int("words", self.words, 1)
        check_int("seeds", self.seeds, 1)
        data = None if self.data is None else self._images(self.data)

        from cocoop.checkpoints.pretrained import from_pretrained
        from cocoop.evaluation.interpret import nearest_words, word_distance
        from cocoop.methods import CoCoOp
        from cocoop.report.explain_page import explanation_page
        from cocoop.storage.atomic import write_atomic
        from cocoop.storage.json_files import write_json

        method = from_pretrained(self.source, precision=self.precision, device=pick_device(self.device))
        images: dict[str, Any] = {}
        if data is not None:
            if not isinstance(method, CoCoOp):
                raise ConfigError(
                    f"'{self.source}' is of {method.key}: its prompt is the same for every photo. Leave DATA out."
                )
            images = self._with_images(method, data)
        record: dict[str, Any] = {
            "cocoop": __version__,
            "run": self.source,
            "method": method.key,
            "backbone": method.backbone.name,
            "context": [asdict(vector) for vector in nearest_words(method, self.words)],
            "word_distance": word_distance(method.backbone),
            **images,
        }
        self._print(record)
        run = Path(self.source)
        directory = self.output or (run if run.is_dir() else Path()) / "explain"
        write_json(directory / "explain.json", record)
        # A class or file name need not be text.
        write_atomic(directory / "explain.html", explanation_page(record).encode(errors="backslashreplace"))
        note(f"Written: {directory / 'explain.json'}, {directory / 'explain.html'}.")

    def _images(self, path: Path) -> Dataset:
        data = self.reading.read(path).select(self.classes)
        if self.all_images:
            data = data.all_for_testing()
        data.check_files(["test"])
        return data

    def _with_images(self, method: CoCoOp, data: Dataset) -> dict[str, Any]:
        """How photos move the prompt, and the control."""
        from cocoop.cli.encoding import encode_images
        from cocoop.evaluation.interpret import control_study, prompt_shifts

        method.set_classes(data.classnames)
        features = encode_images(
            method.backbone,
            data,
            batch_size=self.batch_size,
            workers=self.workers,
            skip_unreadable=self.skip_unreadable,
        )
        with image_progress("replacing what Meta-Net sees", "passes") as progress:
            control = control_study(method, features, seeds=self.seeds, on_progress=progress)
        shifts = prompt_shifts(method, features)
        return {"data": data.name, "shifts": shifts.record(), "control": [asdict(c) for c in control]}

    def _print(self, record: dict[str, Any]) -> None:
        from cocoop.report.explain_page import CONTROL_NAMES, percent_with_spread, verdict, word_rows

        table = Table("vector", title="Words near the context, with distances", title_justify="left")
        table.add_column("length", justify="right")
        for number in range(1, max(len(vector["words"]) for vector in record["context"]) + 1):
            table.add_column("nearest" if number == 1 else f"{number}.")
        for row in word_rows(record):
            table.add_row(*row)
        out.print(table)
        note(f"A word lies {record['word_distance']:.3f} from the nearest other word (median).")
        if "shifts" not in record:
            return
        shifts = record["shifts"]
        table = Table("shift of the context by Meta-Net", title="How far photos move the prompt", title_justify="left")
        table.add_column("length", justify="right")
        table.add_column("% of the context's", justify="right")
        for name, key in (
            ("context vectors (mean)", "context_norm"),
            ("shift (mean)", "norm_mean"),
            ("the same for all photos", "constant"),
            ("different from photo to photo (RMS)", "spread"),
        ):
            table.add_row(name, f"{shifts[key]:.3f}", f"{100 * shifts[key] / shifts['context_norm']:.1f}")
        out.print(table)
        if shifts["between_classes"] is not None:
            note(f"{shifts['between_classes']:.0%} of the difference is between classes, the rest within them.")
        table = Table("Meta-Net is given", title=f"Control on {shifts['images']} photos", title_justify="left")
        for name in ("accuracy %", "answers changed %"):
            table.add_column(name, justify="right")
        for c in record["control"]:
            changed = "" if c["name"] == "true" else percent_with_spread(c["changed"])
            table.add_row(CONTROL_NAMES[c["name"]], percent_with_spread(c["accuracies"]), changed)
        out.print(table)
        note(verdict(record["control"]))
