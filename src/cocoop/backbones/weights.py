"""Find weights files and read them without executing anything in them."""

from __future__ import annotations

import contextlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from cocoop.backbones.pickles import load_pickle
from cocoop.backbones.torchscript import is_torchscript, read_torchscript
from cocoop.errors import BackboneError, CheckpointError, one_line
from cocoop.storage.json_files import read_json

__all__ = ["check_size", "find_weights", "read_config", "read_weights", "weights_errors"]

WEIGHTS_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Names of weights files in open_clip's directories, in order of preference."""

MAX_LAYERS = 1000
"""Largest number of layers in a tower; libraries build them one by one, and would never finish 2**70 layers."""

ALWAYS_ALLOWED = 10**8
"""Number of weights that fits into the memory of any machine."""


def find_weights(directory: Path) -> Path | None:
    """Find the weights file of an open_clip directory: one of the usual names, or the only weights file.

    Returns:
        Its path; None if there is none.

    Raises:
        BackboneError: if there are several with unusual names.
    """
    for name in WEIGHTS_NAMES:
        if (directory / name).is_file():
            return directory / name
    others = sorted(path for path in directory.iterdir() if path.suffix in (".safetensors", ".bin", ".pth", ".pt"))
    if len(others) > 1:
        raise BackboneError(
            f"'{directory}' has several weights files: {', '.join(path.name for path in others)}. Rename the "
            f"one to use to {WEIGHTS_NAMES[0] if others[0].suffix == '.safetensors' else WEIGHTS_NAMES[2]}."
        )
    return others[0] if others else None


def read_config(path: Path) -> dict[str, Any]:
    """Read the JSON configuration of a model.

    Raises:
        BackboneError: if it is missing or damaged, or asks for more layers than any model has.
    """
    try:
        content = read_json(path)
    except CheckpointError as error:
        raise BackboneError(str(error)) from error
    layers = max(_layer_counts(content), default=0)
    if layers > MAX_LAYERS:
        raise BackboneError(f"'{path}' is damaged: it asks for {layers:.3g} layers, more than {MAX_LAYERS:,}.")
    return content


def check_size(towers: Iterable[tuple[object, object]], weights: Sequence[Path], config: Path) -> None:
    """Check that a configuration describes no larger model than its weights files hold, before memory is allocated.

    Args:
        towers: width and number of layers of each tower; values that are not integers are left to the library.
        weights: weights files.
        config: path of the configuration, for the message.

    Raises:
        BackboneError: if the attention matrices alone (four of width x width in each layer) have more numbers than the
            files have bytes. Small models are left to the library, whose errors say more.
    """
    numbers = sum(4 * w * w * n for w, n in towers if isinstance(w, int) and isinstance(n, int) and n > 0)
    available = sum(file.stat().st_size for file in weights if file.is_file())
    if numbers > max(available, ALWAYS_ALLOWED):
        raise BackboneError(
            f"'{config}' is damaged: it describes over {numbers:,} weights, but its weights files have "
            f"{available:,} bytes."
        )


def _layer_counts(node: Any, *, counts: bool = False) -> Iterator[float]:
    """Yield the values of entries like `layers` and `num_hidden_layers`; a ResNet has one for each stage."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _layer_counts(value, counts="layers" in name)
    elif isinstance(node, list):
        for value in node:
            yield from _layer_counts(value, counts=counts)
    elif counts and isinstance(node, int | float):
        yield node


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors, pickle (state dict or training checkpoint) or TorchScript file.

    Returns:
        Tensors by name, in their stored data type, on the CPU.

    Raises:
        BackboneError: if the file is missing or damaged, or holds something else.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise BackboneError(f"The file '{path}' does not exist.")
    with weights_errors(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        if is_torchscript(path):
            return read_torchscript(path)
        content = load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BackboneError(f"'{path}' must hold a state dict (tensors by name), not {type(content).__name__}.")
    # DataParallel prefixes every name.
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


_DAMAGE_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    ValueError,
    TypeError,
    SafetensorError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    AssertionError,
)
"""Errors that libraries raise for damaged files."""


@contextlib.contextmanager
def weights_errors(path: Path) -> Iterator[None]:
    """Turn errors of libraries about a damaged or unsuitable file into a BackboneError that names the file.

    Raises:
        BackboneError: instead of the library's error.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"'{path}' is damaged or holds more than tensors; it was not loaded, because that could execute code."
        ) from error
    except _DAMAGE_ERRORS as error:
        reason = one_line(error)
        raise BackboneError(
            f"'{path}' is damaged or holds another model: {reason[:300]}{'...' if len(reason) > 300 else ''}"
        ) from error
