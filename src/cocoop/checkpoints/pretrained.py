"""Saved methods, read again: from a folder, or from a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cocoop.backbones import load_backbone
from cocoop.backbones.backbone import Backbone
from cocoop.backbones.hub_files import fetch
from cocoop.config import PRECISIONS, Precision
from cocoop.errors import CheckpointError, CocoopError
from cocoop.methods import METHODS, Method
from cocoop.storage.json_files import read_json
from cocoop.storage.tensor_files import CONFIG, FORMAT, LEARNED, SAVE_ID, read_tensors

__all__ = ["from_pretrained", "load_learned", "save_pretrained"]

HUB = "hf-hub:"
"""What stands before a name that can only be that of a hub repository, as with backbones."""


def from_pretrained(
    source: str | Path,
    *,
    backbone: Backbone | None = None,
    precision: Precision | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    **download: Any,
) -> Method:
    """Read a saved method.

    Args:
        source: a folder written by `method.save_pretrained`, `cocoop.fit(..., run=folder)` or `cocoop train`; or, as
            text, a repository of the hub: `USER/NAME` where there is no such folder, or `hf-hub:USER/NAME`, either
            with `@REVISION`.
        backbone: one that is loaded already; None: the one named in the folder is loaded.
        precision: of the frozen towers; None: as they were in training. A backbone that is given has its own.
        device: where to load the backbone.
        revision: branch, tag or commit of a hub repository.
        download: as huggingface_hub knows them: token, cache_dir, force_download, local_files_only.

    Raises:
        CheckpointError: if files are missing, out of reach or damaged, or tensors do not fit.
        BackboneError: if the backbone cannot be loaded.
    """
    directory = _directory(source, revision, download)
    config = _read_config(directory)
    # Before the backbone, which may take long to load.
    tensors, facts = read_tensors(directory / LEARNED)
    if SAVE_ID in facts and facts[SAVE_ID] != config.get(SAVE_ID):
        raise CheckpointError(
            f"'{directory / CONFIG}' and {LEARNED} were not saved together: one is of another prompt. Save it again, "
            "or go on with its training by --resume."
        )
    if backbone is None:
        backbone = load_backbone(config["backbone"], precision=precision or config["precision"], device=device)
    try:
        method = METHODS[config["method"]](backbone, config["classnames"], **config["settings"])
    except (TypeError, AttributeError, CocoopError) as error:
        raise CheckpointError(f"'{directory / CONFIG}' cannot be used: {error}") from error
    load_learned(method, tensors, directory / LEARNED)
    return method.eval()


def save_pretrained(method: Method, directory: str | Path) -> None:
    """Write a method's settings, learned tensors and model card; the same as `method.save_pretrained(directory)`.

    Raises:
        CheckpointError: if the files cannot be written.
    """
    method.save_pretrained(directory)


def _directory(source: str | Path, revision: str | None, download: dict[str, Any]) -> Path:
    """The folder that is meant, fetched from the hub if it is a repository there."""
    name = str(source).removeprefix(HUB)
    surely_hub = name != str(source)
    # A path is a folder; a text of the right form may be one too, and is the hub's only where there is none.
    may_be_hub = (
        isinstance(source, str) and not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", source)
    )
    if not surely_hub and not may_be_hub:
        if revision is not None:
            raise CheckpointError(f"'{source}' is a folder, which has no revision {revision!r}; leave it out.")
        return Path(source)
    name, _, pinned = name.partition("@")
    try:
        directory = fetch(
            f"{name}@{revision or pinned}",
            [CONFIG, LEARNED],
            f"The hub's {name}",
            raises=CheckpointError,
            instead="or give a folder written by `cocoop train`.",
            **download,
        )
        if not (directory / CONFIG).is_file():
            raise CheckpointError(f"The hub's {name} is no run: it has no {CONFIG}.")
    except CheckpointError as error:
        raise error if surely_hub else CheckpointError(f"There is no folder '{source}'. {error}") from error
    return directory


def load_learned(method: Method, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy learned tensors into a method; names and shapes must agree exactly.

    Args:
        method: changed in place.
        tensors: by the names of `method.learned()`.
        source: where they come from, for the message.

    Raises:
        CheckpointError: naming the file and the first tensor that differs.
    """
    learned = method.learned()
    for name in sorted(learned.keys() | tensors.keys()):
        wanted = tuple(learned[name].shape) if name in learned else None
        found = tuple(tensors[name].shape) if name in tensors else None
        if wanted != found:
            raise CheckpointError(
                f"'{source}' does not fit {method.key} on {method.backbone.name}: tensor {name!r} is "
                f"{'missing' if found is None else found} there and should be {wanted or 'absent'}."
            )
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(tensors[name])


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not directory.is_dir():
        raise CheckpointError(f"There is no run at '{directory}'; give a folder written by `cocoop train`.")
    if not path.is_file():
        raise CheckpointError(f"'{directory}' is no run: it has no {CONFIG}. Give a folder written by `cocoop train`.")
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"'{path}' has the format {config.get('format')!r}, this cocoop reads {FORMAT}: "
            "it is no run of `cocoop train`, or one of another version."
        )
    if config.get("method") not in tuple(METHODS):
        raise CheckpointError(
            f"'{path}' is of the method {config.get('method')!r}, which is none of {', '.join(METHODS)}."
        )
    classnames = config.get("classnames")
    fine = {
        "backbone": isinstance(config.get("backbone"), str),
        "precision": config.get("precision") in PRECISIONS,
        "classnames": isinstance(classnames, list) and all(isinstance(name, str) for name in classnames),
        "settings": isinstance(config.get("settings"), dict),
    }
    for name, is_fine in fine.items():
        if not is_fine:
            raise CheckpointError(f"'{path}' is damaged: {name!r} is {config.get(name, 'missing')!r}.")
    return config
