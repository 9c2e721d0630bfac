"""Training: one loop for all methods.

Reference: CoOp's and CoCoOp's published settings: SGD with momentum, one warm-up epoch at a constant rate, then a
cosine that changes once an epoch. The loss is the mean cross-entropy over the batch.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cocoop.checkpoint import load_learned
from cocoop.config import TrainConfig
from cocoop.data import BadPhoto, Dataset
from cocoop.errors import CocoopError, ConfigError, DataError, TrainingError
from cocoop.feature_cache import FeatureCache
from cocoop.features import FeatureBatch, Progress, TrainingFeatures, bad_photos_message, learned_photos
from cocoop.interrupts import interrupts_between_steps
from cocoop.methods import Method
from cocoop.runs import Run, TrainingState, check_run, open_run

__all__ = ["Engine", "StepReport", "TrainResult", "check_fit", "fit"]


@runtime_checkable
class Engine(Protocol):
    """What takes gradients in place of PyTorch alone; `accelerate.Accelerator` is one."""

    num_processes: int

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the learned tensors."""


@dataclass(frozen=True)
class StepReport:
    """Where training stands, after each step."""

    epoch: int
    """The epoch, from 1."""
    epochs: int
    """Epochs in all."""
    photos: int
    """Photos learned from in this epoch so far."""
    photos_in_epoch: int
    """Photos of a whole epoch."""
    loss: float
    """Mean loss of this epoch so far."""
    accuracy: float
    """Accuracy on the training batches of this epoch so far, in percent."""
    photos_per_second: float
    """Over this epoch so far."""


@dataclass
class TrainResult:
    """What a training run did."""

    history: list[dict[str, Any]]
    """One entry an epoch: epoch, loss, accuracy (%), learning rate, photos, seconds."""
    bad: tuple[BadPhoto, ...] = ()
    """Unreadable photos that were left out."""
    interrupted: bool = False
    """Stopped by Ctrl-C (a second one would stop within a step); the method is as after the last whole epoch."""


@dataclass
class _Meter:
    """Means over the photos of one epoch."""

    photos: int = 0
    loss: float = 0.0
    correct: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, loss: float, correct: int, photos: int) -> None:
        self.photos += photos
        self.loss += loss * photos
        self.correct += correct

    def means(self) -> tuple[float, float, float]:
        """Loss, accuracy in percent, seconds."""
        seconds = time.perf_counter() - self.started
        return self.loss / self.photos, 100 * self.correct / self.photos, seconds


class _Learner:
    """A method with what changes it: SGD on the learned tensors, and the scale of fp16 gradients."""

    def __init__(self, method: Method, config: TrainConfig, engine: Engine | None) -> None:
        self.method = method
        self.learned = method.learned()
        self.optimizer = torch.optim.SGD(
            self.learned.values(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        # Gradients pass through the towers in their precision; fp16 would lose the small ones unscaled.
        self.scaler = torch.amp.GradScaler(method.backbone.device.type, enabled=method.backbone.precision == "fp16")
        self._backward: Callable[[Tensor], None] = torch.Tensor.backward if engine is None else engine.backward

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def gradients(self, batch: FeatureBatch) -> tuple[float, int, float]:
        """Take the gradients of a batch; returns its mean loss, how many photos were right, the gradients' norm."""
        self.optimizer.zero_grad()
        losses, hits, start = [], [], 0
        for loss, logits in self.method.losses(batch.features, batch.labels):
            self._backward(self.scaler.scale(loss))
            losses.append(loss.detach())
            hits.append(logits.detach().argmax(-1) == batch.labels[start : start + len(logits)])
            start += len(logits)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.learned.values() if p.grad is not None])
        # All three in one transfer: a GPU is waited for once a step, and has to be, since a step is only taken when
        # its numbers are known to be finite.
        facts: list[float] = torch.stack([torch.stack(losses).sum(), torch.cat(hits).sum().float(), norm]).tolist()
        return facts[0], int(facts[1]), facts[2]

    def update(self) -> None:
        # With fp16 a step whose gradients overflow is left out, and the scale lowered for the next.
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def state(self, epoch: int) -> TrainingState:
        buffers = {name: self.optimizer.state[p].get("momentum_buffer") for name, p in self.learned.items()}
        return TrainingState(
            epoch=epoch,
            learned={name: parameter.detach().clone() for name, parameter in self.learned.items()},
            momentum={name: buffer.clone() for name, buffer in buffers.items() if buffer is not None},
            scaler=self.scaler.state_dict(),
        )

    def restore(self, state: TrainingState, source: Path) -> None:
        """Go back to a state.

        Raises:
            CheckpointError: if its tensors do not fit the method.
        """
        load_learned(self.method, state.learned, source)
        for name, parameter in self.learned.items():
            if name in state.momentum:
                # SGD changes it in place; the state may be wanted again.
                buffer = state.momentum[name].to(parameter.device, copy=True)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)


def fit(
    method: Method,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    cache: FeatureCache | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_encode: Progress | None = None,
) -> TrainResult:
    """Train what a method learns on the `train` split.

    With a run folder, a checkpoint is written before the first epoch and after each one; Ctrl-C leaves the last
    one, and `resume` continues from it to the same weights, on a CPU bit for bit.

    Args:
        method: changed in place; its classes must be those of the data.
        data: usually the result of `few_shot` and `base`.
        config: how to train; CoCoOp's published settings by default.
        run: folder for checkpoints and metrics; None: nothing is written.
        resume: go on with the run in that folder, if it has begun.
        about: facts of the run, plain JSON, that must be the same when it is resumed (shots, seed, ...).
        engine: what takes the gradients, such as an `accelerate.Accelerator` of one process; None: PyTorch.
        cache: features of this backbone on disk, for photos that are encoded once.
        on_step: called after each step.
        on_epoch: called after each epoch, with its entry of the history.
        on_encode: called while photos are encoded once, with `cache_features`.

    Returns:
        The history; also in `metrics.jsonl` of the run.

    Raises:
        ConfigError: if the method has nothing to learn, or a resumed run was configured differently.
        DataError: if classes differ or photos are missing or unreadable.
        CheckpointError: if the folder holds another run, or the disk refuses.
        TrainingError: if loss or gradients are not finite; the method and the run folder are as they were after the
            last whole epoch.
    """
    config = config or TrainConfig()
    check_fit(method, data, config, run=run, resume=resume, about=about)
    if engine is not None and engine.num_processes != 1:
        raise ConfigError(
            f"The engine has {engine.num_processes} processes; training runs in one. Start it without a launcher."
        )
    learner = _Learner(method, config, engine)
    source = TrainingFeatures(method.backbone, data, config, cache)
    result = TrainResult([])
    description = _description(method, data, config, about or {})
    with _opened(run, resume, description) as (folder, going_on), interrupts_between_steps() as heed_ctrl_c:
        state = learner.state(0)
        if folder and going_on:
            state, result.history = folder.load()
            learner.restore(state, folder.folder)
            method.write(folder.folder)
        method.train()
        try:
            if state.epoch < config.epochs:
                source.encode_once(_both(on_encode, heed_ctrl_c))
            if folder and not going_on:
                folder.begin(method, state, learned_photos(data))
            for epoch in range(state.epoch + 1, config.epochs + 1):
                rate = config.learning_rate_at(epoch)
                learner.set_rate(rate)
                meter = _Meter()
                for step, batch in enumerate(source.batches(epoch), 1):
                    loss, correct, norm = learner.gradients(batch)
                    _check_finite(loss, norm, method.backbone.precision, f"epoch {epoch}, step {step}", batch.paths)
                    learner.update()
                    meter.add(loss, correct, len(batch.labels))
                    if on_step:
                        on_step(_report(meter, epoch, config, source))
                    heed_ctrl_c()
                result.history.append(_epoch_record(meter, epoch, rate, source))
                state = learner.state(epoch)
                if folder:
                    folder.save(method, state, result.history)
                if on_epoch:
                    on_epoch(result.history[-1])
            heed_ctrl_c()
        except (KeyboardInterrupt, CocoopError) as stop:
            # Method and folder go back to the last whole epoch, wherever in an epoch or its saving this struck.
            learner.restore(state, Path("memory"))
            del result.history[state.epoch :]
            result.interrupted = isinstance(stop, KeyboardInterrupt)
            if not result.interrupted:
                raise
            if folder and state.epoch:
                folder.save(method, state, result.history)
        finally:
            method.eval()
    result.bad = source.bad
    return result


def check_fit(
    method: Method,
    data: Dataset,
    config: TrainConfig,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Check all that `fit` can know beforehand, for those who have long work to do before it; arguments as there.

    Raises:
        ConfigError: if the method has nothing to learn, or a resumed run was configured differently.
        DataError: if classes differ or photos are missing.
        CheckpointError: if the folder holds another run.
    """
    if not method.learned():
        raise ConfigError(f"The method {method.key} has nothing to train; use coop or cocoop, or evaluate it as it is.")
    if resume and run is None:
        raise ConfigError("There is nothing to resume without a run folder; give one with run=.")
    if tuple(method.classnames) != tuple(data.classnames):
        raise DataError(
            f"The method knows {len(method.classnames)} classes ({method.classnames[0]!r}, ...) and the data has "
            f"{len(data.classnames)} ({data.classnames[0]!r}, ...); make the method with data.classnames."
        )
    data.check_trainable()
    data.check_files(["train"])
    if run is not None:
        check_run(Path(run), _description(method, data, config, about or {}), resume=resume)


def _both(on_encode: Progress | None, heed_ctrl_c: Callable[[], None]) -> Progress:
    def on_batch(done: int, total: int) -> None:
        if on_encode:
            on_encode(done, total)
        heed_ctrl_c()

    return on_batch


def _opened(
    run: str | Path | None, resume: bool, description: Mapping[str, Any]
) -> AbstractContextManager[tuple[Run | None, bool]]:
    return nullcontext((None, False)) if run is None else open_run(Path(run), description, resume=resume)


def _description(method: Method, data: Dataset, config: TrainConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is begun with; resuming it with anything else would be another run."""
    # Workers and the treatment of bad photos change nothing that is learned from the readable ones.
    lasting = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("workers", "skip_bad_images")}
    return {
        "data": data.name,
        "data_sha256": data.fingerprint,
        "method": method.key,
        "backbone": method.backbone.name,
        "precision": method.backbone.precision,
        "about": dict(about),
        "settings": method.settings(),
        "train": lasting,
    }


def _check_finite(loss: float, norm: float, precision: str, where: str, paths: tuple[str, ...]) -> None:
    # The gradients of fp16 overflow now and then, which its scaler is there for; a loss never does.
    what = "loss" if not math.isfinite(loss) else "gradient" if not math.isfinite(norm) and precision != "fp16" else ""
    if what:
        photos = ", ".join(f"'{path}'" for path in paths[:4]) + (f" and {len(paths) - 4} more" * (len(paths) > 4))
        raise TrainingError(
            f"The {what} became {norm if what == 'gradient' else loss} in {where}, with {photos}; nothing was changed "
            "by it, and the last checkpoint is kept. Try a lower --learning-rate, or --precision fp32."
        )


def _report(meter: _Meter, epoch: int, config: TrainConfig, source: TrainingFeatures) -> StepReport:
    loss, accuracy, seconds = meter.means()
    rate = meter.photos / max(seconds, 1e-9)
    return StepReport(epoch, config.epochs, meter.photos, source.photos_in_epoch, loss, accuracy, rate)


def _epoch_record(meter: _Meter, epoch: int, rate: float, source: TrainingFeatures) -> dict[str, Any]:
    if not meter.photos:
        raise TrainingError(f"No training photo could be read: {bad_photos_message(source.bad)}.")
    loss, accuracy, seconds = meter.means()
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": accuracy,
        "learning_rate": rate,
        "photos": meter.photos,
        "seconds": round(seconds, 3),
    }
