"""Very many classes: each process encodes the prompts of its share of them, for all images.

Photos cannot be shared out when a batch has one, as CoCoOp's has, but its classes can: the text tower does nearly all
the work, a class after the other. What the processes tell each other are logits, one number an image and class.

Shapes: B images, C classes, c of them in one process, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, distributed

from cocoop.errors import ConfigError
from cocoop.methods import Method
from cocoop.training.distributed import Processes

__all__ = ["class_parallel_logits"]


def class_parallel_logits(method: Method, processes: Processes) -> Callable[[Tensor], Tensor]:
    """`method.logits` of all classes in every process, each of which has computed its share.

    Of a loss that is 1 / n of the whole in each of n processes, the gradients added up over all processes are those of
    the whole loss in one.

    Args:
        method: knows the classes.
        processes: more than one.

    Raises:
        ConfigError: for fewer classes than processes.
    """
    count = len(method.classnames)
    if count < processes.count:
        raise ConfigError(f"{count} classes cannot be shared out among {processes.count} processes; start fewer.")
    own = method.logits_of(processes.share(range(count)))

    def logits(image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C"]:
        columns = own(image_features)
        # All processes send as many columns; the last one is empty where the classes do not divide.
        widest = -(-count // processes.count)
        # Class i is column i // n of process i % n.
        joined: Tensor = _Joined.apply(F.pad(columns, (0, widest - columns.shape[1])), processes)
        return joined.flatten(1)[:, :count]

    return logits


class _Joined(torch.autograd.Function):
    """From the columns of each process to those of all, (B, c) -> (B, c, n).

    As all processes compute the same loss from them, what n such losses want of a column is n times what one wants.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        parts = [torch.empty_like(own) for _ in range(processes.count)]
        distributed.all_gather(parts, own.contiguous())
        return torch.stack(parts, dim=-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[..., ctx.processes.index] * ctx.processes.count, None
