"""OpenAI's CLIP files, as archives or plain state dicts; the architecture follows from the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cocoop.backbones.open_clip_models import build
from cocoop.backbones.parts import BackboneParts
from cocoop.backbones.weights import read_weights, weights_errors
from cocoop.errors import BackboneError

__all__ = ["architecture", "from_file"]

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "visual.input_resolution")
"""Tensors that only OpenAI's archives have."""

HEAD_WIDTH = 64
"""Size of an attention head in all of OpenAI's towers; shapes do not reveal it."""


def from_file(path: Path, model: str) -> BackboneParts:
    """Load a file with OpenAI's parameter names; the activation is QuickGELU, as in all of OpenAI's models.

    Args:
        path: a TorchScript archive, a pickled state dict, or a safetensors file.
        model: name that the user gave, for messages.

    Raises:
        BackboneError: if the file is missing or damaged, or does not hold a CLIP model.
    """
    state = {name: tensor for name, tensor in read_weights(path).items() if name not in NOT_WEIGHTS}
    try:
        config = architecture(state)
    except (KeyError, IndexError) as error:
        raise BackboneError(f"'{path}' does not hold a CLIP model with OpenAI's names: {error} is missing.") from error

    def load(network: Any) -> None:
        with weights_errors(path):
            network.load_state_dict(state)

    return build(config, {}, load, lambda _: path.parent, model)


def architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Derive open_clip's `model_cfg` from a state dict.

    Args:
        state: tensors by OpenAI's names.

    Raises:
        KeyError: if a tensor is missing.
    """
    vocab_size, text_width = state["token_embedding.weight"].shape
    return {
        "embed_dim": state["text_projection"].shape[1],
        "quick_gelu": True,
        "vision_cfg": _vision_transformer(state) if "visual.proj" in state else _vision_resnet(state),
        "text_cfg": {
            "context_length": len(state["positional_embedding"]),
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": max(1, text_width // HEAD_WIDTH),
            "layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
        },
    }


def _vision_transformer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    return {
        "layers": _count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        "width": width,
        "head_width": HEAD_WIDTH,
        "patch_size": patch_size,
        # One position for the class token, then one for each patch of a square grid.
        "image_size": patch_size * round((len(state["visual.positional_embedding"]) - 1) ** 0.5),
    }


def _vision_resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "layers": [_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)],
        "width": len(state["visual.layer1.0.conv1.weight"]),
        "head_width": HEAD_WIDTH,
        # The image is halved five times before the attention pool, whose first position is the mean.
        "image_size": 32 * round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5),
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different numbers that the pattern's group matches in the names."""
    return len({match.group(1) for name in state if (match := re.match(pattern, name))})
