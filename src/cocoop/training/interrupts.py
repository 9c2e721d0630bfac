"""Ctrl-C that takes effect between two training steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["defer_interrupts"]


@contextmanager
def defer_interrupts(any_process: Callable[[bool], bool] = bool) -> Iterator[Callable[[], None]]:
    """Defer the first Ctrl-C until the work checks for it; a second one interrupts at once.

    Python may raise KeyboardInterrupt at any point. In a callback, such as one that runs when a worker is forked, the
    exception is printed and lost, and the work continues.

    Args:
        any_process: function that returns True in all processes if its argument is True in one of them.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl-C was pressed; call it between steps.
    """
    interrupted = False
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted and callable(previous):
            previous(number, frame)
        interrupted = True

    def check_interrupt() -> None:
        if any_process(interrupted):
            raise KeyboardInterrupt

    # Only the main thread can handle signals. Background jobs of a shell ignore Ctrl-C, and must keep doing so.
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield check_interrupt
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield check_interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
