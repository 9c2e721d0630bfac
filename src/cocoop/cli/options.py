"""Options that several commands share.

A field's docstring is its help text. Long help is in `arg(help=...)`, because tyro keeps the line breaks of
docstrings. PyTorch is imported only where it is used, so that help and errors in flags appear quickly.
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

from cocoop.cli.console import progress_bar
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
    "optional_flag",
    "pick_device",
    "split_class_names",
]

Device = Literal["auto", "cpu", "cuda", "mps"]


def optional_flag(metavar: str, default: str | None = None) -> Any:
    """Describe an optional flag in the help.

    Args:
        metavar: placeholder of the value.
        default: default in words; None if the help text names it.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else "")


OptionalInt = Annotated[int | None, optional_flag("INT")]
OptionalPath = Annotated[Path | None, optional_flag("PATH")]


DATA_HELP = (
    "A directory with one directory of images per class (or train, val and test with these in each); a manifest "
    "(.csv or .jsonl: path, class, optional split); a split file of the CoOp papers (.json); shards, such as "
    "'train-{000..099}.tar' or 's3://bucket/*.parquet'; or the name of a data set of the papers, such as caltech101 "
    "(see `cocoop data list`)."
)


@contextmanager
def _indexing_progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar if there are shards to index; other data need none."""
    with ExitStack() as stack:
        update: Callable[[int, int, str], None] | None = None

        def advance(done: int, total: int) -> None:
            nonlocal update
            if update is None:
                update = stack.enter_context(progress_bar("indexing shards"))
            update(done, total, f"{filesize.decimal(done)} of {filesize.decimal(total)}")

        yield advance


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Reading data sets."""

    image_root: OptionalPath = None
    """Directory that paths in a manifest or split file are relative to, if not the file's own."""
    data_root: OptionalPath = None
    """Directory of the papers' data sets, if not COCOOP_DATA or cocoop/data in your cache directory."""
    splits: OptionalPath = None
    """Directory of the papers' split files (split_zhou_*.json), if not each data set's own."""
    renames: OptionalPath = None
    """File with better class names: JSON {"old": "new"} or CSV old,new."""
    split_seed: int = 0
    """Seed that divides data without splits into train, val and test; keep it the same for runs that you compare."""

    def read(self, data: Path) -> Dataset:
        """Read the lists of one data set; no image is opened."""
        from cocoop.data import load_data

        with _indexing_progress() as on_progress:
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
    """Data set."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA", help_behavior_hint="", help=DATA_HELP)]
    """The data set."""

    def load(self) -> Dataset:
        """Read the lists; no image is opened."""
        return self.read(self.data)


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Backbone."""

    backbone: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME",
            help="lite (bundled, small, no network); ViT-B/16, ViT-B/32, ViT-L/14, RN50, ... (OpenAI's CLIP); "
            "open_clip:ARCH/TAG; hf-hub:ORG/NAME; transformers:ORG/NAME; local-dir:PATH; openai:FILE.pt.",
        ),
    ] = "lite"
    """Name or source of the backbone."""
    precision: Precision = "fp32"
    """Data type of the frozen towers; learned parameters are always fp32."""
    device: Device = "auto"
    """Device to compute on."""
    memory_budget: Annotated[str | None, optional_flag("SIZE", "most of the free memory")] = None
    """Memory for training beyond the weights, such as 2GiB; with less, many classes take more time."""

    def load(self) -> Backbone:
        """Load the backbone."""
        budget = None if self.memory_budget is None else parse_bytes("memory_budget", self.memory_budget)
        from cocoop.backbones import load_backbone

        backbone = load_backbone(self.backbone, precision=self.precision, device=pick_device(self.device))
        backbone.text_tower.memory_budget = budget
        return backbone


def split_class_names(text: str) -> list[str]:
    """Split the value of `--classes` at its commas.

    Raises:
        ConfigError: for fewer than two names.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2:
        raise ConfigError(f'--classes is {text!r}; give at least two names, separated by commas: "cat, dog".')
    return names


def pick_device(name: str) -> str:
    """Return the device for a name; each process of a launcher gets a GPU of its own.

    Raises:
        ConfigError: if this machine has no such device.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        devices = ", ".join(device for device, is_available in available.items() if is_available)
        raise ConfigError(f"--device is {name!r}, but this machine has only: {devices}.")
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name
