"""`cocoop train`: from photos to a trained prompt and an honest comparison. The flags; the work is in `training`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cocoop.cli.console import silence_other_ranks
from cocoop.cli.options import BackboneOptions, DataOptions, left_out
from cocoop.config import ClassSubset, Position, TrainConfig, paper_config
from cocoop.errors import ConfigError
from cocoop.training.trackers import Tracker, check_trackers

if TYPE_CHECKING:
    from cocoop.backbones.backbone import Backbone
    from cocoop.training.feature_cache import FeatureCache

__all__ = ["OptimiserOptions", "PromptOptions", "TrainCommand"]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What is learned."""

    method: Literal["cocoop", "coop"] = "cocoop"
    """cocoop: context shifted for each image by Meta-Net; coop: static context."""
    context: str = "a photo of a"
    """Words that the context begins as; "" for a random start."""
    context_length: Annotated[int | None, left_out("INT", "4; coop 16")] = None
    """Context vectors of a random start."""
    position: Position = "end"
    """Where the class name stands (coop only)."""
    class_specific: bool = False
    """A context of its own for each class, with a random start (coop only)."""

    def settings(self, seed: int) -> dict[str, Any]:
        """Keyword arguments of the method.

        Raises:
            ConfigError: for options that the method does not have.
        """
        settings: dict[str, Any] = {"context": self.context or None, "seed": seed}
        if self.context_length is not None:
            if self.context:
                raise ConfigError('--context-length goes with a random start: add --context "".')
            settings["context_length"] = self.context_length
        if self.method == "coop":
            if self.class_specific and self.context:
                raise ConfigError('--class-specific goes with a random start: add --context "".')
            return settings | {"position": self.position, "class_specific": self.class_specific}
        if self.position != "end" or self.class_specific:
            raise ConfigError(
                "--position and --class-specific belong to --method coop; CoCoOp's context is shared, first."
            )
        return settings


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """How it is learned. The defaults are those of the CoCoOp paper with 16 shots, for each method its own."""

    epochs: Annotated[int | None, left_out("INT", "10; coop 200")] = None
    """Passes over the photos."""
    batch_size: Annotated[int | None, left_out("INT", "1; coop 32")] = None
    """Photos a step."""
    learning_rate: Annotated[float | None, left_out("FLOAT", "0.002")] = None
    """Peak rate of SGD."""
    warmup_epochs: Annotated[int | None, left_out("INT", "1")] = None
    """Epochs at the warm-up rate."""
    warmup_learning_rate: Annotated[float | None, left_out("FLOAT", "1e-5")] = None
    """Rate of the warm-up."""
    momentum: Annotated[float | None, left_out("FLOAT", "0.9")] = None
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, left_out("FLOAT", "0.0005")] = None
    """Weight decay of all learned tensors."""
    workers: Annotated[int | None, left_out("INT", "2")] = None
    """Processes that decode photos."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Learn a prompt from a few photos a class, and compare it with zero-shot CLIP and CoOp.
    - Learns a prompt for the classes of --classes and measures it on test photos.
    - Compares the methods on classes they learned (base) and on unseen ones (new).
    - Writes a folder to predict with: cocoop predict FOLDER PHOTOS...
    """

    images: DataOptions
    model: BackboneOptions = field(default_factory=BackboneOptions)
    prompt: PromptOptions = field(default_factory=PromptOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    output: Annotated[Path | None, left_out("PATH", "runs/DATA-METHOD-SHOTSshot-seedSEED")] = None
    """Folder of the run."""
    shots: int = 16
    """Training photos a class; a class with fewer gives all it has."""
    seed: int = 1
    """Seed of the draw, the start values, the batch order and the augmentation."""
    classes: ClassSubset = "all"
    """Learn all classes, or the base ones (the papers' protocol), or the new ones."""
    # CoOp as published passes 200 times over the photos, and opening each one anew every time takes a laptop hours,
    # all for a row to compare with. From features encoded once it takes seconds; what augmentation adds can be had.
    compare: Annotated[
        Literal["cached", "augmented", "none"],
        tyro.conf.arg(
            help="How zero-shot CLIP, CoOp and the method are compared, the others as published. cached: each photo is "
            "encoded once, without augmentation; augmented: as in the papers, where CoOp opens each photo 200 times; "
            "none: not at all."
        ),
    ] = "cached"
    """The comparison from base to new classes."""
    cache_features: bool = False
    """Encode each photo once instead of augmented anew in each epoch: much faster. Features are kept for later runs."""
    feature_cache: Annotated[Path | None, left_out("PATH", "COCOOP_CACHE or your cache folder")] = None
    """Where --cache-features keeps them; runs may share it."""
    skip_unreadable: bool = False
    """Leave unreadable test photos out and count them, instead of failing; training always leaves them out."""
    class_parallel: bool = False
    """With several processes (torchrun, accelerate launch): share out classes instead of the photos of a batch."""
    track: Annotated[tuple[Tracker, ...], left_out("{tensorboard,wandb,trackio} ...", "none")] = ()
    """Also take the numbers of each epoch to these; TensorBoard's files are in `logs`, in the folder of the run."""
    resume: bool = False
    """Go on with the run in --output, with the same settings; begin it if there is none."""

    def cache(self, backbone: Backbone) -> FeatureCache:
        """Where features of photos that are encoded once are kept: on disk if asked for, else in memory.

        Raises:
            ConfigError: for a folder of features that are not wanted.
        """
        from cocoop.training.feature_cache import FeatureCache, default_cache_directory

        if self.cache_features:
            return FeatureCache(self.feature_cache or default_cache_directory(), backbone)
        if self.feature_cache is not None:
            raise ConfigError("--feature-cache goes with --cache-features.")
        return FeatureCache(None, backbone)

    def config(self, method: str, *, cached: bool) -> TrainConfig:
        """As published, with what was given changed; the other method of a comparison is as published.

        Raises:
            ConfigError: for a value out of range.
        """
        given = vars(self.optimiser) if method == self.prompt.method else {"workers": self.optimiser.workers}
        return paper_config(method, **given, cache_features=cached, seed=self.seed)

    def run(self) -> None:
        """Train, measure, print; mistakes in flags and lists first, before anything heavy is imported."""
        silence_other_ranks()
        self.config(self.prompt.method, cached=self.cache_features)
        self.prompt.settings(self.seed)
        check_trackers(self.track)
        data = self.images.load().few_shot(self.shots, self.seed)

        from cocoop.cli.train_and_compare import train

        train(self, data)
