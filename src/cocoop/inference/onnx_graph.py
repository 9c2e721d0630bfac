"""Convert a method to an ONNX graph through `torch.export`.

The graph maps preprocessed images to logits and probabilities of fixed classes:

    zero-shot, CoOp   image tower, matrix of class features
    CoCoOp            image tower, Meta-Net, text tower; the tokens that prompts share are computed once per image

Shapes: B images of 3 channels and S x S pixels, any B; C classes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cocoop.errors import CocoopError, ConfigError
from cocoop.methods import CoCoOp, Method
from cocoop.methods.context import prompt_ids
from cocoop.text.tree import Prompts

__all__ = ["INPUT", "OUTPUTS", "write_graph"]

INPUT, OUTPUTS = "images", ("logits", "probabilities")
"""Names of the input and outputs of the graph."""

LARGEST_FILE = 2**31
"""Size limit of protocol buffers in bytes; larger weights go to a separate file."""

GRAPH_ROWS = 512
"""Rows per prompt tree. The attention of a graph computes all pairs of rows: with 1,000 classes, an image takes 1.85 s
in onnxruntime with trees of 2,048 rows, 1.20 s with 1,024 and 0.63 s with 512."""

LARGEST_FOLDED, LARGEST_RESULT = 2**40, 2**22
"""Limits of constant folding, in elements read and written; they allow picking a few rows of the token table."""


class _ImagesToClasses(nn.Module):
    """The module that is exported."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        # The part that is the same for all images is computed here and becomes a constant.
        self.scorer = method.scorer()

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """Return logits and probabilities."""
        logits = self.scorer(self.method.backbone.image_tower(images).float())
        return logits, logits.softmax(-1)


def write_graph(method: Method, path: Path, opset: int | None = None) -> int:
    """Write the graph of a method with its current classes.

    Args:
        method: on the CPU, in fp32.
        path: the ONNX file; weights above 2 GB go to a file beside it.
        opset: version of the ONNX operators; None: PyTorch's default.

    Returns:
        The version of the operators.

    Raises:
        ConfigError: for an unknown version, or a model that cannot be converted.
    """
    from onnxscript.optimizer import fold_constants

    size = method.backbone.preprocessing.size
    # A batch of 1 would become a constant of the graph.
    example = torch.zeros(2, 3, size, size)
    weights = sum(tensor.nbytes for tensor in (*method.parameters(), *method.buffers()))
    try:
        with torch.no_grad(), _quiet(), _graph_prompts(method):
            module = _ImagesToClasses(method).eval()
            exported = torch.export.export(
                module, (example,), dynamic_shapes={INPUT: {0: torch.export.Dim.DYNAMIC}}, strict=False
            )
            program = torch.onnx.export(
                exported, dynamo=True, opset_version=opset, input_names=[INPUT], output_names=list(OUTPUTS)
            )
            assert program is not None
            fold_constants(program.model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_RESULT)
    except CocoopError:
        raise
    # The exporter raises errors of many kinds, even assertions.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"{method.backbone.name} cannot be converted to ONNX{'' if opset is None else f' with `opset={opset}`'}: "
            f"{reason[0]}"
        ) from error
    program.save(path, external_data=weights >= LARGEST_FILE)
    return int(program.model.opset_imports[""])


@contextlib.contextmanager
def _graph_prompts(method: Method) -> Iterator[None]:
    """Replace CoCoOp's prompt trees with smaller ones, which are faster in a graph."""
    if not isinstance(method, CoCoOp):
        yield
        return
    backbone, before = method.backbone, method.prompts
    ids = prompt_ids(backbone, method.classnames, context_length=method.context_length)
    method.prompts = Prompts(*ids, device=backbone.device, rows_at_once=GRAPH_ROWS)
    backbone.text_tower.precompute(method.prompts)
    for tree in method.prompts.trees:
        # Masks are cached; one created while tracing would belong to the trace.
        for queries in (tree.every_row, tree.leaves):
            queries.mask(tree.rows)
    try:
        yield
    finally:
        method.prompts = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter; the exported file is checked afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
