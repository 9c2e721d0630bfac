"""Test photos to features, with progress and a word about those that could not be read."""

from __future__ import annotations

from typing import Any

from cocoop.backbones.backbone import Backbone
from cocoop.cli.console import image_progress, note
from cocoop.data import Dataset
from cocoop.training.features import Features, encode_split, unreadable_message

__all__ = ["encode_images"]


def encode_images(backbone: Backbone, data: Dataset, **options: Any) -> Features:
    """Features of the test photos of a data set.

    Args:
        backbone: the frozen model.
        data: its `test` split is encoded.
        options: as `cocoop.encode_split` takes them.

    Raises:
        CocoopError: as `cocoop.encode_split` does.
    """
    with image_progress("encoding test photos") as progress:
        features = encode_split(backbone, data, **options, on_progress=progress)
    if features.unreadable:
        note(f"Left out of the test: {unreadable_message(features.unreadable)}.")
    return features
