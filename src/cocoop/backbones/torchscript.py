"""Read the tensors of a TorchScript archive, as OpenAI publishes CLIP, without executing its code.

`torch.jit.load` is not safe: an archive is a program whose `__setstate__` methods run while it is loaded, and
`torch.load(weights_only=True)` refuses archives. This module reads only the pickle with the tensors. Its unpickler
accepts tensors, numbers and text, and turns modules into an inert `_Module`.

An archive is a zip file: NAME/data.pkl (the tree of modules), NAME/data/0, 1, ... (tensor contents), NAME/code and
NAME/constants.pkl (the program).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["TensorUnpickler", "is_torchscript", "read_torchscript"]

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""Data types by their names in archives."""


def is_torchscript(path: Path) -> bool:
    """Return True for a TorchScript archive; like PyTorch, look for the file of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Return the tensors of an archive by their `state_dict` names.

    Raises:
        pickle.UnpicklingError: if it holds anything but modules and tensors.
        OSError, KeyError, ValueError, RuntimeError: if it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        directory = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).removesuffix("constants.pkl")
        root = TensorUnpickler(archive, directory).load()
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors)
    return tensors


def _collect(module: object, prefix: str, tensors: dict[str, Tensor]) -> None:
    if not isinstance(module, _Module):
        return
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        else:
            _collect(value, f"{prefix}{name}.", tensors)


class _Module:
    """Module of an archive: attributes only, nothing executable."""


class TensorUnpickler(pickle.Unpickler):
    """Unpickler of the tree of modules that replaces each class by one of this file, or refuses it.

    Args:
        archive: open archive.
        directory: directory in it with `data.pkl` and the tensor contents, ending with a slash.

    Raises:
        ValueError: if the tensors are big-endian.
    """

    def __init__(self, archive: zipfile.ZipFile, directory: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{directory}data.pkl")))
        if f"{directory}byteorder" in archive.namelist() and archive.read(f"{directory}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        self.archive = archive
        self.directory = directory
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a class or function that the pickle names."""
        if module.startswith("__torch__"):
            # A new class each time, so that a pickle that modifies one does not modify the others.
            return type("_Module", (_Module,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not a tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a tensor storage, given as ("storage", data type, file, device, count)."""
        _, dtype, key, _, count = pid
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.directory}data/{key}"))
            empty = torch.empty(0, dtype=dtype)
            self.storages[key] = torch.frombuffer(content, dtype=dtype, count=count) if count else empty
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    """Return a view of a storage; PyTorch checks its bounds."""
    return torch.as_strided(storage, size, stride, offset)
