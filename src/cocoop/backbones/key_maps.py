"""Tables from each library's parameter names to those of cocoop's text tower, and the tower made from them.

A name stands for one tensor; `{}` is the number of a block. What a table does not know is an error, so that no weight
is lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from cocoop.errors import BackboneError
from cocoop.text.tower import TextTower, TextTowerConfig

__all__ = ["IGNORED", "OPEN_CLIP", "TRANSFORMERS", "To", "text_tower"]


class To(NamedTuple):
    """Where a library's tensor goes."""

    key: str
    """The name in `TextTower`."""
    part: int | None = None
    """0, 1, 2 for queries, keys, values, where a library keeps apart what the tower stacks."""
    transposed: bool = False
    """Whether the library multiplies from the other side."""


def _weight_and_bias(modules: Mapping[str, To]) -> dict[str, To]:
    """Both parameters of each linear layer or layer norm."""
    return {
        f"{theirs}.{name}": to._replace(key=f"{to.key}.{name}")
        for theirs, to in modules.items()
        for name in ("weight", "bias")
    }


# OpenAI's archives and open_clip, which took its names over. With a bias the projection is a linear layer there.
OPEN_CLIP: dict[str, To] = {
    "token_embedding.weight": To("token_embedding.weight"),
    "positional_embedding": To("positional_embedding"),
    "transformer.resblocks.{}.attn.in_proj_weight": To("blocks.{}.qkv.weight"),
    "transformer.resblocks.{}.attn.in_proj_bias": To("blocks.{}.qkv.bias"),
    "text_projection": To("projection.weight", transposed=True),
    **_weight_and_bias(
        {
            "transformer.resblocks.{}.ln_1": To("blocks.{}.ln_1"),
            "transformer.resblocks.{}.attn.out_proj": To("blocks.{}.out"),
            "transformer.resblocks.{}.ln_2": To("blocks.{}.ln_2"),
            "transformer.resblocks.{}.mlp.c_fc": To("blocks.{}.fc"),
            "transformer.resblocks.{}.mlp.c_proj": To("blocks.{}.proj"),
            "ln_final": To("ln_final"),
            "text_projection": To("projection"),
        }
    ),
}

# Hugging Face's CLIPModel.
TRANSFORMERS: dict[str, To] = {
    "text_model.embeddings.token_embedding.weight": To("token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": To("positional_embedding"),
    "text_projection.weight": To("projection.weight"),
    **_weight_and_bias(
        {
            "text_model.encoder.layers.{}.layer_norm1": To("blocks.{}.ln_1"),
            "text_model.encoder.layers.{}.self_attn.q_proj": To("blocks.{}.qkv", part=0),
            "text_model.encoder.layers.{}.self_attn.k_proj": To("blocks.{}.qkv", part=1),
            "text_model.encoder.layers.{}.self_attn.v_proj": To("blocks.{}.qkv", part=2),
            "text_model.encoder.layers.{}.self_attn.out_proj": To("blocks.{}.out"),
            "text_model.encoder.layers.{}.layer_norm2": To("blocks.{}.ln_2"),
            "text_model.encoder.layers.{}.mlp.fc1": To("blocks.{}.fc"),
            "text_model.encoder.layers.{}.mlp.fc2": To("blocks.{}.proj"),
            "text_model.final_layer_norm": To("ln_final"),
        }
    ),
}

IGNORED: dict[str, str] = {
    "visual.": "image tower of OpenAI and open_clip, used as it is",
    "vision_model.": "image tower of transformers, used as it is",
    "visual_projection.": "the same tower's last layer",
    "logit_scale": "read by itself",
    "attn_mask": "the causal mask, which OpenAI's archives store",
    "text_model.embeddings.position_ids": "0, 1, 2, ... in files of older transformers",
}
"""Beginnings of names that are no weights of a text tower, and why."""


def text_tower(config: TextTowerConfig, state: Mapping[str, Tensor], table: Mapping[str, To], model: str) -> TextTower:
    """The text tower of a library's model, in fp32.

    Args:
        config: its architecture.
        state: all tensors of the model, by the library's names, in any number type.
        table: where each of them goes.
        model: the model's name, for messages.

    Raises:
        BackboneError: naming tensors that the table does not know, that are missing, or that have another shape.
    """
    ours: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    unknown = []
    for theirs, tensor in state.items():
        if theirs.startswith(tuple(IGNORED)):
            continue
        number = re.search(r"\.(\d+)\.", theirs)
        to = table.get(re.sub(r"\.\d+\.", ".{}.", theirs, count=1))
        if to is None:
            unknown.append(theirs)
            continue
        key = to.key.format(number.group(1)) if number else to.key
        if to.part is not None:
            parts.setdefault(key, {})[to.part] = tensor
        else:
            ours[key] = tensor.T if to.transposed else tensor
    if unknown:
        raise BackboneError(f"{model} has weights that CLIP's text tower has no place for: {_some(unknown)}.")
    ours |= {key: torch.cat([of[i] for i in sorted(of)]) for key, of in parts.items()}
    tower = TextTower(config)
    _check_shapes({key: tensor.shape for key, tensor in tower.state_dict().items()}, ours, model)
    tower.load_state_dict(ours)
    return tower


def _check_shapes(wanted: Mapping[str, torch.Size], found: Mapping[str, Tensor], model: str) -> None:
    missing = [key for key in wanted if key not in found]
    if missing:
        raise BackboneError(f"{model} lacks weights of its text tower: {_some(missing)}.")
    for key, tensor in found.items():
        if key not in wanted or wanted[key] != tensor.shape:
            shape = tuple(wanted[key]) if key in wanted else "absent"
            raise BackboneError(
                f"The weights of {model} do not fit its configuration: {key} has the shape {tuple(tensor.shape)} "
                f"and should be {shape}."
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
