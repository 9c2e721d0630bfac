"""The files of a saved method: tensors and settings, nothing that can execute.

config.json             which method, backbone, classes and settings
prompt.safetensors      the learned tensors, a few hundred KB
README.md               the model card, which is the user's own once it is written

It knows no method: `Method.save_pretrained` writes through it, `cocoop.from_pretrained` reads through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from cocoop.errors import CheckpointError
from cocoop.files import write_whole

__all__ = ["CARD", "CONFIG", "FORMAT", "LEARNED", "read_tensors", "write_tensors"]

FORMAT = 1
"""Number of the layout of config.json; other numbers are refused."""

CONFIG, LEARNED, CARD = "config.json", "prompt.safetensors", "README.md"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name to a safetensors file, whole or not at all.

    Raises:
        CheckpointError: if the disk refuses; an older file stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, safetensors.torch.save(plain, None if metadata is None else dict(metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the metadata, of a safetensors file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"'{path.parent}' is incomplete: it has no {path.name}.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error
