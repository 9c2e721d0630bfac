"""A sweep: a directory of runs. Each run is done once, even with several processes or after interruptions.

    SWEEP/runs/TITLE-HASH/     record.json or failure.json (see `records`), and the run's training files

The hash covers everything that decides the trained prompt, so other settings make another run. Each test in a record
has a key of its own, so a new test, or one whose images have changed, is measured without training again. A process
locks a run while it works on it; if the process dies, the next one continues where it stopped.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.fingerprint import model_key
from cocoop.config import check_int
from cocoop.data import Dataset, Item
from cocoop.data.dataset import ImagePath
from cocoop.data.images import hash_image
from cocoop.errors import CheckpointError, CocoopError, DamageWarning, about_memory
from cocoop.evaluation.metrics import harmonic_mean
from cocoop.experiments.plans import Experiment, TestImages, check_names_differ
from cocoop.experiments.records import FAILURE, FORMAT, RECORD, RUNS, read_record
from cocoop.experiments.trial import Trial, run_trial
from cocoop.methods import METHODS
from cocoop.storage.atomic import remove_temporary_files
from cocoop.storage.hashing import hash_content
from cocoop.storage.json_files import write_json
from cocoop.storage.locks import try_lock
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import Features, Progress, encode_split, find_training_images, hash_training_images
from cocoop.training.fit import StepReport
from cocoop.version import __version__

__all__ = ["Outcome", "SweepCallbacks", "sweep"]

LOCK = ".claim"
POLL_SECONDS = 1.0

Outcome = Literal["done", "done before", "failed"]
"""Outcome of a run: done by this call, done by an earlier call or another process, or failed."""

TrainingProgress = tuple[Callable[[StepReport], None] | None, Progress | None]


class SweepCallbacks:
    """Receiver of progress; this base class ignores it."""

    def encoding(self, data: str) -> AbstractContextManager[Progress | None]:  # noqa: ARG002
        """Return a context manager for encoding the test images of a data set; it yields the progress callback."""
        return nullcontext()

    def training(self, title: str) -> AbstractContextManager[TrainingProgress]:  # noqa: ARG002
        """Return a context manager for a run; it yields the callbacks for training steps and for encoding images."""
        return nullcontext((None, None))

    def finished(self, experiment: Experiment, outcome: Outcome, content: dict[str, Any]) -> None:
        """Receive the outcome of a run with its record or failure."""

    def waiting(self, runs: int) -> None:
        """Receive, once, the number of runs that other processes still work on."""


@dataclass
class _SharedState:
    """State that the runs of a sweep share: the model, and the features and hashes of images."""

    backbone: Backbone
    model: str
    cache: FeatureCache
    workers: int
    skip_unreadable: bool
    callbacks: SweepCallbacks
    features: dict[int, Features] = field(default_factory=dict)
    hashes: dict[ImagePath, str | None] = field(default_factory=dict)

    def encode(self, test: TestImages) -> Features:
        """Return the features of a test; each data set is encoded once for all runs."""
        # Identity, because data sets with the same names and lists can lie in different directories.
        key = id(test.data)
        if key not in self.features:
            with self.callbacks.encoding(test.data.name) as progress:
                features = self.features[key] = encode_split(
                    self.backbone,
                    test.data,
                    workers=self.workers,
                    skip_unreadable=self.skip_unreadable,
                    cache=self.cache,
                    on_progress=progress,
                )
            root = test.data.image_root
            self.hashes |= {root / path: sha256 for path, sha256 in zip(features.paths, features.hashes, strict=True)}
            self.hashes |= {root / image.path: image.sha256 for image in features.unreadable}
        return self.features[key].images_of(test.images).select(test.classes)

    def run_key(self, experiment: Experiment) -> str:
        """Return a hash of everything that decides the trained prompt."""
        items = experiment.sampled.train if experiment.trains else ()
        return experiment.key(self.model, self._hash_all(experiment.sampled, items))

    def test_keys(self, experiment: Experiment) -> dict[str, str]:
        """Return a hash of everything that decides a measurement, by test."""
        return {
            test.name: test.key(self._hash_all(test.data, test.data.test), template=not experiment.trains)
            for test in experiment.tests
        }

    def overlap(self, train: Dataset, images: Features) -> set[str]:
        """Return the paths of test images with the bytes of a training image."""
        return find_training_images(images, hash_training_images(train, self._hash))

    def _hash_all(self, data: Dataset, items: Sequence[Item]) -> str:
        return hash_content("".join(str(self._hash(data.path_of(item))) for item in items))

    def _hash(self, path: ImagePath) -> str | None:
        if path not in self.hashes:
            self.hashes[path] = hash_image(path)
        return self.hashes[path]


def sweep(
    directory: str | Path,
    experiments: Sequence[Experiment],
    backbone: Backbone,
    *,
    cache: FeatureCache | None = None,
    workers: int = 2,
    skip_unreadable: bool = False,
    callbacks: SweepCallbacks | None = None,
) -> dict[Outcome, int]:
    """Do all runs that are not finished yet. Several processes may work on the same directory at once.

    A failed run is recorded with its reason and does not stop the others; the next call tries it again. A finished run
    that lacks tests is only evaluated on these.

    Args:
        directory: directory of the sweep; it is created if missing.
        experiments: the runs, from `base_to_new`, `cross_dataset`, `domain`, `few_shot`, `leave_one_out`, `together`.
        backbone: the frozen model.
        cache: features on disk, of test images and of training images that are encoded once; None: in memory.
        workers: processes that decode images.
        skip_unreadable: leave unreadable test images out and count them, instead of failing; training always does.
        callbacks: receiver of progress.

    Returns:
        The number of runs by outcome.

    Raises:
        CocoopError: for everything that can be checked in advance, before anything is computed.
        KeyboardInterrupt: on Ctrl-C; finished work stays, and the same call continues.

    Example:
        ```python
        import cocoop

        data = cocoop.load_data("photos")
        grid = cocoop.Grid(methods=["zero-shot", "coop"], shots=[2], seeds=[1], preset="cached", changes={"epochs": 2})
        runs = cocoop.base_to_new(data, grid)
        print(cocoop.sweep("bench", runs, cocoop.load_backbone("lite"), workers=0))
        cocoop.write_report("bench")
        ```
    """
    check_int("workers", workers, 0)
    _check(experiments, backbone)
    callbacks = callbacks or SweepCallbacks()
    cache = cache or FeatureCache(None, backbone)
    shared = _SharedState(backbone, model_key(backbone), cache, workers, skip_unreadable, callbacks)
    started, has_waited = time.time(), False
    counts: dict[Outcome, int] = {"done": 0, "done before": 0, "failed": 0}
    left = list(experiments)
    while left:
        locked = []
        for experiment in left:
            run = Path(directory) / RUNS / f"{experiment.title}-{shared.run_key(experiment)[:8]}"
            with try_lock(run / LOCK) as is_ours:
                if not is_ours:
                    locked.append(experiment)
                    continue
                remove_temporary_files(run, (RECORD, FAILURE))
                outcome, content = _earlier_outcome(run, experiment, shared, started) or _do_run(
                    run, experiment, shared
                )
            counts[outcome] += 1
            callbacks.finished(experiment, outcome, content)
        if len(locked) == len(left):
            if not has_waited:
                has_waited = True
                callbacks.waiting(len(left))
            time.sleep(POLL_SECONDS)
        left = locked
    return counts


def _check(experiments: Sequence[Experiment], backbone: Backbone) -> None:
    """Check everything that can be checked in advance.

    Raises:
        DataError: if images are missing, classes do not fit, or two data sets have the same name.
        PromptError: if a class name and a context do not fit into the text tower.
    """
    sources = {(e.protocol, id(e.data)): e.data.name for e in experiments}
    for protocol in {e.protocol for e in experiments}:
        check_names_differ([name for (other, _), name in sources.items() if other == protocol], "data sets")
    checked = set()
    for experiment in experiments:
        experiment.check()
        # The length of a prompt depends neither on seed nor on shots, and zero-shot prompts have the same class names.
        settings = {name: value for name, value in experiment.settings.method.items() if name != "seed"}
        prompts = experiment.method, id(experiment.data), str(settings), tuple(id(t.data) for t in experiment.tests)
        if experiment.trains and prompts not in checked:
            checked.add(prompts)
            method = METHODS[experiment.method](backbone, experiment.sampled.classnames, **experiment.settings.method)
            for test in experiment.tests:
                method.set_classes(test.data.select(test.classes).classnames)


def _earlier_outcome(
    run: Path, experiment: Experiment, shared: _SharedState, started: float
) -> tuple[Outcome, dict[str, Any]] | None:
    """Return the outcome of a run from an earlier call or another process; None if there is work left."""
    failure, record = run / FAILURE, _earlier_record(run)
    if record and not _missing_tests(record, experiment, shared):
        return "done before", record
    try:
        # A failure is tried again, but not by a process that was running when it happened.
        if failure.exists() and failure.stat().st_mtime >= started:
            return "failed", read_record(failure)
    except CheckpointError:
        return None
    return None


def _earlier_record(run: Path) -> dict[str, Any] | None:
    """Return the record of a run; None if it is missing or damaged, in which case it is written again."""
    try:
        return read_record(run / RECORD) if (run / RECORD).exists() else None
    except CheckpointError as error:
        # A constant location, so that Python shows the warning once.
        warnings.warn(f"{error} It is written again.", DamageWarning, stacklevel=1)
        return None


def _missing_tests(record: dict[str, Any], experiment: Experiment, shared: _SharedState) -> set[str]:
    """Return the tests of an experiment that a record lacks, or that were measured on other images."""
    tests = record["tests"]
    return {name for name, key in shared.test_keys(experiment).items() if tests.get(name, {}).get("key") != key}


def _do_run(run: Path, experiment: Experiment, shared: _SharedState) -> tuple[Outcome, dict[str, Any]]:
    try:
        record = _record(experiment, shared, run)
        write_json(run / RECORD, record, with_checksum=True)
    except Exception as error:  # One failed run does not stop the others.
        explained = isinstance(error, CocoopError)
        reason = str(error) if explained else about_memory(error) or f"{type(error).__name__}: {error}"
        if isinstance(error, CheckpointError):
            reason += f" To start this run again, delete '{run}'."
        failure = {
            "format": FORMAT,
            **experiment.about(),
            "backbone": shared.backbone.name,
            "reason": " ".join(reason.split()),
            "details": "" if explained else "".join(traceback.format_exception(error)),
            "failed": _now(),
        }
        write_json(run / FAILURE, failure, with_checksum=True)
        return "failed", failure
    (run / FAILURE).unlink(missing_ok=True)
    return "done", record


def _record(experiment: Experiment, shared: _SharedState, run: Path) -> dict[str, Any]:
    """Do one run, or the tests that it lacks, and return its record."""
    before = _earlier_record(run)
    missing = {test.name for test in experiment.tests} if before is None else _missing_tests(before, experiment, shared)
    tests_to_run = [test for test in experiment.tests if test.name in missing]
    images, overlaps = {}, {}
    for test in tests_to_run:
        features = shared.encode(test)
        overlaps[test.name] = shared.overlap(experiment.sampled, features) if experiment.trains else set()
        images[test.name] = features.without(overlaps[test.name])
    with shared.callbacks.training(experiment.title) as (on_step, on_encode):
        if experiment.trains:
            trial = run_trial(
                shared.backbone,
                experiment.method,
                experiment.sampled,
                images,
                replace(experiment.settings.train, workers=shared.workers),
                settings=experiment.settings.method,
                run=run,
                resume=True,
                about={"shots": experiment.shots, "classes": experiment.train_classes},
                cache=shared.cache,
                on_step=on_step,
                on_encode=on_encode,
            )
        else:
            trial = _zero_shot(tests_to_run, shared, images)
    keys = shared.test_keys(experiment)
    tests = {
        test.name: {
            "data": test.data.name,
            "split_sha256": test.data.fingerprint,
            "template": None if experiment.trains else test.data.template,
            "key": keys[test.name],
            "classes": len(trial.tests[test.name].classnames),
            "overlap": len(overlaps[test.name]),
            **trial.tests[test.name].record(),
        }
        for test in tests_to_run
    }
    skipped = len(trial.training.unreadable) if trial.training else 0
    if before is not None:
        # Other tests of this run stay. A training that was already complete opens no images, so it counts none.
        tests = {name: tests.get(name, test) for name, test in before["tests"].items()} | tests
        skipped = before.get("train_skipped", 0)
    halves = [tests[half]["accuracy"] for half in ("base", "new")] if experiment.protocol == "base-to-new" else None
    return {
        "format": FORMAT,
        **experiment.about(),
        "backbone": shared.backbone.name,
        "backbone_sha256": shared.model,
        "precision": shared.backbone.precision,
        "settings": experiment.settings.method,
        "train": asdict(experiment.settings.train) if experiment.trains else None,
        "classes": len(experiment.sampled.classnames),
        "train_images": len(experiment.sampled.train) if experiment.trains else 0,
        "train_skipped": skipped,
        "split_sha256": experiment.data.fingerprint,
        "key": shared.run_key(experiment),
        "tests": tests,
        "harmonic_mean": harmonic_mean(*halves) if halves else None,
        "history": trial.history,
        "seconds": {"training": round(trial.training_seconds, 2), "evaluation": round(trial.evaluation_seconds, 2)},
        "peak_memory_bytes": trial.peak_memory,
        "versions": _versions(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "device": str(shared.backbone.device),
        },
        "finished": _now(),
    }


def _zero_shot(tests: Sequence[TestImages], shared: _SharedState, images: dict[str, Features]) -> Trial:
    """Run zero-shot CLIP on each test with the template of that test's data set, as in the papers."""
    trials = {
        test.name: run_trial(
            shared.backbone, "zero-shot", test.data.select(test.classes), {test.name: images[test.name]}
        )
        for test in tests
    }
    last = list(trials.values())[-1]
    return Trial(
        method=last.method,
        tests={name: trial.tests[name] for name, trial in trials.items()},
        training=None,
        training_seconds=0.0,
        evaluation_seconds=sum(trial.evaluation_seconds for trial in trials.values()),
        peak_memory=max(trial.peak_memory for trial in trials.values()),
    )


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "open_clip_torch")}
    return {"cocoop": __version__, "python": platform.python_version(), **packages}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
