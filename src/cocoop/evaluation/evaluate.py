"""Evaluation of a method on images that it was not trained on.

Shapes: N images, C classes, e joint embedding size.
"""

from __future__ import annotations

from typing import Any

from cocoop.config import check_int
from cocoop.data import Dataset
from cocoop.errors import DataError
from cocoop.evaluation.metrics import Evaluation, Shortlist
from cocoop.methods import Method
from cocoop.training.distributed import Engine, Processes
from cocoop.training.features import Features, Progress, check_same_classes, encode_split

__all__ = ["evaluate"]


def evaluate(
    method: Method,
    data: Dataset | Features,
    *,
    batch_size: int = 64,
    workers: int = 2,
    skip_unreadable: bool = False,
    shortlist: int | None = None,
    engine: Engine | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Classify test images and compare the answers with their labels.

    Args:
        method: its class names must be those of the data (see `set_classes`).
        data: a data set, whose `test` split is used, or encoded features.
        batch_size: images per batch.
        workers: processes that read and decode images.
        skip_unreadable: skip unreadable images and count them, instead of failing.
        shortlist: K, to evaluate with a shortlist of K classes per image too (see `CoCoOp.shortlist_scorer`).
        engine: an `accelerate.Accelerator`, to divide the images among its processes, each of which gets the full
            result; None for this process alone.
        on_progress: called with the images done and their total, both for this process only.

    Returns:
        The answers, with accuracy, macro F1, calibration error and confusions.

    Raises:
        ConfigError: for a batch size or number of workers out of range, or a shortlist for another method.
        DataError: if the class names differ, there are no test images, or images cannot be read.

    Example:
        ```python
        import cocoop

        backbone = cocoop.load_backbone("lite")
        data = cocoop.load_data("photos")
        method = cocoop.ZeroShot(backbone, data.classnames)
        result = cocoop.evaluate(method, data)
        print(result.accuracy, result.macro_f1, result.ece)
        ```
    """
    check_int("batch_size", batch_size, 1)
    check_same_classes(method, data.classnames)
    processes = Processes(engine)
    if isinstance(data, Dataset):
        data = encode_split(
            method.backbone,
            data,
            batch_size=batch_size,
            workers=workers,
            skip_unreadable=skip_unreadable,
            processes=processes,
            on_progress=on_progress,
        )
        on_progress = None
    if not len(data.labels):
        raise DataError("There are no images to evaluate on; mark some as 'test'.")
    scorer = method.scorer()
    short_scorer = None if shortlist is None else method.shortlist_scorer(shortlist)
    # Per image: label and confidence; with a shortlist, also its best label, and True if the exact label is not on it.
    answers: list[tuple[Any, ...]] = []
    own = data.features[list(processes.share(range(len(data.labels))))]
    for features in own.split(batch_size):
        features = features.to(method.backbone.device)
        logits = scorer(features).float()
        best = logits.argmax(-1)
        columns = [best, logits.softmax(-1).amax(-1)]
        if short_scorer is not None:
            short_logits = short_scorer(features)
            columns += [short_logits.argmax(-1), short_logits.gather(1, best.unsqueeze(1)).isinf()[:, 0]]
        answers += zip(*(column.tolist() for column in columns), strict=True)
        if on_progress:
            on_progress(len(answers), len(own))
    predicted, confidences, *short = zip(*processes.gather_in_order(answers), strict=True)
    return Evaluation(
        classnames=data.classnames,
        labels=tuple(data.labels.tolist()),
        predicted=predicted,
        confidences=confidences,
        paths=data.paths,
        skipped=len(data.unreadable),
        shortlist=None if shortlist is None else Shortlist(shortlist, short[0], sum(short[1])),
    )
