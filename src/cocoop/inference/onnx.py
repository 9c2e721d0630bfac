"""Export a prompt to ONNX and use it. The directory of an exported prompt contains:

model.onnx      input `images` (B, 3, S, S), any B; outputs `logits` and `probabilities` (B, C)
export.json     class names in the order of the outputs, preprocessing, origin, SHA-256 of the files of the graph

Weights above 2 GB are in model.onnx.data.

Shapes: B images of 3 channels and S x S pixels, C classes.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from cocoop.checkpoints.pretrained import from_pretrained
from cocoop.config import Preprocessing
from cocoop.errors import CheckpointError, ConfigError
from cocoop.inference.onnx_graph import INPUT, OUTPUTS, write_graph
from cocoop.methods import Method
from cocoop.storage.atomic import make_directory, sync_directory
from cocoop.storage.hashing import hash_file
from cocoop.storage.json_files import read_json, write_json
from cocoop.storage.json_schema import ChannelValues, Schema, check_schema
from cocoop.version import __version__

__all__ = ["ExportReport", "OnnxPrompt", "export_onnx"]

MODEL, DESCRIPTION = "model.onnx", "export.json"
FORMAT = 1
TOLERANCE = 1e-4
"""Largest accepted difference from PyTorch, of probabilities and of logits divided by their scale."""


@dataclass(frozen=True)
class ExportReport:
    """An exported prompt, compared with PyTorch on random images."""

    directory: Path
    """The directory of the graph and its description."""
    classnames: tuple[str, ...]
    """The classes of the graph."""
    opset: int
    """Version of the ONNX operators."""
    onnx_bytes: int
    """Size of the graph with its weights."""
    torch_bytes: int
    """Size of all weights in PyTorch."""
    difference: float
    """Largest difference of a probability."""
    logit_difference: float
    """Largest difference of a cosine similarity, which is a logit divided by the logit scale."""


def export_onnx(
    method: Method | str | Path,
    output: str | Path,
    *,
    classes: Sequence[str] | None = None,
    opset: int | None = None,
) -> ExportReport:
    """Export a method with its current classes, and compare the file with PyTorch in onnxruntime.

    Args:
        method: a method on the CPU in fp32; or a run directory or repository of the hub to load one from.
        output: directory to create; it must be missing or empty.
        classes: class names of the graph; None: those of the method.
        opset: version of the ONNX operators; None: PyTorch's default.

    Raises:
        CheckpointError: if the directory is in use or cannot be written.
        ConfigError: without onnxruntime and onnxscript; if the model cannot be converted; or if probabilities or
            similarities of the file differ from PyTorch's by more than 1e-4. Nothing is left behind.
    """
    for library in ("onnxruntime", "onnxscript"):
        _import(library)
    if isinstance(method, str | Path):
        method = from_pretrained(method, precision="fp32", device="cpu")
    if method.backbone.precision != "fp32" or method.backbone.device.type != "cpu":
        raise ConfigError(
            'Only methods in fp32 on the CPU can be exported; load it with `precision="fp32"` and `device="cpu"`.'
        )
    if classes is not None:
        method.set_classes(classes)
    directory = Path(output)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(f"'{directory}' exists already; choose another `output`.")
    make_directory(directory.parent)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
            # A subdirectory, because the temporary directory itself is private.
            unfinished = Path(temporary) / "export"
            unfinished.mkdir()
            report = _write(method, unfinished, directory, opset)
            if directory.exists():
                directory.rmdir()
            unfinished.replace(directory)
        sync_directory(directory.parent)
    except OSError as error:
        raise CheckpointError(f"Cannot write '{directory}': {error.strerror or error}.") from error
    return report


def _write(method: Method, unfinished: Path, directory: Path, opset: int | None) -> ExportReport:
    opset = write_graph(method.eval(), unfinished / MODEL, opset)
    files = sorted(unfinished.iterdir())
    description = {
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
    write_json(unfinished / DESCRIPTION, description, with_checksum=True)
    logit_difference, difference = _differences(method, OnnxPrompt(unfinished))
    # NaN fails both comparisons.
    if not (logit_difference <= TOLERANCE and difference <= TOLERANCE):
        raise ConfigError(
            f"The ONNX file of {method.backbone.name} differs from PyTorch by {difference:.1e} in probabilities and "
            f"{logit_difference:.1e} in similarities, more than {TOLERANCE:g}; nothing was written. Please report it, "
            "with the versions of torch and onnxruntime."
        )
    for file in files:
        with file.open("rb+") as written:
            os.fsync(written.fileno())
    return ExportReport(
        directory=directory,
        classnames=method.classnames,
        opset=opset,
        onnx_bytes=sum(file.stat().st_size for file in files),
        torch_bytes=sum(parameter.nbytes for parameter in method.parameters()),
        difference=difference,
        logit_difference=logit_difference,
    )


def _differences(method: Method, exported: OnnxPrompt) -> tuple[float, float]:
    """Return the largest differences of similarities and of probabilities, on other batch sizes than the traced one."""
    size, scale = method.backbone.preprocessing.size, method.backbone.logit_scale.exp()
    scorer, generator = method.image_scorer(), torch.Generator().manual_seed(0)
    differences = []
    for batch in (1, 3):
        images = torch.randn(batch, 3, size, size, generator=generator)
        expected = scorer(images)
        logits, probabilities = exported(images)
        pair = (logits - expected).abs().max() / scale, (probabilities - expected.softmax(-1)).abs().max()
        differences.append(torch.stack(pair))
    # Unlike Python's max, amax keeps NaN.
    logit_difference, difference = torch.stack(differences).amax(0).tolist()
    return logit_difference, difference


class OnnxPrompt:
    """An exported prompt in onnxruntime, on the CPU.

    Args:
        directory: written by `export_onnx`.
        threads: number of threads; None: onnxruntime's default.

    Raises:
        CheckpointError: if there is no exported prompt, or a file differs from the one that was exported.
        ConfigError: without onnxruntime.
    """

    def __init__(self, directory: str | Path, *, threads: int | None = None) -> None:
        directory = Path(directory)
        if not (directory / DESCRIPTION).is_file():
            raise CheckpointError(
                f"'{directory}' holds no exported prompt (it has no {DESCRIPTION}); create one with `cocoop export` or "
                "`export_onnx`."
            )
        runtime = _import("onnxruntime")
        description = _read_description(directory / DESCRIPTION)
        checksums: dict[str, str | None] = {MODEL: None} | description.sha256
        for name, checksum in checksums.items():
            if hash_file(directory / name) != checksum:
                raise CheckpointError(
                    f"'{directory / name}' is damaged: it differs from the exported file. Export it again."
                )
        self.sha256 = " ".join(map(str, checksums.values()))
        """Hashes of the graph and of its external weights, if it has any."""
        self.classnames: tuple[str, ...] = tuple(description.classnames)
        """The classes of the graph, in the order of the outputs."""
        self.preprocessing = description.preprocessing.settings()
        """The preprocessing of the images."""
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._graph = directory / MODEL
        with self._errors():
            # The fallback would read a damaged file twice and print a message.
            self._session = runtime.InferenceSession(
                str(self._graph), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )

    def image_scorer(self, shortlist: int | None = None) -> Callable[[Tensor], Tensor]:
        """Return a function from preprocessed images (B, 3, S, S) to logits (B, C).

        Raises:
            ConfigError: for a shortlist, which graphs do not have.
        """
        if shortlist is not None:
            raise ConfigError('`shortlist` has no effect on an exported prompt; omit it or use `runtime="torch"`.')
        return lambda images: self(images)[0]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, (B, C) each, of preprocessed images (B, 3, S, S)."""
        with self._errors():
            logits, probabilities = self._session.run(list(OUTPUTS), {INPUT: images.float().numpy()})
            return torch.from_numpy(logits), torch.from_numpy(probabilities)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of onnxruntime, which share no base class, into a `CheckpointError` that names the graph."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"onnxruntime cannot use '{self._graph}': {reason}") from error


def _import(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"ONNX needs the library {error.name}, which is not installed: pip install 'cocoop[export]'"
        ) from error


class _Preprocessing(Schema):
    size: Annotated[int, Field(ge=1, le=4096)]
    mean: ChannelValues
    std: ChannelValues
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["shortest", "squash"] = "shortest"

    def settings(self) -> Preprocessing:
        r, g, b = self.mean
        s, t, u = self.std
        return Preprocessing(self.size, (r, g, b), (s, t, u), self.interpolation, self.resize)


class _Description(Schema):
    """The entries of export.json that are needed to use the graph."""

    classnames: list[str]
    preprocessing: _Preprocessing
    sha256: dict[str, str]


def _read_description(path: Path) -> _Description:
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' has the format {content.get('format')!r}; this version reads format {FORMAT}.")
    check_schema(content, _Description, path)
    return _Description.model_validate(content)
