"""Training: one loop for all methods.

Reference: CoOp's and CoCoOp's published settings: SGD with momentum, one warm-up epoch at a constant rate, then a
cosine that changes once an epoch. The loss is the mean cross-entropy over the batch.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cocoop.checkpoints.pretrained import load_learned, write_method
from cocoop.config import TrainConfig
from cocoop.data import Dataset, UnreadableImage
from cocoop.errors import CocoopError, ConfigError, DataError, MemoryWarning, TrainingError, is_out_of_memory
from cocoop.methods import Method
from cocoop.training.class_parallel import class_parallel_logits
from cocoop.training.distributed import Engine, Processes
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import FeatureBatch, Progress, TrainingFeatures, hash_training_images, unreadable_message
from cocoop.training.interrupts import defer_interrupts
from cocoop.training.run_directory import Run, TrainingState, check_run, open_run

__all__ = ["StepReport", "TrainResult", "check_fit", "fit"]


@dataclass(frozen=True)
class StepReport:
    """Where training stands, after each step."""

    epoch: int
    """The epoch, from 1."""
    epochs: int
    """Epochs in all."""
    images: int
    """Photos learned from in this epoch so far."""
    images_in_epoch: int
    """Photos of a whole epoch."""
    loss: float
    """Mean loss of this epoch so far."""
    accuracy: float
    """Accuracy on the training batches of this epoch so far, in percent."""
    images_per_second: float
    """Over this epoch so far."""


@dataclass
class TrainResult:
    """What a training run did."""

    history: list[dict[str, Any]]
    """One entry an epoch: epoch, loss, accuracy (%), learning rate, photos, seconds."""
    unreadable: tuple[UnreadableImage, ...] = ()
    """Unreadable photos that were left out."""
    interrupted: bool = False
    """Stopped by Ctrl-C (a second one would stop within a step); the method is as after the last whole epoch."""


LEAST_SCALE = 2.0**-8
"""Of fp16 gradients, which begins at 2 ** 16 and is halved by each overflow; below, the overflow is not theirs."""


class _Step(NamedTuple):
    """Numbers of one batch, of all processes."""

    loss: float
    """Mean over the photos."""
    correct: int
    """Photos that were classified right."""
    images: int
    """Photos of the batch that could be read."""
    norm: float
    """Norm of the gradients of all learned tensors."""


@dataclass
class _Meter:
    """Means over the photos of one epoch."""

    images: int = 0
    loss: float = 0.0
    correct: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, step: _Step) -> None:
        self.images += step.images
        self.loss += step.loss * step.images
        self.correct += step.correct

    def means(self) -> tuple[float, float, float]:
        """Loss, accuracy in percent, seconds."""
        seconds = time.perf_counter() - self.started
        return self.loss / self.images, 100 * self.correct / self.images, seconds


class _Learner:
    """A method with what changes it: SGD on the learned tensors, and the scale of fp16 gradients.

    Each process holds all learned tensors, and takes its part of a batch's gradients: for its share of the photos, or
    for its share of the classes.
    """

    def __init__(self, method: Method, config: TrainConfig, processes: Processes, *, class_parallel: bool) -> None:
        self.method = method
        self.processes = processes
        self.learned = method.learned()
        self.optimizer = torch.optim.SGD(
            self.learned.values(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        # Gradients pass through the towers in their precision; fp16 would lose the small ones unscaled.
        self.scaler = torch.amp.GradScaler(method.backbone.device.type, enabled=method.backbone.precision == "fp16")
        self._logits = class_parallel_logits(method, processes) if class_parallel else method.logits
        self._replicas = processes.count if class_parallel else 1

    def set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def gradients(self, batch: FeatureBatch) -> _Step:
        """Take the gradients of a batch, of which this process has a share."""
        self.optimizer.zero_grad()
        # In how many places photos are learned from: with classes shared out, each of them in every process.
        places = self.processes.total(len(batch.labels))
        if not places:
            return _Step(0.0, 0, 0, 0.0)
        weight = len(batch.labels) / places
        facts = self._own_part(batch, weight)
        gradients = self._added_up(facts)
        # All three in one transfer: a GPU is waited for once a step, and has to be, since a step is only taken when
        # its numbers are known to be finite.
        numbers = torch.cat([facts, torch.nn.utils.get_total_norm(gradients).unsqueeze(0)]).tolist()
        loss_of_all, correct, norm = numbers
        return _Step(loss_of_all, round(correct) // self._replicas, places // self._replicas, norm)

    def _own_part(self, batch: FeatureBatch, weight: float) -> Tensor:
        """This process's part of the gradients; its part of the loss, and how many photos were right.

        Where memory does not suffice, it is tried again with less.
        """
        tower = self.method.backbone.text_tower
        while True:
            try:
                return self._in_parts(batch, weight)
            except (RuntimeError, MemoryError) as error:
                # With classes shared out, other processes wait within this step.
                if not is_out_of_memory(error) or self._replicas > 1:
                    raise
                how = tower.use_less_memory()
                if how is None:
                    raise
            self.optimizer.zero_grad()
            warnings.warn(f"Memory does not suffice; training goes on {how}, more slowly.", MemoryWarning, stacklevel=2)

    def _in_parts(self, batch: FeatureBatch, weight: float) -> Tensor:
        facts = torch.zeros(2, device=batch.features.device)
        start = 0
        parts = self.method.losses(batch.features, batch.labels, self._logits) if len(batch.labels) else ()
        for loss, logits in parts:
            self.processes.backward(self.scaler.scale(loss * weight))
            hits = logits.detach().argmax(-1) == batch.labels[start : start + len(logits)]
            facts += torch.stack([loss.detach() * weight, hits.sum()])
            start += len(logits)
        return facts

    def _added_up(self, facts: Tensor) -> list[Tensor]:
        """The gradients of all processes, added up as the facts are."""
        for parameter in self.learned.values():
            # A process without photos of a batch has none.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in self.learned.values() if parameter.grad is not None]
        self.processes.all_reduce_sum([*gradients, facts])
        return gradients

    def check_finite(self, step: _Step, where: str, own: Sequence[str]) -> None:
        """Refuse a step that would destroy what was learned.

        Raises:
            TrainingError: naming the step and its photos.
        """
        # The gradients of fp16 overflow now and then, which its scaler is there for; a loss never does.
        if not math.isfinite(step.loss):
            what = f"loss became {step.loss}"
        elif not math.isfinite(step.norm) and not self.scaler.is_enabled():
            what = f"gradient became {step.norm}"
        else:
            return
        paths = list(dict.fromkeys(path for part in self.processes.gather(own) for path in part))
        images = ", ".join(f"'{path}'" for path in paths[:4]) + (f" and {len(paths) - 4} more" * (len(paths) > 4))
        raise TrainingError(
            f"The {what} in {where}, with {images}; nothing was changed by it, and the last checkpoint is kept. Try a "
            "lower --learning-rate, or --precision fp32."
        )

    def update(self) -> None:
        # With fp16 a step whose gradients overflow is left out, and the scale lowered for the next.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            raise TrainingError(
                "The gradients overflow in fp16 again and again, however small their scale; nothing is learned so. Use "
                "--precision bf16 or fp32. The last checkpoint is kept."
            )

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
    class_parallel: bool = False,
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
        engine: what takes the gradients, such as an `accelerate.Accelerator`; None: PyTorch. With several processes,
            `batch_size` is that of all together, each takes the gradients of its share of a batch's photos, and the
            first one writes the run folder; numbers are those of one process to rounding.
        class_parallel: share out the classes instead of the photos, for batches of fewer photos than processes or very
            many classes.
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
    processes = Processes(engine)
    class_parallel = class_parallel and processes.count > 1
    learner = _Learner(method, config, processes, class_parallel=class_parallel)
    source = TrainingFeatures(method.backbone, data, config, cache, processes, whole_batches=class_parallel)
    result = TrainResult([])
    description = _description(method, data, config, about or {})
    with (
        _opened(run, resume, description, processes) as (directory, going_on),
        defer_interrupts(processes.any_process) as check_interrupt,
    ):
        state = learner.state(0)
        if going_on:
            state, result.history = processes.run_on_first(lambda: directory.load() if directory else (state, []))
            learner.restore(state, Path(run or "memory"))
            if directory:
                write_method(method, directory.directory)
        method.train()
        try:
            if state.epoch < config.epochs:
                source.encode_once(on_encode if processes.count > 1 else _both(on_encode, check_interrupt))
            if directory and not going_on:
                directory.begin(method, state, hash_training_images(data))
            for epoch in range(state.epoch + 1, config.epochs + 1):
                rate = config.learning_rate_at(epoch)
                learner.set_rate(rate)
                meter = _Meter()
                for number, batch in enumerate(source.batches(epoch), 1):
                    step = learner.gradients(batch)
                    learner.check_finite(step, f"epoch {epoch}, step {number}", batch.paths)
                    if step.images:
                        learner.update()
                        meter.add(step)
                        if on_step:
                            on_step(_report(meter, epoch, config, source))
                    check_interrupt()
                result.history.append(_epoch_record(meter, epoch, rate, source))
                state = learner.state(epoch)
                if directory:
                    directory.save(method, state, result.history)
                if on_epoch:
                    on_epoch(result.history[-1])
            check_interrupt()
        except (KeyboardInterrupt, CocoopError) as stop:
            # Method and folder go back to the last whole epoch, wherever in an epoch or its saving this struck.
            learner.restore(state, Path("memory"))
            del result.history[state.epoch :]
            result.interrupted = isinstance(stop, KeyboardInterrupt)
            if not result.interrupted:
                raise
            if directory and state.epoch:
                directory.save(method, state, result.history)
        finally:
            method.eval()
    result.unreadable = tuple(dict.fromkeys(image for part in processes.gather(source.unreadable) for image in part))
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


def _both(on_encode: Progress | None, check_interrupt: Callable[[], None]) -> Progress:
    def on_batch(done: int, total: int) -> None:
        if on_encode:
            on_encode(done, total)
        check_interrupt()

    return on_batch


@contextmanager
def _opened(
    run: str | Path | None, resume: bool, description: Mapping[str, Any], processes: Processes
) -> Iterator[tuple[Run | None, bool]]:
    """The run folder, in the first process only, and whether there is a run to go on with."""
    directory: Run | None = None
    with ExitStack() as stack:

        def enter() -> bool:
            nonlocal directory
            directory, going_on = stack.enter_context(open_run(Path(run or ""), description, resume=resume))
            return going_on

        going_on = run is not None and processes.run_on_first(enter)
        yield directory, going_on


def _description(method: Method, data: Dataset, config: TrainConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is begun with; resuming it with anything else would be another run."""
    # Workers and the treatment of bad photos change nothing that is learned from the readable ones.
    lasting = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("workers", "skip_unreadable")}
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


def _report(meter: _Meter, epoch: int, config: TrainConfig, source: TrainingFeatures) -> StepReport:
    loss, accuracy, seconds = meter.means()
    rate = meter.images / max(seconds, 1e-9)
    return StepReport(epoch, config.epochs, meter.images, source.images_in_epoch, loss, accuracy, rate)


def _epoch_record(meter: _Meter, epoch: int, rate: float, source: TrainingFeatures) -> dict[str, Any]:
    if not meter.images:
        raise TrainingError(f"No training photo could be read: {unreadable_message(source.unreadable)}.")
    loss, accuracy, seconds = meter.means()
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": accuracy,
        "learning_rate": rate,
        "images": meter.images,
        "seconds": round(seconds, 3),
    }
