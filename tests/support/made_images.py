"""Generated images, and the command line in another process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from paths import SOURCE
from PIL import Image

# So similar that the bundled backbone confuses some of them.
COLOURS = {"cherry": (170, 90, 100), "leaf": (110, 140, 100), "sea": (100, 110, 160), "sun": (170, 150, 90)}


def make_images(root: Path, *, per_class: int, classes=tuple(COLOURS), size=(40, 32), seed: int = 0) -> Path:
    """Write a directory of images for each class, in the colour of the class with noise, and return `root`."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            noise = generator.normal(0, 40, (size[1], size[0], 3))
            pixels = (np.asarray(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


def environment(**more: str) -> dict[str, str]:
    """Return an environment for child processes: this source tree, one thread, no colours, 80 columns."""
    plain = {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1"}
    return {**os.environ, **plain, **more}


def cocoop(*arguments: object, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line and wait for it."""
    cache = {} if cwd is None else {"COCOOP_CACHE": str(cwd / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "cocoop", *map(str, arguments)],
        cwd=cwd,
        env=environment(**(cache | more)),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=300,
    )
