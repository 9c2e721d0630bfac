"""`cocoop export`: a trained prompt as an ONNX file."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from cocoop.cli.console import note, out
from cocoop.cli.options import OptionalInt, class_names, left_out

__all__ = ["ExportCommand"]


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a trained prompt as one ONNX file for images in, probabilities out; its classes are fixed then."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    classes: Annotated[str | None, left_out("NAMES", "those it was trained on")] = None
    """Class names separated by commas, trained on or not: "tabby cat, maine coon"."""
    output: Annotated[Path | None, left_out("PATH", "onnx, in the folder of the run; for a hub's, here")] = None
    """Folder for model.onnx and export.json."""
    opset: OptionalInt = None
    """Version of ONNX's operators, if not what PyTorch writes by itself."""

    def run(self) -> None:
        """Export, hold against PyTorch, print."""
        names = None if self.classes is None else class_names(self.classes)

        from cocoop.checkpoints.pretrained import from_pretrained
        from cocoop.inference.onnx import OnnxPrompt, check_libraries, export
        from cocoop.inference.onnx_comparison import milliseconds_an_image, pytorch_bytes

        check_libraries()
        method = from_pretrained(self.source, precision="fp32", device="cpu")
        if names is not None:
            method.set_classes(names)
        run = Path(self.source)
        report = export(method, self.output or (run if run.is_dir() else Path()) / "onnx", opset=self.opset)
        times = milliseconds_an_image(method, OnnxPrompt(report.directory))
        table = Table(
            title=f"{method.key} on {method.backbone.name}, {len(method.classnames)} classes", title_justify="left"
        )
        table.add_column("")
        for name in ("PyTorch", "onnxruntime"):
            table.add_column(name, justify="right")
        table.add_row("weights, MB", f"{pytorch_bytes(method) / 1e6:.1f}", f"{report.onnx_bytes / 1e6:.1f}")
        for batch, (torch_ms, onnx_ms) in times.items():
            table.add_row(f"ms an image, {batch} at once", f"{torch_ms:.1f}", f"{onnx_ms:.1f}")
        out.print(table)
        note(f"Probabilities differ by at most {report.difference:.1e}; operators of version {report.opset}.")
        note(
            f"Written: {report.directory}. Predict with: cocoop predict {shlex.quote(str(report.directory))} PHOTOS... "
            "--runtime onnx"
        )
