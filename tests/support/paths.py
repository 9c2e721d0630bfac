"""Directories of the project."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"

SHARED = Path(os.environ.get("COCOOP_SHARED", ROOT.parent / "shared"))
"""Real images and official splits; tests that need them are skipped where they are missing."""

DRIVER_PATH = os.pathsep.join(map(str, (TESTS, SUPPORT, SOURCE)))
"""PYTHONPATH for the programs in `tests/support`."""
