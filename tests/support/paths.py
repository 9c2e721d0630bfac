"""Directories that tests need."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"

SHARED = Path(os.environ.get("COCOOP_SHARED", ROOT.parent / "shared"))
"""Real images and official splits, which the project does not carry; tests skip where they are missing."""

DRIVER_PATH = os.pathsep.join(map(str, (TESTS, SUPPORT, SOURCE)))
"""PYTHONPATH of the programs in `tests/support` that tests start."""
