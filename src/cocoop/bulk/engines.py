"""Who does the pieces: this process, or workers of a Ray cluster.

Reference: Ray Data, `Dataset.map_batches` with a class: an actor a worker, restarted if it dies, its piece given out
again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cocoop.bulk.labeller import Done, Labeller
from cocoop.bulk.parts import Job
from cocoop.bulk.pieces import Piece
from cocoop.errors import CocoopError, ConfigError
from cocoop.prediction import Model, Predictor

__all__ = ["check_ray", "in_this_process", "on_ray"]


def in_this_process(pieces: Sequence[Piece], predictor: Predictor, job: Job, **options: Any) -> Iterator[Done]:
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


def on_ray(pieces: Sequence[Piece], model: Model, job: Job, *, workers: int, **options: Any) -> Iterator[Done]:
    """Do the pieces on Ray: the cluster that RAY_ADDRESS names, or one on this machine.

    Ray starts a worker that dies again, without end, and does its piece again; the part replaces itself.

    Args:
        pieces: what is to do.
        model: each worker loads it once.
        job: where the labels go; every worker must reach it.
        workers: processes with a model each.
        options: of `Labeller`.

    Raises:
        CocoopError: of a worker, and if there is no cluster.
    """
    check_ray()
    import ray

    if not pieces:
        return
    workers = min(workers, len(pieces))
    with _cluster(workers):
        # As JSON: a file name need not be text, which a column is.
        rows = ray.data.from_items(
            [{"piece": json.dumps([piece.shard, piece.files])} for piece in pieces], override_num_blocks=len(pieces)
        )
        labelled = rows.map_batches(
            _Worker,
            fn_constructor_kwargs={"model": model, "job": job, "options": options},
            batch_size=1,
            concurrency=workers,
            num_gpus=1 if model.device.startswith("cuda") else 0,
        )
        try:
            for row in labelled.iter_rows():
                yield Done(int(row["photos"]), int(row["unreadable"]))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, CocoopError):
                raise error.cause from error
            raise


class _Worker:
    """An actor with a model."""

    def __init__(self, model: Model, job: Job, options: dict[str, Any]) -> None:
        self._label = Labeller(model.load(), job, **options, shortlist=model.shortlist)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        pieces = [Piece(shard, tuple(files)) for shard, files in map(json.loads, batch["piece"])]
        done = [self._label(piece) for piece in pieces]
        return {"photos": [d.photos for d in done], "unreadable": [d.unreadable for d in done]}


@contextmanager
def _cluster(workers: int) -> Iterator[None]:
    import ray

    began_here = not ray.is_initialized()
    if began_here:
        options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if not os.environ.get("RAY_ADDRESS"):
            options |= {"num_cpus": max(workers, os.cpu_count() or 1) + 1, "include_dashboard": False}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"There is no Ray cluster: {str(error).splitlines()[0]}") from error
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        log.setLevel(level)
        if began_here:
            ray.shutdown()
