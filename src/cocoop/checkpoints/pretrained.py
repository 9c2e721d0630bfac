"""Save and load trained prompts.

config.json             method, backbone, class names and settings
prompt.safetensors      the learned tensors, a few hundred KB
README.md               the model card

The backbone is saved by its name, not by its weights. Nothing in these files can execute code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cocoop.backbones import load_backbone
from cocoop.backbones.backbone import Backbone
from cocoop.backbones.hub_files import fetch
from cocoop.checkpoints.model_card import CARD, model_card
from cocoop.config import Precision
from cocoop.errors import CheckpointError, CocoopError
from cocoop.methods import METHODS, Method
from cocoop.storage.atomic import remove_stale_files, write_atomic
from cocoop.storage.hashing import hash_content
from cocoop.storage.json_files import read_json, write_json
from cocoop.storage.json_schema import Schema, check_schema
from cocoop.storage.tensor_files import read_tensors, write_tensors

__all__ = [
    "CONFIG",
    "LEARNED",
    "from_pretrained",
    "load_learned",
    "method_config",
    "save_pretrained",
    "write_learned",
    "write_method",
]

CONFIG, LEARNED = "config.json", "prompt.safetensors"

FORMAT = 1
"""Version of the layout of config.json."""

SAVE_ID = "saved_as"
"""Name of an entry in both files; the values are equal if the files were written together."""

HUB = "hf-hub:"
"""Prefix of the name of a hub repository, as for backbones."""


class _Config(Schema):
    """Schema of config.json."""

    backbone: str
    precision: Precision
    classnames: list[str]
    settings: dict[str, Any]


def save_pretrained(method: Method, directory: str | Path, *, model_card_kwargs: dict[str, Any] | None = None) -> None:
    """Save settings and learned tensors, and a model card unless the directory has one.

    Args:
        method: the method.
        directory: created if missing.
        model_card_kwargs: arguments of `cocoop.checkpoints.model_card.model_card`, such as `license`.

    Raises:
        CheckpointError: if the files cannot be written.
    """
    directory = Path(directory)
    write_method(method, directory)
    if not (directory / CARD).exists():
        card = model_card(method_config(method), **({"directory": directory} | (model_card_kwargs or {})))
        # Class names may hold lone surrogates.
        write_atomic(directory / CARD, str(card).encode(errors="backslashreplace"))


def from_pretrained(
    source: str | Path,
    *,
    backbone: Backbone | None = None,
    precision: Precision | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    **download: Any,
) -> Method:
    """Load a saved method.

    Args:
        source: a directory written by `save_pretrained`, `fit` or `cocoop train`; or the name of a hub repository,
            `hf-hub:USER/NAME`, or `USER/NAME` if no directory has that name; `@REVISION` may follow.
        backbone: a loaded backbone; None: load the one named in config.json.
        precision: data type of the frozen towers; None: the one used in training. Ignored with `backbone`.
        device: device for the backbone. Ignored with `backbone`.
        revision: branch, tag or commit of the hub repository.
        download: options of `huggingface_hub.snapshot_download`: token, cache_dir, force_download, local_files_only.

    Raises:
        CheckpointError: if files are missing or damaged, cannot be downloaded, or do not fit the backbone.
        BackboneError: if the backbone cannot be loaded.

    Example:
        ```python
        import cocoop

        data = cocoop.load_data("photos")
        method = cocoop.CoCoOp(cocoop.load_backbone("lite"), data.classnames)
        cocoop.save_pretrained(method, "my-prompt")

        method = cocoop.from_pretrained("my-prompt")
        print(method.classnames)
        ```
    """
    directory = _resolve_source(source, revision, download)
    config = _read_config(directory)
    # Read before the backbone, which may take long to load.
    tensors, metadata = read_tensors(directory / LEARNED)
    if SAVE_ID in metadata and metadata[SAVE_ID] != config.get(SAVE_ID):
        raise CheckpointError(
            f"'{directory / CONFIG}' and {LEARNED} belong to different prompts. Save the prompt again, or pass "
            "`resume=True` to continue its training."
        )
    if backbone is None:
        backbone = load_backbone(config["backbone"], precision=precision or config["precision"], device=device)
    try:
        method = METHODS[config["method"]](backbone, config["classnames"], **config["settings"])
    except (TypeError, AttributeError, CocoopError) as error:
        raise CheckpointError(f"'{directory / CONFIG}' cannot be used: {error}") from error
    load_learned(method, tensors, directory / LEARNED)
    return method.eval()


def method_config(method: Method) -> dict[str, Any]:
    """Return the content of config.json: everything needed to rebuild a method, except for its learned tensors."""
    return {
        "format": FORMAT,
        "method": method.key,
        "backbone": method.backbone.name,
        "precision": method.backbone.precision,
        "classnames": list(method.saved_classnames),
        "settings": method.settings(),
    }


def write_method(method: Method, directory: Path) -> None:
    """Write settings and learned tensors, without a model card.

    Raises:
        CheckpointError: if the files cannot be written.
    """
    for name in (LEARNED, CONFIG, CARD):
        remove_stale_files(directory, name)
    write_learned(method, directory)
    config = method_config(method)
    write_json(directory / CONFIG, config | {SAVE_ID: _save_id(config)})


def write_learned(method: Method, directory: Path) -> None:
    """Write the learned tensors.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    write_tensors(directory / LEARNED, method.learned(), {SAVE_ID: _save_id(method_config(method))})


def load_learned(method: Method, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy learned tensors into a method; names and shapes must match exactly.

    Args:
        method: changed in place.
        tensors: tensors by the names in `method.learned()`.
        source: the file they were read from, for messages.

    Raises:
        CheckpointError: naming the first tensor that does not match.
    """
    learned = method.learned()
    for name in sorted(learned.keys() | tensors.keys()):
        expected = tuple(learned[name].shape) if name in learned else None
        found = tuple(tensors[name].shape) if name in tensors else None
        if expected != found:
            raise CheckpointError(
                f"'{source}' does not fit {method.key} on {method.backbone.name}: tensor {name!r} is "
                f"{'missing' if found is None else found} there and should be {expected or 'absent'}."
            )
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(tensors[name])


def _resolve_source(source: str | Path, revision: str | None, download: dict[str, Any]) -> Path:
    """Return the directory with the files, downloaded if `source` is a hub repository."""
    name = str(source).removeprefix(HUB)
    is_hub = name != str(source)
    may_be_hub = (
        isinstance(source, str) and not Path(source).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(@.+)?", source)
    )
    if not is_hub and not may_be_hub:
        if revision is not None:
            raise CheckpointError(f"'{source}' is a directory and has no revisions; leave `revision` out.")
        return Path(source)
    name, _, pinned = name.partition("@")
    try:
        directory = fetch(
            f"{name}@{revision or pinned}",
            [CONFIG, LEARNED],
            f"The hub's {name}",
            raises=CheckpointError,
            instead="or give a directory written by `cocoop train`",
            **download,
        )
        if not (directory / CONFIG).is_file():
            raise CheckpointError(f"The hub's {name} is not a saved prompt: it has no {CONFIG}.")
    except CheckpointError as error:
        raise error if is_hub else CheckpointError(f"There is no directory '{source}'. {error}") from error
    return directory


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not directory.is_dir():
        raise CheckpointError(f"There is no directory '{directory}'; give one written by `cocoop train`.")
    if not path.is_file():
        raise CheckpointError(
            f"'{directory}' is not a saved prompt: it has no {CONFIG}. Give a directory written by `cocoop train`."
        )
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"'{path}' has the format {config.get('format')!r}, but this version of cocoop reads {FORMAT}."
        )
    if config.get("method") not in tuple(METHODS):
        raise CheckpointError(
            f"'{path}' has the method {config.get('method')!r}; it must be one of {', '.join(METHODS)}."
        )
    check_schema(config, _Config, path)
    return config


def _save_id(config: dict[str, Any]) -> str:
    # People may edit the class names in config.json; the stored id stays, so the files still belong together.
    return hash_content(json.dumps(config, sort_keys=True))[:32]
