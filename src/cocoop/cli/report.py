"""`cocoop report`: tables and a page from the records of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cocoop.cli.console import note, out
from cocoop.cli.options import optional_flag
from cocoop.report.published import ShowPublished

__all__ = ["ReportCommand"]


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Make tables and a page from the records of experiments, finished or not; no model is loaded.

    Writes report.html, tables.md, tables.tex and tables.csv (one number per row)."""

    sweep: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="SWEEP", help_behavior_hint="", help="Directory written by `cocoop bench`."),
    ]
    """Directory of the sweep."""
    output: Annotated[Path | None, optional_flag("PATH", "report, in SWEEP")] = None
    """Directory to write to."""
    published: ShowPublished = "match"
    """The paper's numbers: where our settings match its own; always; or never."""

    def run(self) -> None:
        """Write all files and print the tables."""
        from cocoop import write_report

        report = write_report(self.sweep, self.output, published=self.published)
        out.print(report.terminal)
        note(f"Written: {', '.join(map(str, report.files))}.")
