"""Saved methods by functions: written by `Method.save_pretrained`, read by `cocoop.methods.pretrained`."""

from __future__ import annotations

from pathlib import Path

from cocoop.methods import Method
from cocoop.methods.pretrained import from_pretrained, load_learned

__all__ = ["from_pretrained", "load_learned", "save_pretrained"]


def save_pretrained(method: Method, folder: str | Path) -> None:
    """Write a method's settings, learned tensors and model card; the same as `method.save_pretrained(folder)`.

    Raises:
        CheckpointError: if the disk refuses.
    """
    method.save_pretrained(folder)
