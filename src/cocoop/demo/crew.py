"""A crew: a few processes that share the demonstration's work, one thread each, with progress and Ctrl-C.

The matrices of a small model are too small for two threads to help each other, but two trainings side by side take
half the time; and one thread gives the same numbers however many cores a machine has.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from types import TracebackType
from typing import Any

import torch

from cocoop.errors import ConfigError, TrainingError

__all__ = ["Crew", "Task", "Tell", "usable_cores"]

Tell = Callable[[int], None]
"""Called by work with how much of it is done; this is also where Ctrl-C stops it."""

PATIENCE = 0.1
"""Seconds to wait for news before asking whether all tasks are done."""


@dataclass(frozen=True)
class Task:
    """One piece of work."""

    work: Callable[..., Any]
    """A function of a module, called as `work(*arguments, tell)` in another process."""
    arguments: tuple[Any, ...]
    """What it gets; these and what it returns are pickled."""
    size: int = 0
    """How much work it is, in a unit that its batch of tasks shares."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew:
    """Processes that live as long as the `with` block; each imports the library once.

    Args:
        size: number of processes.

    Raises:
        ConfigError: for a size below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ConfigError(f"--processes is {size}; it must be at least 1.")
        # Forked processes would inherit torch's locks without the threads that hold them.
        context = multiprocessing.get_context("spawn")
        self.size = size
        self._begun = 0
        self._news = context.Queue()
        self._stop = context.Event()
        self._pool = ProcessPoolExecutor(size, context, initializer=_enlist, initargs=(self._news, self._stop))

    def __enter__(self) -> Crew:
        """Itself; processes start with the first tasks."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what still runs, and wait for it."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._news.close()

    def run(
        self,
        tasks: Sequence[Task],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_result: Callable[[Any], None] | None = None,
    ) -> list[Any]:
        """Do all tasks, as many at once as there are processes, and wait for them.

        Args:
            tasks: begun in this order.
            on_progress: called with what is done and with the size of all tasks.
            on_result: called with each result as it comes.

        Returns:
            The results, in the order of the tasks.

        Raises:
            TrainingError: if a process was killed.
            Exception: what a task raises, as soon as it does.
        """
        # Numbers are not used again: news may arrive when the tasks after it have begun.
        numbers = range(self._begun, self._begun + len(tasks))
        self._begun += len(tasks)
        done_by_task = dict.fromkeys(numbers, 0)
        total = sum(task.size for task in tasks)
        try:
            with _interrupts_ignored():
                futures = [
                    self._pool.submit(_work, number, task.work, task.arguments)
                    for number, task in zip(numbers, tasks, strict=True)
                ]
            pending: set[Future[Any]] = set(futures)
            while pending:
                done_by_task |= {number: done for number, done in self._listen() if number in numbers}
                if on_progress is not None:
                    on_progress(sum(done_by_task.values()), total)
                done, pending = wait(pending, timeout=0, return_when=FIRST_EXCEPTION)
                for future in sorted(done, key=futures.index):
                    result = future.result()
                    if on_result is not None:
                        on_result(result)
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise TrainingError(
                "A process of the demonstration was killed, which happens when memory runs out; try --processes 1."
            ) from error

    def _listen(self) -> list[tuple[int, int]]:
        """What the processes told since the last time: task and amount done; waits a little if it is nothing."""
        news = []
        try:
            news.append(self._news.get(timeout=PATIENCE))
            while True:
                news.append(self._news.get_nowait())
        except queue.Empty:
            return news


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal; those started within this block never hear it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# What follows happens in the other processes.

_tell: Callable[[int, int], None]


def _enlist(news: Any, stop: Any) -> None:
    """Make a process ready for work."""
    global _tell
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    # Progress that nobody reads any more must not keep this process from ending.
    news.cancel_join_thread()

    def tell(number: int, done: int) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        news.put((number, done))

    _tell = tell


def _leave_with_parent() -> None:
    """End this process when the main one was killed: nobody would tell it to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(number: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return work(*arguments, lambda done: _tell(number, done))
