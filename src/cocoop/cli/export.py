"""`cocoop export`: write a trained prompt as an ONNX file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cocoop.cli.console import note
from cocoop.cli.options import OptionalInt, optional_flag, split_class_names

__all__ = ["ExportCommand"]


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a trained prompt as an ONNX file that maps images to probabilities of fixed classes."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run directory of `cocoop train`, or hub repository USER/NAME (USER/NAME@REVISION)."""
    classes: Annotated[str | None, optional_flag("NAMES", "those of the training")] = None
    """Class names separated by commas, trained on or not: "tabby cat, maine coon"."""
    output: Annotated[Path | None, optional_flag("PATH", "onnx in the run directory; for a hub repository, here")] = (
        None
    )
    """Directory for model.onnx and export.json."""
    opset: OptionalInt = None
    """Version of the ONNX operators, if not PyTorch's default."""

    def run(self) -> None:
        """Export and print the comparison with PyTorch."""
        classes = None if self.classes is None else split_class_names(self.classes)

        from cocoop.inference.onnx import export_onnx

        run = Path(self.source)
        output = self.output or (run if run.is_dir() else Path()) / "onnx"
        report = export_onnx(self.source, output, classes=classes, opset=self.opset)
        note(
            f"Exported {len(report.classnames)} classes with opset {report.opset}: {report.onnx_bytes / 1e6:.1f} MB of "
            f"weights, {report.torch_bytes / 1e6:.1f} MB in PyTorch."
        )
        note(f"Probabilities differ from PyTorch's by at most {report.difference:.1e}.")
        note(f"Predict with: cocoop predict {shlex.quote(str(report.directory))} PHOTOS... --runtime onnx")
