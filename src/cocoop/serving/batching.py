"""Micro-batching: compute requests that arrive at about the same time together, in one thread.

Shapes: n images of a request, 3 channels, S x S pixels.
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
from cocoop.serving.scoring import Engine, ScoreRequest, Scores

__all__ = ["Batcher"]

MAX_PROMPTS = 4096
"""Images times classes to score between two checks for cancelled requests; this takes seconds on a CPU."""


@dataclass(frozen=True, eq=False)
class _Job:
    images: Float[Tensor, "n 3 S S"]
    request: ScoreRequest
    scores: Future[list[Scores]] = field(default_factory=Future)


class Batcher:
    """A queue of requests and one worker thread.

    A batch starts with the oldest request and takes more until it has `max_batch` images or the window has passed. All
    images of a batch are encoded in one pass; those with equal settings are scored together.

    Args:
        engine: computes the scores; afterwards only the worker uses it.
        window: seconds that the first request of a batch waits for others.
        max_batch: number of images that start a batch without further waiting.
    """

    def __init__(self, engine: Engine, *, window: float, max_batch: int) -> None:
        self._engine = engine
        self._window = window
        self._max_batch = max_batch
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="cocoop-batcher", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._worker.start()

    def stop(self) -> None:
        """Finish all submitted requests and end the worker."""
        self._queue.put(None)
        self._worker.join()

    def submit(self, images: Float[Tensor, "n 3 S S"], request: ScoreRequest) -> Future[list[Scores]]:
        """Queue the images of a request.

        Args:
            images: preprocessed images.
            request: settings of the request.

        Returns:
            A future of the scores of each image, or of a `PromptError` for unusable class names. Cancel it to save the
            computation.
        """
        job = _Job(images, request)
        self._queue.put(job)
        return job.scores

    def _work(self) -> None:
        is_last = False
        while not is_last:
            jobs, is_last = self._next_batch()
            self._run([job for job in jobs if not job.scores.cancelled()])

    def _next_batch(self) -> tuple[list[_Job], bool]:
        """Return the jobs of the next batch, and True if it is the last one."""
        job = self._queue.get()
        jobs: list[_Job] = []
        deadline = time.monotonic() + self._window
        while job is not None:
            jobs.append(job)
            if sum(len(job.images) for job in jobs) >= self._max_batch:
                return jobs, False
            try:
                # Jobs that are already in the queue are taken even after the deadline.
                job = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                return jobs, False
        return jobs, True

    def _run(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            features = self._engine.encode(torch.cat([job.images for job in jobs]))
        except Exception as error:
            self._fail(jobs, error)
            return
        groups: dict[ScoreRequest, list[tuple[_Job, Tensor]]] = {}
        for job, own in zip(jobs, features.split([len(job.images) for job in jobs]), strict=True):
            groups.setdefault(job.request, []).append((job, own))
        for request, group in groups.items():
            try:
                scores = self._score(group, request)
            except Exception as error:
                self._fail([job for job, _ in group], error)
                continue
            for job, own_scores in scores.items():
                if job.scores.set_running_or_notify_cancel():
                    job.scores.set_result(own_scores)

    def _score(self, group: list[tuple[_Job, Tensor]], request: ScoreRequest) -> dict[_Job, list[Scores]]:
        """Score images in chunks, and skip those of requests that are cancelled in the meantime."""
        size = max(1, MAX_PROMPTS // len(request.classnames))
        waiting = [(job, image) for job, features in group for image in features.split(1)]
        results: dict[_Job, list[Scores]] = {job: [] for job, _ in group}
        while waiting:
            current, waiting = waiting[:size], waiting[size:]
            scores = self._engine.score(torch.cat([image for _, image in current]), request)
            for (job, _), own in zip(current, scores.split([1] * len(current)), strict=True):
                results[job].append(own)
            waiting = [(job, image) for job, image in waiting if not job.scores.cancelled()]
        return results

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        """Retry jobs of a failed batch one by one: memory may suffice then, or only one of them may be at fault."""
        if len(jobs) > 1 and not isinstance(error, CocoopError):
            for job in jobs:
                self._run([job])
            return
        if not isinstance(error, CocoopError):
            LOG.error("Scoring failed", exc_info=error)
        # The traceback refers to the frames, and the frames to the images and this error: a cycle that would keep
        # gigabytes until the next garbage collection.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        for job in jobs:
            if job.scores.set_running_or_notify_cancel():
                job.scores.set_exception(error)
