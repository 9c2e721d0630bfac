"""Micro-batching: requests that come at about the same time are computed together, by one thread.

Shapes: n photos of a request, 3 channels, S x S pixels.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import torch
from jaxtyping import Float
from torch import Tensor

from cocoop.serving.scoring import Classes, Engine, Scores

__all__ = ["Batcher"]


@dataclass(frozen=True, eq=False)
class _Job:
    images: Float[Tensor, "n 3 S S"]
    classes: Classes
    scores: Future[Scores] = field(default_factory=Future)


class Batcher:
    """A queue and one worker thread.

    The worker takes the request that waits longest, and more until they have `max_batch` photos or the window has
    passed. Photos of all of them go through the image tower in one pass; those with the same classes are scored
    together.

    Args:
        engine: what computes; from now on only the worker uses it.
        window: seconds that the first request of a batch waits for others.
        max_batch: photos that are enough to begin at once.
    """

    def __init__(self, engine: Engine, *, window: float, max_batch: int) -> None:
        self._engine = engine
        self._window = window
        self._max_batch = max_batch
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="cocoop-batcher", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._worker.start()

    def stop(self) -> None:
        """Finish what was submitted, and end the worker."""
        self._queue.put(None)
        self._worker.join()

    def submit(self, images: Float[Tensor, "n 3 S S"], classes: Classes) -> Future[Scores]:
        """Have the photos of a request scored; a result that is cancelled before its turn is not computed.

        Args:
            images: preprocessed.
            classes: what to score them among.

        Returns:
            What will be the scores, or the error: `PromptError` for names that cannot be made into prompts.
        """
        job = _Job(images, classes)
        self._queue.put(job)
        return job.scores

    def _work(self) -> None:
        is_over = False
        while not is_over:
            jobs, is_over = self._gather()
            self._answer([job for job in jobs if job.scores.set_running_or_notify_cancel()])

    def _gather(self) -> tuple[list[_Job], bool]:
        """The jobs of the next batch, and whether they are the last."""
        job = self._queue.get()
        jobs: list[_Job] = []
        until = time.monotonic() + self._window
        while job is not None:
            jobs.append(job)
            if sum(len(job.images) for job in jobs) >= self._max_batch:
                return jobs, False
            try:
                # What waits already is taken even where the window has passed.
                job = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                return jobs, False
        return jobs, True

    def _answer(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            features = self._engine.encode(torch.cat([job.images for job in jobs]))
        except Exception as error:
            self._fail(jobs, error)
            return
        same: dict[Classes, list[tuple[_Job, Tensor]]] = {}
        for job, part in zip(jobs, features.split([len(job.images) for job in jobs]), strict=True):
            same.setdefault(job.classes, []).append((job, part))
        for classes, members in same.items():
            together = [job for job, _ in members]
            try:
                scores = self._engine.score(torch.cat([part for _, part in members]), classes)
            except Exception as error:
                self._fail(together, error)
                continue
            for job, part in zip(together, scores.split([len(job.images) for job in together]), strict=True):
                job.scores.set_result(part)

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        """What fails together may be too much for the memory, or the fault of one: each is tried alone."""
        if len(jobs) == 1:
            jobs[0].scores.set_exception(error)
        else:
            for job in jobs:
                self._answer([job])
