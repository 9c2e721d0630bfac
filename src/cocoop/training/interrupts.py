"""Ctrl-C that comes between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["defer_interrupts"]


@contextmanager
def defer_interrupts(any_process: Callable[[bool], bool] = bool) -> Iterator[Callable[[], None]]:
    """Hold a first Ctrl-C back until the work asks for it; a second one strikes at once.

    Python raises KeyboardInterrupt wherever it happens to be. Where that is a callback (of the fork for a decoding
    process, say, in each epoch), the exception is printed and lost, and the work goes on.

    Args:
        anyone: from whether it was pressed here to whether it was pressed in any of the processes at work together.

    Yields:
        A function that raises KeyboardInterrupt if Ctrl-C was pressed; to be called between steps.
    """
    asked = False
    before = signal.getsignal(signal.SIGINT)

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and callable(before):
            before(number, frame)
        asked = True

    def heed() -> None:
        if any_process(asked):
            raise KeyboardInterrupt

    # Signals belong to the main thread. And who ignores Ctrl-C, as shells do for work in the background, has reasons.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield heed
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, before)
