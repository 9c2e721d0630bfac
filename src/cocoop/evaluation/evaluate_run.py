"""Evaluation of a saved prompt, without the images that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from cocoop.checkpoints.pretrained import from_pretrained
from cocoop.config import ClassSubset, Precision
from cocoop.data import Dataset, load_data
from cocoop.evaluation.evaluate import evaluate
from cocoop.evaluation.metrics import Evaluation
from cocoop.training.distributed import Engine, Processes
from cocoop.training.features import Progress, encode_split, find_training_images, unreadable_message
from cocoop.training.run_directory import trained_image_hashes

__all__ = ["RunEvaluation", "evaluate_run"]


@dataclass(frozen=True)
class RunEvaluation:
    """Evaluation of a saved prompt."""

    evaluation: Evaluation
    """Metrics and answers."""
    method: str
    """Key of the method, such as `cocoop`."""
    data: str
    """Name of the data set."""
    other_images: int
    """Number of training and validation images of the data set, which were not measured."""
    training_images: int
    """Number of test images left out because they are copies of training images."""
    new_classes: int
    """Number of classes of the data set that the prompt was not trained on."""
    missing_classes: int
    """Number of trained classes that the data set does not have."""
    unreadable: str | None
    """Sentence about unreadable images, if there are any."""


def evaluate_run(
    source: str | Path,
    data: Dataset | str | Path,
    *,
    classes: ClassSubset = "all",
    all_images: bool = False,
    batch_size: int = 64,
    workers: int = 2,
    skip_unreadable: bool = False,
    shortlist: int | None = None,
    precision: Precision | None = None,
    device: str | torch.device = "cpu",
    engine: Engine | None = None,
    progress: Callable[[str], AbstractContextManager[Progress | None]] = lambda _label: nullcontext(None),
) -> RunEvaluation:
    """Measure a saved prompt on the test images of a data set, among that data set's classes.

    Args:
        source: run directory or hub repository, as `from_pretrained` takes it.
        data: a data set, or a source that `load_data` reads.
        classes: classes to measure on: all, the base ones (first half) or the new ones.
        all_images: measure on every image, not only on the test split.
        batch_size: images per batch.
        workers: processes that read and decode images.
        skip_unreadable: leave unreadable images out and count them, instead of failing.
        shortlist: K, to measure a shortlist of K classes per image too (CoCoOp only).
        precision: data type of the frozen towers; None: as in training.
        device: device to compute on.
        engine: engine of several processes, such as an `accelerate.Accelerator`.
        progress: function from a label to a context manager that yields a progress callback or None.

    Raises:
        CocoopError: for data or a run that cannot be used, or unreadable images.
    """
    data = (data if isinstance(data, Dataset) else load_data(data)).select(classes)
    if all_images:
        data = data.all_for_testing()
    data.check_files(["test"])
    processes = Processes(engine)
    method = from_pretrained(source, precision=precision, device=device)
    trained = set(method.classnames)
    method.set_classes(data.classnames)
    with progress("encoding test images") as on_progress:
        tests = encode_split(
            method.backbone,
            data,
            batch_size=batch_size,
            workers=workers,
            skip_unreadable=skip_unreadable,
            processes=processes,
            on_progress=on_progress,
        )
    # A hub repository does not list the training images.
    repeated = find_training_images(tests, trained_image_hashes(Path(source)))
    with progress("classifying") as on_progress:
        result = evaluate(
            method,
            tests.without(repeated),
            batch_size=batch_size,
            shortlist=shortlist,
            engine=engine,
            on_progress=on_progress,
        )
    return RunEvaluation(
        evaluation=result,
        method=method.key,
        data=data.name,
        other_images=len(data.train + data.val),
        training_images=len(repeated),
        new_classes=len(set(data.classnames) - trained),
        missing_classes=len(trained - set(data.classnames)),
        unreadable=unreadable_message(tests.unreadable) if tests.unreadable else None,
    )
