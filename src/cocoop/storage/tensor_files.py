"""Tensors and JSON metadata in safetensors files, written atomically and verified by a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cocoop.errors import CheckpointError
from cocoop.storage.atomic import write_atomic
from cocoop.storage.json_files import CHECKSUM

__all__ = ["read_metadata", "read_tensors", "write_tensors"]

METADATA_KEY = "cocoop"
"""The only entry of the safetensors metadata; several entries would be written in an arbitrary order."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write named tensors with a checksum.

    Args:
        path: the file.
        tensors: on any device.
        metadata: a JSON object.

    Raises:
        CheckpointError: if the file cannot be written; the old one stays.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = dict(metadata or {})
    with_checksum = json.dumps(metadata | {CHECKSUM: _checksum(plain, metadata)})
    write_atomic(path, safetensors.torch.save(plain, {METADATA_KEY: with_checksum}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read named tensors and the metadata, and verify the checksum; files of other libraries have none.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata, checksum = _split_header(file.metadata() or {})
        if checksum not in (None, _checksum(tensors, metadata)):
            raise ValueError("its checksum does not match")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata only; the checksum, which covers the tensors, is not verified.

    Raises:
        CheckpointError: if the file is missing or truncated, or its header is damaged.
    """
    with _open(path) as file:
        return _split_header(file.metadata() or {})[0]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"'{path.parent}' is incomplete: it has no {path.name}.") from error
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error


def _split_header(header: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """Return the metadata, and its checksum if the file has one."""
    if METADATA_KEY not in header:
        # Without a checksum, only the entries that older versions and other libraries wrote are valid.
        if not header.keys() <= {"training", "format"}:
            raise ValueError(f"it has the entries {sorted(header)}")
        return dict(header), None
    metadata = dict(json.loads(header[METADATA_KEY]))
    if CHECKSUM not in metadata:
        raise ValueError("it has no checksum")
    return metadata, metadata.pop(CHECKSUM)


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
