"""Label images in bulk: from sources to output files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cocoop.backbones.fingerprint import model_key
from cocoop.config import check_int
from cocoop.errors import ConfigError
from cocoop.inference.bulk.chunks import find_sources, pending_chunks
from cocoop.inference.bulk.engines import check_ray, run_here, run_on_ray
from cocoop.inference.bulk.job_directory import READER_THREADS, JobDirectory
from cocoop.inference.onnx import OnnxPrompt
from cocoop.inference.predictor import ModelSpec, Predictor
from cocoop.methods import Method
from cocoop.storage.hashing import hash_content

__all__ = ["JobSummary", "label_images"]

FORMAT = 2
"""Version of _job.json; version 1 had no settings of the method."""


@dataclass(frozen=True)
class JobSummary:
    """The result of a labelling job."""

    images: int
    """Number of images labelled by this call, unreadable ones included."""
    unreadable: int
    """Number of unreadable images among them."""
    files_before: int
    """Number of output files from earlier runs."""
    seconds: float
    """Wall time of labelling, without loading the model in this process."""


def label_images(
    model: ModelSpec | str | Path,
    images: Sequence[str | Path],
    output: str | Path,
    *,
    top_k: int = 1,
    batch_size: int = 64,
    workers: int = 0,
    engine: Literal["local", "ray"] = "local",
    ray_workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> JobSummary:
    """Label images into Parquet files; called again after an interruption, it resumes and labels no image twice.

    Args:
        model: a run directory, a repository of the hub, or a `ModelSpec` with further settings.
        images: images, directories and shards, on any file system of fsspec.
        output: directory of the Parquet files, on any file system of fsspec.
        top_k: labels per image.
        batch_size: images per batch.
        workers: threads that read and decode, in each process with a model; 0: one, or 16 for remote files.
        engine: `local`: this process; `ray`: workers on a Ray cluster.
        ray_workers: number of Ray workers, each with a model; None: 2.
        on_progress: called with the chunks done and their total.

    Raises:
        CheckpointError: if the directory holds something else or cannot be written.
        ConfigError: for a number out of range, a missing package, or a job that was started with other settings.
        DataError: if there is nothing to label.
    """
    check_int("top_k", top_k, 1)
    check_int("batch_size", batch_size, 1)
    check_int("workers", workers, 0)
    if ray_workers is not None:
        check_int("ray_workers", ray_workers, 1)
        if engine != "ray":
            raise ConfigError('`ray_workers` needs `engine="ray"`; add it or omit `ray_workers`.')
    model = model if isinstance(model, ModelSpec) else ModelSpec(source=str(model))
    job = JobDirectory(str(output))
    if engine == "ray":
        check_ray()
    sources = find_sources([str(image) for image in images], str(output))
    # With Ray, the GPUs are for the workers.
    predictor = (replace(model, device="cpu") if engine == "ray" else model).load()
    with job.lock():
        job.start(
            {
                "format": FORMAT,
                "model": model_identity(predictor),
                "classes": list(predictor.classnames),
                "top_k": top_k,
                "shortlist": model.shortlist,
            }
        )
        before = job.output_files()
        chunks = pending_chunks(sources, before, job.labelled_in)
        threads = workers or (READER_THREADS if any(map(_is_remote, sources.files)) else 1)
        options: dict[str, Any] = {"top_k": top_k, "batch_size": batch_size, "threads": threads}
        started = time.perf_counter()
        if engine == "ray":
            del predictor
            results = run_on_ray(chunks, model, job, workers=ray_workers or 2, **options)
        else:
            results = run_here(chunks, predictor, job, shortlist=model.shortlist, **options)
        labelled = unreadable = 0
        for done, result in enumerate(results, 1):
            labelled, unreadable = labelled + result.images, unreadable + result.unreadable
            if on_progress:
                on_progress(done, len(chunks))
        return JobSummary(labelled, unreadable, len(before), time.perf_counter() - started)


def _is_remote(address: str) -> bool:
    return "://" in address and not address.startswith(("file://", "local://"))


def model_identity(predictor: Predictor) -> dict[str, str]:
    """Return the method and a hash of everything that determines its predictions, except the classes.

    Raises:
        ConfigError: for a predictor that is neither a `Method` nor an `OnnxPrompt`.
    """
    if isinstance(predictor, Method):
        settings = json.dumps(predictor.settings(), sort_keys=True)
        content = f"{model_key(predictor.backbone)}\n{settings}\n".encode()
        for name, tensor in sorted(predictor.learned().items()):
            content += name.encode() + tensor.detach().cpu().numpy().tobytes()
        return {"method": predictor.key, "sha256": hash_content(content)}
    if isinstance(predictor, OnnxPrompt):
        return {"method": "onnx", "sha256": predictor.sha256}
    raise ConfigError(f"{type(predictor).__name__} cannot label in bulk; pass a run or an exported prompt.")
