"""Training: one loop for all methods.

Reference: the published settings of CoOp and CoCoOp: SGD with momentum, one warm-up epoch at a constant rate, then a
cosine schedule that changes once per epoch. The loss is the mean cross-entropy over the batch.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoop.checkpoints.pretrained import write_method
from cocoop.config import TrainConfig
from cocoop.data import Dataset, UnreadableImage
from cocoop.errors import CocoopError, ConfigError, TrainingError
from cocoop.methods import Method
from cocoop.training.distributed import Engine, Processes
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import Progress, TrainingFeatures, check_same_classes, unreadable_message
from cocoop.training.interrupts import defer_interrupts
from cocoop.training.run_directory import RunDirectory, check_run, open_run
from cocoop.training.step import Learner, Step

__all__ = ["StepReport", "TrainResult", "check_fit", "fit"]


@dataclass(frozen=True)
class StepReport:
    """Progress of training, after each step."""

    epoch: int
    """Current epoch, from 1."""
    epochs: int
    """Number of epochs."""
    images: int
    """Images trained on in this epoch so far."""
    images_in_epoch: int
    """Number of images in an epoch."""
    loss: float
    """Mean loss of this epoch so far."""
    accuracy: float
    """Accuracy on the training batches of this epoch so far, in percent."""
    images_per_second: float
    """Mean over this epoch so far."""


@dataclass
class TrainResult:
    """Result of `fit`."""

    history: list[dict[str, Any]]
    """One entry per epoch: epoch, loss, accuracy (%), learning_rate, images, seconds."""
    unreadable: tuple[UnreadableImage, ...] = ()
    """Unreadable images, which were skipped."""
    interrupted: bool = False
    """True after Ctrl-C; the method is then back in its state after the last completed epoch."""


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
    """Train a method on the `train` split.

    With a run directory, a checkpoint is written before the first epoch and after each one. Ctrl-C keeps the last
    checkpoint, and `resume=True` continues from it to the same weights, on a CPU bit for bit.

    Args:
        method: changed in place; its class names must be those of the data.
        data: usually the result of `few_shot` and `base`.
        config: training settings; by default the published settings of CoCoOp.
        run: directory for checkpoints and metrics; None: nothing is written.
        resume: continue the run in that directory, if there is one.
        about: other facts of the run, such as shots and seed, in plain JSON; they must be the same on resume.
        engine: computes the gradients, for example an `accelerate.Accelerator`; None: PyTorch. With several processes,
            `batch_size` counts the images of all processes, each process computes the gradients of its share of a
            batch, and the first one writes the run directory; the results equal those of one process up to rounding.
        class_parallel: divide the classes among the processes instead of the images, for very many classes or for
            batches with fewer images than processes.
        cache: features of this backbone on disk, used with `cache_features`.
        on_step: called after each step.
        on_epoch: called after each epoch, with its entry of the history.
        on_encode: called while images are encoded for `cache_features`.

    Returns:
        The history, which is also in `metrics.jsonl` of the run directory.

    Raises:
        ConfigError: if the method has nothing to train, or a resumed run has other settings.
        DataError: if the class names differ, or images are missing or unreadable.
        CheckpointError: if the directory holds another run, or cannot be written.
        TrainingError: if the loss or the gradients are not finite. The method and the run directory are then in
            their state after the last completed epoch.

    Example:
        ```python
        import cocoop

        backbone = cocoop.load_backbone("lite")
        data = cocoop.load_data("photos").few_shot(2, seed=1)
        method = cocoop.CoCoOp(backbone, data.classnames)
        config = cocoop.TrainConfig(epochs=2, cache_features=True)
        result = cocoop.fit(method, data, config, run="run")
        print(result.history[-1]["loss"])
        ```
    """
    config = config or TrainConfig()
    _check_trainable(method, data, run=run, resume=resume)
    processes = Processes(engine)
    class_parallel = class_parallel and processes.count > 1
    learner = Learner(method, config, processes, class_parallel=class_parallel)
    source = TrainingFeatures(method.backbone, data, config, cache, processes, whole_batches=class_parallel)
    result = TrainResult([])
    state = learner.state(epoch=0)
    description = _describe(method, data, config, about or {})
    with (
        _open_on_first(run, resume, description, processes) as (directory, continues),
        defer_interrupts(processes.any_process) as check_interrupt,
    ):
        if continues:
            state, result.history = processes.run_on_first(lambda: directory.load() if directory else (state, []))
            learner.restore(state, Path(run or ""))
            if directory:
                write_method(method, directory.path)
        method.train()
        try:
            if state.epoch < config.epochs:
                source.encode_once(
                    on_encode if processes.count > 1 else _with_interrupt_check(on_encode, check_interrupt)
                )
            if directory and not continues:
                directory.begin(method, state, source.hashes())
            for epoch in range(state.epoch + 1, config.epochs + 1):
                rate = config.learning_rate_at(epoch)
                learner.set_learning_rate(rate)
                meter = _Meter()
                for number, batch in enumerate(source.batches(epoch), 1):
                    step = learner.step(batch, f"epoch {epoch}, step {number}")
                    if step.images:
                        meter.add(step)
                        if on_step:
                            on_step(meter.report(epoch, config, source))
                    check_interrupt()
                result.history.append(meter.record(epoch, rate, source))
                state = learner.state(epoch)
                if directory:
                    directory.save(method, state, result.history)
                if on_epoch:
                    on_epoch(result.history[-1])
            check_interrupt()
        except (KeyboardInterrupt, CocoopError) as stop:
            # Go back to the last completed epoch: the exception may come at any point, even while an epoch is saved.
            learner.restore(state, Path(run or ""))
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
    """Run the checks of `fit` early, before other long work; the arguments are those of `fit`.

    Raises:
        ConfigError: if the method has nothing to train, or a resumed run has other settings.
        DataError: if the class names differ, or images are missing.
        CheckpointError: if the directory holds another run.
    """
    _check_trainable(method, data, run=run, resume=resume)
    if run is not None:
        check_run(Path(run), _describe(method, data, config, about or {}), resume=resume)


@dataclass
class _Meter:
    """Running means over the images of one epoch."""

    images: int = 0
    loss: float = 0.0
    correct: int = 0
    started: float = field(default_factory=time.perf_counter)

    def add(self, step: Step) -> None:
        self.images += step.images
        self.loss += step.loss * step.images
        self.correct += step.correct

    def report(self, epoch: int, config: TrainConfig, source: TrainingFeatures) -> StepReport:
        loss, accuracy, seconds = self._means()
        rate = self.images / max(seconds, 1e-9)
        return StepReport(epoch, config.epochs, self.images, source.images_in_epoch, loss, accuracy, rate)

    def record(self, epoch: int, learning_rate: float, source: TrainingFeatures) -> dict[str, Any]:
        if not self.images:
            raise TrainingError(f"No training image could be read: {unreadable_message(source.unreadable)}.")
        loss, accuracy, seconds = self._means()
        return {
            "epoch": epoch,
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": learning_rate,
            "images": self.images,
            "seconds": round(seconds, 3),
        }

    def _means(self) -> tuple[float, float, float]:
        """Return loss, accuracy in percent, and seconds since the start."""
        seconds = time.perf_counter() - self.started
        return self.loss / self.images, 100 * self.correct / self.images, seconds


def _check_trainable(method: Method, data: Dataset, *, run: str | Path | None, resume: bool) -> None:
    if not method.learned():
        raise ConfigError(f"The method {method.key} has nothing to train; use coop or cocoop, or evaluate it as it is.")
    if resume and run is None:
        raise ConfigError("`resume=True` needs a run directory; pass `run`.")
    check_same_classes(method, data.classnames)
    data.check_trainable()
    data.check_files(["train"])


def _with_interrupt_check(on_encode: Progress | None, check_interrupt: Callable[[], None]) -> Progress:
    def on_batch(done: int, total: int) -> None:
        if on_encode:
            on_encode(done, total)
        check_interrupt()

    return on_batch


@contextmanager
def _open_on_first(
    run: str | Path | None, resume: bool, description: Mapping[str, Any], processes: Processes
) -> Iterator[tuple[RunDirectory | None, bool]]:
    """Open the run directory in the first process only; yield it, and True if there is a run to continue."""
    directory: RunDirectory | None = None
    with ExitStack() as stack:

        def enter() -> bool:
            nonlocal directory
            directory, continues = stack.enter_context(open_run(Path(run or ""), description, resume=resume))
            return continues

        continues = run is not None and processes.run_on_first(enter)
        yield directory, continues


def _describe(method: Method, data: Dataset, config: TrainConfig, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that identify a run; it can only be resumed with the same."""
    # These two do not affect what is learned from readable images.
    train = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("workers", "skip_unreadable")}
    return {
        "data": data.name,
        "data_sha256": data.fingerprint,
        "method": method.key,
        "backbone": method.backbone.name,
        "precision": method.backbone.precision,
        "about": dict(about),
        "settings": method.settings(),
        "train": train,
    }
