"""A labelling job from its sources to its parts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cocoop.config import check_int
from cocoop.errors import ConfigError
from cocoop.inference.bulk.chunks import chunks_of, find
from cocoop.inference.bulk.engines import check_ray, in_this_process, on_ray
from cocoop.inference.bulk.job_directory import READERS, Job
from cocoop.inference.predictor import Model, Predictor

__all__ = ["Summary", "label_images"]

FORMAT = 2
"""Of what a job notes; the first one noted no settings of the method."""


@dataclass(frozen=True)
class Summary:
    """What a job did."""

    images: int
    """Photos that have labels now, or an error, and had none before."""
    unreadable: int
    """Of these, those that could not be read."""
    pieces_before: int
    """Parts that were there already."""
    seconds: float
    """Wall time of labelling; loading the model is not included with `local`."""


def label_images(
    model: Model,
    sources: Sequence[str],
    output: str,
    *,
    top_k: int = 1,
    batch_size: int = 64,
    threads: int = 0,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Label photos into Parquet parts; a job that was stopped goes on, and labels nothing twice.

    Args:
        model: what classifies.
        sources: photos, folders, shards, on any file system of fsspec.
        output: folder for the parts, likewise.
        top_k: labels of a photo.
        batch_size: photos at once.
        threads: that read and decode, in each worker; 0: one, or `READERS` if photos are not on this machine.
        engine: `local`: this process; `ray`: workers on Ray.
        workers: processes with a model each, on Ray.
        on_progress: called with pieces done and pieces in all.

    Raises:
        CheckpointError: if the output holds something else, or the disk refuses.
        ConfigError: for a number out of range, a package that is missing, or a job begun with something else.
        DataError: if there is nothing to label.
    """
    for flag, value in (("top_k", top_k), ("batch_size", batch_size), ("workers", workers)):
        check_int(flag, value, 1)
    check_int("threads", threads, 0)
    job = Job(output)
    if engine == "ray":
        check_ray()
    found = find(sources, output)
    # On Ray, it is the workers that compute, and that have the GPUs.
    predictor = (replace(model, device="cpu") if engine == "ray" else model).load()
    with job.try_lock():
        job.begin(
            {
                "format": FORMAT,
                "model": model_facts(predictor),
                "classes": list(predictor.classnames),
                "top_k": top_k,
                "shortlist": model.shortlist,
            }
        )
        before = job.parts()
        pieces = chunks_of(found, before, job.files_in)
        started = time.perf_counter()
        threads = threads or (READERS if any(map(_is_elsewhere, found.files)) else 1)
        options: dict[str, Any] = {"top_k": top_k, "batch_size": batch_size, "threads": threads}
        if engine == "ray":
            del predictor
            done = on_ray(pieces, model, job, workers=workers, **options)
        else:
            done = in_this_process(pieces, predictor, job, shortlist=model.shortlist, **options)
        images = unreadable = 0
        for number, piece in enumerate(done, 1):
            images, unreadable = images + piece.images, unreadable + piece.unreadable
            if on_progress:
                on_progress(number, len(pieces))
        return Summary(images, unreadable, len(before), time.perf_counter() - started)


def _is_elsewhere(address: str) -> bool:
    return "://" in address and not address.startswith(("file://", "local://"))


def model_facts(predictor: Predictor) -> dict[str, str]:
    """What tells one model from another: the method, and a hash of all that decides its answers but the classes.

    Raises:
        ConfigError: for a kind of predictor that has no such hash.
    """
    from cocoop.backbones.fingerprint import model_key
    from cocoop.inference.onnx import OnnxPrompt
    from cocoop.methods import Method

    if isinstance(predictor, Method):
        settings = json.dumps(predictor.settings(), sort_keys=True)
        digest = hashlib.sha256(f"{model_key(predictor.backbone)}\n{settings}\n".encode())
        for name, tensor in sorted(predictor.learned().items()):
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return {"method": predictor.key, "sha256": digest.hexdigest()}
    if isinstance(predictor, OnnxPrompt):
        return {"method": "onnx", "sha256": predictor.sha256}
    raise ConfigError(f"{type(predictor).__name__} cannot label in bulk; give a run or an exported prompt.")
