"""`cocoop bench base-to-new` and the other experiments of the papers: their flags and their progress."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cocoop.cli.console import image_progress, note, out, training_progress
from cocoop.cli.options import DATA_HELP, BackboneOptions, OptionalInt, ReadingOptions, optional_flag
from cocoop.cli.train import OptimiserOptions
from cocoop.errors import CocoopError, ConfigError, DataError

if TYPE_CHECKING:
    from cocoop.data import Dataset
    from cocoop.experiments.plans import Experiment, Grid
    from cocoop.experiments.sweep import Outcome, SweepCallbacks

__all__ = [
    "BaseToNewCommand",
    "CrossDatasetCommand",
    "DomainCommand",
    "FewShotCommand",
    "TogetherCommand",
    "sweep_callbacks",
]

Datasets = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="DATA...", help_behavior_hint="(default: the papers' eleven)", help=f"Each is: {DATA_HELP}"),
]
Source = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE", help_behavior_hint="", help=DATA_HELP)]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Options of all experiments."""

    methods: tuple[Literal["zero-shot", "coop", "cocoop"], ...] = ("zero-shot", "coop", "cocoop")
    """Methods to compare."""
    shots: Annotated[tuple[int, ...] | None, optional_flag("[INT [INT ...]]", "16; few-shot 1 2 4 8 16")] = None
    """Training images per class."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds; one few-shot sample and one training per seed."""
    preset: Annotated[
        Literal["paper", "cached"],
        tyro.conf.arg(
            help="paper: each method as published; cached: the same, but each image is encoded once, without "
            "augmentation: much faster, and mostly close."
        ),
    ] = "paper"
    """Settings that the flags below change."""
    context: Annotated[str | None, optional_flag("WORDS", "as published")] = None
    """Words that initialize the context; "" initializes it at random."""
    context_length: OptionalInt = None
    """Number of randomly initialized context vectors."""
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    model: BackboneOptions = field(default_factory=BackboneOptions)
    reading: ReadingOptions = field(default_factory=ReadingOptions)
    output: Annotated[Path | None, optional_flag("PATH", "bench/EXPERIMENT")] = None
    """Directory of the sweep; an existing one is continued, and several processes may share it."""
    feature_cache: Annotated[Path | None, optional_flag("PATH", "COCOOP_CACHE or your cache directory")] = None
    """Directory for features of images encoded once: test images, and with --preset cached training images."""
    skip_unreadable: bool = False
    """Leave unreadable test images out and count them, instead of failing."""

    def grid(self) -> Grid:
        """Return methods, shots, seeds and settings of the experiment.

        Raises:
            ConfigError: for a value out of range.
        """
        from cocoop import Grid

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
        """Read the image lists of several data sets."""
        # A directory is its own image root.
        rooted, plain = self.reading, dataclasses.replace(self.reading, image_root=None)
        return [(plain if path.is_dir() else rooted).read(path) for path in data]

    def sweep(self, experiments: list[Experiment]) -> None:
        """Run the experiments, except for runs that are done already.

        Raises:
            CocoopError: if data or settings cannot be used, before the first run; at the end, if runs failed.
        """
        directory = self.output or Path("bench") / experiments[0].protocol
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"--output '{directory}' is a file; give a directory.")
        for experiment in experiments:
            experiment.check()

        from cocoop import sweep
        from cocoop.training.feature_cache import FeatureCache, default_cache_directory

        backbone = self.model.load()
        note(f"{len(experiments)} runs with {backbone.name} in {directory}; if stopped, the same command continues.")
        try:
            counts = sweep(
                directory,
                experiments,
                backbone,
                cache=FeatureCache(self.feature_cache or default_cache_directory(), backbone),
                workers=2 if self.optimiser.workers is None else self.optimiser.workers,
                skip_unreadable=self.skip_unreadable,
                callbacks=sweep_callbacks(len(experiments)),
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Interrupted. Finished runs are kept; the same command continues.") from None
        note(f"Done now: {counts['done']}; before: {counts['done before']}; failed: {counts['failed']}.")
        note(f"For tables and a page: cocoop report {shlex.quote(str(directory))}")
        if counts["failed"]:
            raise CocoopError(
                f"{counts['failed']} of {len(experiments)} runs failed; the reasons are above and in the report. The "
                "same command tries them again."
            )


@dataclass(frozen=True, kw_only=True)
class _PerDataSet(_Options):
    """An experiment on each of several data sets."""

    data: Datasets = ()
    """The data sets."""

    def sweep_each(self, experiment: Callable[[Dataset, Grid], list[Experiment]]) -> None:
        """Run an experiment on each data set."""
        from cocoop.experiments.presets import PAPER_DATA

        grid = self.grid()
        data = self.read(self.data or tuple(map(Path, PAPER_DATA)))
        self.sweep([run for one in data for run in experiment(one, grid)])


@dataclass(frozen=True, kw_only=True)
class BaseToNewCommand(_PerDataSet):
    """Train on the base classes, test on base and on new classes; H is the harmonic mean.
    - CoCoOp, CVPR 2022, table 1: cocoop bench base-to-new --backbone ViT-B/16
    """

    def run(self) -> None:
        """Run the experiment."""
        from cocoop import base_to_new

        self.sweep_each(base_to_new)


@dataclass(frozen=True, kw_only=True)
class TogetherCommand(_PerDataSet):
    """Train on the base classes, test among base and new classes at once.
    - CoCoOp, CVPR 2022, section 4.4: cocoop bench together --backbone ViT-B/16
    """

    def run(self) -> None:
        """Run the experiment."""
        from cocoop import together

        self.sweep_each(together)


@dataclass(frozen=True, kw_only=True)
class FewShotCommand(_PerDataSet):
    """Train on all classes with 1, 2, 4, 8 and 16 images each, test on all.
    - CoOp, IJCV 2022, figure 3: cocoop bench few-shot --backbone RN50
    """

    def run(self) -> None:
        """Run the experiment."""
        from cocoop import few_shot

        self.sweep_each(few_shot)


@dataclass(frozen=True, kw_only=True)
class _Transfer(_Options):
    """An experiment from one data set to others."""

    all_images: bool = False
    """Test on every image of the targets, not only on test images; training sees none of them."""


@dataclass(frozen=True, kw_only=True)
class CrossDatasetCommand(_Transfer):
    """Train on all classes of one data set, test on it and on others.
    - CoCoOp, CVPR 2022, table 2: cocoop bench cross-dataset --backbone ViT-B/16
    """

    source: Source = Path("imagenet")
    """Data set to train on."""
    targets: Annotated[tuple[Path, ...], optional_flag("DATA...", "the papers' ten, without the source")] = ()
    """Data sets to test on."""

    def run(self) -> None:
        """Run the experiment."""
        from cocoop import cross_dataset

        grid = self.grid()
        (source,) = self.read((self.source,))
        targets = self.read(self.targets or _paper_targets(self.source, source))
        self.sweep(cross_dataset(source, targets, grid, all_images=self.all_images))


@dataclass(frozen=True, kw_only=True)
class DomainCommand(_Transfer):
    """Train on the classes in one style, test in others.
    - CoCoOp, CVPR 2022, table 3: cocoop bench domain --backbone ViT-B/16
    """

    source: Source = Path("imagenet")
    """Data set to train on."""
    targets: Annotated[tuple[Path, ...], optional_flag("DATA...", "ImageNetV2, -Sketch, -A and -R")] = ()
    """The same classes, or some of them, in other styles."""
    leave_one_out: bool = False
    """Leave out the source and each target in turn: train on the rest, and test on the one left out."""

    def run(self) -> None:
        """Run the experiment."""
        from cocoop import domain, leave_one_out

        grid = self.grid()
        (source,) = self.read((self.source,))
        targets = self.read(self.targets or _paper_targets(self.source, source, domains=True))
        if self.leave_one_out:
            self.sweep(leave_one_out([source, *targets], grid, all_images=self.all_images))
        else:
            self.sweep(domain(source, targets, grid, all_images=self.all_images))


def _paper_targets(path: Path, source: Dataset, *, domains: bool = False) -> tuple[Path, ...]:
    """Return the papers' targets for one of their sources.

    Raises:
        DataError: for any other source.
    """
    from cocoop.experiments.presets import PAPER_DATA, PAPER_SHIFTS

    names = ("imagenet", *PAPER_SHIFTS) if domains else PAPER_DATA
    if source.name not in names or (path.name != source.name and path.exists()):
        raise DataError(f"The papers have no targets for {source.name!r}; give some with --targets DATA DATA ...")
    return tuple(Path(name) for name in names if name != source.name)


def sweep_callbacks(total: int) -> SweepCallbacks:
    """Return callbacks that show the progress of a number of runs."""
    from cocoop.experiments.sweep import SweepCallbacks

    class Callbacks(SweepCallbacks):
        number = 0

        def encoding(self, data: str) -> AbstractContextManager[Callable[[int, int], None]]:
            return image_progress(f"encoding test images of {data}")

        def training(self, title: str) -> Any:
            return training_progress(title)

        def finished(self, experiment: Experiment, outcome: Outcome, content: dict[str, Any]) -> None:
            self.number += 1
            text = f"[{self.number}/{total}] {experiment.title}: {_describe(outcome, content)}"
            if outcome == "failed":
                note(text)
            else:
                out.print(text, soft_wrap=True)

        def waiting(self, runs: int) -> None:
            note(f"Waiting for {runs} run{'s' * (runs > 1)} of other processes.")

    return Callbacks()


def _describe(outcome: Outcome, content: dict[str, Any]) -> str:
    if outcome == "failed":
        return f"failed: {content['reason']}"
    facts = [f"{name} {test['accuracy']:.1f}" for name, test in content["tests"].items()]
    if content["harmonic_mean"] is not None:
        facts.append(f"H {content['harmonic_mean']:.1f}")
    overlap = sum(test["overlap"] for test in content["tests"].values())
    if overlap:
        facts.append(f"left out {overlap} test images that were trained on")
    if content.get("train_skipped"):
        facts.append(f"{content['train_skipped']} unreadable training images")
    facts.append("done before" if outcome == "done before" else f"{content['seconds']['training']:.0f} s")
    return ", ".join(facts)
