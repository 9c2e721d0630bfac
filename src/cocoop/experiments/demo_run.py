"""The demo: a sweep of all methods, from base to new classes, on bundled images and the bundled backbone."""

from __future__ import annotations

from pathlib import Path

from cocoop.backbones import load_backbone
from cocoop.data.demo_images import TEST_IMAGES, TRAIN_IMAGES, unpack_demo_images
from cocoop.errors import ConfigError, DataError
from cocoop.experiments.plans import Grid, base_to_new
from cocoop.experiments.sweep import Outcome, SweepCallbacks, sweep
from cocoop.storage.atomic import write_atomic

__all__ = ["DEMO_IMAGES", "check_demo_directory", "run_demo"]

DEMO_IMAGES = "images"
"""Name of the image directory inside the demo directory."""

MARKER = "README.txt"
FIRST_LINE = "This directory was made by `cocoop demo`."
CONTENT = f"""{FIRST_LINE}

report.html    results and next steps; open it in a browser
images/        the bundled images: train and test, one directory per class
runs/          one directory per run, with its record and its trained prompt

Running the demo again continues or repeats it, and touches no other files.
"""


def check_demo_directory(directory: Path) -> None:
    """Check that a directory is missing, empty, or from an earlier demo.

    Raises:
        DataError: if it is a file, or holds anything else.
    """
    if directory.exists() and not directory.is_dir():
        raise DataError(f"'{directory}' is a file; choose another `output`.")
    if not directory.is_dir():
        return
    marker = directory / MARKER
    try:
        is_own = marker.read_text(encoding="utf-8").startswith(FIRST_LINE)
    except (OSError, ValueError):
        is_own = False
    other = min(directory.iterdir(), default=None)
    if other is not None and not is_own:
        raise DataError(
            f"'{directory}' holds '{other.name}', which is not from an earlier demo, so nothing was written; choose "
            "another `output`."
        )


def run_demo(
    output: str | Path = "demo",
    *,
    seeds: tuple[int, ...] = (1, 2, 3),
    shots: int = 16,
    test_images: int = TEST_IMAGES,
    epochs: int | None = None,
    callbacks: SweepCallbacks | None = None,
) -> dict[Outcome, int]:
    """Compare zero-shot CLIP, CoOp and CoCoOp on the bundled images, offline.

    Args:
        output: directory of the demo; it is a sweep, so `write_report` reads it.
        seeds: one few-shot sample and one training per seed.
        shots: training images per class.
        test_images: test images per class.
        epochs: passes over the training images; None: as published for each method.
        callbacks: receiver of progress.

    Returns:
        The number of runs by outcome.

    Raises:
        ConfigError: for a value out of range.
        DataError: if the directory holds something else, or cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call continues.
    """
    output = Path(output)
    for name, value, limit in (("shots", shots, TRAIN_IMAGES), ("test_images", test_images, TEST_IMAGES)):
        if not 1 <= value <= limit:
            raise ConfigError(f"`{name}` is {value}; it must be from 1 to {limit}.")
    grid = Grid(seeds=seeds, shots=[shots], preset="cached", changes={} if epochs is None else {"epochs": epochs})
    check_demo_directory(output)
    write_atomic(output / MARKER, CONTENT.encode())
    data = unpack_demo_images(output / DEMO_IMAGES, test=test_images)
    return sweep(output, base_to_new(data, grid), load_backbone("lite"), workers=0, callbacks=callbacks)
