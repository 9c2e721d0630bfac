"""A sweep: a folder of runs, of which each is done once, whoever comes by, and however often it is stopped.

    SWEEP/runs/TITLE-HASH/     record.json or failure.json (see `cocoop.records`), and the run's training files

The hash is that of all that decides the numbers, so a run that is configured differently is another run. A process
holds a run while it works on it; if it dies, the next one goes on where it stopped.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import filelock
import torch

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.fingerprint import model_key
from cocoop.data import Dataset
from cocoop.errors import CheckpointError, CocoopError
from cocoop.feature_cache import FeatureCache, photo_key
from cocoop.features import Features, Progress, encode_split
from cocoop.files import make_folder, read_json, write_json
from cocoop.protocols.plans import Experiment, TestPhotos
from cocoop.protocols.trial import Trial, run_trial
from cocoop.records import FAILURE, FORMAT, RECORD, RUNS
from cocoop.train import StepReport
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
    """What the runs of a sweep share."""

    backbone: Backbone
    cache: FeatureCache
    workers: int
    skip_bad_images: bool
    watch: Watch
    encoded: dict[tuple[str, Path], Features] = field(default_factory=dict)
    keys: dict[Path, str | None] = field(default_factory=dict)

    def photos(self, test: TestPhotos) -> Features:
        """Features of a test, encoded once for all runs."""
        place = test.data.fingerprint, test.data.image_root
        if place not in self.encoded:
            with self.watch.encoding(test.data.name) as progress:
                self.encoded[place] = encode_split(
                    self.backbone,
                    test.data,
                    workers=self.workers,
                    skip_bad_images=self.skip_bad_images,
                    cache=self.cache,
                    on_progress=progress,
                )
        return self.encoded[place].photos_of(test.photos).select(test.classes)

    def overlap(self, learned: Dataset, test: TestPhotos, photos: Features) -> set[str]:
        """Paths of test photos that are, byte for byte, photos that were learned from."""
        seen = {self._key(learned.path_of(item)) for item in learned.train} - {None}
        return {path for path in photos.paths if self._key(test.data.image_root / path) in seen}

    def _key(self, path: Path) -> str | None:
        if path not in self.keys:
            self.keys[path] = photo_key(path)
        return self.keys[path]


def sweep(
    folder: Path,
    experiments: Sequence[Experiment],
    backbone: Backbone,
    *,
    cache: FeatureCache | None = None,
    workers: int = 2,
    skip_bad_images: bool = False,
    watch: Watch | None = None,
) -> dict[Outcome, int]:
    """Do the runs that are not done yet. Several processes may do so at once, in the same folder.

    A run that fails is recorded with its reason, and the rest goes on; it is tried again by the next sweep.

    Args:
        folder: of the sweep; made if missing.
        experiments: what to do (see `cocoop.protocols.plans`).
        backbone: the frozen model.
        cache: features on disk, of test photos and of training photos that are encoded once; None: in memory.
        workers: processes that decode photos.
        skip_bad_images: leave unreadable test photos out and count them, instead of failing.
        watch: told how it goes on.

    Returns:
        How many runs came to what.

    Raises:
        CocoopError: for what can be known beforehand, before anything is computed.
        KeyboardInterrupt: on Ctrl-C; what is done stays, and the same call goes on.
    """
    for experiment in experiments:
        experiment.check()
    watch = watch or Watch()
    lab = _Lab(backbone, cache or FeatureCache(None, backbone), workers, skip_bad_images, watch)
    model = model_key(backbone)
    began, told = time.time(), False
    counts: dict[Outcome, int] = {"done": 0, "done before": 0, "failed": 0}
    left = list({experiment.key(model): experiment for experiment in experiments}.items())
    while left:
        held_by_others = []
        for key, experiment in left:
            run = folder / RUNS / f"{experiment.title}-{key[:8]}"
            with _claimed(run) as mine:
                if not mine:
                    held_by_others.append((key, experiment))
                    continue
                outcome, content = _outcome_before(run, began) or _do(run, experiment, lab)
            counts[outcome] += 1
            watch.run(experiment, outcome, content)
        if len(held_by_others) == len(left):
            if not told:
                told = True
                watch.waiting(len(left))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        left = held_by_others
    return counts


@contextmanager
def _claimed(run: Path) -> Iterator[bool]:
    """Hold a run against other processes, unless one of them holds it; the system lets go of what a dead one held."""
    make_folder(run)
    lock = filelock.FileLock(run / CLAIM)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise CheckpointError(f"Cannot write in '{run}': {error.strerror or error}.") from error
    try:
        yield True
    finally:
        lock.release()


def _outcome_before(run: Path, began: float) -> tuple[Outcome, dict[str, Any]] | None:
    """What an earlier sweep, or another process of this one, left of a run; None if it is to be done."""
    record, failure = run / RECORD, run / FAILURE
    try:
        if record.exists():
            return "done before", read_json(record)
        # A failure is tried again, but not by a process that was there when it happened.
        if failure.exists() and failure.stat().st_mtime >= began:
            return "failed", read_json(failure)
    except CheckpointError:
        # Damaged: it is made again, from the training that the folder keeps.
        return None
    return None


def _do(run: Path, experiment: Experiment, lab: _Lab) -> tuple[Outcome, dict[str, Any]]:
    try:
        record = _record(experiment, lab, run)
        write_json(run / RECORD, record)
    except Exception as error:  # Whatever goes wrong in one run, the others go on.
        explained = isinstance(error, CocoopError)
        failure = {
            "format": FORMAT,
            **experiment.about(),
            "backbone": lab.backbone.name,
            "reason": " ".join(str(error).split()) if explained else f"{type(error).__name__}: {error}",
            "details": "" if explained else "".join(traceback.format_exception(error)),
            "failed": _now(),
        }
        write_json(run / FAILURE, failure)
        return "failed", failure
    (run / FAILURE).unlink(missing_ok=True)
    return "done", record


def _record(experiment: Experiment, lab: _Lab, run: Path) -> dict[str, Any]:
    """Do one run."""
    learns = experiment.shots is not None
    tests = {test.name: lab.photos(test) for test in experiment.tests}
    overlaps = {
        test.name: lab.overlap(experiment.drawn, test, tests[test.name]) if learns else set()
        for test in experiment.tests
    }
    tests = {name: photos.without(overlaps[name]) for name, photos in tests.items()}
    with lab.watch.training(experiment.title) as (on_step, on_encode):
        trial = (
            _learned(experiment, lab, run, tests, on_step, on_encode) if learns else _zero_shot(experiment, lab, tests)
        )
    return {
        "format": FORMAT,
        **experiment.about(),
        "backbone": lab.backbone.name,
        "precision": lab.backbone.precision,
        "settings": experiment.settings.method,
        "train": asdict(experiment.settings.train) if learns else None,
        "classes": len(experiment.drawn.classnames),
        "train_photos": len(experiment.drawn.train) if learns else 0,
        "split_sha256": experiment.data.fingerprint,
        "tests": {
            test.name: {
                "data": test.data.name,
                "classes": len(trial.tests[test.name].classnames),
                "overlap": len(overlaps[test.name]),
                **trial.tests[test.name].record(),
            }
            for test in experiment.tests
        },
        "harmonic_mean": trial.harmonic_mean if experiment.protocol == "base-to-new" else None,
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
        experiment.settings.train,
        settings=experiment.settings.method,
        run=run,
        resume=True,
        about={"shots": experiment.shots, "classes": experiment.learn},
        cache=lab.cache,
        on_step=on_step,
        on_encode=on_encode,
    )


def _zero_shot(experiment: Experiment, lab: _Lab, tests: dict[str, Features]) -> Trial:
    """Zero-shot CLIP on each test with the template of that test's own data set, as the papers have it."""
    trials = {
        test.name: run_trial(
            lab.backbone, experiment.method, test.data.select(test.classes), {test.name: tests[test.name]}
        )
        for test in experiment.tests
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
