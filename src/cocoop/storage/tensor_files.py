"""The files of a saved method: tensors and settings, nothing that can execute.

config.json             which method, backbone, classes and settings
prompt.safetensors      the learned tensors, a few hundred KB
README.md               the model card, which is the user's own once it is written

It knows no method: `Method.save_pretrained` writes through it, `cocoop.from_pretrained` reads through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cocoop.errors import CheckpointError
from cocoop.storage.files import CHECKSUM, write_atomic

__all__ = ["CARD", "CONFIG", "FORMAT", "LEARNED", "SAVE_ID", "read_tensors", "write_tensors"]

FORMAT = 1
"""Number of the layout of config.json; other numbers are refused."""

CONFIG, LEARNED, CARD = "config.json", "prompt.safetensors", "README.md"

SAVE_ID = "saved_as"
"""The entry, in both files, by which two that were not written together are told apart."""


METADATA_KEY = "cocoop"
"""The one entry of a safetensors file's metadata, JSON: several would stand in another order in each file."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors by name to a safetensors file, whole or not at all, with a checksum.

    Args:
        path: of the file.
        tensors: on any device.
        metadata: plain JSON.

    Raises:
        CheckpointError: if the disk refuses; an older file stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    facts = dict(metadata or {})
    seal = json.dumps(facts | {CHECKSUM: _checksum(plain, facts)})
    write_atomic(path, safetensors.torch.save(plain, {METADATA_KEY: seal}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and the metadata, of a safetensors file; one without a checksum is read as it is.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        facts = dict(json.loads(metadata[METADATA_KEY])) if METADATA_KEY in metadata else metadata
        if METADATA_KEY in metadata and CHECKSUM not in facts:
            raise ValueError("it has no checksum")
        # Of files without a seal, older versions wrote one entry, other libraries another.
        if METADATA_KEY not in metadata and not metadata.keys() <= {"training", "format"}:
            raise ValueError(f"it has the entries {sorted(metadata)}")
        checksum = facts.pop(CHECKSUM, None)
        fits = checksum is None or checksum == _checksum(tensors, facts)
    except FileNotFoundError as error:
        raise CheckpointError(f"'{path.parent}' is incomplete: it has no {path.name}.") from error
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error
    if not fits:
        raise CheckpointError(f"'{path}' is damaged: its checksum is that of other tensors.")
    return tensors, facts


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
