"""Run the chunks of a job in this process, or on workers of a Ray cluster.

Reference: Ray Data, `Dataset.map_batches` with a class: one actor per worker; an actor that dies is restarted, and its
chunk is assigned again.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cocoop.errors import CocoopError, ConfigError, about_memory
from cocoop.inference.bulk.chunks import Chunk
from cocoop.inference.bulk.job_directory import JobDirectory
from cocoop.inference.bulk.worker import RESUME_HINT, ChunkLabeller, ChunkResult
from cocoop.inference.predictor import ModelSpec, Predictor

__all__ = ["check_ray", "run_here", "run_on_ray"]

MAX_ATTEMPTS = 4
"""Number of workers that may die on one chunk; a worker can also die for other reasons, such as a lost machine."""


def run_here(chunks: Sequence[Chunk], predictor: Predictor, job: JobDirectory, **options: Any) -> Iterator[ChunkResult]:
    """Label the chunks one after the other.

    Args:
        chunks: the chunks to label.
        predictor: the classifier.
        job: the directory to write to.
        options: keyword arguments of `ChunkLabeller`.
    """
    return map(ChunkLabeller(predictor, job, **options), chunks)


def check_ray() -> None:
    """Check that Ray is installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    try:
        # Ray sends usage statistics unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ConfigError("`engine=\"ray\"` needs the library ray: pip install 'cocoop[ray]'") from error


def run_on_ray(
    chunks: Sequence[Chunk], model: ModelSpec, job: JobDirectory, *, workers: int, **options: Any
) -> Iterator[ChunkResult]:
    """Label the chunks on Ray: on the cluster of RAY_ADDRESS, or on a new one on this machine.

    Ray restarts a worker that dies and repeats its chunk, which overwrites the same output file.

    Args:
        chunks: the chunks to label.
        model: loaded once by each worker; `auto` means a GPU if the cluster has any.
        job: the directory to write to, which every worker must reach.
        workers: number of workers, each with a model.
        options: keyword arguments of `ChunkLabeller`.

    Raises:
        CocoopError: if a worker fails, a chunk has killed `MAX_ATTEMPTS` workers, or there is no cluster.
    """
    import ray

    if not chunks:
        return
    workers = min(workers, len(chunks))
    with _cluster(workers):
        model = _resolve(model)
        # JSON, because a file name need not be valid Unicode, but a column must be.
        rows = ray.data.from_items(
            [{"chunk": json.dumps([chunk.shard, chunk.files])} for chunk in chunks], override_num_blocks=len(chunks)
        )
        # One actor counts the attempts of all workers.
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        labelled = rows.map_batches(
            _RayWorker,
            fn_constructor_kwargs={"model": model, "job": job, "attempts": attempts, "options": options},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if model.device.startswith("cuda") else 0,
        )
        try:
            for row in labelled.iter_rows():
                if row["error"]:
                    raise CocoopError(row["error"])
                yield ChunkResult(int(row["images"]), int(row["unreadable"]))
        except ray.exceptions.OutOfMemoryError as error:
            raise CocoopError(f"{about_memory(MemoryError())} {RESUME_HINT}") from error
        except ray.exceptions.RayError as error:
            # The first lines hold ids of processes, the last one the reason.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise CocoopError(f"Ray failed: {about_memory(error) or lines[-1]} {RESUME_HINT}") from error


class _RayWorker:
    """An actor with a model, loaded for its first chunk, because Ray does not report errors in `__init__` clearly."""

    def __init__(self, model: ModelSpec, job: JobDirectory, attempts: Any, options: dict[str, Any]) -> None:
        self._model, self._job, self._attempts, self._options = model, job, attempts, options

    @cached_property
    def _label(self) -> ChunkLabeller:
        # Ray limits the threads of PyTorch to the cores of this worker, but not those of onnxruntime.
        predictor = self._model.load(threads=torch.get_num_threads())
        return ChunkLabeller(predictor, self._job, **self._options, shortlist=self._model.shortlist)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        import ray

        ((shard, files),) = map(json.loads, batch["chunk"])
        chunk = Chunk(shard, tuple(files))
        result, message = ChunkResult(0, 0), ""
        if ray.get(self._attempts.count.remote(chunk.output_file)) > MAX_ATTEMPTS:
            message = (
                f"{MAX_ATTEMPTS} workers died on {chunk}: reduce `batch_size` if memory is short, or look for an image "
                f"that crashes its decoder. {RESUME_HINT}"
            )
        else:
            try:
                result = self._label(chunk)
            except CocoopError as error:
                message = str(error)
            # Ray would wrap the error in a traceback and advice about its own settings.
            except Exception as error:
                message = f"{about_memory(error) or _describe(error)} {RESUME_HINT}"
        return {"images": [result.images], "unreadable": [result.unreadable], "error": [message]}


def _describe(error: Exception) -> str:
    """Describe an error with its file and line, since the traceback stays on the worker."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"A worker failed: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})."


class _Attempts:
    """Count the attempts at each chunk; without a limit, Ray would retry a chunk that kills its workers forever."""

    def __init__(self) -> None:
        self._attempts: Counter[str] = Counter()

    def count(self, chunk: str) -> int:
        self._attempts[chunk] += 1
        return self._attempts[chunk]


def _resolve(model: ModelSpec) -> ModelSpec:
    """Return the model with an absolute path, and with the device of the workers in place of `auto`."""
    import ray

    source, device = Path(model.source), model.device
    if device == "auto":
        device = "cuda" if model.runtime == "torch" and ray.cluster_resources().get("GPU") else "cpu"
    return replace(model, source=str(source.absolute()) if source.exists() else model.source, device=device)


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    """Connect to Ray unless connected, without its progress bars and logs."""
    import ray

    connect = not ray.is_initialized()
    if connect:
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if not os.environ.get("RAY_ADDRESS"):
            # Do not join another cluster that happens to run here.
            options |= {"address": "local", "num_cpus": max(workers, os.cpu_count() or 1) + 1}
            options |= {"include_dashboard": False}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"Could not connect to a Ray cluster: {str(error).splitlines()[0]}") from error
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)
        if connect:
            ray.shutdown()
