"""Numbers of a training for TensorBoard, Weights & Biases or trackio, by accelerate's one interface to all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocoop.errors import ConfigError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

__all__ = ["LOGS", "PROJECT", "Log", "Tracker", "check_trackers", "epoch_numbers", "tracked"]

Tracker = Literal["tensorboard", "wandb", "trackio"]
"""Each by the name of its package."""

Log = Callable[[Mapping[str, float], int], None]
"""Takes numbers by name, and the epoch they belong to."""

LOGS, PROJECT = "logs", "cocoop"
"""TensorBoard's files are in RUN/logs/cocoop; the others keep a run named RUN in their project cocoop."""


def check_trackers(trackers: Sequence[str]) -> None:
    """That their packages are installed.

    Raises:
        ConfigError: naming the first that is not, and how to install it.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--track {name} needs the package {name}, which is not installed: pip install {name}")


def epoch_numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """What is tracked of an entry of `TrainResult.history`."""
    return {f"train/{name}": entry[name] for name in ("loss", "accuracy", "learning_rate")}


@contextmanager
def tracked(
    trackers: Sequence[Tracker | GeneralTracker], directory: Path, settings: Mapping[str, object]
) -> Iterator[Log]:
    """While a run goes on, take its numbers to trackers.

    Args:
        trackers: their names, or trackers of your own; with none, the numbers go nowhere.
        folder: of the run.
        settings: what the run was begun with; numbers, texts and truth values of it are kept.

    Yields:
        What to call with the numbers of an epoch.

    Raises:
        ConfigError: if a tracker is not installed or does not start, for want of an account, say.
    """
    if not trackers:
        yield lambda _numbers, _epoch: None
        return
    check_trackers([tracker for tracker in trackers if isinstance(tracker, str)])
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    own_name = {"name": directory.resolve().name}
    try:
        accelerator = Accelerator(
            cpu=True,  # It only writes numbers here.
            log_with=list(trackers),
            project_config=ProjectConfiguration(project_dir=str(directory), logging_dir=str(directory / LOGS)),
        )
        accelerator.init_trackers(
            PROJECT,
            config={name: value for name, value in settings.items() if isinstance(value, int | float | str)},
            init_kwargs={"wandb": own_name, "trackio": own_name},
        )
    # Each has errors of its own.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        names = [tracker if isinstance(tracker, str) else tracker.name for tracker in trackers]
        raise ConfigError(f"--track {' '.join(names)} cannot be started: {reason}") from error
    try:
        yield lambda numbers, epoch: accelerator.log(dict(numbers), step=epoch)
    finally:
        accelerator.end_training()
