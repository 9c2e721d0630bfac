"""`cocoop draw`: print a few-shot sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from cocoop.cli.console import line
from cocoop.cli.options import DataOptions

__all__ = ["DrawCommand"]


@dataclass(frozen=True, kw_only=True)
class DrawCommand(DataOptions):
    """Print the images of a few-shot sample. No image is opened."""

    shots: int = 16
    """Training images per class; val has at most 4 per class."""
    seed: int = 1
    """Seed of the sampling; the papers use 1, 2 and 3."""
    format: Literal["table", "json"] = "table"
    """table: split, class name and path; json: {"train": [paths], "val": [paths]}."""

    def run(self) -> None:
        """Sample and print."""
        data = self.load().few_shot(self.shots, self.seed)
        items = {"train": data.train, "val": data.val}
        if self.format == "json":
            paths = {split: [item.path for item in items[split]] for split in items}
            line(json.dumps(paths, ensure_ascii=False))
            return
        for split in items:
            for item in items[split]:
                line(f"{split}\t{data.classnames[item.label]}\t{item.path}")
