"""Explain a trained prompt in one record: words near its context, shifts by images, and the control."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cocoop.checkpoints.pretrained import from_pretrained
from cocoop.config import Precision, check_int
from cocoop.data import Dataset
from cocoop.errors import CocoopWarning, ConfigError
from cocoop.evaluation.interpret import control_study, nearest_words, prompt_shifts, word_distance
from cocoop.methods import CoCoOp, Method
from cocoop.training.features import Progress, encode_split, unreadable_message
from cocoop.version import __version__

__all__ = ["explain"]


def explain(
    source: str | Path | Method,
    data: Dataset | None = None,
    *,
    words: int = 5,
    seeds: int = 5,
    batch_size: int = 64,
    workers: int = 2,
    skip_unreadable: bool = False,
    precision: Precision | None = None,
    device: str | torch.device = "cpu",
    on_encode: Progress | None = None,
    on_control: Progress | None = None,
) -> dict[str, Any]:
    """Explain what a prompt learned; `cocoop.write_explanation` makes a page of the result.

    Args:
        source: a run directory, a hub repository, or a trained method.
        data: for CoCoOp only; its test images show how far images shift the prompt, and whether this matters.
        words: number of vocabulary words to name for each context vector.
        seeds: number of times that the control draws noise and other images.
        batch_size: images encoded at once.
        workers: processes that decode images.
        skip_unreadable: leave unreadable images out, with a warning, instead of failing.
        precision: data type of the frozen towers; None: as in training.
        device: device to compute on.
        on_encode: called with the images done and their total.
        on_control: called with the passes of the control done and their total.

    Returns:
        Plain JSON: `context` (vectors and their nearest words) and `word_distance`; with data also `shifts` and
        `control` (see `cocoop.evaluation.interpret`).

    Raises:
        CocoopError: if the source cannot be loaded or has no learned context, or if `data` is given for a method other
            than CoCoOp.
    """
    check_int("words", words, 1)
    check_int("seeds", seeds, 1)
    method = source if isinstance(source, Method) else from_pretrained(source, precision=precision, device=device)
    record: dict[str, Any] = {
        "cocoop": __version__,
        "run": method.key if isinstance(source, Method) else str(source),
        "method": method.key,
        "backbone": method.backbone.name,
        "context": [asdict(vector) for vector in nearest_words(method, words)],
        "word_distance": word_distance(method.backbone),
    }
    if data is None:
        return record
    if not isinstance(method, CoCoOp):
        raise ConfigError(f"'{record['run']}' uses {method.key}, whose prompt does not depend on images; omit `data`.")
    method.set_classes(data.classnames)
    features = encode_split(
        method.backbone,
        data,
        batch_size=batch_size,
        workers=workers,
        skip_unreadable=skip_unreadable,
        on_progress=on_encode,
    )
    if features.unreadable:
        warnings.warn(f"Skipped: {unreadable_message(features.unreadable)}.", CocoopWarning, stacklevel=2)
    control = control_study(method, features, seeds=seeds, on_progress=on_control)
    shifts = prompt_shifts(method, features)
    return {**record, "data": data.name, "shifts": shifts.record(), "control": [asdict(one) for one in control]}
