"""Saved methods and saved training: a folder of JSON and safetensors, nothing that can execute.

config.json             which method, backbone and classes            \\ the model: all that
prompt.safetensors      the learned tensors, a few hundred KB         / prediction needs
training.json           the training's configuration and data
training.safetensors    learned tensors and momentum after the last whole epoch, in one file
metrics.jsonl           one line an epoch
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cocoop.backbones import load_backbone
from cocoop.backbones.backbone import Backbone
from cocoop.config import Precision
from cocoop.errors import CheckpointError, PromptError
from cocoop.files import read_json, write_json, write_whole
from cocoop.methods import METHODS, Method

__all__ = ["TrainingState", "from_pretrained", "load_training_state", "save_pretrained", "save_training_state"]

FORMAT = 1
CONFIG, LEARNED, STATE = "config.json", "prompt.safetensors", "training.safetensors"


def save_pretrained(method: Method, folder: str | Path) -> None:
    """Write a method's configuration and learned tensors.

    Args:
        method: what to save; its backbone is saved by name, not by weight.
        folder: made if it is missing.

    Raises:
        CheckpointError: if the disk refuses.
    """
    folder = Path(folder)
    learned = {name: tensor.detach().cpu().contiguous() for name, tensor in method.learned().items()}
    write_whole(folder / LEARNED, safetensors.torch.save(learned))
    write_json(
        folder / CONFIG,
        {
            "format": FORMAT,
            "method": method.key,
            "backbone": method.backbone.name,
            "precision": method.backbone.precision,
            "classnames": list(method.classnames),
            "settings": method.settings(),
        },
    )


def from_pretrained(
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
    precision: Precision | None = None,
    device: str | torch.device = "cpu",
) -> Method:
    """Read a saved method.

    Args:
        folder: as written by `save_pretrained`.
        backbone: one that is loaded already; None: the one named in the folder is loaded.
        precision: of the frozen towers; None: as they were in training.
        device: where to load the backbone.

    Raises:
        CheckpointError: if files are missing or damaged, or tensors do not fit.
        BackboneError: if the backbone cannot be loaded.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"There is no run at '{folder}'; give a folder written by `cocoop train`.")
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"'{folder}' is no run: it has no {CONFIG}. Give a folder written by `cocoop train`.")
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise CheckpointError(f"'{folder / CONFIG}' has format {config.get('format')!r}; this cocoop reads {FORMAT}.")
    try:
        method_type = METHODS[config["method"]]
        name, classnames, settings = config["backbone"], config["classnames"], config["settings"]
        saved_precision = config["precision"]
    except KeyError as error:
        raise CheckpointError(f"'{folder / CONFIG}' is damaged: {error} is missing or unknown.") from error
    tensors, _ = _read_tensors(folder / LEARNED)
    if backbone is None:
        backbone = load_backbone(name, precision=precision or saved_precision, device=device)
    try:
        method = method_type(backbone, classnames, **settings)
    except (TypeError, PromptError) as error:
        raise CheckpointError(f"'{folder / CONFIG}' cannot be used: {error}") from error
    load_learned(method, tensors, folder / LEARNED)
    return method


def load_learned(method: Method, tensors: dict[str, Tensor], source: Path) -> None:
    """Copy learned tensors into a method; names and shapes must agree exactly.

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
                f"{found or 'missing'} there and should be {wanted or 'absent'}."
            )
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(tensors[name])


@dataclass
class TrainingState:
    """What training needs to go on as if it had never stopped."""

    epoch: int
    """Whole epochs done."""
    learned: dict[str, Tensor]
    """Learned tensors by name."""
    momentum: dict[str, Tensor]
    """SGD's momentum by the same names; empty before the first step."""
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)
    """State of the fp16 gradient scaler; empty in other precisions."""


def save_training_state(folder: Path, state: TrainingState) -> None:
    """Write everything that must agree in one file, so that no crash can leave halves of two epochs.

    Raises:
        CheckpointError: if the disk refuses; the last good file stays.
    """
    tensors = {f"learned.{name}": tensor for name, tensor in state.learned.items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in state.momentum.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"epoch": str(state.epoch), "scaler": json.dumps(state.scaler)}
    write_whole(folder / STATE, safetensors.torch.save(tensors, metadata))


def load_training_state(folder: Path) -> TrainingState:
    """Read the state after the last whole epoch.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    tensors, metadata = _read_tensors(folder / STATE)
    try:
        epoch, scaler = int(metadata["epoch"]), json.loads(metadata["scaler"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"'{folder / STATE}' is damaged: {error}.") from error
    parts: dict[str, dict[str, Tensor]] = {"learned": {}, "momentum": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return TrainingState(epoch, parts["learned"], parts["momentum"], scaler)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"'{path.parent}' is incomplete: it has no {path.name}.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error
