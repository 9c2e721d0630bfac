"""Write all files of the report of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from cocoop.errors import CheckpointError
from cocoop.experiments.records import read_sweep
from cocoop.report import check_report_extra
from cocoop.report.published import ShowPublished
from cocoop.storage.atomic import write_atomic

__all__ = ["Report", "write_report"]


@dataclass(frozen=True)
class Report:
    """A written report."""

    files: tuple[Path, ...]
    """The files: report.html, tables.md, tables.csv and tables.tex."""
    terminal: Group
    """The tables of accuracies and costs, and the failed runs, for `rich`."""


def write_report(sweep: str | Path, output: str | Path | None = None, *, published: ShowPublished = "match") -> Report:
    """Write report.html, tables.md, tables.csv (one number per line) and tables.tex from the records of a sweep.

    The sweep need not be finished. Neither a model nor PyTorch is needed.

    Args:
        sweep: directory written by `cocoop.sweep` or `cocoop bench`.
        output: directory to write to; None: `report` in the sweep's directory.
        published: show the numbers of the CoCoOp paper where our settings `match` them, `always`, or `never`.

    Raises:
        CheckpointError: if there is no sweep, no finished run, or a damaged record.
        ConfigError: if the extra `report` is not installed.
    """
    check_report_extra()
    from cocoop.report.sweep_page import sweep_page
    from cocoop.report.sweep_tables import sweep_tables
    from cocoop.report.sweep_text import failure_table, sweep_csv, sweep_latex, sweep_markdown, sweep_rich

    records = read_sweep(Path(sweep))
    if not records.records:
        failed = [f"{len(records.failures)} failed, the first with: {f['reason']}" for f in records.failures[:1]]
        raise CheckpointError(" ".join([f"No run in '{sweep}' has finished yet.", *failed]))
    tables, failures = sweep_tables(records, published), failure_table(records)
    texts = {
        "report.html": sweep_page(records, published),
        "tables.md": sweep_markdown(tables, failures),
        "tables.csv": sweep_csv(tables),
        "tables.tex": sweep_latex(tables, failures),
    }
    directory = Path(sweep) / "report" if output is None else Path(output)
    for name, text in texts.items():
        # A class or file name can hold bytes that are not UTF-8.
        write_atomic(directory / name, text.encode(errors="backslashreplace"))
    shown = [table for table in tables if table.kind != "more"]
    return Report(tuple(directory / name for name in texts), sweep_rich(shown, failures))
