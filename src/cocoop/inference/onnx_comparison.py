"""PyTorch and onnxruntime beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.benchmark import Timer

from cocoop.inference.onnx import OnnxPrompt
from cocoop.methods import Method

__all__ = ["milliseconds_an_image", "pytorch_bytes"]


def milliseconds_an_image(
    method: Method, exported: OnnxPrompt, batches: Sequence[int] = (1, 8), rounds: int = 3
) -> dict[int, tuple[float, float]]:
    """Milliseconds an image in PyTorch and in onnxruntime, by batch size; medians, in turns.

    Args:
        method: the one that was exported.
        exported: in onnxruntime.
        batches: numbers of images.
        rounds: turns of each.
    """
    size, scorer = method.preprocessing.size, method.image_scorer()
    found = {}
    for batch in batches:
        images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
        calls = {"torch": lambda images=images: scorer(images), "onnx": lambda images=images: exported(images)}
        timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
        seconds = {name: timer.blocked_autorange(min_run_time=0.1 * rounds).median for name, timer in timers.items()}
        found[batch] = (1000 * seconds["torch"] / batch, 1000 * seconds["onnx"] / batch)
    return found


def pytorch_bytes(method: Method) -> int:
    """Size of the weights that PyTorch holds for it."""
    return sum(parameter.numel() * parameter.element_size() for parameter in method.parameters())
