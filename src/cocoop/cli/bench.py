"""`cocoop bench base-to-new` and its sisters: the papers' experiments, each one command. The flags, and what is told.

Published settings, lists of methods, seeds, shots and data sets; a folder of records that may be stopped, continued and
shared.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cocoop.cli.console import image_progress, note, out
from cocoop.cli.options import DATA_HELP, BackboneOptions, OptionalInt, ReadingOptions, left_out
from cocoop.cli.train import OptimiserOptions
from cocoop.errors import CocoopError, ConfigError, DataError

if TYPE_CHECKING:
    from cocoop.data import Dataset
    from cocoop.experiments import Experiment, Grid, Outcome, Watch

__all__ = ["BaseToNewCommand", "CrossDatasetCommand", "DomainCommand", "FewShotCommand", "TogetherCommand"]

PAPER_DATA = (
    "imagenet",
    "caltech101",
    "oxford-pets",
    "stanford-cars",
    "flowers102",
    "food101",
    "fgvc-aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
"""The eleven data sets of the papers' tables, in their order."""
PAPER_SHIFTS = ("imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r")

Datasets = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="DATA...", help_behavior_hint="(default: the papers' eleven)", help=f"Each is: {DATA_HELP}"),
]
Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE", help_behavior_hint="", help=DATA_HELP)]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What all experiments have."""

    methods: tuple[Literal["zero-shot", "coop", "cocoop"], ...] = ("zero-shot", "coop", "cocoop")
    """What is compared."""
    shots: Annotated[tuple[int, ...] | None, left_out("[INT [INT ...]]", "16; few-shot 1 2 4 8 16")] = None
    """Training photos a class."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """One draw and training each."""
    preset: Annotated[
        Literal["paper", "cached"],
        tyro.conf.arg(
            help="paper: each method as published; cached: the same, but each photo is encoded once, without "
            "augmentation: much faster, and mostly close."
        ),
    ] = "paper"
    """Settings that the flags below change."""
    context: Annotated[str | None, left_out("WORDS", "as published")] = None
    """Words that the context begins as; "" for a random start."""
    context_length: OptionalInt = None
    """Context vectors of a random start."""
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    model: BackboneOptions = field(default_factory=BackboneOptions)
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    output: Annotated[Path | None, left_out("PATH", "bench/EXPERIMENT")] = None
    """Folder of the sweep: it is continued if it is there, and may be shared."""
    feature_cache: Annotated[Path | None, left_out("PATH", "COCOOP_CACHE or your cache folder")] = None
    """Where features of photos are kept that are encoded once: all test photos, and with --preset cached all others."""
    skip_unreadable: bool = False
    """Leave unreadable test photos out and count them, instead of failing."""

    def grid(self) -> Grid:
        """The lists as plans take them.

        Raises:
            ConfigError: for a value out of range.
        """
        from cocoop.experiments import Grid

        given = {**vars(self.optimiser), "context": self.context, "context_length": self.context_length}
        del given["workers"]
        return Grid(
            methods=self.methods,
            shots=self.shots,
            seeds=self.seeds,
            preset=self.preset,
            changes={name: value for name, value in given.items() if value is not None},
        )

    def read(self, data: tuple[Path, ...]) -> list[Dataset]:
        """The lists of several data sets."""
        # A folder is its own image root.
        rooted, plain = self.reading, dataclasses.replace(self.reading, image_root=None)
        return [(plain if path.is_dir() else rooted).read(path) for path in data]

    def sweep(self, experiments: list[Experiment]) -> None:
        """Do what is not done yet, and tell how it goes.

        Raises:
            CocoopError: for what can be known beforehand; at the end, if runs failed.
        """
        directory = self.output or Path("bench") / experiments[0].protocol
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"--output '{directory}' is a file; give a folder.")
        for experiment in experiments:
            experiment.check()

        from cocoop.experiments import sweep
        from cocoop.training.feature_cache import FeatureCache, default_cache_directory

        backbone = self.model.load()
        workers = 2 if self.optimiser.workers is None else self.optimiser.workers
        note(f"{len(experiments)} runs with {backbone.name}, in {directory}; stopped, the same command goes on.")
        try:
            counts = sweep(
                directory,
                experiments,
                backbone,
                cache=FeatureCache(self.feature_cache or default_cache_directory(), backbone),
                workers=workers,
                skip_unreadable=self.skip_unreadable,
                watch=_watch(len(experiments)),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Stopped. What is done stays; the same command goes on.") from None
        note(f"Done now: {counts['done']}; before: {counts['done before']}; failed: {counts['failed']}.")
        note(f"Tables and a page: cocoop report {shlex.quote(str(directory))}")
        if counts["failed"]:
            raise CocoopError(
                f"{counts['failed']} of {len(experiments)} runs failed; the reasons are above and in the report. The "
                "same command tries them again."
            )


@dataclass(frozen=True, kw_only=True)
class _OnEach(_Options):
    """An experiment on each of several data sets."""

    data: Datasets = tuple(map(Path, PAPER_DATA))
    """The data sets."""

    def plan(self, experiment: Callable[[Dataset, Grid], list[Experiment]]) -> None:
        """Plan and do it."""
        grid = self.grid()
        self.sweep([run for data in self.read(self.data) for run in experiment(data, grid)])


@dataclass(frozen=True, kw_only=True)
class BaseToNewCommand(_OnEach):
    """Learn the base classes, measure on base and on new classes; H is their harmonic mean.
    - CoCoOp, CVPR 2022, table 1: cocoop bench base-to-new --backbone ViT-B/16
    """

    def run(self) -> None:
        """Plan and do it."""
        from cocoop.experiments import base_to_new

        self.plan(base_to_new)


@dataclass(frozen=True, kw_only=True)
class TogetherCommand(_OnEach):
    """Learn the base classes, measure among base and new classes at once.
    - CoCoOp, CVPR 2022, section 4.4: cocoop bench together --backbone ViT-B/16
    """

    def run(self) -> None:
        """Plan and do it."""
        from cocoop.experiments import together

        self.plan(together)


@dataclass(frozen=True, kw_only=True)
class FewShotCommand(_OnEach):
    """Learn all classes from 1, 2, 4, 8 and 16 photos each, measure on all.
    - CoOp, IJCV 2022, figure 3: cocoop bench few-shot --backbone RN50
    """

    def run(self) -> None:
        """Plan and do it."""
        from cocoop.experiments import few_shot

        self.plan(few_shot)


@dataclass(frozen=True, kw_only=True)
class _Transfer(_Options):
    """An experiment from one data set to others."""

    all_images: bool = False
    """Measure targets on every photo, not only those for testing: training sees none of them."""


@dataclass(frozen=True, kw_only=True)
class CrossDatasetCommand(_Transfer):
    """Learn all classes of one data set, measure on it and on others.
    - CoCoOp, CVPR 2022, table 2: cocoop bench cross-dataset --backbone ViT-B/16
    """

    source: Source = Path("imagenet")
    """The data set that is learned."""
    targets: Annotated[tuple[Path, ...], left_out("DATA...", "the papers' ten, but for the source")] = ()
    """The data sets that are carried over to."""

    def run(self) -> None:
        """Plan and do it."""
        from cocoop.experiments import cross_dataset

        grid = self.grid()
        (source,) = self.read((self.source,))
        targets = self.targets or _papers_targets(self.source, source, PAPER_DATA)
        self.sweep(cross_dataset(source, self.read(targets), grid, all_images=self.all_images))


@dataclass(frozen=True, kw_only=True)
class DomainCommand(_Transfer):
    """Learn the classes in one style, measure in others.
    - CoCoOp, CVPR 2022, table 3: cocoop bench domain --backbone ViT-B/16
    """

    source: Source = Path("imagenet")
    """The data set that is learned."""
    targets: Annotated[tuple[Path, ...], left_out("DATA...", "ImageNetV2, -Sketch, -A and -R")] = ()
    """The same classes, or some of them, in other styles."""
    leave_one_out: bool = False
    """Learn from all of source and targets but one in turn, and measure on that one."""

    def run(self) -> None:
        """Plan and do it."""
        from cocoop.experiments import domain, leave_one_out

        grid = self.grid()
        (source,) = self.read((self.source,))
        targets = self.read(self.targets or _papers_targets(self.source, source, ("imagenet", *PAPER_SHIFTS)))
        if self.leave_one_out:
            self.sweep(leave_one_out([source, *targets], grid, all_images=self.all_images))
        else:
            self.sweep(domain(source, targets, grid, all_images=self.all_images))


def _papers_targets(path: Path, source: Dataset, names: tuple[str, ...]) -> tuple[Path, ...]:
    """What the papers carry over to from one of these data sets: the others.

    Raises:
        DataError: for any other source.
    """
    if source.name not in names or (path.name != source.name and path.exists()):
        raise DataError(
            f"Which data sets should be measured on after learning {source.name!r}? Name them: --targets DATA DATA ..."
        )
    return tuple(Path(name) for name in names if name != source.name)


def _watch(total: int) -> Watch:
    from cocoop.experiments import Watch

    number = 0

    @contextmanager
    def encoding(name: str) -> Iterator[Callable[[int, int], None]]:
        with image_progress(f"encoding test photos of {name}") as progress:
            yield progress

    def run(experiment: Experiment, outcome: Outcome, content: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        told = f"[{number}/{total}] {experiment.title}: {_facts(outcome, content)}"
        if outcome == "failed":
            note(told)
        else:
            out.print(told, soft_wrap=True)

    def waiting(runs: int) -> None:
        note(f"Waiting for {runs} run{'s' * (runs > 1)} that other processes do.")

    return Watch(encoding=encoding, training=training, run=run, waiting=waiting)


def _facts(outcome: Outcome, content: dict[str, Any]) -> str:
    if outcome == "failed":
        return f"failed: {content['reason']}"
    facts = [f"{name} {test['accuracy']:.1f}" for name, test in content["tests"].items()]
    if content["harmonic_mean"] is not None:
        facts.append(f"H {content['harmonic_mean']:.1f}")
    overlap = sum(test["overlap"] for test in content["tests"].values())
    if overlap:
        facts.append(f"{overlap} test photos left out that were learned from")
    if content.get("train_skipped"):
        facts.append(f"{content['train_skipped']} training photos could not be read")
    facts.append("done before" if outcome == "done before" else f"{content['seconds']['training']:.0f} s")
    return ", ".join(facts)
