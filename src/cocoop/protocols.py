"""Experiments of the papers: base-to-new generalization.

Reference: CoCoOp, CVPR 2022, section 4.1: train on the base classes, test on base and on new classes, each within
its own label space; H is the harmonic mean of the two accuracies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoop.backbones.backbone import Backbone
from cocoop.config import TrainConfig, paper_config
from cocoop.data import Dataset
from cocoop.errors import ConfigError
from cocoop.evaluation import Evaluation, evaluate, harmonic_mean
from cocoop.feature_cache import FeatureCache
from cocoop.features import Features, Progress
from cocoop.methods import METHODS, Method
from cocoop.peak import forget_peak, peak_memory
from cocoop.train import StepReport, TrainResult, fit

__all__ = ["BaseToNew", "base_to_new", "method_defaults", "paper_config"]

PAPER_CONTEXT = "a photo of a"


def method_defaults(method: str, *, seed: int, template: str | None = None) -> dict[str, Any]:
    """Keyword arguments of a method as the CoCoOp paper uses it: the context begins as "a photo of a".

    Args:
        method: its key.
        seed: of the start values.
        template: the data set's own, for zero-shot (`Dataset.template`); None: "a photo of a {}."

    Raises:
        ConfigError: for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; choose among {', '.join(METHODS)}.")
    if method == "zero-shot":
        return {} if template is None else {"templates": template}
    return {"context": PAPER_CONTEXT, "seed": seed}


@dataclass(frozen=True)
class BaseToNew:
    """One method, trained on base classes and measured on both halves."""

    method: Method
    """As trained; it knows the base classes."""
    base: Evaluation
    """On the test photos of the base classes."""
    new: Evaluation
    """On the test photos of the new classes."""
    training: TrainResult | None
    """None for zero-shot."""
    seconds: float
    """Wall time of all epochs, whenever they were learned, and of both measurements; encoding photos not included."""
    peak_memory: int
    """Largest resident memory of the process meanwhile, in bytes (see `cocoop.peak`)."""

    @property
    def harmonic_mean(self) -> float:
        """H of the two accuracies, in percent."""
        return harmonic_mean(self.base.accuracy, self.new.accuracy)

    def record(self) -> dict[str, Any]:
        """The numbers as plain JSON."""
        return {
            "method": self.method.key,
            "base": self.base.record(),
            "new": self.new.record(),
            "harmonic_mean": self.harmonic_mean,
            "history": [] if self.training is None else self.training.history,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": self.peak_memory,
        }


def base_to_new(
    backbone: Backbone,
    method: str,
    base: Dataset,
    base_test: Features,
    new_test: Features,
    config: TrainConfig | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    run: Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    cache: FeatureCache | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_encode: Progress | None = None,
) -> BaseToNew:
    """Train one method on base classes and measure it on base and new classes.

    Args:
        backbone: the frozen model.
        method: `zero-shot`, `coop` or `cocoop`.
        base: the few-shot draw of the base classes.
        base_test: encoded test photos of the base classes.
        new_test: encoded test photos of the new classes.
        config: how to train; the published settings by default.
        settings: keyword arguments of the method; those of the paper by default.
        run: folder for checkpoints.
        resume: go on with the run in that folder.
        about: facts of the run to record.
        cache: features of this backbone on disk, for photos that are encoded once.
        on_step: called after each training step.
        on_encode: called while training photos are encoded once.

    Raises:
        CocoopError: as the method, `fit` and `evaluate` do.
        KeyboardInterrupt: on Ctrl-C; a run folder keeps the last whole epoch.
    """
    config = config or paper_config(method)
    forget_peak()
    started = time.perf_counter()
    settings = method_defaults(method, seed=config.seed, template=base.template) if settings is None else settings
    learner = METHODS[method](backbone, base.classnames, **settings)
    training = None
    if learner.learned():
        training = fit(
            learner,
            base,
            config,
            run=run,
            resume=resume,
            about=about,
            cache=cache,
            on_step=on_step,
            on_encode=on_encode,
        )
        if training.interrupted:
            raise KeyboardInterrupt
    # An earlier call may have learned some or all of the epochs: their time counts, loading them does not.
    started = time.perf_counter() - sum(epoch["seconds"] for epoch in training.history) if training else started
    on_base = evaluate(learner, base_test)
    learner.set_classes(new_test.classnames)
    on_new = evaluate(learner, new_test)
    learner.set_classes(base.classnames)
    seconds = time.perf_counter() - started
    return BaseToNew(learner, on_base, on_new, training, seconds, peak_memory())
