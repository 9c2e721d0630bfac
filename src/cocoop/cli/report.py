"""`cocoop report`: tables and a page from the records of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cocoop.cli.console import note, out
from cocoop.cli.options import left_out
from cocoop.errors import CheckpointError
from cocoop.experiments.records import read_sweep
from cocoop.report.sweep_cells import ShowPublished

__all__ = ["ReportCommand"]


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Make tables and a page from the records of experiments, finished or not; no model is loaded.

    Written are report.html, tables.md, tables.tex and tables.csv (one number a row)."""

    sweep: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="SWEEP", help_behavior_hint="", help="Folder of the experiments."),
    ]
    """Folder of the experiments."""
    output: Annotated[Path | None, left_out("PATH", "report, in the folder of the experiments")] = None
    """Folder for what is made."""
    published: ShowPublished = "match"
    """The paper's numbers: where our settings match its own; always; or never."""

    def run(self) -> None:
        """Print the tables and write all files.

        Raises:
            CheckpointError: if there is no sweep, or nothing in it has finished.
        """
        sweep = read_sweep(self.sweep)
        if not sweep.records:
            failed = [f"{len(sweep.failures)} failed, the first with: {f['reason']}" for f in sweep.failures[:1]]
            raise CheckpointError(" ".join([f"No run in '{self.sweep}' has finished yet.", *failed]))
        # What is drawn takes a second to import, and what is wrong can be said without it.
        from cocoop.report.sweep_page import sweep_page
        from cocoop.report.sweep_tables import sweep_tables
        from cocoop.report.sweep_text import failure_rows, sweep_csv, sweep_latex, sweep_markdown, sweep_rich
        from cocoop.storage.atomic import write_atomic

        tables, failures = sweep_tables(sweep, self.published), failure_rows(sweep)
        directory = self.sweep / "report" if self.output is None else self.output
        texts = {
            "report.html": sweep_page(sweep, self.published),
            "tables.md": sweep_markdown(tables, failures),
            "tables.csv": sweep_csv(tables),
            "tables.tex": sweep_latex(tables, failures),
        }
        for name, text in texts.items():
            # A class or file name need not be text.
            write_atomic(directory / name, text.encode(errors="backslashreplace"))
        out.print(sweep_rich([table for table in tables if table.kind != "more"], failures))
        note(f"Written: {', '.join(str(directory / name) for name in texts)}.")
