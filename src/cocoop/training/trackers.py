"""Metrics of a run for TensorBoard, Weights & Biases or trackio, through accelerate's common interface."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cocoop.errors import ConfigError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

__all__ = ["LOGS", "PROJECT", "Log", "Tracker", "check_trackers", "epoch_metrics", "open_trackers"]

Tracker = Literal["tensorboard", "wandb", "trackio"]
"""A tracker, by the name of its package."""

Log = Callable[[Mapping[str, float], int], None]
"""Called with metrics by name, and their epoch."""

LOGS, PROJECT = "logs", "cocoop"
"""TensorBoard writes to RUN/logs/cocoop; the others create a run named RUN in the project cocoop."""


def check_trackers(trackers: Sequence[str]) -> None:
    """Check that the packages of the trackers are installed.

    Raises:
        ConfigError: naming the first that is missing, and how to install it.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f'`track="{name}"` needs the package {name}, which is not installed: pip install {name}')
    if trackers and importlib.util.find_spec("accelerate") is None:
        raise ConfigError("`track` needs accelerate: pip install 'cocoop[distributed]'")


def epoch_metrics(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an entry of `TrainResult.history` that trackers show."""
    return {f"train/{name}": entry[name] for name in ("loss", "accuracy", "learning_rate")}


@contextmanager
def open_trackers(
    trackers: Sequence[Tracker | GeneralTracker], directory: Path, settings: Mapping[str, object]
) -> Iterator[Log]:
    """Open trackers for a run, and close them at the end of the block.

    Args:
        trackers: their names, or trackers of your own; may be empty.
        directory: the run directory.
        settings: the settings of the run; numbers, strings and booleans are sent to the trackers.

    Yields:
        A function that sends metrics to all trackers.

    Raises:
        ConfigError: if a tracker is not installed or cannot be started, for example without an account.
    """
    if not trackers:
        yield lambda _metrics, _epoch: None
        return
    check_trackers([tracker for tracker in trackers if isinstance(tracker, str)])
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    run_name = {"name": directory.resolve().name}
    try:
        accelerator = Accelerator(
            cpu=True,  # The accelerator only writes numbers here.
            log_with=list(trackers),
            project_config=ProjectConfiguration(project_dir=str(directory), logging_dir=str(directory / LOGS)),
        )
        accelerator.init_trackers(
            PROJECT,
            config={name: value for name, value in settings.items() if isinstance(value, int | float | str)},
            init_kwargs={"wandb": run_name, "trackio": run_name},
        )
    # Every tracker has its own errors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        names = [tracker if isinstance(tracker, str) else tracker.name for tracker in trackers]
        raise ConfigError(f"Cannot start the tracker {', '.join(names)}: {reason}") from error
    try:
        yield lambda metrics, epoch: accelerator.log(dict(metrics), step=epoch)
    finally:
        accelerator.end_training()
