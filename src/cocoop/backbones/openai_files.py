"""OpenAI's own files of CLIP, as archives or plain state dicts; the architecture is read off the shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cocoop.backbones.open_clip_models import build
from cocoop.backbones.parts import Parts
from cocoop.backbones.weights import read_weights, readable
from cocoop.errors import BackboneError

__all__ = ["architecture", "from_file"]

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "visual.input_resolution")
"""Tensors that only OpenAI's archives have."""

HEAD_WIDTH = 64
"""Size of an attention head in all of OpenAI's towers; shapes do not show it."""


def from_file(path: Path, model: str) -> Parts:
    """A file with OpenAI's names of parameters; the activation is QuickGELU, as in all of OpenAI's models.

    Args:
        path: an archive of TorchScript, a pickled state dict, or safetensors.
        model: the name that the user typed, for messages.

    Raises:
        BackboneError: if the file is missing or damaged, or holds something else than a CLIP model.
    """
    state = {name: tensor for name, tensor in read_weights(path).items() if name not in NOT_WEIGHTS}
    try:
        config = architecture(state)
    except (KeyError, IndexError) as error:
        raise BackboneError(f"'{path}' holds no CLIP model of OpenAI's kind: it has no {error}.") from error

    def load(network: Any) -> None:
        with readable(path):
            network.load_state_dict(state)

    return build(config, {}, load, lambda _: path.parent, model)


def architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """open_clip's `model_cfg` of a state dict.

    Args:
        state: tensors by OpenAI's names.

    Raises:
        KeyError: naming a tensor that is missing.
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
        # One position for the class token, then a square of patches.
        "image_size": patch_size * round((len(state["visual.positional_embedding"]) - 1) ** 0.5),
    }


def _vision_resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "layers": [_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)],
        "width": len(state["visual.layer1.0.conv1.weight"]),
        "head_width": HEAD_WIDTH,
        # Five halvings lead to the attention pool's square, before which one position stands for the mean.
        "image_size": 32 * round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5),
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand where the pattern's group is, at the beginning of names."""
    return len({match.group(1) for name in state if (match := re.match(pattern, name))})
