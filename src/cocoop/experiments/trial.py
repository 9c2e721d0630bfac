"""One trial: train a method on a data set and measure it on images of the same or other classes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoop.backbones.backbone import Backbone
from cocoop.config import TrainConfig, paper_config
from cocoop.data import Dataset
from cocoop.evaluation.evaluate import evaluate
from cocoop.evaluation.metrics import Evaluation, harmonic_mean
from cocoop.experiments.peak_memory import peak_memory, reset_peak_memory
from cocoop.experiments.presets import method_defaults
from cocoop.methods import METHODS, Method
from cocoop.training.distributed import Engine
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import Features, Progress
from cocoop.training.fit import StepReport, TrainResult, fit

__all__ = ["Trial", "run_trial"]


@dataclass(frozen=True)
class Trial:
    """A trained method with its evaluations."""

    method: Method
    """The trained method, with the classes it was trained on."""
    tests: Mapping[str, Evaluation]
    """Evaluations by the name of the test."""
    training: TrainResult | None
    """Result of the training; None for zero-shot."""
    training_seconds: float
    """Wall time of all epochs, including those of earlier processes."""
    evaluation_seconds: float
    """Wall time of all evaluations, without encoding images."""
    peak_memory: int
    """Largest resident memory of the process during the trial, in bytes (see `cocoop.experiments.peak_memory`)."""

    @property
    def harmonic_mean(self) -> float | None:
        """H of base and new accuracy, in percent; None without these tests."""
        if not {"base", "new"} <= set(self.tests):
            return None
        return harmonic_mean(self.tests["base"].accuracy, self.tests["new"].accuracy)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry per epoch (see `TrainResult`)."""
        return [] if self.training is None else self.training.history

    def record(self) -> dict[str, Any]:
        """Return the numbers as plain JSON."""
        return {
            "method": self.method.key,
            **{name: test.record() for name, test in self.tests.items()},
            "harmonic_mean": self.harmonic_mean,
            "history": self.history,
            "seconds": round(self.training_seconds + self.evaluation_seconds, 2),
            "peak_memory_bytes": self.peak_memory,
        }


def run_trial(
    backbone: Backbone,
    method: str,
    data: Dataset,
    tests: Mapping[str, Features],
    config: TrainConfig | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    run: Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    class_parallel: bool = False,
    cache: FeatureCache | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_encode: Progress | None = None,
) -> Trial:
    """Train one method and evaluate it on several sets of images, each among its own classes.

    Args:
        backbone: the frozen model.
        method: `zero-shot`, `coop` or `cocoop`.
        data: training images, usually a few-shot sample.
        tests: encoded images by the name of the test, such as `base` and `new`.
        config: training settings; None: the published ones.
        settings: keyword arguments of the method; None: those of the paper.
        run: run directory.
        resume: continue the run in that directory.
        about: facts to record with the run.
        engine: engine of several processes (see `fit`).
        class_parallel: divide the classes among the processes instead of the images (see `fit`).
        cache: cache of features of this backbone, for images that are encoded once.
        on_step: called after each training step.
        on_encode: called while training images are encoded.

    Raises:
        CocoopError: as the method, `fit` and `evaluate` do.
        KeyboardInterrupt: on Ctrl-C; the run directory keeps the last complete epoch.
    """
    config = config or paper_config(method)
    reset_peak_memory()
    settings = method_defaults(method, seed=config.seed, template=data.template) if settings is None else settings
    learner = METHODS[method](backbone, data.classnames, **settings)
    training = None
    if learner.learned():
        training = fit(
            learner,
            data,
            config,
            run=run,
            resume=resume,
            about=about,
            engine=engine,
            class_parallel=class_parallel,
            cache=cache,
            on_step=on_step,
            on_encode=on_encode,
        )
        if training.interrupted:
            raise KeyboardInterrupt
    started = time.perf_counter()
    evaluations = {}
    for name, images in tests.items():
        learner.set_classes(images.classnames)
        evaluations[name] = evaluate(learner, images, engine=engine)
    learner.set_classes(data.classnames)
    evaluation_seconds = time.perf_counter() - started
    training_seconds = sum(epoch["seconds"] for epoch in training.history) if training else 0.0
    return Trial(learner, evaluations, training, training_seconds, evaluation_seconds, peak_memory())
