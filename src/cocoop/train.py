"""Training: one loop for all methods.

Reference: CoOp's and CoCoOp's published settings: SGD with momentum, one warm-up epoch at a constant rate, then a
cosine that changes once an epoch. The loss is the mean cross-entropy over the batch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from cocoop.checkpoint import (
    TrainingState,
    load_learned,
    load_training_state,
    save_pretrained,
    save_training_state,
)
from cocoop.config import TrainConfig
from cocoop.data import BadPhoto, Dataset
from cocoop.errors import CheckpointError, ConfigError, DataError, TrainingError
from cocoop.features import Progress, TrainingFeatures, bad_photos_message
from cocoop.files import read_json, write_json, write_json_lines
from cocoop.methods import Method

__all__ = ["StepReport", "TrainResult", "fit"]

TRAINING, METRICS = "training.json", "metrics.jsonl"


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
    """Stopped by Ctrl-C; the method is as it was after the last whole epoch."""


@dataclass
class _Meter:
    """Means over the photos of one epoch."""

    photos: int = 0
    loss: float = 0.0
    correct: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, loss: float, logits: Tensor, labels: Tensor) -> None:
        self.photos += len(labels)
        self.loss += loss * len(labels)
        self.correct += int((logits.detach().argmax(-1) == labels).sum())

    def means(self) -> tuple[float, float, float]:
        """Loss, accuracy in percent, seconds."""
        seconds = time.perf_counter() - self.started
        return self.loss / self.photos, 100 * self.correct / self.photos, seconds


def fit(
    method: Method,
    data: Dataset,
    config: TrainConfig | None = None,
    *,
    run: str | Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
    on_step: Callable[[StepReport], None] | None = None,
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
        accelerator: the engine; None: the device that the backbone is on.
        on_step: called after each step.
        on_encode: called while photos are encoded once, with `cache_features`.

    Returns:
        The history; also in `metrics.jsonl` of the run.

    Raises:
        ConfigError: if the method has nothing to learn, or a resumed run was configured differently.
        DataError: if classes differ or photos are missing or unreadable.
        CheckpointError: if the folder holds another run, or the disk refuses.
        TrainingError: if the loss is not finite; the last checkpoint stays.
    """
    config = config or TrainConfig()
    _check(method, data)
    folder = None if run is None else Path(run)
    learned = method.learned()
    optimizer = torch.optim.SGD(
        learned.values(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    engine = accelerator or Accelerator(cpu=method.backbone.device.type == "cpu")
    # Gradients pass through the towers in their precision; fp16 would lose the small ones unscaled.
    scaler = torch.amp.GradScaler(engine.device.type, enabled=method.backbone.precision == "fp16")
    history = _begin(folder, resume, method, optimizer, scaler, config, data, about or {})
    source = TrainingFeatures(method.backbone, data, config, on_encode)
    result = TrainResult(history)
    state = _state(len(history), method, optimizer, scaler)
    method.train()
    try:
        for epoch in range(len(history) + 1, config.epochs + 1):
            rate = config.learning_rate_at(epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            meter = _Meter()
            for features, labels in source.batches(epoch):
                logits = method.logits(features)
                loss = F.cross_entropy(logits, labels)
                optimizer.zero_grad()
                engine.backward(scaler.scale(loss))
                scaler.step(optimizer)
                scaler.update()
                meter.add(_finite(loss.item(), epoch, meter.photos), logits, labels)
                if on_step:
                    on_step(_report(meter, epoch, config, source.count))
            history.append(_epoch_record(meter, epoch, rate, source))
            state = _state(epoch, method, optimizer, scaler)
            _save(folder, method, state, history)
    except KeyboardInterrupt:
        # The method goes back to the last whole epoch, which is what the run folder holds.
        load_learned(method, state.learned, Path("memory"))
        result.interrupted = True
    finally:
        method.eval()
    result.bad = source.bad
    return result


def _check(method: Method, data: Dataset) -> None:
    if not method.learned():
        raise ConfigError(f"The method {method.key} has nothing to train; use coop or cocoop, or evaluate it as it is.")
    if tuple(method.classnames) != tuple(data.classnames):
        raise DataError(
            f"The method knows {len(method.classnames)} classes ({method.classnames[0]!r}, ...) and the data has "
            f"{len(data.classnames)} ({data.classnames[0]!r}, ...); make the method with data.classnames."
        )
    data.check_trainable()
    data.check_files(["train"])


def _begin(
    folder: Path | None,
    resume: bool,
    method: Method,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: TrainConfig,
    data: Dataset,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Start a run folder, or take a method and its optimiser to where one stands; returns the history."""
    if folder is None:
        if resume:
            raise ConfigError("There is nothing to resume without a run folder; give one with run=.")
        return []
    # Workers and the treatment of bad photos change nothing that is learned from the readable ones.
    lasting = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("workers", "skip_bad_images")}
    description = {
        "method": method.key,
        "backbone": method.backbone.name,
        "precision": method.backbone.precision,
        "settings": method.settings(),
        "data": data.name,
        "data_sha256": data.fingerprint,
        "train": lasting,
        **about,
    }
    exists = (folder / TRAINING).exists()
    if exists and not resume:
        raise CheckpointError(f"'{folder}' already holds a run; resume it with --resume, or choose another folder.")
    if not exists:
        write_json(folder / TRAINING, description)
        _save(folder, method, _state(0, method, optimizer, scaler), [])
        return []
    _check_same(folder, read_json(folder / TRAINING), json.loads(json.dumps(description)))
    state = load_training_state(folder)
    load_learned(method, state.learned, folder)
    for name, parameter in method.learned().items():
        if name in state.momentum:
            optimizer.state[parameter]["momentum_buffer"] = state.momentum[name].to(parameter.device)
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    return _read_history(folder, state.epoch)


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    def flat(d: dict[str, Any]) -> dict[str, Any]:
        return {**d, **d.get("train", {}), **d.get("settings", {})}

    old, new = flat(before), flat(now)
    for name in sorted((old.keys() | new.keys()) - {"train", "settings"}):
        if old.get(name) != new.get(name):
            raise ConfigError(
                f"The run in '{folder}' was begun with {name} = {old.get(name)!r}, now it is {new.get(name)!r}; "
                "resume with the same settings, or choose another folder."
            )


def _read_history(folder: Path, epoch: int) -> list[dict[str, Any]]:
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        # Metrics are written before the state, so a crash can leave them ahead of it, never behind.
        history = [json.loads(line) for line in lines][:epoch]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder / METRICS}' is damaged or missing: {error}.") from error
    if len(history) != epoch:
        raise CheckpointError(f"'{folder / METRICS}' has {len(history)} epochs, the checkpoint {epoch}.")
    return history


def _state(epoch: int, method: Method, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> TrainingState:
    learned = method.learned()
    buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in learned.items()}
    return TrainingState(
        epoch=epoch,
        learned={name: parameter.detach().clone() for name, parameter in learned.items()},
        momentum={name: buffer.clone() for name, buffer in buffers.items() if buffer is not None},
        scaler=scaler.state_dict(),
    )


def _save(folder: Path | None, method: Method, state: TrainingState, history: list[dict[str, Any]]) -> None:
    if folder is None:
        return
    # Metrics first: the state is what resume believes, and it must find the epochs it counts.
    write_json_lines(folder / METRICS, history)
    save_training_state(folder, state)
    save_pretrained(method, folder)


def _finite(loss: float, epoch: int, photos: int) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"The loss became {loss} in epoch {epoch} after {photos} photos; the last checkpoint is kept. "
            "Try a lower --learning-rate, or --precision fp32."
        )
    return loss


def _report(meter: _Meter, epoch: int, config: TrainConfig, photos_in_epoch: int) -> StepReport:
    loss, accuracy, seconds = meter.means()
    rate = meter.photos / max(seconds, 1e-9)
    return StepReport(epoch, config.epochs, meter.photos, photos_in_epoch, loss, accuracy, rate)


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
