"""`cocoop import`: a prompt that the reference implementation learned, as a run to predict with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cocoop.cli.console import note
from cocoop.cli.options import Device, left_out, pick_device
from cocoop.config import Position, Precision
from cocoop.errors import CheckpointError, ConfigError

__all__ = ["ImportCommand"]


@dataclass(frozen=True, kw_only=True)
class ImportCommand:
    """Turn a checkpoint of the papers' code, CoOp's or CoCoOp's, into a run to predict with."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """OUTPUT/prompt_learner/model.pth.tar-EPOCH. It is only read: nothing in it is run."""
    backbone: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help_behavior_hint="(required)",
            help="The one it was learned with, as MODEL.BACKBONE.NAME of its configuration: ViT-B/16, RN50, ...; all "
            "names of `cocoop train --backbone`.",
        ),
    ]
    """A name or a source."""
    classes: Annotated[str | None, left_out("NAMES", "those it was trained on, as the file tells")] = None
    """Class names separated by commas, or a file with one a line, in the order of their labels in training."""
    position: Position = "end"
    """CoOp: where the class name stood among the context vectors (TRAINER.COOP.CLASS_TOKEN_POSITION)."""
    output: Annotated[Path | None, left_out("PATH", "runs/imported-METHOD")] = None
    """Folder of the run."""
    precision: Precision = "fp32"
    """Number type of the frozen towers."""
    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Read, check against the backbone, write."""
        names = None if self.classes is None else _class_names(self.classes)

        from cocoop.backbones import load_backbone
        from cocoop.checkpoints.reference import read_reference

        checkpoint = read_reference(self.file)
        directory = self.output or Path("runs") / f"imported-{checkpoint.method}"
        if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
            raise CheckpointError(f"'{directory}' exists already; give another --output.")
        backbone = load_backbone(self.backbone, precision=self.precision, device=pick_device(self.device))
        method = checkpoint.restore(backbone, names, self.position)
        method.save_pretrained(directory)
        note(f"{method.key} on {backbone.name}, {len(method.saved_classnames)} classes.")
        note(f"The run is in {directory}. Predict with: cocoop predict {shlex.quote(str(directory))} PHOTOS...")


def _class_names(text: str) -> list[str]:
    """Names from a file, one a line, or from the text itself.

    Raises:
        ConfigError: if there are none.
        DataError: if the file cannot be read.
    """
    from cocoop.data.readers.text_files import read_text

    file = Path(text)
    parts = read_text(file, "list of classes").splitlines() if file.is_file() else text.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise ConfigError(f'--classes is {text!r}; give names separated by commas ("cat, dog") or a file of them.')
    return names
