"""A sweep: a folder of runs, of which each is done once, whoever comes by, and however often it is stopped.

    SWEEP/runs/TITLE-HASH/     record.json or failure.json (see `records`), and the run's training files

The hash is that of all that decides what is learned, so a run that is configured differently is another run; each test
in its record has a key of its own, so a test that is new, or whose photos have changed, is measured without learning
again. A process holds a run while it works on it; if it dies, the next one goes on where it stopped.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

__all__ = ["Outcome", "Watch", "sweep"]

CLAIM = ".claim"
SECONDS_BETWEEN_LOOKS = 1.0

Outcome = Literal["done", "done before", "failed"]
"""What became of a run."""

TrainingProgress = tuple[Callable[[StepReport], None] | None, Progress | None]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What wants to know how a sweep goes on; each part may be left out."""

    encoding: Callable[[str], AbstractContextManager[Progress | None]] = lambda _: nullcontext()
    """Around encoding the test photos of the named data set."""
    training: Callable[[str], AbstractContextManager[TrainingProgress]] = lambda _: nullcontext((None, None))
    """Around a run, by its title: for each step, and for photos encoded once."""
    run: Callable[[Experiment, Outcome, dict[str, Any]], None] = lambda *_: None
    """After each run, with its record or failure."""
    waiting: Callable[[int], None] = lambda _: None
    """Once, with the number of runs that only wait for other processes."""


@dataclass
class _Lab:
    """What the runs of a sweep share: the model, and what photos are and look like to it."""

    backbone: Backbone
    model: str
    cache: FeatureCache
    workers: int
    skip_unreadable: bool
    watch: Watch
    encoded: dict[int, Features] = field(default_factory=dict)
    bytes_of: dict[ImagePath, str | None] = field(default_factory=dict)

    def images(self, test: TestImages) -> Features:
        """Features of a test; each data set is encoded once for all runs."""
        # By identity: data sets of the same names and lists may lie in different folders.
        place = id(test.data)
        if place not in self.encoded:
            with self.watch.encoding(test.data.name) as progress:
                features = self.encoded[place] = encode_split(
                    self.backbone,
                    test.data,
                    workers=self.workers,
                    skip_unreadable=self.skip_unreadable,
                    cache=self.cache,
                    on_progress=progress,
                )
            root = test.data.image_root
            self.bytes_of |= {root / path: sha256 for path, sha256 in zip(features.paths, features.hashes, strict=True)}
            self.bytes_of |= {root / image.path: image.sha256 for image in features.unreadable}
        return self.encoded[place].images_of(test.images).select(test.classes)

    def run_key(self, experiment: Experiment) -> str:
        """Of all that decides what is learned."""
        learned = experiment.drawn.train if experiment.learns else ()
        return experiment.key(self.model, self._bytes(experiment.drawn, learned))

    def test_keys(self, experiment: Experiment) -> dict[str, str]:
        """Of all that decides what is measured, by test."""
        return {
            test.name: test.key(self._bytes(test.data, test.data.test), template=not experiment.learns)
            for test in experiment.tests
        }

    def overlap(self, learned: Dataset, images: Features) -> set[str]:
        """Paths of test photos that are, byte for byte, photos that were learned from."""
        return find_training_images(images, hash_training_images(learned, self._key))

    def _bytes(self, data: Dataset, items: Sequence[Item]) -> str:
        keys = [self._key(data.path_of(item)) for item in items]
        return hash_content("".join(map(str, keys)))

    def _key(self, path: ImagePath) -> str | None:
        if path not in self.bytes_of:
            self.bytes_of[path] = hash_image(path)
        return self.bytes_of[path]


def sweep(
    directory: Path,
    experiments: Sequence[Experiment],
    backbone: Backbone,
    *,
    cache: FeatureCache | None = None,
    workers: int = 2,
    skip_unreadable: bool = False,
    watch: Watch | None = None,
) -> dict[Outcome, int]:
    """Do the runs that are not done yet. Several processes may do so at once, in the same folder.

    A run that fails is recorded with its reason, and the rest goes on; it is tried again by the next sweep. A run
    that is done and lacks some of the tests is only measured on these.

    Args:
        folder: of the sweep; made if missing.
        experiments: what to do (see `cocoop.experiments.plans`).
        backbone: the frozen model.
        cache: features on disk, of test photos and of training photos that are encoded once; None: in memory.
        workers: processes that decode photos.
        skip_bad_images: leave unreadable test photos out and count them, instead of failing. Training always does.
        watch: told how it goes on.

    Returns:
        How many runs came to what.

    Raises:
        CocoopError: for what can be known beforehand, before anything is computed.
        KeyboardInterrupt: on Ctrl-C; what is done stays, and the same call goes on.
    """
    check_int("workers", workers, 0)
    _check(experiments, backbone)
    watch = watch or Watch()
    cache = cache or FeatureCache(None, backbone)
    lab = _Lab(backbone, model_key(backbone), cache, workers, skip_unreadable, watch)
    began, told = time.time(), False
    counts: dict[Outcome, int] = {"done": 0, "done before": 0, "failed": 0}
    left = list(experiments)
    while left:
        held_by_others = []
        for experiment in left:
            run = directory / RUNS / f"{experiment.title}-{lab.run_key(experiment)[:8]}"
            with _claimed(run) as mine:
                if not mine:
                    held_by_others.append(experiment)
                    continue
                outcome, content = _outcome_before(run, experiment, lab, began) or _do(run, experiment, lab)
            counts[outcome] += 1
            watch.run(experiment, outcome, content)
        if len(held_by_others) == len(left):
            if not told:
                told = True
                watch.waiting(len(left))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        left = held_by_others
    return counts


def _check(experiments: Sequence[Experiment], backbone: Backbone) -> None:
    """All that can be known to be wrong beforehand.

    Raises:
        DataError: if photos are missing, classes do not fit, or two data sets have the same name.
        PromptError: if a class name and a context do not fit the text tower.
    """
    sources = {(e.protocol, id(e.data)): e.data.name for e in experiments}
    for protocol in {e.protocol for e in experiments}:
        check_names_differ([name for (other, _), name in sources.items() if other == protocol], "data sets")
    prompts_checked = set()
    for experiment in experiments:
        experiment.check()
        # A prompt's length does not depend on seed or shots; what learns nothing has the same names in its prompts.
        own = {name: value for name, value in experiment.settings.method.items() if name != "seed"}
        prompts = experiment.method, id(experiment.data), str(own), tuple(id(test.data) for test in experiment.tests)
        if experiment.learns and prompts not in prompts_checked:
            prompts_checked.add(prompts)
            method = METHODS[experiment.method](backbone, experiment.drawn.classnames, **experiment.settings.method)
            for test in experiment.tests:
                method.set_classes(test.data.select(test.classes).classnames)


@contextmanager
def _claimed(run: Path) -> Iterator[bool]:
    """Hold a run against other processes, unless one of them holds it."""
    with try_lock(run / CLAIM) as is_ours:
        if is_ours:
            remove_temporary_files(run, (RECORD, FAILURE))
        yield is_ours


def _outcome_before(
    run: Path, experiment: Experiment, lab: _Lab, began: float
) -> tuple[Outcome, dict[str, Any]] | None:
    """What an earlier sweep, or another process of this one, left of a run; None if there is something to do."""
    failure = run / FAILURE
    record = _record_before(run)
    if record and not _missing(record, experiment, lab):
        return "done before", record
    try:
        # A failure is tried again, but not by a process that was there when it happened.
        if failure.exists() and failure.stat().st_mtime >= began:
            return "failed", read_record(failure)
    except CheckpointError:
        return None
    return None


def _record_before(run: Path) -> dict[str, Any] | None:
    """The record of a run; None if there is none, or a damaged one, which is made again from the run's training."""
    try:
        return read_record(run / RECORD) if (run / RECORD).exists() else None
    except CheckpointError as error:
        # From one place, so that it is shown once.
        warnings.warn(f"{error} It is made anew.", DamageWarning, stacklevel=1)
        return None


def _missing(record: dict[str, Any], experiment: Experiment, lab: _Lab) -> set[str]:
    """The tests of an experiment that a record does not have, or has of other photos."""
    measured = record["tests"]
    return {name for name, key in lab.test_keys(experiment).items() if measured.get(name, {}).get("key") != key}


def _do(run: Path, experiment: Experiment, lab: _Lab) -> tuple[Outcome, dict[str, Any]]:
    try:
        record = _record(experiment, lab, run)
        write_json(run / RECORD, record, with_checksum=True)
    except Exception as error:  # Whatever goes wrong in one run, the others go on.
        explained = isinstance(error, CocoopError)
        reason = str(error) if explained else about_memory(error) or f"{type(error).__name__}: {error}"
        if isinstance(error, CheckpointError):
            reason += f" To begin this run anew, delete '{run}'."
        failure = {
            "format": FORMAT,
            **experiment.about(),
            "backbone": lab.backbone.name,
            "reason": " ".join(reason.split()),
            "details": "" if explained else "".join(traceback.format_exception(error)),
            "failed": _now(),
        }
        write_json(run / FAILURE, failure, with_checksum=True)
        return "failed", failure
    (run / FAILURE).unlink(missing_ok=True)
    return "done", record


def _record(experiment: Experiment, lab: _Lab, run: Path) -> dict[str, Any]:
    """Do one run, or what is missing of it."""
    before = _record_before(run)
    missing = {test.name for test in experiment.tests} if before is None else _missing(before, experiment, lab)
    wanted = [test for test in experiment.tests if test.name in missing]
    images, overlaps = {}, {}
    for test in wanted:
        all_images = lab.images(test)
        overlaps[test.name] = lab.overlap(experiment.drawn, all_images) if experiment.learns else set()
        images[test.name] = all_images.without(overlaps[test.name])
    with lab.watch.training(experiment.title) as (on_step, on_encode):
        if experiment.learns:
            trial = _learned(experiment, lab, run, images, on_step, on_encode)
        else:
            trial = _zero_shot(wanted, lab, images)
    keys = lab.test_keys(experiment)
    measured = {
        test.name: {
            "data": test.data.name,
            "split_sha256": test.data.fingerprint,
            "template": None if experiment.learns else test.data.template,
            "key": keys[test.name],
            "classes": len(trial.tests[test.name].classnames),
            "overlap": len(overlaps[test.name]),
            **trial.tests[test.name].record(),
        }
        for test in wanted
    }
    if before is not None:
        # What else this run was measured on before stays.
        measured = {name: measured.get(name, test) for name, test in before["tests"].items()} | measured
    return {
        "format": FORMAT,
        **experiment.about(),
        "backbone": lab.backbone.name,
        "backbone_sha256": lab.model,
        "precision": lab.backbone.precision,
        "settings": experiment.settings.method,
        "train": asdict(experiment.settings.train) if experiment.learns else None,
        "classes": len(experiment.drawn.classnames),
        "train_images": len(experiment.drawn.train) if experiment.learns else 0,
        # Photos are not opened again where all epochs are learned already.
        "train_skipped": before.get("train_skipped", 0)
        if before
        else len(trial.training.unreadable)
        if trial.training
        else 0,
        "split_sha256": experiment.data.fingerprint,
        "key": lab.run_key(experiment),
        "tests": measured,
        "harmonic_mean": _harmonic_mean(measured) if experiment.protocol == "base-to-new" else None,
        "history": trial.history,
        "seconds": {"training": round(trial.training_seconds, 2), "evaluation": round(trial.evaluation_seconds, 2)},
        "peak_memory_bytes": trial.peak_memory,
        "versions": _versions(),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "device": str(lab.backbone.device),
        },
        "finished": _now(),
    }


def _harmonic_mean(measured: dict[str, Any]) -> float:
    return harmonic_mean(measured["base"]["accuracy"], measured["new"]["accuracy"])


def _learned(
    experiment: Experiment,
    lab: _Lab,
    run: Path,
    tests: dict[str, Features],
    on_step: Callable[[StepReport], None] | None,
    on_encode: Progress | None,
) -> Trial:
    return run_trial(
        lab.backbone,
        experiment.method,
        experiment.drawn,
        tests,
        replace(experiment.settings.train, workers=lab.workers),
        settings=experiment.settings.method,
        run=run,
        resume=True,
        about={"shots": experiment.shots, "classes": experiment.learn},
        cache=lab.cache,
        on_step=on_step,
        on_encode=on_encode,
    )


def _zero_shot(tests: Sequence[TestImages], lab: _Lab, images: dict[str, Features]) -> Trial:
    """Zero-shot CLIP on each test with the template of that test's own data set, as the papers have it."""
    trials = {
        test.name: run_trial(lab.backbone, "zero-shot", test.data.select(test.classes), {test.name: images[test.name]})
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
