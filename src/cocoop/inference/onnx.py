"""The folder of an exported prompt: the graph, and what a program must know to use it.

model.onnx      input `images` (B, 3, S, S), outputs `logits` and `probabilities` (B, C); any number B of images
export.json     classes in their order, preprocessing, where it comes from, SHA-256 of the graph's files

Weights of more than 2 GB lie in model.onnx.data.

Shapes: B images of 3 channels and S x S pixels, C classes.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from cocoop.config import Preprocessing
from cocoop.errors import CheckpointError, ConfigError
from cocoop.inference.onnx_graph import INPUT, OUTPUTS, write_graph
from cocoop.methods import Method
from cocoop.storage.atomic import make_directory, sync_directory
from cocoop.storage.hashing import hash_file
from cocoop.storage.json_files import read_json, write_json
from cocoop.storage.json_schema import ChannelValues, Schema, check_schema
from cocoop.version import __version__

__all__ = ["DESCRIPTION", "MODEL", "ExportReport", "OnnxPrompt", "check_libraries", "export"]

MODEL, DESCRIPTION = "model.onnx", "export.json"
FORMAT = 1
TOLERANCE = 1e-4
"""Largest difference of a probability, or of a logit over its scale, from PyTorch's that an export may have."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported, held against PyTorch."""

    directory: Path
    """Where it lies."""
    opset: int
    """Version of ONNX's operators."""
    onnx_bytes: int
    """Size of the graph with its weights."""
    difference: float
    """Largest difference of a probability from PyTorch's, on random images."""
    logit_difference: float
    """The same for logits over their scale, which are cosine similarities."""


def _library(name: str) -> Any:
    """A library of the extra.

    Args:
        name: `onnxruntime` to use a graph, `onnxscript` to write one.

    Raises:
        ConfigError: saying how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"ONNX needs the library {error.name}, which is not installed: pip install 'cocoop[export]'"
        ) from error


def check_libraries() -> None:
    """Whether all is there to export.

    Raises:
        ConfigError: saying how to install what is not.
    """
    for name in ("onnxruntime", "onnxscript"):
        _library(name)


def export(method: Method, directory: Path, *, opset: int | None = None) -> ExportReport:
    """Export a method with the classes that it knows now, and hold the file against it in onnxruntime.

    Args:
        method: on the CPU, in fp32.
        folder: made; must not hold anything yet.
        opset: version of ONNX's operators; None: what PyTorch writes by itself.

    Raises:
        CheckpointError: if the folder is in use or the disk refuses.
        ConfigError: without onnxruntime; if the model cannot be converted, or the file's probabilities or
            similarities are more than 1e-4 from PyTorch's, or no numbers. Nothing is left then.
    """
    check_libraries()
    if method.backbone.precision != "fp32" or method.backbone.device.type != "cpu":
        raise ConfigError("Only fp32 on the CPU is exported; load the method so (precision='fp32', device='cpu').")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"'{directory}' is there already; give another --output.")
    make_directory(directory.parent)
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise _refused(directory, error) from error
    try:
        opset = write_graph(method.eval(), unfinished / MODEL, opset)
        files = sorted(unfinished.iterdir())
        onnx_bytes = sum(file.stat().st_size for file in files)
        write_json(unfinished / DESCRIPTION, _description(method, files, opset), with_checksum=True)
        logit_difference, difference = _differences(method, OnnxPrompt(unfinished))
        if not (logit_difference <= TOLERANCE and difference <= TOLERANCE):
            raise ConfigError(
                f"The ONNX file of {method.backbone.name} gives probabilities {difference:.1e} and similarities "
                f"{logit_difference:.1e} from PyTorch's, more than {TOLERANCE:g}; nothing was written. Please report "
                "it, with the versions of torch and onnxruntime."
            )
        unfinished.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        for file in files:
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        unfinished.replace(directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise _refused(directory, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return ExportReport(directory, opset, onnx_bytes, difference, logit_difference)


class OnnxPrompt:
    """An exported prompt in onnxruntime, on the CPU.

    Args:
        folder: as `export` writes it.
        threads: that compute; None: onnxruntime's choice.

    Raises:
        CheckpointError: if it is no such folder, or the graph is not the one that was exported.
        ConfigError: without onnxruntime.
    """

    def __init__(self, directory: str | Path, *, threads: int | None = None) -> None:
        directory = Path(directory)
        if not (directory / DESCRIPTION).is_file():
            raise CheckpointError(
                f"'{directory}' holds no exported prompt (there is no {DESCRIPTION}); make one with: cocoop export RUN"
            )
        runtime = _library("onnxruntime")
        description = _read_description(directory)
        checksums: dict[str, str | None] = {MODEL: None} | description["sha256"]
        for name, wanted in checksums.items():
            if hash_file(directory / name) != wanted:
                raise CheckpointError(
                    f"'{directory / name}' is damaged: it is not the file that was exported. Export again."
                )
        self.sha256 = " ".join(map(str, checksums.values()))
        """Of the graph, and of its weights where they are a file of their own."""
        self.classnames: tuple[str, ...] = tuple(description["classnames"])
        """The classes that were fixed at export, in the order of the outputs."""
        self.preprocessing = _preprocessing(directory / DESCRIPTION, description["preprocessing"])
        """How images are made ready."""
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        with _explained(directory / MODEL):
            # It would try a damaged file twice, and print that it does.
            self._session = runtime.InferenceSession(
                str(directory / MODEL), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        self._graph = directory / MODEL

    def image_scorer(self, shortlist: int | None = None) -> Callable[[Tensor], Tensor]:
        """From preprocessed images (B, 3, S, S) to logits (B, C).

        Raises:
            ConfigError: for a shortlist, which is no part of the graph.
        """
        if shortlist is not None:
            raise ConfigError("--shortlist is no part of an exported graph; leave it out, or use --runtime torch.")
        return lambda images: self(images)[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities of preprocessed images, (B, C) each."""
        with _explained(self._graph):
            logits, probabilities = self._session.run(list(OUTPUTS), {INPUT: images.float().numpy()})
            return torch.from_numpy(logits), torch.from_numpy(probabilities)


@contextmanager
def _explained(graph: Path) -> Iterator[None]:
    """Turn onnxruntime's errors, which have nothing in common, into one that names the graph."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"'{graph}' cannot be used by onnxruntime: {reason}") from error


def _refused(directory: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"Cannot write '{directory}': {error.strerror or error}.")


def _differences(method: Method, exported: OnnxPrompt) -> tuple[float, float]:
    """Largest differences of logits over their scale, and of probabilities, on batches of other sizes than traced."""
    size = method.backbone.preprocessing.size
    scorer, generator = method.image_scorer(), torch.Generator().manual_seed(0)
    gaps = []
    for batch in (1, 3):
        images = torch.randn(batch, 3, size, size, generator=generator)
        logits = scorer(images)
        found = exported(images)
        scale = float(method.backbone.logit_scale.exp())
        gaps.append(torch.stack([(found[0] - logits).abs().max() / scale, (found[1] - logits.softmax(-1)).abs().max()]))
    # Unlike Python's max, this one keeps NaN.
    logit_difference, difference = torch.stack(gaps).amax(0).tolist()
    return logit_difference, difference


def _description(method: Method, files: Sequence[Path], opset: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "cocoop": __version__,
        "torch": torch.__version__,
        "opset": opset,
        "method": method.key,
        "backbone": method.backbone.name,
        "classnames": list(method.classnames),
        "preprocessing": dataclasses.asdict(method.backbone.preprocessing),
        "input": INPUT,
        "outputs": list(OUTPUTS),
        "sha256": {file.name: hash_file(file) for file in files},
    }


class _Preprocessing(Schema):
    size: Annotated[int, Field(ge=1, le=4096)]
    mean: ChannelValues
    std: ChannelValues


class _Description(Schema):
    """What a program needs of a description."""

    classnames: list[str]
    preprocessing: _Preprocessing
    sha256: dict[str, str]


def _read_description(directory: Path) -> dict[str, Any]:
    description = read_json(directory / DESCRIPTION)
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"'{directory / DESCRIPTION}' has the format {description.get('format')!r}, this cocoop reads {FORMAT}."
        )
    check_schema(description, _Description, directory / DESCRIPTION)
    return description


def _preprocessing(path: Path, found: dict[str, Any]) -> Preprocessing:
    # JSON knows lists only.
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    try:
        return Preprocessing(**plain)  # type: ignore[arg-type]
    except TypeError as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error
