"""`cocoop draw`: the few-shot draw, printed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from cocoop.cli.console import line
from cocoop.cli.options import DataOptions

__all__ = ["DrawCommand"]


@dataclass(frozen=True, kw_only=True)
class DrawCommand(DataOptions):
    """Print which photos a few-shot run would learn from. No photo is opened."""

    shots: int = 16
    """Training photos a class; of val, at most 4."""
    seed: int = 1
    """Seed of the draw; the papers use 1, 2 and 3."""
    format: Literal["table", "json"] = "table"
    """table: split, class and path; json: {"train": [paths], "val": [paths]}."""

    def run(self) -> None:
        """Draw and print."""
        data = self.load().few_shot(self.shots, self.seed)
        drawn = {"train": data.train, "val": data.val}
        if self.format == "json":
            paths = {split: [item.path for item in items] for split, items in drawn.items()}
            line(json.dumps(paths, ensure_ascii=False))
            return
        for split, items in drawn.items():
            for item in items:
                line(f"{split}\t{data.classnames[item.label]}\t{item.path}")
