"""The papers' experiments as lists of runs. Nothing is trained here, but images and classes are checked.

References: CoCoOp, CVPR 2022 (arXiv 2203.05557), and CoOp, IJCV 2022 (arXiv 2109.01134); the sections are named below.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cocoop.config import ClassSubset, check_int
from cocoop.data import Dataset
from cocoop.data.dataset import join_names
from cocoop.data.merge import merge
from cocoop.errors import ConfigError, DataError
from cocoop.experiments.presets import Preset, Settings, settings_for
from cocoop.methods import METHODS
from cocoop.storage.hashing import hash_content

__all__ = [
    "Experiment",
    "Grid",
    "TestImages",
    "base_to_new",
    "cross_dataset",
    "domain",
    "few_shot",
    "leave_one_out",
    "together",
]

PAPER_SHOTS = 16
PAPER_CURVE = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class TestImages:
    """Images of one test of an experiment."""

    name: str
    """Name of the test."""
    data: Dataset
    """Data set whose test split is used."""
    images: ClassSubset = "all"
    """Classes whose images are used."""
    classes: ClassSubset = "all"
    """Classes to choose from."""

    def key(self, images: str, *, template: bool) -> str:
        """Return a hash of everything that decides what is measured.

        Args:
            images: hash of the bytes of all test images of the data set, in order.
            template: include the template of the data set, which zero-shot uses.
        """
        labels = [item.label for item in self.data.test]
        own = [self.data.template] if template else []
        return _hash([self.name, self.data.name, self.data.classnames, labels, self.images, self.classes, images, own])


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run of an experiment: its training and its tests."""

    protocol: str
    """Name of the experiment."""
    method: str
    """Key of the method."""
    data: Dataset
    """Data set to sample training images from: all classes, all images."""
    train_classes: ClassSubset = "all"
    """Classes to train on."""
    tests: tuple[TestImages, ...]
    """Tests."""
    shots: int | None
    """Training images per class; None for zero-shot."""
    seed: int | None
    """Seed of the sampling, the initial values, the batch order and the augmentation; None for zero-shot."""
    preset: Preset
    """Settings that the changes apply to."""
    settings: Settings
    """Settings of the method and the training."""

    @property
    def trains(self) -> bool:
        """True unless the method is zero-shot."""
        return self.shots is not None

    @functools.cached_property
    def sampled(self) -> Dataset:
        """The few-shot sample of the training classes; for zero-shot only the classes matter."""
        sampled = self.data
        if self.shots is not None and self.seed is not None:
            sampled = sampled.few_shot(self.shots, self.seed)
        return sampled.select(self.train_classes)

    def check(self) -> None:
        """Check images and classes before a long sweep starts.

        Raises:
            DataError: if images are missing or classes do not fit.
        """
        if self.trains:
            self.sampled.check_trainable()
            self.sampled.check_files(["train"])
        for test in self.tests:
            test.data.select(test.classes)
            if not test.data.select(test.images).test:
                subset = "" if test.images == "all" else f" of {test.images} classes"
                raise DataError(f"{test.data.name!r} has no test images{subset}; mark some as 'test'.")
            test.data.check_files(["test"])

    def key(self, backbone: str, images: str) -> str:
        """Return a hash of everything that decides the trained prompt; tests have keys of their own.

        Args:
            backbone: hash of the model.
            images: hash of the bytes of the training images, in order.
        """
        train = dataclasses.asdict(self.settings.train)
        # These do not change what is learned from readable images.
        del train["workers"], train["skip_unreadable"]
        labels = [item.label for item in self.sampled.train]
        training = [self.shots, self.seed, labels, images, self.settings.method, train] if self.trains else None
        return _hash([self.protocol, self.method, self.data.name, self.sampled.classnames, backbone, training])

    @property
    def title(self) -> str:
        """A short name for messages and the run directory."""
        changes = "".join(f"-{name.replace('_', '-')}-{value}" for name, value in self.settings.changes.items())
        sample = "" if self.shots is None else f"-{self.shots}shot-seed{self.seed}"
        return re.sub(r"[^\w+.-]+", "-", f"{self.protocol}-{self.data.name}-{self.method}{changes}{sample}")[:120]

    def about(self) -> dict[str, Any]:
        """Return the facts that identify the run in records."""
        return {
            "protocol": self.protocol,
            "data": self.data.name,
            "method": self.method,
            "seed": self.seed,
            "shots": self.shots,
            "preset": self.preset,
            "changes": self.settings.changes,
        }


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The lists that span the runs of an experiment: one run for each method, number of shots and seed.

    Raises:
        ConfigError: for an empty list, a repeated value, or a value out of range.
    """

    methods: Sequence[str] = tuple(METHODS)
    """Keys of the methods to compare."""
    shots: Sequence[int] | None = None
    """Training images per class; None: as in the papers, 16, or 1, 2, 4, 8 and 16 for few-shot curves."""
    seeds: Sequence[int] = (1, 2, 3)
    """Seeds; one few-shot sample and one training per seed."""
    preset: Preset = "paper"
    """`paper`: as published; `cached`: the same with images encoded once."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the published ones (see `cocoop.experiments.presets.CHANGEABLE`)."""

    def __post_init__(self) -> None:
        """Check every list."""
        lists: dict[str, Sequence[object] | None] = {"methods": self.methods, "shots": self.shots, "seeds": self.seeds}
        for name, values in lists.items():
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ConfigError(f"`{name}` is {list(values)}; give one or more values, each once.")
        for shots in self.shots or ():
            check_int("shots", shots, 1)
        for seed in self.seeds:
            check_int("seeds", seed, 0)

    def runs(
        self, protocol: str, data: Dataset, tests: Sequence[TestImages], train_classes: ClassSubset = "all"
    ) -> Iterator[Experiment]:
        """Yield all runs on one data set; zero-shot runs once, not for each sample."""
        all_shots = self.shots or (PAPER_CURVE if protocol == "few-shot" else (PAPER_SHOTS,))
        for method in self.methods:
            trains = method != "zero-shot"
            samples = [(shots, seed) for shots in all_shots for seed in self.seeds]
            for shots, seed in samples if trains else samples[:1]:
                settings = settings_for(
                    protocol,
                    method,
                    data=data.name,
                    shots=shots,
                    seed=seed,
                    template=data.template,
                    preset=self.preset,
                    changes=self.changes,
                )
                yield Experiment(
                    protocol=protocol,
                    method=method,
                    data=data,
                    train_classes=train_classes,
                    tests=tuple(tests),
                    shots=shots if trains else None,
                    seed=seed if trains else None,
                    preset=self.preset,
                    settings=settings,
                )


PAPER = Grid()
"""The papers' methods, shots, seeds and settings."""


def base_to_new(data: Dataset, grid: Grid = PAPER) -> list[Experiment]:
    """Train on the base classes; test on base and on new classes, each among its own classes.

    Reference: CoCoOp, section 4.1 and table 1.

    Args:
        data: all classes, all images; the few-shot sampling happens here.
        grid: methods, shots, seeds and settings.

    Returns:
        The runs, for `sweep`.

    Raises:
        ConfigError: for an unknown method, preset or setting, or a value out of range.
        DataError: for fewer than four classes.
    """
    data.select("base")
    tests = [
        TestImages(name="base", data=data, images="base", classes="base"),
        TestImages(name="new", data=data, images="new", classes="new"),
    ]
    return list(grid.runs("base-to-new", data, tests, "base"))


def together(data: Dataset, grid: Grid = PAPER) -> list[Experiment]:
    """Train on the base classes; test among all classes at once, on base, new and all images.

    Reference: CoCoOp, section 4.4 (class-incremental test). Args, Returns and Raises: as `base_to_new`.
    """
    data.select("base")
    subsets: tuple[ClassSubset, ...] = ("base", "new", "all")
    tests = [TestImages(name=subset, data=data, images=subset) for subset in subsets]
    return list(grid.runs("together", data, tests, "base"))


def few_shot(data: Dataset, grid: Grid = PAPER) -> list[Experiment]:
    """Train on all classes from a growing number of images; test on all classes.

    Reference: CoOp, section 4.2 and figure 3. Args, Returns and Raises: as `base_to_new`.
    """
    return list(grid.runs("few-shot", data, [TestImages(name="test", data=data)]))


def cross_dataset(
    source: Dataset, targets: Sequence[Dataset], grid: Grid = PAPER, *, all_images: bool = False
) -> list[Experiment]:
    """Train on all classes of one data set; test on it and on others, each with its own classes.

    Reference: CoCoOp, section 4.2 and table 2.

    Args:
        source: all classes, all images; the few-shot sampling happens here.
        targets: data sets to test on.
        grid: methods, shots, seeds and settings.
        all_images: test on every image of the targets, not only on test images; training sees none of them.

    Returns:
        The runs, for `sweep`.

    Raises:
        ConfigError: as `base_to_new`.
        DataError: if there are no targets, two of the same name, or one that is the source.
    """
    return list(grid.runs("cross-dataset", source, _source_and_targets(source, targets, all_images)))


def domain(
    source: Dataset, targets: Sequence[Dataset], grid: Grid = PAPER, *, all_images: bool = False
) -> list[Experiment]:
    """Train on the classes in one style; test in others.

    A target may have only some of the source's classes, in any order, such as ImageNet-A and -R; as in the paper, its
    images are classified among those. Reference: CoCoOp, section 4.3 and table 3.

    Args, Returns and Raises: as `cross_dataset`; DataError also for a class that the source does not have.
    """
    names = {name.casefold() for name in source.classnames}
    for target in targets:
        unknown = [name for name in target.classnames if name.casefold() not in names]
        if unknown:
            raise DataError(
                f"{target.name!r} has classes that {source.name!r} does not have ({len(unknown)}): "
                f"{join_names(unknown)}. Domains have the same classes in other styles; for other classes use the "
                "cross-dataset experiment."
            )
    return list(grid.runs("domain", source, _source_and_targets(source, targets, all_images)))


def leave_one_out(domains: Sequence[Dataset], grid: Grid = PAPER, *, all_images: bool = False) -> list[Experiment]:
    """Train on all domains but one, with shots sampled from these domains together; test on the remaining domain.

    Args, Returns and Raises: as `domain`; DataError also for fewer than three domains, or different classes.
    """
    if len(domains) < 3:
        raise DataError(f"Leaving one domain out needs three or more domains; there are {len(domains)}.")
    # A domain that is given twice would be trained on while it is left out.
    check_names_differ([data.name for data in domains], "domains")
    return [
        experiment
        for left_out in domains
        for experiment in domain(
            merge([other for other in domains if other is not left_out]), [left_out], grid, all_images=all_images
        )
    ]


def _source_and_targets(source: Dataset, targets: Sequence[Dataset], all_images: bool) -> list[TestImages]:
    if not targets:
        raise DataError(f"There is no target for {source.name!r}; give one or more in `targets`.")
    for target in targets:
        if target == source:
            raise DataError(f"The target {target.name!r} is the source itself, which is tested anyway, as 'source'.")
    names = ["source", *(target.name for target in targets)]
    check_names_differ(names, "targets")
    data = [source, *(target.all_for_testing() if all_images else target for target in targets)]
    return [TestImages(name=name, data=one) for name, one in zip(names, data, strict=True)]


def check_names_differ(names: Sequence[str], noun: str) -> None:
    """Check that data sets have different names, since records and tables identify them by name.

    Raises:
        DataError: naming the repeated one.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"Several {noun} are named {repeated[0]!r}; give each once, or rename its directory or file.")


def _hash(content: object) -> str:
    return hash_content(json.dumps(content, sort_keys=True))
