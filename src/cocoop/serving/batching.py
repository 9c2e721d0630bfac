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

from cocoop.errors import CocoopError
from cocoop.serving.request_log import LOG
from cocoop.serving.scoring import Classes, Engine, Scores

__all__ = ["Batcher"]

PROMPTS = 4096
"""Photos times classes that are scored before the next look at who still waits: seconds on a CPU."""


@dataclass(frozen=True, eq=False)
class _Job:
    images: Float[Tensor, "n 3 S S"]
    classes: Classes
    scores: Future[list[Scores]] = field(default_factory=Future)
    """Of each photo; cancelled by those who wait no longer."""


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

    def submit(self, images: Float[Tensor, "n 3 S S"], classes: Classes) -> Future[list[Scores]]:
        """Have the photos of a request scored; what is cancelled is not computed, or not to its end.

        Args:
            images: preprocessed.
            classes: what to score them among.

        Returns:
            What will be the scores of each photo, or the error: `PromptError` for names that cannot be made into
            prompts.
        """
        job = _Job(images, classes)
        self._queue.put(job)
        return job.scores

    def _work(self) -> None:
        is_over = False
        while not is_over:
            jobs, is_over = self._gather()
            self._answer([job for job in jobs if not job.scores.cancelled()])

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
            try:
                scores = self._score(members, classes)
            except Exception as error:
                self._fail([job for job, _ in members], error)
                continue
            for job, found in scores.items():
                if job.scores.set_running_or_notify_cancel():
                    job.scores.set_result(found)

    def _score(self, members: list[tuple[_Job, Tensor]], classes: Classes) -> dict[_Job, list[Scores]]:
        """Some photos after the other: those of requests that are given up by then cost nothing more."""
        at_once = max(1, PROMPTS // len(classes.names))
        left = [(job, image) for job, features in members for image in features.split(1)]
        found: dict[_Job, list[Scores]] = {job: [] for job, _ in members}
        while left:
            now, left = left[:at_once], left[at_once:]
            scores = self._engine.score(torch.cat([image for _, image in now]), classes)
            for (job, _), one in zip(now, scores.split([1] * len(now)), strict=True):
                found[job].append(one)
            left = [(job, image) for job, image in left if not job.scores.cancelled()]
        return found

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        """What fails together may be too much for the memory, or the fault of one: each is tried alone."""
        if len(jobs) > 1 and not isinstance(error, CocoopError):
            for job in jobs:
                self._answer([job])
            return
        if not isinstance(error, CocoopError):
            LOG.error("Scoring failed", exc_info=error)
        # The frames that it came through hold the photos, and these the error: in a circle, all would stay in memory
        # until Python looks for circles, which may be after gigabytes.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        for job in jobs:
            if job.scores.set_running_or_notify_cancel():
                job.scores.set_exception(error)
