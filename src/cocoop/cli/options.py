"""Options that several commands share, and how options look in the help.

A field's sentence becomes its help. Where one line is too short for it, the help stands in `arg(help=...)`, because
tyro breaks the text where the source is broken. What is heavy is imported where it is used: help and mistakes in the
flags take no PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich import filesize

from cocoop.cli.console import bar_or_lines
from cocoop.config import Precision, parse_bytes
from cocoop.errors import ConfigError

if TYPE_CHECKING:
    from cocoop.backbones.backbone import Backbone
    from cocoop.data import Dataset

__all__ = [
    "DATA_HELP",
    "BackboneOptions",
    "DataOptions",
    "Device",
    "OptionalInt",
    "OptionalPath",
    "ReadingOptions",
    "class_names",
    "left_out",
    "pick_device",
]

Device = Literal["auto", "cpu", "cuda", "mps"]


def left_out(metavar: str, default: str | None = None) -> Any:
    """How an option that may be left out is shown.

    Args:
        metavar: what its value looks like.
        default: what is used then, in words; None: the help says so itself.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else "")


OptionalInt = Annotated[int | None, left_out("INT")]
OptionalPath = Annotated[Path | None, left_out("PATH")]


DATA_HELP = (
    "A folder with one folder of photos a class (or train, val and test with these in each); a manifest "
    "(.csv or .jsonl: path, class, optional split); a split file of the CoOp papers (.json); shards, such as "
    "'train-{000..099}.tar' or 's3://bucket/*.parquet'; or the name of a data set of the papers, such as caltech101 "
    "(see `cocoop data list`)."
)


@contextmanager
def _indexing() -> Iterator[Callable[[int, int], None]]:
    """Progress of indexing shards, by bytes; other data show none."""
    with ExitStack() as running:
        tell: Callable[[int, int, str], None] | None = None

        def advance(done: int, total: int) -> None:
            nonlocal tell
            if tell is None:
                tell = running.enter_context(bar_or_lines("indexing shards"))
            tell(done, total, f"{filesize.decimal(done)} of {filesize.decimal(total)}")

        yield advance


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How lists of photos are read."""

    image_root: OptionalPath = None
    """Folder that the paths in a manifest or split file start from, if not the file's own."""
    data_root: OptionalPath = None
    """Folder of the papers' data sets, if not COCOOP_DATA or cocoop/data in your cache folder."""
    splits: OptionalPath = None
    """Folder of the papers' split files (split_zhou_*.json), if not each data set's own."""
    renames: OptionalPath = None
    """File with better class names: JSON {"old": "new"} or CSV old,new."""
    split_seed: int = 0
    """Divides data without splits into train, val and test; the same for all runs you compare."""

    def read(self, data: Path) -> Dataset:
        """Read the lists of one data set; no photo is opened."""
        from cocoop.data import load_data

        with _indexing() as on_progress:
            return load_data(
                data,
                image_root=self.image_root,
                renames=self.renames,
                seed=self.split_seed,
                data_root=self.data_root,
                splits=self.splits,
                on_progress=on_progress,
            )


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReadingOptions):
    """Which photos."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA", help_behavior_hint="", help=DATA_HELP)]
    """The data set."""

    def load(self) -> Dataset:
        """Read the lists; no photo is opened."""
        return self.read(self.data)


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Which model."""

    backbone: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help="lite (bundled, small, no network); ViT-B/16, ViT-B/32, ViT-L/14, RN50, ... (OpenAI's CLIP); "
            "open_clip:ARCH/TAG; hf-hub:ORG/NAME; transformers:ORG/NAME; local-dir:PATH; openai:FILE.pt.",
        ),
    ] = "lite"
    """A name or a source."""
    precision: Precision = "fp32"
    """Number type of the frozen towers; learned parameters are always fp32."""
    device: Device = "auto"
    """Where to compute."""
    memory_budget: Annotated[str | None, left_out("SIZE", "most of what the device has free")] = None
    """Memory that training may plan with beyond the weights, such as 2GiB; more classes then take more time."""

    def load(self) -> Backbone:
        """Load it."""
        budget = None if self.memory_budget is None else parse_bytes("memory_budget", self.memory_budget)
        from cocoop.backbones import load_backbone

        backbone = load_backbone(self.backbone, precision=self.precision, device=pick_device(self.device))
        backbone.text_tower.memory_budget = budget
        return backbone


def class_names(text: str) -> list[str]:
    """The names in `--classes`, which are separated by commas.

    Raises:
        ConfigError: for fewer than two.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2:
        raise ConfigError(f'--classes is {text!r}; give two names or more, separated by commas: "cat, dog".')
    return names


def pick_device(wanted: str) -> str:
    """The device that is meant; of several GPUs, each process of a launcher has its own.

    Raises:
        ConfigError: if it is not there.
    """
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[wanted]:
        have = ", ".join(name for name, is_there in there.items() if is_there)
        raise ConfigError(f"--device is {wanted!r}, but this machine has only: {have}.")
    return f"cuda:{os.environ['LOCAL_RANK']}" if wanted == "cuda" and "LOCAL_RANK" in os.environ else wanted
