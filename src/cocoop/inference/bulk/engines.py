"""Who does the pieces: this process, or workers of a Ray cluster.

Reference: Ray Data, `Dataset.map_batches` with a class: an actor a worker, restarted if it dies, its piece given out
again.
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
from cocoop.inference.bulk.job_directory import Job
from cocoop.inference.bulk.worker import GOES_ON, Done, Labeller
from cocoop.inference.predictor import Model, Predictor

__all__ = ["check_ray", "in_this_process", "on_ray"]

TRIES = 4
"""Workers that may die over a piece: some are killed, or their machines taken away, by no fault of the piece's."""


def in_this_process(pieces: Sequence[Chunk], predictor: Predictor, job: Job, **options: Any) -> Iterator[Done]:
    """Do the pieces one after the other.

    Args:
        pieces: what is to do.
        predictor: what classifies.
        job: where the labels go.
        options: of `Labeller`.
    """
    return map(Labeller(predictor, job, **options), pieces)


def check_ray() -> None:
    """That Ray is installed.

    Raises:
        ConfigError: saying how to install it.
    """
    try:
        # It counts its users, and sends what it counted, unless told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ConfigError("--engine ray needs the library ray: pip install 'cocoop[ray]'") from error


def on_ray(pieces: Sequence[Chunk], model: Model, job: Job, *, workers: int, **options: Any) -> Iterator[Done]:
    """Do the pieces on Ray: the cluster that RAY_ADDRESS names, or one on this machine.

    Ray starts a worker that dies again, and does its piece again; the part replaces itself.

    Args:
        pieces: what is to do.
        model: each worker loads it once, with `auto` onto a GPU if the cluster has any.
        job: where the labels go; every worker must reach it.
        workers: processes with a model each.
        options: of `Labeller`.

    Raises:
        CocoopError: of a worker; if a piece has killed `TRIES` workers; if there is no cluster.
    """
    check_ray()
    import ray

    if not pieces:
        return
    workers = min(workers, len(pieces))
    with _cluster(workers):
        model = _as_workers_see(model)
        # As JSON: a file name need not be text, which a column is.
        rows = ray.data.from_items(
            [{"piece": json.dumps([piece.shard, piece.files])} for piece in pieces], override_num_blocks=len(pieces)
        )
        labelled = rows.map_batches(
            _Worker,
            fn_constructor_kwargs={"model": model, "job": job, "tries": _tries(), "options": options},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=1 if model.device.startswith("cuda") else 0,
        )
        try:
            for row in labelled.iter_rows():
                if row["error"]:
                    raise CocoopError(row["error"])
                yield Done(int(row["images"]), int(row["unreadable"]))
        except ray.exceptions.OutOfMemoryError as error:
            raise CocoopError(f"{about_memory(MemoryError())} {GOES_ON}") from error
        except ray.exceptions.RayError as error:
            raise CocoopError(f"Ray gave up: {_last_words(error)} {GOES_ON}") from error


class _Worker:
    """An actor with a model, loaded for the first piece: Ray has no good words for what fails before."""

    def __init__(self, model: Model, job: Job, tries: Any, options: dict[str, Any]) -> None:
        self._model, self._job, self._tries, self._options = model, job, tries, options

    @cached_property
    def _label(self) -> Labeller:
        # Ray tells PyTorch alone how many of the cores are this worker's.
        predictor = self._model.load(threads=torch.get_num_threads())
        return Labeller(predictor, self._job, **self._options, shortlist=self._model.shortlist)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        import ray

        ((shard, files),) = map(json.loads, batch["piece"])
        piece = Chunk(shard, tuple(files))
        done, error = Done(0, 0), ""
        if ray.get(self._tries.begin.remote(piece.name)) > TRIES:
            error = (
                f"{TRIES} workers died over {piece}: memory may be short (--batch-size), or a photo kills its reader. "
                f"{GOES_ON}"
            )
        else:
            try:
                done = self._label(piece)
            except CocoopError as failed:
                error = str(failed)
            # Ray would wrap it in a traceback and advice about its own settings.
            except Exception as failed:
                error = f"{about_memory(failed) or _as_told_by_a_worker(failed)} {GOES_ON}"
        return {"images": [done.images], "unreadable": [done.unreadable], "error": [error]}


def _as_told_by_a_worker(error: Exception) -> str:
    """What failed, and where, as the traceback stays behind on the worker."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"A worker failed: {type(error).__name__}: {error} ({where.filename}, line {where.lineno})."


def _last_words(error: Exception) -> str:
    """The reason in an error of Ray, which begins with the numbers of processes and ends with what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return about_memory(error) or (lines[-1] if lines else type(error).__name__)


class _Tries:
    """How often each piece was begun: Ray itself would give a piece that kills its workers to new ones for ever."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, piece: str) -> int:
        self._begun[piece] += 1
        return self._begun[piece]


def _tries() -> Any:
    """The count, as an actor that all workers ask."""
    import ray

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote()


def _as_workers_see(model: Model) -> Model:
    """With the whole path of its folder, for a worker may run in another one, and a device that they have."""
    import ray

    source, device = Path(model.source), model.device
    if device == "auto":
        device = "cuda" if model.runtime == "torch" and ray.cluster_resources().get("GPU") else "cpu"
    return replace(model, source=str(source.absolute()) if source.exists() else model.source, device=device)


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    import ray

    began_here = not ray.is_initialized()
    if began_here:
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if not os.environ.get("RAY_ADDRESS"):
            # Another cluster that happens to run here is not meant.
            options |= {"address": "local", "num_cpus": max(workers, os.cpu_count() or 1) + 1}
            options |= {"include_dashboard": False}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"There is no Ray cluster: {str(error).splitlines()[0]}") from error
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
        if began_here:
            ray.shutdown()
