"""What all commands print with: results go to stdout, everything else to stderr.

Names of classes and files are printed as they are: no markup, no emoji codes, no colours of numbers.
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
    from cocoop.evaluation.evaluate import Evaluation
    from cocoop.training.fit import StepReport

__all__ = [
    "accuracy_table",
    "bar_or_lines",
    "counting",
    "fail",
    "line",
    "note",
    "out",
    "silence_other_ranks",
    "training",
]

# What is kept in a file has no edge to be wrapped at.
_NO_EDGE = 100_000


class _Results(Console):
    """A reader of our output who has seen enough is the command line's business, as with `line`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


# Where a program is started without a stdout, there is none.
_in_terminal = sys.stdout is not None and sys.stdout.isatty()

out = _Results(markup=False, emoji=False, highlight=False, width=None if _in_terminal else _NO_EDGE)
"""For tables."""

_notes = Console(stderr=True, markup=False, emoji=False, highlight=False)

_errors = Console(stderr=True, markup=False, emoji=False, highlight=False)

SECONDS_BETWEEN_LINES = 10.0
"""Where stderr is a file, a bar would fill it, and silence would look like a standstill."""


def silence_other_ranks() -> None:
    """For commands in which several processes that a launcher starts work together."""
    out.quiet = _notes.quiet = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def line(text: str) -> None:
    """One line of a result, exactly as it is."""
    if not out.quiet:
        sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Tell the user something that is no result."""
    _notes.print(text, soft_wrap=True)


def fail(text: str, code: int) -> NoReturn:
    """Print one line and leave."""
    _errors.print(f"cocoop: {' '.join(text.split())}", style="red", soft_wrap=True)
    sys.exit(code)


class _Clock:
    """Time left, from the share of the work that is done; what was done before (a resumed run) took no time now."""

    def __init__(self) -> None:
        self._started = 0.0
        self._first: int | None = None

    def left(self, done: int, total: int) -> str:
        """`  0:03:20 left`, or nothing as long as there is no telling, and at the end."""
        if self._first is None:
            self._first, self._started = done, time.monotonic()
        since = done - self._first
        if since <= 0 or done >= total:
            return ""
        seconds = round((time.monotonic() - self._started) / since * (total - done))
        return f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


@contextmanager
def bar_or_lines(what: str, *, visible: bool = True, bar_width: int = 16) -> Iterator[Callable[[int, int, str], None]]:
    """Progress of long work: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        what: is going on.
        visible: no, where a bar would run into the results.
        bar_width: characters of the bar itself; 0 for the words alone.

    Yields:
        A function to be called with what is done, of how much, and a few words about it.
    """
    if not _notes.is_terminal:
        said = time.monotonic()

        def tell(done: int, total: int, facts: str) -> None:
            nonlocal said
            if visible and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                note(f"{what}: {100 * done // max(total, 1)}%  {facts}")

        yield tell
        return
    bar = [BarColumn(bar_width=bar_width)] if bar_width else []
    columns = (TextColumn("{task.description}"), *bar, TextColumn("{task.fields[facts]}"))
    # Results on stdout must stay there: rich would lead them through the console of the bar.
    with Progress(*columns, console=_notes, disable=not visible, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(what, total=None, facts="")

        def show(done: int, total: int, facts: str) -> None:
            progress.update(task, completed=done, total=total, facts=facts)

        yield show


@contextmanager
def counting(what: str, things: str = "images", *, visible: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Progress of work that reports (things done, things in all)."""
    clock = _Clock()
    with bar_or_lines(what, visible=visible) as tell:
        yield lambda done, total: tell(done, total, f"{done}/{total} {things}{clock.left(done, total)}")


@contextmanager
def training(what: str) -> Iterator[tuple[Callable[[StepReport], None], Callable[[int, int], None]]]:
    """Progress of training: epoch, loss, accuracy, photos a second and the time left over all epochs.

    Yields:
        A function to be called after each step, and one for (photos done, photos in all) while photos are encoded.
    """
    clocks = _Clock(), _Clock()
    # In 80 columns there is room for the bar or the words.
    with bar_or_lines(what, bar_width=16 if _notes.width >= 100 else 0) as tell:

        def on_step(step: StepReport) -> None:
            done = (step.epoch - 1) * step.images_in_epoch + step.images
            total = step.epochs * step.images_in_epoch
            facts = (
                f"epoch {step.epoch}/{step.epochs}  loss {step.loss:.3f}  acc {step.accuracy:.1f}%"
                f"  {step.images_per_second:.0f} photos/s"
            )
            tell(done, total, facts + clocks[0].left(done, total))

        def on_encode(done: int, total: int) -> None:
            tell(done, total, f"encoding {done}/{total} photos{clocks[1].left(done, total)}")

        yield on_step, on_encode


def accuracy_table(title: str, rows: list[tuple[str, Evaluation]]) -> Table:
    """Accuracy and macro F1 of several measurements, in percent."""
    table = Table(title=title, title_justify="left")
    table.add_column("measured on")
    for name in ("classes", "images", "skipped", "accuracy %", "macro F1 %"):
        table.add_column(name, justify="right")
    for name, e in rows:
        numbers = [len(e.classnames), len(e.labels), e.skipped]
        table.add_row(name, *map(str, numbers), f"{e.accuracy:.1f}", f"{e.macro_f1:.1f}")
    return table
