"""What all commands print with: results go to stdout, everything else to stderr.

Names of classes and files are printed as they are: no markup, no emoji codes, no colours of numbers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from cocoop.evaluation import Evaluation
    from cocoop.train import StepReport

__all__ = ["accuracy_table", "bar_or_lines", "counting", "fail", "line", "note", "out", "training"]

# What is kept in a file has no edge to be wrapped at.
_NO_EDGE = 100_000

out = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _NO_EDGE)
"""For tables."""

_notes = Console(stderr=True, markup=False, emoji=False, highlight=False)

SECONDS_BETWEEN_LINES = 10.0
"""Where stderr is a file, a bar would fill it, and silence would look like a standstill."""


def line(text: str) -> None:
    """One line of a result, exactly as it is."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Tell the user something that is no result."""
    _notes.print(text, soft_wrap=True)


def fail(text: str, code: int) -> NoReturn:
    """Print one line and leave."""
    _notes.print(f"cocoop: {' '.join(text.split())}", style="red", soft_wrap=True)
    sys.exit(code)


class _Clock:
    """Time left, from the share of the work that is done; work done before (a resumed run) took no time now."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def left(self, done: int, total: int) -> str:
        """`0:03:20 left`, or nothing as long as there is no telling."""
        if self._first is None:
            self._first = done
            self._started = time.monotonic()
        since = done - self._first
        if since <= 0:
            return ""
        seconds = round((time.monotonic() - self._started) / since * (total - done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


@contextmanager
def bar_or_lines(what: str, *, visible: bool = True) -> Iterator[Callable[[int, int, str], None]]:
    """Progress of long work: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        what: is going on.
        visible: no, where a bar would run into the results.

    Yields:
        A function to be called with what is done, of how much, and a few words about it.
    """
    clock = _Clock()
    if not _notes.is_terminal:
        said = time.monotonic()

        def tell(done: int, total: int, facts: str) -> None:
            nonlocal said
            left = clock.left(done, total)
            if visible and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                note("  ".join(filter(None, [f"{what}: {100 * done // max(total, 1)} %", facts, left])))

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[facts]}"))
    # Results on stdout must stay there: rich would lead them through the console of the bar.
    with Progress(*columns, console=_notes, disable=not visible, transient=True, redirect_stdout=False) as progress:
        task: TaskID = progress.add_task(what, total=None, facts="")

        def show(done: int, total: int, facts: str) -> None:
            words = "  ".join(filter(None, [facts, clock.left(done, total)]))
            progress.update(task, completed=done, total=total, facts=words)

        yield show


@contextmanager
def counting(what: str, things: str = "photos", *, visible: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Progress of work that reports (things done, things in all)."""
    with bar_or_lines(what, visible=visible) as tell:
        yield lambda done, total: tell(done, total, f"{done}/{total} {things}")


@contextmanager
def training(what: str) -> Iterator[Callable[[StepReport], None]]:
    """Progress of training: epoch, loss, accuracy, photos a second and the time left over all epochs."""
    with bar_or_lines(what) as tell:

        def advance(step: StepReport) -> None:
            done = (step.epoch - 1) * step.photos_in_epoch + step.photos
            facts = (
                f"epoch {step.epoch}/{step.epochs}  loss {step.loss:.3f}  {step.accuracy:.1f} % right"
                f"  {step.photos_per_second:.0f} photos/s"
            )
            tell(done, step.epochs * step.photos_in_epoch, facts)

        yield advance


def accuracy_table(title: str, rows: list[tuple[str, Evaluation]]) -> Table:
    """Accuracy and macro F1 of several measurements, in percent."""
    table = Table(title=title, title_justify="left")
    table.add_column("measured on")
    for name in ("classes", "photos", "skipped", "accuracy %", "macro F1 %"):
        table.add_column(name, justify="right")
    for name, e in rows:
        numbers = [len(e.classnames), len(e.labels), e.skipped]
        table.add_row(name, *map(str, numbers), f"{e.accuracy:.1f}", f"{e.macro_f1:.1f}")
    return table
