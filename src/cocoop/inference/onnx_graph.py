"""From a method to an ONNX graph, through `torch.export`.

What is in the graph, from preprocessed images to logits and probabilities of a class set that is fixed:

    zero-shot, CoOp   image tower, class matrix
    CoCoOp            image tower, Meta-Net, text tower with the prefix and what names share computed once an image

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
"""Names of the graph's input and outputs."""

LARGEST_FILE = 2**31
"""Protocol buffers hold no more bytes; beyond, the weights lie in a file of their own beside the graph."""

GRAPH_ROWS = 512
"""Rows of a tree in a graph, whose attention looks at all pairs of rows (1,000 classes, onnxruntime, an image: 2,048
rows 1.85 s, 1,024 rows 1.20 s, 512 rows 0.63 s)."""

LARGEST_FOLDED, LARGEST_RESULT = 2**40, 2**22
"""Entries that a constant operation may read and write: it may look into the table of all tokens, to keep a few."""


class _ImagesToClasses(nn.Module):
    """What is exported."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        # What is the same for all images is computed here, and a constant in the graph.
        self.scorer = method.scorer()

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
        """Logits and their softmax."""
        logits = self.scorer(self.method.backbone.image_tower(images).float())
        return logits, logits.softmax(-1)


def write_graph(method: Method, path: Path, opset: int | None = None) -> int:
    """Write the graph of a method that knows its classes.

    Args:
        method: on the CPU, in fp32.
        path: of the ONNX file; weights of more than 2 GB in all lie beside it.
        opset: version of ONNX's operators; None: what PyTorch writes by itself.

    Returns:
        The version of the operators.

    Raises:
        ConfigError: for a version that the converter does not know, or a model that it cannot convert.
    """
    from onnxscript.optimizer import fold_constants

    size = method.backbone.preprocessing.size
    # Two are any number of images; one would be taken for a constant.
    example = torch.zeros(2, 3, size, size)
    weights = sum(t.numel() * t.element_size() for t in (*method.parameters(), *method.buffers()))
    try:
        with torch.no_grad(), _quiet(), _prompts_for_a_graph(method):
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
    # The exporters have errors of many kinds, down to assertions.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"{method.backbone.name} cannot be converted to ONNX{'' if opset is None else f' with --opset {opset}'}: "
            f"{reason[0]}"
        ) from error
    program.save(path, external_data=weights >= LARGEST_FILE)
    return int(program.model.opset_imports[""])


@contextlib.contextmanager
def _prompts_for_a_graph(method: Method) -> Iterator[None]:
    """With trees of CoCoOp's prompts that suit a graph, in place of those that suit PyTorch."""
    if not isinstance(method, CoCoOp):
        yield
        return
    backbone, before = method.backbone, method.prompts
    ids = prompt_ids(backbone, method.classnames, context_length=method.context_length)
    method.prompts = Prompts(*ids, device=backbone.device, rows_at_once=GRAPH_ROWS)
    backbone.text_tower.precompute(method.prompts)
    for tree in method.prompts.trees:
        # Made while it is traced, a mask would be remembered as part of the trace.
        for queries in (tree.every_row, tree.leaves):
            queries.mask(tree.rows)
    try:
        yield
    finally:
        method.prompts = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's progress: what matters is checked on the file that comes out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
