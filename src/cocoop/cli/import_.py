"""`cocoop import`: turn a checkpoint of the papers' code into a run directory."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from cocoop.cli.console import note
from cocoop.cli.options import Device, optional_flag, pick_device
from cocoop.config import Position, Precision
from cocoop.errors import CheckpointError, ConfigError

__all__ = ["ImportCommand"]


@dataclass(frozen=True, kw_only=True)
class ImportCommand:
    """Turn a CoOp or CoCoOp checkpoint of the papers' code into a run directory to predict with."""

    renamed_flags: ClassVar[dict[str, str]] = {"classnames": "classes"}

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """OUTPUT/prompt_learner/model.pth.tar-EPOCH. It is only read; nothing in it is executed."""
    backbone: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help_behavior_hint="(required)",
            help="The backbone of its training, MODEL.BACKBONE.NAME in its configuration: ViT-B/16, RN50, ...; all "
            "names of `cocoop train --backbone`.",
        ),
    ]
    """Name or source of the backbone."""
    classes: Annotated[str | None, optional_flag("NAMES", "recovered from the file")] = None
    """Class names separated by commas, or a file with one per line, in the order of their labels in training."""
    position: Position = "end"
    """CoOp: position of the class name in training (TRAINER.COOP.CLASS_TOKEN_POSITION)."""
    output: Annotated[Path | None, optional_flag("PATH", "runs/imported-METHOD")] = None
    """Run directory."""
    precision: Precision = "fp32"
    """Data type of the frozen towers."""
    device: Device = "auto"
    """Device to compute on."""

    def run(self) -> None:
        """Read the checkpoint, check it against the backbone, and write the run directory."""
        names = None if self.classes is None else _read_class_names(self.classes)

        from cocoop.backbones import load_backbone
        from cocoop.checkpoints.reference import read_reference

        checkpoint = read_reference(self.file)
        directory = self.output or Path("runs") / f"imported-{checkpoint.method}"
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise CheckpointError(f"'{directory}' exists already; choose another `output`.")
        backbone = load_backbone(self.backbone, precision=self.precision, device=pick_device(self.device))
        method = checkpoint.restore(backbone, names, self.position)
        method.save_pretrained(directory)
        note(f"{method.key} on {backbone.name}, {len(method.saved_classnames)} classes.")
        note(f"The run is in {directory}. Predict with: cocoop predict {shlex.quote(str(directory))} PHOTOS...")


def _read_class_names(text: str) -> list[str]:
    """Read names from a file with one per line, or split the text at its commas.

    Raises:
        ConfigError: if there are no names.
        DataError: if the file cannot be read.
    """
    from cocoop.data.readers.text_files import read_text

    file = Path(text)
    parts = read_text(file, "list of classes").splitlines() if file.is_file() else text.split(",")
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise ConfigError(f'--classes is {text!r}; give names separated by commas ("cat, dog") or a file of names.')
    return names
