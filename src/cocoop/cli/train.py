"""`cocoop train`: train a prompt and compare it with zero-shot CLIP and CoOp."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cocoop.cli.console import accuracy_table, image_progress, note, out, silence_other_ranks, training_progress
from cocoop.cli.flags import with_flags
from cocoop.cli.options import BackboneOptions, DataOptions, optional_flag, pick_device
from cocoop.config import ClassSubset, Position, paper_config
from cocoop.errors import ConfigError
from cocoop.training.trackers import Tracker, check_trackers

if TYPE_CHECKING:
    from cocoop.experiments.train_and_compare import RunCallbacks

__all__ = ["OptimiserOptions", "PromptOptions", "TrainCommand"]


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompt."""

    method: Literal["cocoop", "coop"] = "cocoop"
    """cocoop: context shifted for each image by the Meta-Net; coop: static context."""
    context: str = "a photo of a"
    """Words that initialize the context; "" initializes it at random."""
    context_length: Annotated[int | None, optional_flag("INT", "4; coop 16")] = None
    """Number of randomly initialized context vectors."""
    position: Position = "end"
    """Position of the class name (coop only)."""
    class_specific: bool = False
    """Learn a context for each class, initialized at random (coop only)."""

    def settings(self) -> dict[str, Any]:
        """Return keyword arguments of the method.

        Raises:
            ConfigError: for options that the method does not have.
        """
        settings: dict[str, Any] = {"context": self.context or None}
        if self.context_length is not None:
            if self.context:
                raise ConfigError('--context-length needs a random start: add --context "".')
            settings["context_length"] = self.context_length
        if self.method == "coop":
            if self.class_specific and self.context:
                raise ConfigError('--class-specific needs a random start: add --context "".')
            return settings | {"position": self.position, "class_specific": self.class_specific}
        if self.position != "end" or self.class_specific:
            raise ConfigError("--position and --class-specific need --method coop; CoCoOp's context is shared, first.")
        return settings


@dataclass(frozen=True, kw_only=True)
class OptimiserOptions:
    """Training. The defaults are those of the CoCoOp paper for each method, with 16 shots."""

    epochs: Annotated[int | None, optional_flag("INT", "10; coop 200")] = None
    """Passes over the images."""
    batch_size: Annotated[int | None, optional_flag("INT", "1; coop 32")] = None
    """Images per step."""
    learning_rate: Annotated[float | None, optional_flag("FLOAT", "0.002")] = None
    """Peak learning rate of SGD."""
    warmup_epochs: Annotated[int | None, optional_flag("INT", "1")] = None
    """Epochs at the warm-up rate."""
    warmup_learning_rate: Annotated[float | None, optional_flag("FLOAT", "1e-5")] = None
    """Learning rate during warm-up."""
    momentum: Annotated[float | None, optional_flag("FLOAT", "0.9")] = None
    """Momentum of SGD."""
    weight_decay: Annotated[float | None, optional_flag("FLOAT", "0.0005")] = None
    """Weight decay of all learned tensors."""
    workers: Annotated[int | None, optional_flag("INT", "2")] = None
    """Processes that decode images."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a prompt on a few photos per class, and compare it with zero-shot CLIP and CoOp.
    - Trains a prompt for the classes of --classes and measures it on test images.
    - Compares the methods on the classes they were trained on (base) and on unseen ones (new).
    - Writes a run directory to predict with: cocoop predict DIRECTORY PHOTOS...
    """

    images: DataOptions
    model: BackboneOptions = field(default_factory=BackboneOptions)
    prompt: PromptOptions = field(default_factory=PromptOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    output: Annotated[Path | None, optional_flag("PATH", "runs/DATA-METHOD-SHOTSshot-seedSEED")] = None
    """Run directory."""
    shots: int = 16
    """Training images per class; a class with fewer images uses all of them."""
    seed: int = 1
    """Seed of the few-shot sampling, the initial values, the batch order and the augmentation."""
    classes: ClassSubset = "all"
    """Train on all classes, on the base ones (as the papers do), or on the new ones."""
    # CoOp as published opens every image 200 times, which takes hours on a laptop; encoding them once takes seconds.
    compare: Annotated[
        Literal["cached", "augmented", "none"],
        tyro.conf.arg(
            help="How to compare zero-shot CLIP, CoOp and the method. cached: each image is encoded once, without "
            "augmentation; augmented: as in the papers, where CoOp opens each image 200 times; none: no comparison."
        ),
    ] = "cached"
    """Comparison from base to new classes."""
    cache_features: bool = False
    """Encode each image once instead of augmenting it again in each epoch: much faster, and kept for later runs."""
    feature_cache: Annotated[Path | None, optional_flag("PATH", "COCOOP_CACHE or your cache directory")] = None
    """Directory where --cache-features keeps features; runs may share it."""
    skip_unreadable: bool = False
    """Leave unreadable test images out and count them, instead of failing; training always leaves them out."""
    class_parallel: bool = False
    """With several processes (torchrun, accelerate launch): divide the classes instead of the images of a batch."""
    track: Annotated[tuple[Tracker, ...], optional_flag("{tensorboard,wandb,trackio} ...", "none")] = ()
    """Send the numbers of each epoch to these trackers; TensorBoard's files are in `logs` in the run directory."""
    resume: bool = False
    """Continue the run in --output with the same settings, or start it if there is none."""

    def run(self) -> None:
        """Train and print; errors in flags and data are reported before PyTorch is imported."""
        silence_other_ranks()
        paper_config(self.prompt.method, **vars(self.optimiser), seed=self.seed)
        prompt = self.prompt.settings()
        check_trackers(self.track)
        data = self.images.load()
        data.few_shot(self.shots, self.seed)

        from cocoop.experiments.train_and_compare import RunSettings, train_and_compare
        from cocoop.report.tables import base_to_new_table
        from cocoop.training.distributed import launched_engine

        settings = RunSettings(
            method=self.prompt.method,
            prompt=prompt,
            train=vars(self.optimiser),
            shots=self.shots,
            seed=self.seed,
            classes=self.classes,
            compare=self.compare,
            cache_features=self.cache_features,
            feature_cache=self.feature_cache,
            output=self.output,
            resume=self.resume,
            skip_unreadable=self.skip_unreadable,
            class_parallel=self.class_parallel,
            track=self.track,
        )
        engine = launched_engine(pick_device(self.model.device))
        title = f"{self.prompt.method} on {data.name}"
        result = train_and_compare(data, self.model.load, settings, engine=engine, callbacks=_callbacks(self, title))
        if result.comparison is not None:
            out.print(base_to_new_table(result.comparison, f"Base to new classes: {data.name}"))
        directory = str(result.directory)
        note(f"The run is in {directory}. Predict with: cocoop predict {shlex.quote(directory)} PHOTOS...")


def _callbacks(command: TrainCommand, title: str) -> RunCallbacks:
    """Return callbacks that show progress bars, notes and the accuracy table."""
    from cocoop.evaluation.metrics import Evaluation
    from cocoop.experiments.train_and_compare import RunCallbacks

    class ConsoleCallbacks(RunCallbacks):
        def note(self, text: str) -> None:
            note(with_flags(text, command))

        def encoding(self) -> AbstractContextManager[Callable[[int, int], None]]:
            return image_progress("encoding test images")

        def training(self, label: str) -> AbstractContextManager[Any]:
            return training_progress(label)

        def evaluated(self, evaluation: Evaluation) -> None:
            out.print(accuracy_table(title, [(f"{command.classes} classes", evaluation)]))

    return ConsoleCallbacks()
