"""The papers' experiments, as lists of runs; nothing is computed here, and all that can be wrong beforehand is said.

References: CoCoOp, CVPR 2022 (arXiv 2203.05557), and CoOp, IJCV 2022 (arXiv 2109.01134), by section below.
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
    """Photos to measure on."""

    name: str
    """Of the test, within its experiment."""
    data: Dataset
    """Its test split is used."""
    images: ClassSubset = "all"
    """Of which classes."""
    classes: ClassSubset = "all"
    """The classes to choose among."""

    def key(self, images: str, *, template: bool) -> str:
        """A hash of all that decides what is measured.

        Args:
            photos: a hash of the bytes of all test photos of the data set, in order.
            template: whether the data set's own template counts, as for zero-shot.
        """
        labels = [item.label for item in self.data.test]
        own = [self.data.template] if template else []
        return _hash([self.name, self.data.name, self.data.classnames, labels, self.images, self.classes, images, own])


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: what is learned, how, and what it is measured on."""

    protocol: str
    """Which experiment of the papers it belongs to."""
    method: str
    """Key of the method."""
    data: Dataset
    """Where the few-shot draw is made: all classes, all photos."""
    learn: ClassSubset = "all"
    """The classes that are learned."""
    tests: tuple[TestImages, ...]
    """What is measured."""
    shots: int | None
    """Training photos a class; None for a method that learns nothing."""
    seed: int | None
    """Of the draw, the start values, the batch order and the augmentation; None for a method that learns nothing."""
    preset: Preset
    """Which settings the changes are made to."""
    settings: Settings
    """What the method is made with, and how it is trained."""

    @property
    def learns(self) -> bool:
        """Whether the method learns anything."""
        return self.shots is not None

    @functools.cached_property
    def drawn(self) -> Dataset:
        """What is learned from; for a method that learns nothing, the classes count alone."""
        drawn = self.data
        if self.shots is not None and self.seed is not None:
            drawn = drawn.few_shot(self.shots, self.seed)
        return drawn.select(self.learn)

    def check(self) -> None:
        """Check photos and classes, so that a long sweep does not find out half-way.

        Raises:
            DataError: if photos are missing or classes do not fit.
        """
        if self.learns:
            self.drawn.check_trainable()
            self.drawn.check_files(["train"])
        for test in self.tests:
            test.data.select(test.classes)
            if not test.data.select(test.images).test:
                which = "" if test.images == "all" else f"of {test.images} classes "
                raise DataError(f"{test.data.name!r} has no test photos {which}to measure on; mark some as 'test'.")
            test.data.check_files(["test"])

    def key(self, backbone: str, images: str) -> str:
        """A hash of all that decides what is learned; what is measured has keys of its own (`TestPhotos.key`).

        Args:
            backbone: a hash of the model.
            photos: a hash of the training photos' bytes, in order.
        """
        train = dataclasses.asdict(self.settings.train)
        # They change nothing that is learned from readable photos.
        del train["workers"], train["skip_unreadable"]
        learned = [
            self.shots,
            self.seed,
            [item.label for item in self.drawn.train],
            images,
            self.settings.method,
            train,
        ]
        about = [self.protocol, self.method, self.data.name, self.drawn.classnames, backbone]
        return _hash([*about, learned if self.learns else None])

    @property
    def title(self) -> str:
        """A few words for people and for the run's folder."""
        changes = "".join(f"-{name.replace('_', '-')}-{value}" for name, value in self.settings.changes.items())
        draw = "" if self.shots is None else f"-{self.shots}shot-seed{self.seed}"
        return re.sub(r"[^\w+.-]+", "-", f"{self.protocol}-{self.data.name}-{self.method}{changes}{draw}")[:120]

    def about(self) -> dict[str, Any]:
        """What identifies the run in records."""
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
    """The lists that all experiments share: one run for each method, number of shots and seed.

    Raises:
        ConfigError: for an empty list, a value that is given twice, or one out of range.
    """

    methods: Sequence[str] = tuple(METHODS)
    """What is compared: keys of methods."""
    shots: Sequence[int] | None = None
    """Training photos a class; None: the papers' own, 16, or 1, 2, 4, 8 and 16 for few-shot curves."""
    seeds: Sequence[int] = (1, 2, 3)
    """One draw and training each."""
    preset: Preset = "paper"
    """`paper`: as published; `cached`: the same from photos encoded once."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings other than published, for all methods that learn (see `cocoop.experiments.presets.CHANGEABLE`)."""

    def __post_init__(self) -> None:
        """Check every list."""
        lists: dict[str, Sequence[object] | None] = {"methods": self.methods, "shots": self.shots, "seeds": self.seeds}
        for name, values in lists.items():
            if values is None:
                continue
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"--{name} is {list(values)}; give one or more, each once.")
        for shots in self.shots or ():
            check_int("shots", shots, 1)
        for seed in self.seeds:
            check_int("seeds", seed, 0)

    def runs(
        self, protocol: str, data: Dataset, tests: Sequence[TestImages], learn: ClassSubset = "all"
    ) -> Iterator[Experiment]:
        """All runs on one data set; those that learn nothing once, not for each draw."""
        all_shots = self.shots or (PAPER_CURVE if protocol == "few-shot" else (PAPER_SHOTS,))
        for method in self.methods:
            learns = method != "zero-shot"
            draws = [(shots, seed) for shots in all_shots for seed in self.seeds]
            for shots, seed in draws if learns else draws[:1]:
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
                    learn=learn,
                    tests=tuple(tests),
                    shots=shots if learns else None,
                    seed=seed if learns else None,
                    preset=self.preset,
                    settings=settings,
                )


PAPER = Grid()
"""The papers' methods, shots, seeds and settings."""


def base_to_new(data: Dataset, grid: Grid = PAPER) -> list[Experiment]:
    """Learn the base classes; measure on base and on new classes, each within its own label space.

    Reference: CoCoOp, section 4.1 and table 1.

    Args:
        data: all classes, all photos; the draw is made here.
        grid: methods, shots, seeds and settings.

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
    """Learn the base classes; measure among all classes at once, on base, new and all photos.

    Reference: CoCoOp, section 4.4 (class-incremental test). Args and Raises: as `base_to_new`.
    """
    data.select("base")
    images: tuple[ClassSubset, ...] = ("base", "new", "all")
    tests = [TestImages(name=which, data=data, images=which) for which in images]
    return list(grid.runs("together", data, tests, "base"))


def few_shot(data: Dataset, grid: Grid = PAPER) -> list[Experiment]:
    """Learn all classes from a growing number of photos; measure on all.

    Reference: CoOp, section 4.2 and figure 3. Args and Raises: as `base_to_new`.
    """
    return list(grid.runs("few-shot", data, [TestImages(name="test", data=data)]))


def cross_dataset(
    source: Dataset, targets: Sequence[Dataset], grid: Grid = PAPER, *, all_images: bool = False
) -> list[Experiment]:
    """Learn all classes of one data set; measure on it and on others, each with its own classes.

    Reference: CoCoOp, section 4.2 and table 2.

    Args:
        source: all classes, all photos; the draw is made here.
        targets: measured on their test photos.
        grid: methods, shots, seeds and settings.
        all_photos: measure targets on every photo: training sees none of them.

    Raises:
        ConfigError: as `base_to_new`.
        DataError: if targets are missing, not told apart by their names, or the source itself.
    """
    return list(grid.runs("cross-dataset", source, _source_and(source, targets, all_images)))


def domain(
    source: Dataset, targets: Sequence[Dataset], grid: Grid = PAPER, *, all_images: bool = False
) -> list[Experiment]:
    """Learn the classes in one style; measure in others.

    A target may have a part of the source's classes in any order, as ImageNet-A and -R have; as in the paper, it is
    measured among those. Reference: CoCoOp, section 4.3 and table 3.

    Args and Raises: as `cross_dataset`; DataError also for a class that the source does not have.
    """
    known = {name.casefold() for name in source.classnames}
    for target in targets:
        unknown = [name for name in target.classnames if name.casefold() not in known]
        if unknown:
            raise DataError(
                f"{target.name!r} has classes that {source.name!r} does not have ({len(unknown)}): "
                f"{join_names(unknown)}. Domains are the same classes in other styles; for other classes there is "
                "cross-dataset."
            )
    return list(grid.runs("domain", source, _source_and(source, targets, all_images)))


def leave_one_out(domains: Sequence[Dataset], grid: Grid = PAPER, *, all_images: bool = False) -> list[Experiment]:
    """Learn from all domains but one, the shots of a class drawn from these together; measure on the one left out.

    Args and Raises: as `domain`; DataError also for fewer than three domains, or if they differ in their classes.
    """
    if len(domains) < 3:
        raise DataError(f"Leaving one domain out takes three domains or more; {len(domains)} are given.")
    # A domain that is given twice would be learned from while it is left out.
    check_names_differ([data.name for data in domains], "domains")
    return [
        experiment
        for left_out in domains
        for experiment in domain(
            merge([other for other in domains if other is not left_out]), [left_out], grid, all_images=all_images
        )
    ]


def _source_and(source: Dataset, targets: Sequence[Dataset], all_images: bool) -> list[TestImages]:
    if not targets:
        raise DataError(f"There is no target to carry over to from {source.name!r}; give one or more with --targets.")
    for target in targets:
        if target == source:
            raise DataError(f"The target {target.name!r} is the source itself; it is measured anyway, as 'source'.")
    names = ["source", *(target.name for target in targets)]
    check_names_differ(names, "targets")
    measured = [source, *(target.all_for_testing() if all_images else target for target in targets)]
    return [TestImages(name=name, data=data) for name, data in zip(names, measured, strict=True)]


def check_names_differ(names: Sequence[str], things: str) -> None:
    """Refuse several data sets of one name, which nothing would tell apart in records and tables.

    Raises:
        DataError: naming it.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"Several {things} are called {twice[0]!r}; give each once, or rename its folder or file.")


def _hash(content: object) -> str:
    return hash_content(json.dumps(content, sort_keys=True))
