"""Train a prompt on a data set, measure it, and compare it with zero-shot CLIP and CoOp from base to new classes.

Files in the run directory, beside those of `cocoop.training.run_directory`:

results.json            accuracy on the test images
base_to_new.json        base, new and H of each method of the comparison
compare-MODE/METHOD/    training runs of the comparison; MODE is `cached` or `augmented`
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cocoop.backbones import load_backbone
from cocoop.backbones.backbone import Backbone
from cocoop.config import ClassSubset, TrainConfig, paper_config
from cocoop.data import Dataset, load_data
from cocoop.errors import CheckpointError, ConfigError
from cocoop.evaluation.evaluate import evaluate
from cocoop.evaluation.metrics import Evaluation
from cocoop.experiments.trial import Trial, run_trial
from cocoop.methods import METHODS, Method
from cocoop.storage.json_files import write_json
from cocoop.training.distributed import Engine, Processes
from cocoop.training.feature_cache import FeatureCache, default_cache_directory
from cocoop.training.features import (
    Features,
    Progress,
    encode_split,
    find_training_images,
    hash_training_images,
    unreadable_message,
)
from cocoop.training.fit import StepReport, TrainResult, check_fit, fit
from cocoop.training.run_directory import epochs_done
from cocoop.training.trackers import LOGS, Log, Tracker, check_trackers, epoch_metrics, open_trackers

__all__ = ["RunCallbacks", "RunResult", "RunSettings", "train_and_compare"]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of `train_and_compare`."""

    method: Literal["cocoop", "coop"] = "cocoop"
    """Method to train."""
    prompt: Mapping[str, Any] = field(default_factory=lambda: {"context": "a photo of a"})
    """Keyword arguments of the method, such as `context` or `context_length`; the seed is added."""
    train: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TrainConfig` that differ from the published training of the method."""
    shots: int = 16
    """Training images per class; a class with fewer images uses all of them."""
    seed: int = 1
    """Seed of the few-shot sampling, the initial values, the batch order and the augmentation."""
    classes: ClassSubset = "all"
    """Classes to train on: all, the base ones (first half) or the new ones (the rest)."""
    compare: Literal["cached", "augmented", "none"] = "cached"
    """Comparison with zero-shot CLIP and CoOp: `cached` encodes each image once; `augmented` is as in the
    papers, where CoOp opens each image 200 times; `none` compares nothing."""
    cache_features: bool = False
    """Encode each training image once, without augmentation, and keep the features on disk for later runs."""
    feature_cache: Path | None = None
    """Directory of cached features; None: `$COCOOP_CACHE` or the user's cache directory."""
    output: Path | None = None
    """Run directory; None: `runs/DATA-METHOD-SHOTSshot-seedSEED`."""
    resume: bool = False
    """Continue the run in `output`, or start it if there is none."""
    skip_unreadable: bool = False
    """Leave unreadable test images out and count them, instead of failing; training always does."""
    class_parallel: bool = False
    """With several processes, divide the classes among them instead of the images of a batch."""
    track: tuple[Tracker, ...] = ()
    """Trackers that receive the numbers of each epoch."""

    def __post_init__(self) -> None:
        """Check everything that does not depend on the data.

        Raises:
            ConfigError: for a value out of range, contradicting settings, or a tracker without its package.
        """
        self.config()
        check_trackers(self.track)
        if self.feature_cache is not None and not self.cache_features:
            raise ConfigError("`feature_cache` needs `cache_features=True`.")

    def config(self, method: str | None = None, *, cached: bool | None = None) -> TrainConfig:
        """Return the training settings of a method: published, plus the changes in `train` for the run's own method.

        Args:
            method: method to configure; None: that of the run.
            cached: encode images once; None: as `cache_features`.
        """
        cached = self.cache_features if cached is None else cached
        is_own = method in (None, self.method)
        changes = self.train if is_own else {"workers": self.train.get("workers")}
        return paper_config(method or self.method, **changes, cache_features=cached, seed=self.seed)


@dataclass(frozen=True)
class RunResult:
    """Result of `train_and_compare`."""

    directory: Path
    """Run directory, ready for `from_pretrained`."""
    method: Method
    """The trained method."""
    training: TrainResult
    """History of the training."""
    evaluation: Evaluation | None
    """Evaluation on the test images; None without test images."""
    comparison: list[dict[str, Any]] | None
    """A record for each compared method, with `base`, `new` and `harmonic_mean`; None without a comparison."""


class RunCallbacks:
    """Receiver of progress and notes; this base class ignores them."""

    def note(self, text: str) -> None:
        """Receive a message for the user."""

    def encoding(self) -> AbstractContextManager[Progress | None]:
        """Return a context manager that yields the progress callback for encoding test images."""
        return nullcontext(None)

    def training(
        self,
        label: str,  # noqa: ARG002
    ) -> AbstractContextManager[tuple[Callable[[StepReport], None] | None, Progress | None]]:
        """Return a context manager that yields the callbacks for training steps and for encoding training images."""
        return nullcontext((None, None))

    def evaluated(self, evaluation: Evaluation) -> None:
        """Receive the evaluation of the trained prompt, before the comparison starts."""


def train_and_compare(
    data: Dataset | str | Path,
    backbone: Backbone | str | Callable[[], Backbone] = "lite",
    settings: RunSettings | None = None,
    *,
    engine: Engine | None = None,
    callbacks: RunCallbacks | None = None,
) -> RunResult:
    """Train a prompt, measure it on the test images, and compare it from base to new classes.

    Args:
        data: a data set, or a source that `load_data` reads; the few-shot sampling happens here.
        backbone: a backbone, its name, or a function that loads it once the settings are checked.
        settings: settings of the run.
        engine: engine of several processes, such as an `accelerate.Accelerator`.
        callbacks: receiver of progress and notes.

    Returns:
        The trained method with its numbers; the same numbers are in the run directory.

    Raises:
        CocoopError: for unusable data, settings or directories, before anything is trained.
        KeyboardInterrupt: on Ctrl-C, with a sentence about what is kept.

    Example:
        ```python
        import cocoop

        settings = cocoop.RunSettings(shots=4, train={"epochs": 2}, cache_features=True, compare="none")
        result = cocoop.train_and_compare("photos", "lite", settings)
        print(result.evaluation.accuracy)
        ```
    """
    settings, callbacks = settings or RunSettings(), callbacks or RunCallbacks()
    data = data if isinstance(data, Dataset) else load_data(data)
    data = data.few_shot(settings.shots, settings.seed)
    chosen = data.select(settings.classes)
    chosen.check_trainable()
    compare = settings.compare != "none" and _can_compare(settings, data, callbacks)
    needed = data if compare else chosen
    needed.check_files(["train", "test"])
    run = _Run(settings, callbacks, _run_directory(settings, data, callbacks), data, chosen, engine)
    try:
        if not isinstance(backbone, Backbone):
            backbone = load_backbone(backbone) if isinstance(backbone, str) else backbone()
        method: Method = METHODS[settings.method](
            backbone, chosen.classnames, **{**settings.prompt, "seed": settings.seed}
        )
        check_fit(method, chosen, settings.config(), run=run.directory, resume=settings.resume, about=run.about)
        callbacks.note(
            f"{data.name}: {len(chosen.train)} images of {len(chosen.classnames)} classes; backbone {backbone.name}"
        )
        cache = FeatureCache(
            (settings.feature_cache or default_cache_directory()) if settings.cache_features else None, backbone
        )
        tests = run.encode_tests(backbone, needed, cache) if needed.test else None
        started_with = {"method": method.key, **run.facts(backbone), **dataclasses.asdict(settings.config())}
        with open_trackers(settings.track if run.writes else (), run.directory, started_with) as log:
            own_tests = tests.select(settings.classes) if tests is not None and compare else tests
            training, evaluation = run.train(method, own_tests, cache, log)
            comparison = run.compare(backbone, tests, cache) if compare and tests is not None else None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(run.describe_checkpoint()) from None
    # The model card holds all numbers, so it is written last.
    if run.writes:
        method.save_pretrained(run.directory)
    return RunResult(run.directory, method, training, evaluation, comparison)


def _can_compare(settings: RunSettings, data: Dataset, callbacks: RunCallbacks) -> bool:
    if settings.prompt.get("class_specific"):
        reason = "class-specific contexts exist only for the classes they were trained on"
    elif len(data.classnames) < 4:
        reason = f"it needs at least 4 classes, and there are {len(data.classnames)}"
    elif not (data.base().test and data.new().test):
        reason = "it needs test images of both"
    else:
        data.base().check_trainable()
        return True
    callbacks.note(f"No comparison from base to new classes: {reason}.")
    return False


def _run_directory(settings: RunSettings, data: Dataset, callbacks: RunCallbacks) -> Path:
    """Return the run directory, after checking that nothing in it would be lost."""
    name = f"{data.name}-{settings.method}-{settings.shots}shot-seed{settings.seed}"
    directory = settings.output or Path("runs") / name
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"'{directory}' is a file; choose another `output`.")
    done = epochs_done(directory)
    # A failed start may have left hidden files and logs.
    is_foreign = directory.exists() and any(not _is_leftover(entry) for entry in directory.iterdir())
    if done is None and is_foreign:
        raise CheckpointError(f"'{directory}' is not empty and holds no run; choose another `output`.")
    if done and not settings.resume:
        raise CheckpointError(
            f"'{directory}' holds a run of {_epochs(done)}; continue it with `resume=True`, or choose another `output`."
        )
    if settings.resume and not done:
        callbacks.note(f"There is no run in {directory} to continue; a new one starts.")
    return directory


def _is_leftover(entry: Path) -> bool:
    """Return True for files left behind by a failed start."""
    return entry.name.startswith(".") or entry.name == LOGS


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count > 1)}"


@dataclass(frozen=True)
class _Run:
    """State of one call of `train_and_compare`."""

    settings: RunSettings
    callbacks: RunCallbacks
    directory: Path
    data: Dataset
    """Few-shot sample of all classes."""
    chosen: Dataset
    """Few-shot sample of the classes to train on."""
    engine: Engine | None

    @property
    def writes(self) -> bool:
        """True in the process that writes files."""
        return Processes(self.engine).is_first

    @property
    def about(self) -> dict[str, Any]:
        """Facts that must stay the same when the run is resumed."""
        settings = self.settings
        context = settings.prompt.get("context")
        return {"shots": settings.shots, "classes": settings.classes, "context": context or ""}

    def facts(self, backbone: Backbone) -> dict[str, Any]:
        """Return the settings behind the numbers of this run."""
        model = {"backbone": backbone.name, "precision": backbone.precision}
        return {"data": self.data.name, **model, "seed": self.settings.seed, **self.about}

    def write(self, name: str, record: dict[str, Any]) -> None:
        if self.writes:
            write_json(self.directory / name, record, with_checksum=True)

    def encode_tests(self, backbone: Backbone, data: Dataset, cache: FeatureCache) -> Features:
        """Encode the test images, before training, so that unreadable images are reported early."""
        processes = Processes(self.engine)
        with self.callbacks.encoding() as on_progress:
            tests = encode_split(
                backbone,
                data,
                workers=self.settings.config().workers,
                skip_unreadable=self.settings.skip_unreadable,
                cache=cache,
                processes=processes,
                on_progress=on_progress,
            )
        if tests.unreadable:
            self.callbacks.note(f"Left out of the test: {unreadable_message(tests.unreadable)}.")
        repeated = find_training_images(tests, hash_training_images(self.data))
        if repeated:
            self.callbacks.note(f"Left out of the test: {len(repeated)} images with the same bytes as training images.")
        return tests.without(repeated)

    def train(
        self, method: Method, tests: Features | None, cache: FeatureCache, log: Log
    ) -> tuple[TrainResult, Evaluation | None]:
        """Train the prompt, and measure it if there are test images."""
        config = self.settings.config()
        if config.epochs <= config.warmup_epochs:
            self.callbacks.note(
                f"All {config.epochs} epochs are warm-up at a learning rate of {config.warmup_learning_rate:g}, which "
                "changes little; with `warmup_epochs=0`, training starts at the full rate."
            )
        with self.callbacks.training(method.key) as (on_step, on_encode):
            result = fit(
                method,
                self.chosen,
                config,
                run=self.directory,
                resume=self.settings.resume,
                about=self.about,
                engine=self.engine,
                class_parallel=self.settings.class_parallel,
                cache=cache,
                on_step=on_step,
                on_epoch=lambda entry: log(epoch_metrics(entry), entry["epoch"]),
                on_encode=on_encode,
            )
        self.note_training(method.key, result)
        if tests is None:
            return result, None
        evaluation = evaluate(method, tests, engine=self.engine)
        log({"test/accuracy": evaluation.accuracy, "test/macro_f1": evaluation.macro_f1}, config.epochs)
        record = {"method": method.key, **self.facts(method.backbone), **evaluation.record()}
        self.write("results.json", record)
        self.callbacks.evaluated(evaluation)
        return result, evaluation

    def compare(self, backbone: Backbone, tests: Features, cache: FeatureCache) -> list[dict[str, Any]]:
        """Measure zero-shot CLIP, CoOp and the method from base to new classes."""
        if self.settings.compare == "cached" and not self.settings.cache_features:
            self.callbacks.note(
                'The comparison trains on images encoded once; `compare="augmented"` is as in the papers, and slower.'
            )
        halves = {"base": tests.select("base"), "new": tests.select("new")}
        methods = dict.fromkeys(["zero-shot", "coop", self.settings.method])
        records = [self.base_to_new(backbone, key, halves, cache).record() for key in methods]
        self.write("base_to_new.json", {**self.facts(backbone), "compare": self.settings.compare, "methods": records})
        return records

    def base_to_new(self, backbone: Backbone, key: str, tests: Mapping[str, Features], cache: FeatureCache) -> Trial:
        """Train one method on the base classes and measure it on both halves."""
        settings, cached = self.settings, self.settings.compare == "cached"
        is_own = key == settings.method
        # If this run trained on the base classes in the same way, its prompt is compared, not trained again.
        is_the_run = is_own and settings.classes == "base" and cached == settings.cache_features
        with self.callbacks.training(f"{key} (base)") as (on_step, on_encode):
            trial = run_trial(
                backbone,
                key,
                self.data.base(),
                tests,
                settings.config(key, cached=cached),
                settings={**settings.prompt, "seed": settings.seed} if is_own else None,
                run=self.directory if is_the_run else self.directory / f"compare-{settings.compare}" / key,
                # An interrupted comparison continues with its run.
                resume=True,
                about=self.about,
                engine=self.engine,
                class_parallel=settings.class_parallel,
                cache=cache,
                on_step=on_step,
                on_encode=on_encode,
            )
        if trial.training and not is_the_run:
            self.note_training(f"{key} (base)", trial.training)
        return trial

    def note_training(self, label: str, result: TrainResult) -> None:
        """Report a finished training."""
        if result.unreadable:
            self.callbacks.note(f"Left out of training: {unreadable_message(result.unreadable)}.")
        if result.interrupted:
            raise KeyboardInterrupt
        last, seconds = result.history[-1], sum(epoch["seconds"] for epoch in result.history)
        self.callbacks.note(
            f"{label}: {_epochs(last['epoch'])} in {seconds:.0f} s; in the last one, loss {last['loss']:.3f}, "
            f"accuracy {last['accuracy']:.1f}%."
        )

    def describe_checkpoint(self) -> str:
        """Describe what an interrupted run keeps."""
        done = epochs_done(self.directory)
        if not done:
            return "Interrupted before the first epoch was complete; nothing is kept."
        return (
            f"Interrupted. {self.directory} keeps the prompt after {_epochs(done)}, ready for predictions; the same "
            "call with `resume=True` continues the training."
        )
