"""The demo's experiment: three methods, measured from base to new classes on drawn images.

Everything that takes time is cut into tasks for a crew of processes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoop.backbones import load_backbone
from cocoop.backbones.backbone import Backbone
from cocoop.config import TrainConfig, paper_config
from cocoop.data import Dataset, Split
from cocoop.data.demo_images import TEST_IMAGES, TRAIN_IMAGES
from cocoop.demo.crew import Crew, Task, Tell
from cocoop.errors import ConfigError
from cocoop.evaluation.metrics import Evaluation
from cocoop.experiments.trial import Trial, run_trial
from cocoop.methods import METHODS, ZeroShot
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import Features, encode_split

__all__ = ["BACKBONE", "Study", "encode_pictures", "run_name"]

BACKBONE = "lite"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is measured, and how."""

    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of the few-shot draw, the start values and the batch order; each is a run of its own."""
    shots: int = 16
    """Training pictures of each class in a run."""
    test_pictures: int = 20
    """Test pictures of each class."""
    epochs: int | None = None
    """Passes over the training pictures; None: as published for each method."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: naming the field, its value and what is allowed.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"`seeds` is {self.seeds}; it must be one or more different numbers.")
        for field, limit in (("shots", TRAIN_IMAGES), ("test_pictures", TEST_IMAGES)):
            if not 1 <= getattr(self, field) <= limit:
                raise ConfigError(f"`{field}` is {getattr(self, field)}; it must be from 1 to {limit}.")
        for seed in self.seeds:
            self.config("cocoop", seed)

    @property
    def training_pool(self) -> int:
        """Training images per class to sample from: more than `shots`, so that seeds sample different ones."""
        return min(self.shots + -(-self.shots // 2), TRAIN_IMAGES)

    @property
    def most_processes(self) -> int:
        """More processes than this would wait for each other: those that learn are one for each method and seed."""
        return len(self.seeds) * sum(method is not ZeroShot for method in METHODS.values())

    def config(self, method: str, seed: int) -> TrainConfig:
        """How a method is trained: as published, but for features that are encoded once, without augmentation.

        Raises:
            ConfigError: for a seed or epochs out of range.
        """
        return paper_config(method, epochs=self.epochs, seed=seed, cache_features=True, workers=0)

    def run(
        self,
        crew: Crew,
        directory: Path,
        data: Dataset,
        tests: tuple[Features, Features],
        cache: Path,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_result: Callable[[dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Train and measure every method with every seed, and save what was learned.

        Args:
            crew: does the work.
            folder: a folder for each trained prompt is made here, see `run_name`.
            data: from `unpack_demo_images`.
            tests: from `encode_pictures`.
            cache: the folder given to `encode_pictures`.
            on_progress: called with training steps done and in all, over all runs.
            on_result: called with each record when it is there.

        Returns:
            One record a method and seed, in this order: see `BaseToNew.record`, and `seed`, and `predictions`,
            the class named for each test picture.
        """
        pairs = [(method, seed) for method in METHODS for seed in self.seeds]
        # The longest runs first: a crew is done sooner when no long one is begun at the end.
        pairs.sort(key=lambda pair: list(METHODS).index(pair[0]), reverse=True)
        tasks = [self._task(method, seed, directory, data, tests, cache) for method, seed in pairs]
        by_pair = dict(zip(pairs, crew.run(tasks, on_progress=on_progress, on_result=on_result), strict=True))
        return [by_pair[method, seed] for method in METHODS for seed in self.seeds]

    def _task(
        self, method: str, seed: int, directory: Path, data: Dataset, tests: tuple[Features, Features], cache: Path
    ) -> Task:
        config, base = self.config(method, seed), data.few_shot(self.shots, seed).base()
        steps = config.epochs * max(1, len(base.train) // config.batch_size) if METHODS[method] is not ZeroShot else 0
        return Task(_train, (method, seed, config, base, tests, cache, directory), steps)


def run_name(method: str, seed: int) -> str:
    """The folder of a trained prompt."""
    return f"{method}-seed{seed}"


def encode_pictures(
    crew: Crew, data: Dataset, cache: Path, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Features, Features]:
    """Image features of all pictures that the study needs.

    Args:
        crew: does the work.
        data: from `unpack_demo_images`.
        cache: a folder for the features of the training pictures of base classes, see `cocoop.training.feature_cache`.
        on_progress: called with pictures encoded and to be encoded.

    Returns:
        Features of the test pictures of base and of new classes.
    """
    base, new = data.base(), data.new()
    tasks = [
        Task(_encode_training, (base, cache), len(base.train)),
        Task(_encode, (base, "test"), len(base.test)),
        Task(_encode, (new, "test"), len(new.test)),
    ]
    _, base_test, new_test = crew.run(tasks, on_progress=on_progress)
    return base_test, new_test


# What follows happens in the crew's processes.


@functools.cache
def _backbone() -> Backbone:
    return load_backbone(BACKBONE)


def _encode(data: Dataset, split: Split, tell: Tell) -> Features:
    # One thread and small batches: what a large batch allocates costs more time than it saves.
    return encode_split(_backbone(), data, split, batch_size=2, workers=0, on_progress=lambda done, _: tell(done))


def _encode_training(data: Dataset, cache: Path, tell: Tell) -> None:
    encoded = _encode(data, "train", tell)
    FeatureCache(cache, _backbone()).add(dict(zip(encoded.hashes, encoded.features, strict=True)))


def _train(
    method: str,
    seed: int,
    config: TrainConfig,
    base: Dataset,
    tests: tuple[Features, Features],
    cache: Path,
    directory: Path,
    tell: Tell,
) -> dict[str, Any]:
    steps = itertools.count(1)
    base_test, new_test = tests
    result = run_trial(
        _backbone(),
        method,
        base,
        {"base": base_test, "new": new_test},
        config,
        cache=FeatureCache(cache, _backbone()),
        on_step=lambda _: tell(next(steps)),
    )
    if result.training is not None:
        result.method.save_pretrained(directory / run_name(method, seed))
    return _record(result, seed, config)


def _record(result: Trial, seed: int, config: TrainConfig) -> dict[str, Any]:
    record = {"seed": seed, **result.record()}
    record["config"] = None if result.training is None else dataclasses.asdict(config)
    record["predictions"] = {"base": _predictions(result.tests["base"]), "new": _predictions(result.tests["new"])}
    return record


def _predictions(measured: Evaluation) -> dict[str, str]:
    named = (measured.classnames[label] for label in measured.predicted)
    return dict(zip(measured.paths, named, strict=True))
