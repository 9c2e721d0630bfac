"""The demonstration's folder: whose it is, and what lies in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cocoop.errors import DataError
from cocoop.storage.atomic import write_atomic

__all__ = ["Home"]

FIRST_LINE = "This folder was made by `cocoop demo`."
NOTE = f"""{FIRST_LINE}

report.html    what was done, what came out and what to do next; open it in a browser
results.json   all numbers, settings and predictions
pictures/      the drawn pictures: train and test, a folder a class
runs/          the trained prompts, for `cocoop predict`

Running the demonstration again overwrites these files. It touches no others; give another --output to keep them all.
"""


@dataclass(frozen=True)
class Home:
    """Where the demonstration puts things.

    Args:
        folder: need not exist yet.
    """

    folder: Path

    @property
    def note(self) -> Path:
        """By this file the demonstration knows a folder as its own."""
        return self.folder / "README.txt"

    @property
    def pictures(self) -> Path:
        """Directory of the images."""
        return self.folder / "pictures"

    @property
    def runs(self) -> Path:
        """The trained prompts."""
        return self.folder / "runs"

    @property
    def results(self) -> Path:
        """All numbers."""
        return self.folder / "results.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    def check(self) -> None:
        """Check that the folder is not there yet, is empty, or is an earlier demonstration's.

        Raises:
            DataError: if it holds anything else, or is no folder.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"'{self.folder}' is a file; give a folder with --output.")
        if self.folder.is_dir() and not self._is_own():
            other = next(iter(sorted(self.folder.iterdir())), None)
            if other is not None:
                raise DataError(
                    f"'{self.folder}' holds '{other.name}', which is not from an earlier demonstration, so nothing was "
                    "written; give another folder with --output."
                )

    def claim(self) -> None:
        """Make the folder the demonstration's own.

        Raises:
            DataError: as `check`; nothing is changed then.
            CheckpointError: if the disk refuses.
        """
        self.check()
        write_atomic(self.note, NOTE.encode())

    def _is_own(self) -> bool:
        try:
            return self.note.read_text(encoding="utf-8").startswith(FIRST_LINE)
        except (OSError, ValueError):
            return False
