"""Console output of all commands: results go to stdout, notes and progress to stderr.

Class and file names are printed unchanged: no markup, no emoji codes, no highlighting.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from cocoop.evaluation.metrics import Evaluation
    from cocoop.training.fit import StepReport

__all__ = [
    "accuracy_table",
    "fail",
    "image_progress",
    "line",
    "note",
    "out",
    "progress_bar",
    "silence_other_ranks",
    "training_progress",
]

SECONDS_BETWEEN_LINES = 10.0
"""Interval of progress lines where stderr is not a terminal."""

# Lines in a file are not wrapped.
_UNLIMITED_WIDTH = 100_000


class _ResultConsole(Console):
    """Console that raises BrokenPipeError, which `main` handles, instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


# A program may be started without a stdout.
_in_terminal = sys.stdout is not None and sys.stdout.isatty()

out = _ResultConsole(markup=False, emoji=False, highlight=False, width=None if _in_terminal else _UNLIMITED_WIDTH)
"""Console for tables."""

_notes = Console(stderr=True, markup=False, emoji=False, highlight=False)

# A separate console, because errors of all ranks are printed.
_errors = Console(stderr=True, markup=False, emoji=False, highlight=False)


def silence_other_ranks() -> None:
    """Print only in the first of several processes that a launcher started."""
    out.quiet = _notes.quiet = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def line(text: str) -> None:
    """Print one line of a result, unchanged."""
    if not out.quiet:
        sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print a note for the user, which is not part of the result."""
    _notes.print(text, soft_wrap=True)


def fail(text: str, code: int) -> NoReturn:
    """Print an error in one line and exit."""
    _errors.print(f"cocoop: {' '.join(text.split())}", style="red", soft_wrap=True)
    sys.exit(code)


class _RemainingTime:
    """Estimate of the time left; work that an earlier, interrupted run has done is not counted."""

    def __init__(self) -> None:
        self._started = 0.0
        self._first: int | None = None

    def text(self, done: int, total: int) -> str:
        """Return `  0:03:20 left`, or an empty string at the first call and at the end."""
        if self._first is None:
            self._first, self._started = done, time.monotonic()
        since_first = done - self._first
        if since_first <= 0 or done >= total:
            return ""
        seconds = round((time.monotonic() - self._started) / since_first * (total - done))
        return f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


@contextmanager
def progress_bar(label: str, *, visible: bool = True, bar_width: int = 16) -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of long work: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        label: name of the work.
        visible: False where a bar would mix with the results.
        bar_width: width of the bar in characters; 0 shows only the text.

    Yields:
        A function that takes the amount done, the total, and a short text.
    """
    if not _notes.is_terminal:
        last = time.monotonic()

        def print_line(done: int, total: int, details: str) -> None:
            nonlocal last
            if visible and time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                note(f"{label}: {100 * done // max(total, 1)}%  {details}")

        yield print_line
        return
    bar = [BarColumn(bar_width=bar_width)] if bar_width else []
    columns = (TextColumn("{task.description}"), *bar, TextColumn("{task.fields[details]}"))
    # Without redirect_stdout=False, rich would print results through the console of the bar, to stderr.
    with Progress(*columns, console=_notes, disable=not visible, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(label, total=None, details="")

        def update(done: int, total: int, details: str) -> None:
            progress.update(task, completed=done, total=total, details=details)

        yield update


@contextmanager
def image_progress(label: str, unit: str = "images", *, visible: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of work on items: the number done, the total and the time left."""
    remaining = _RemainingTime()
    with progress_bar(label, visible=visible) as update:
        yield lambda done, total: update(done, total, f"{done}/{total} {unit}{remaining.text(done, total)}")


@contextmanager
def training_progress(label: str) -> Iterator[tuple[Callable[[StepReport], None], Callable[[int, int], None]]]:
    """Show the progress of training: epoch, loss, accuracy, images per second and the time left over all epochs.

    Yields:
        The callbacks `on_step` and `on_encode` of `fit`.
    """
    step_remaining, encode_remaining = _RemainingTime(), _RemainingTime()
    # A terminal of 80 columns has room for either the bar or the text.
    with progress_bar(label, bar_width=16 if _notes.width >= 100 else 0) as update:

        def on_step(step: StepReport) -> None:
            done = (step.epoch - 1) * step.images_in_epoch + step.images
            total = step.epochs * step.images_in_epoch
            details = (
                f"epoch {step.epoch}/{step.epochs}  loss {step.loss:.3f}  acc {step.accuracy:.1f}%"
                f"  {step.images_per_second:.0f} images/s"
            )
            update(done, total, details + step_remaining.text(done, total))

        def on_encode(done: int, total: int) -> None:
            update(done, total, f"encoding {done}/{total} images{encode_remaining.text(done, total)}")

        yield on_step, on_encode


def accuracy_table(title: str, rows: list[tuple[str, Evaluation]]) -> Table:
    """Return a table of accuracy and macro F1 in percent, with a row for each evaluation."""
    table = Table(title=title, title_justify="left")
    table.add_column("measured on")
    for name in ("classes", "images", "skipped", "accuracy %", "macro F1 %"):
        table.add_column(name, justify="right")
    for name, e in rows:
        counts = [len(e.classnames), len(e.labels), e.skipped]
        table.add_row(name, *map(str, counts), f"{e.accuracy:.1f}", f"{e.macro_f1:.1f}")
    return table
