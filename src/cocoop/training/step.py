"""One training step: the gradients of a batch, computed by one process or several, and the update.

With several processes, each computes the gradients of its share of the images, or, with `class_parallel`, of its share
of the classes for all images. CoCoOp trains on one image per step, so there are no images to divide, but nearly all
the work is in the text tower, class by class. With `class_parallel`, the processes exchange only logits and gradients.

Shapes: B images, C classes, c classes of one process, n processes, e joint embedding size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, distributed

from cocoop.checkpoints.pretrained import load_learned
from cocoop.config import TrainConfig
from cocoop.errors import ConfigError, MemoryWarning, TrainingError, is_out_of_memory
from cocoop.methods import Method
from cocoop.training.distributed import Processes
from cocoop.training.features import FeatureBatch
from cocoop.training.run_directory import TrainingState

__all__ = ["Learner", "Step", "class_parallel_logits"]

MIN_GRADIENT_SCALE = 2.0**-8
"""Smallest scale of fp16 gradients. It starts at 2**16 and is halved by each overflow; a smaller one does not help."""


class Step(NamedTuple):
    """Metrics of one batch, over all processes."""

    loss: float
    """Mean over the images."""
    correct: int
    """Number of images classified correctly."""
    images: int
    """Number of readable images in the batch."""
    gradient_norm: float
    """Norm of the gradients of all learned tensors."""


class Learner:
    """A method and its optimiser: SGD on the learned tensors, with scaled gradients in fp16.

    Args:
        method: changed in place.
        config: learning rate, momentum and weight decay.
        processes: the processes; all hold the learned tensors and take the same steps.
        class_parallel: divide the classes among the processes instead of the images.
    """

    def __init__(self, method: Method, config: TrainConfig, processes: Processes, *, class_parallel: bool) -> None:
        self.method = method
        self.processes = processes
        self.learned = method.learned()
        self.optimizer = torch.optim.SGD(
            self.learned.values(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        # Gradients pass through the towers in their precision; small ones would vanish in fp16 without scaling.
        self.scaler = torch.amp.GradScaler(method.backbone.device.type, enabled=method.backbone.precision == "fp16")
        self._logits = class_parallel_logits(method, processes) if class_parallel else method.logits
        # With divided classes, every process trains on all images of the batch.
        self._replicas = processes.count if class_parallel else 1

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of the following steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, batch: FeatureBatch, position: str) -> Step:
        """Train on a batch; nothing changes if no process has a readable image.

        Args:
            batch: this process's share.
            position: name of the step in error messages, such as `epoch 1, step 2`.

        Raises:
            TrainingError: if the loss or the gradients are not finite; the learned tensors are unchanged.
        """
        self.optimizer.zero_grad()
        # An image counts once for each process that trains on it.
        total = self.processes.sum_int(len(batch.labels))
        if not total:
            return Step(0.0, 0, 0, 0.0)
        sums = self._backward(batch, weight=len(batch.labels) / total)
        gradients = self._all_reduce_gradients(sums)
        # One transfer from the GPU: a step is only taken if these numbers are finite, so they are needed now.
        numbers = torch.cat([sums, torch.nn.utils.get_total_norm(gradients).unsqueeze(0)]).tolist()
        loss, correct, norm = numbers
        step = Step(loss, round(correct) // self._replicas, total // self._replicas, norm)
        self._check_finite(step, batch, position)
        self._update()
        return step

    def state(self, epoch: int) -> TrainingState:
        """Return a copy of everything needed to resume after `epoch`."""
        buffers = {name: self.optimizer.state[p].get("momentum_buffer") for name, p in self.learned.items()}
        return TrainingState(
            epoch=epoch,
            learned={name: parameter.detach().clone() for name, parameter in self.learned.items()},
            momentum={name: buffer.clone() for name, buffer in buffers.items() if buffer is not None},
            scaler=self.scaler.state_dict(),
        )

    def restore(self, state: TrainingState, source: Path) -> None:
        """Restore an earlier state.

        Args:
            state: stays unchanged.
            source: the file it was read from, for messages.

        Raises:
            CheckpointError: if its tensors do not fit the method.
        """
        load_learned(self.method, state.learned, source)
        for name, parameter in self.learned.items():
            if name in state.momentum:
                # SGD changes the buffer in place, and the state may be restored again.
                buffer = state.momentum[name].to(parameter.device, copy=True)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)

    def _backward(self, batch: FeatureBatch, weight: float) -> Float[Tensor, 2]:
        """Compute this process's gradients; return its share of the loss and its number of correct images.

        If memory runs out, the text tower is set to use less and the batch is computed again.
        """
        while True:
            try:
                return self._backward_in_parts(batch, weight)
            except (RuntimeError, MemoryError) as error:
                # With divided classes, the step cannot be repeated: the other processes are waiting in it.
                if not is_out_of_memory(error) or self._replicas > 1:
                    raise
                change = self.method.backbone.text_tower.use_less_memory()
                if change is None:
                    raise
            self.optimizer.zero_grad()
            warnings.warn(f"Memory ran out; training continues {change}, more slowly.", MemoryWarning, stacklevel=2)

    def _backward_in_parts(self, batch: FeatureBatch, weight: float) -> Float[Tensor, 2]:
        sums = torch.zeros(2, device=batch.features.device)
        start = 0
        parts = self.method.losses(batch.features, batch.labels, self._logits) if len(batch.labels) else ()
        for loss, logits in parts:
            self.processes.backward(self.scaler.scale(loss * weight))
            correct = logits.detach().argmax(-1) == batch.labels[start : start + len(logits)]
            sums += torch.stack([loss.detach() * weight, correct.sum()])
            start += len(logits)
        return sums

    def _all_reduce_gradients(self, sums: Tensor) -> list[Tensor]:
        """Sum the gradients, and `sums`, over all processes."""
        for parameter in self.learned.values():
            # A process without images of this batch has no gradients.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.learned.values() if parameter.grad is not None]
        self.processes.all_reduce_sum([*gradients, sums])
        return gradients

    def _check_finite(self, step: Step, batch: FeatureBatch, position: str) -> None:
        # In fp16 the scaler handles an occasional overflow of gradients; a loss never overflows.
        if not math.isfinite(step.loss):
            problem = f"loss became {step.loss}"
        elif not math.isfinite(step.gradient_norm) and not self.scaler.is_enabled():
            problem = f"gradient became {step.gradient_norm}"
        else:
            return
        paths = list(dict.fromkeys(path for part in self.processes.gather(batch.paths) for path in part))
        images = ", ".join(f"'{path}'" for path in paths[:4]) + (f" and {len(paths) - 4} more" * (len(paths) > 4))
        raise TrainingError(
            f"The {problem} in {position}, with {images}. The prompt and the last checkpoint are unchanged. Try a "
            'lower `learning_rate`, or `precision="fp32"`.'
        )

    def _update(self) -> None:
        # In fp16 a step whose gradients overflow is skipped, and the scale is lowered for the next.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < MIN_GRADIENT_SCALE:
            raise TrainingError(
                "The gradients overflow in fp16 at every scale, so training cannot make progress. Use "
                '`precision="bf16"` or `precision="fp32"`. The last checkpoint is unchanged.'
            )


def class_parallel_logits(method: Method, processes: Processes) -> Callable[[Tensor], Tensor]:
    """Return a function like `method.logits` that computes this process's classes and gathers those of the others.

    Raises:
        ConfigError: for fewer classes than processes.
    """
    count = len(method.classnames)
    if count < processes.count:
        raise ConfigError(f"{count} classes cannot be divided among {processes.count} processes; start fewer.")
    own_logits = method.logits_of(processes.share(range(count)))

    def logits(image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C"]:
        own = own_logits(image_features)
        # All processes send equally many columns; the last one is padding if the classes do not divide evenly.
        columns = -(-count // processes.count)
        # Class i is column i // n of process i % n.
        gathered: Tensor = _GatherColumns.apply(F.pad(own, (0, columns - own.shape[1])), processes)
        return gathered.flatten(1)[:, :count]

    return logits


class _GatherColumns(torch.autograd.Function):
    """Gather the columns of all processes: (B, c) to (B, c, n).

    Every process computes the same loss from them, so the gradient of a column is n times that of one loss.
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
