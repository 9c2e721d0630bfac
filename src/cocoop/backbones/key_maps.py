"""Tables from each library's parameter names to those of cocoop's text tower.

Each entry is one tensor; `{}` stands for the number of a block. A tensor whose name is not in the table is an error,
so that no weight is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cocoop.errors import BackboneError
from cocoop.text.tower import TextTower, TextTowerConfig

__all__ = ["IGNORED", "OPEN_CLIP", "TRANSFORMERS", "Target", "text_tower"]


class Target(NamedTuple):
    """Place of a library's tensor in `TextTower`."""

    key: str
    """Name in `TextTower`."""
    part: int | None = None
    """0, 1 or 2 for queries, keys or values, if the library stores them separately; the tower stacks them."""
    transposed: bool = False
    """True if the library stores the transposed matrix."""


def _weight_and_bias(modules: Mapping[str, Target]) -> dict[str, Target]:
    """Return entries for the weight and the bias of linear layers and layer norms."""
    return {
        f"{theirs}.{name}": target._replace(key=f"{target.key}.{name}")
        for theirs, target in modules.items()
        for name in ("weight", "bias")
    }


# OpenAI's archives and open_clip use the same names. If the projection has a bias, open_clip stores a linear layer.
OPEN_CLIP: dict[str, Target] = {
    "token_embedding.weight": Target("token_embedding.weight"),
    "positional_embedding": Target("positional_embedding"),
    "transformer.resblocks.{}.attn.in_proj_weight": Target("blocks.{}.qkv.weight"),
    "transformer.resblocks.{}.attn.in_proj_bias": Target("blocks.{}.qkv.bias"),
    "text_projection": Target("projection.weight", transposed=True),
    **_weight_and_bias(
        {
            "transformer.resblocks.{}.ln_1": Target("blocks.{}.ln_1"),
            "transformer.resblocks.{}.attn.out_proj": Target("blocks.{}.out"),
            "transformer.resblocks.{}.ln_2": Target("blocks.{}.ln_2"),
            "transformer.resblocks.{}.mlp.c_fc": Target("blocks.{}.fc"),
            "transformer.resblocks.{}.mlp.c_proj": Target("blocks.{}.proj"),
            "ln_final": Target("ln_final"),
            "text_projection": Target("projection"),
        }
    ),
}

# Hugging Face's CLIPModel.
TRANSFORMERS: dict[str, Target] = {
    "text_model.embeddings.token_embedding.weight": Target("token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": Target("positional_embedding"),
    "text_projection.weight": Target("projection.weight"),
    **_weight_and_bias(
        {
            "text_model.encoder.layers.{}.layer_norm1": Target("blocks.{}.ln_1"),
            "text_model.encoder.layers.{}.self_attn.q_proj": Target("blocks.{}.qkv", part=0),
            "text_model.encoder.layers.{}.self_attn.k_proj": Target("blocks.{}.qkv", part=1),
            "text_model.encoder.layers.{}.self_attn.v_proj": Target("blocks.{}.qkv", part=2),
            "text_model.encoder.layers.{}.self_attn.out_proj": Target("blocks.{}.out"),
            "text_model.encoder.layers.{}.layer_norm2": Target("blocks.{}.ln_2"),
            "text_model.encoder.layers.{}.mlp.fc1": Target("blocks.{}.fc"),
            "text_model.encoder.layers.{}.mlp.fc2": Target("blocks.{}.proj"),
            "text_model.final_layer_norm": Target("ln_final"),
        }
    ),
}

IGNORED: dict[str, str] = {
    "visual.": "image tower of OpenAI and open_clip, used unchanged",
    "vision_model.": "image tower of transformers, used unchanged",
    "visual_projection.": "last layer of that tower",
    "logit_scale": "read separately",
    "attn_mask": "causal mask in OpenAI's archives",
    "text_model.embeddings.position_ids": "0, 1, 2, ... in files of older transformers",
}
"""Prefixes of names outside the text tower, and their meaning."""


def text_tower(
    config: TextTowerConfig, state: Mapping[str, Tensor], table: Mapping[str, Target], model: str
) -> TextTower:
    """Build the text tower of a library's model, in fp32.

    Args:
        config: architecture of the tower.
        state: all tensors of the model by the library's names, in any data type.
        table: target of each tensor, `OPEN_CLIP` or `TRANSFORMERS`.
        model: name of the model, for messages.

    Raises:
        BackboneError: for tensors that are missing, misshapen or not in the table.
    """
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for theirs, tensor in state.items():
        if theirs.startswith(tuple(IGNORED)):
            continue
        number = re.search(r"\.(\d+)\.", theirs)
        target = table.get(re.sub(r"\.\d+\.", ".{}.", theirs, count=1))
        if target is None:
            unknown.append(theirs)
            continue
        key = target.key.format(number.group(1)) if number else target.key
        if target.part is not None:
            parts.setdefault(key, {})[target.part] = tensor
        else:
            ours[key] = tensor.T if target.transposed else tensor
    if unknown:
        raise BackboneError(f"{model} has weights that CLIP's text tower does not have: {_first_names(unknown)}.")
    ours |= {key: torch.cat([qkv[i] for i in sorted(qkv)]) for key, qkv in parts.items()}
    tower = TextTower(config)
    _check_shapes({key: tensor.shape for key, tensor in tower.state_dict().items()}, ours, model)
    tower.load_state_dict(ours)
    return tower


def _check_shapes(expected: Mapping[str, torch.Size], found: Mapping[str, Tensor], model: str) -> None:
    missing = [key for key in expected if key not in found]
    if missing:
        raise BackboneError(f"{model} lacks weights of its text tower: {_first_names(missing)}.")
    for key, tensor in found.items():
        if key not in expected or expected[key] != tensor.shape:
            shape = tuple(expected[key]) if key in expected else "absent"
            raise BackboneError(
                f"The weights of {model} do not fit its configuration: {key} has the shape {tuple(tensor.shape)} "
                f"and should be {shape}."
            )


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
