"""Plain reference of CoOp and CoCoOp: whole padded prompts through a standard causal tower, image by image.

It is slow on purpose and shares no code with cocoop's tower, prompts or methods; it only reads their weights. Tests
compare outputs and gradients of the fast path with it, and `benchmarks/speed.py` compares time and memory.

References:
    Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022.
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022.

Shapes: B images, C classes, M context vectors, N prompts, L = 77 positions, d text width, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.config import Position
from cocoop.methods.cocoop import MetaNet
from cocoop.text.tower import TextTower

__all__ = ["conditional_logits", "padded_prompts", "static_logits", "tower"]


def tower(
    text_tower: TextTower, embedded: Float[Tensor, "N L d"], eot_places: Int64[Tensor, " N"]
) -> Float[Tensor, "N e"]:
    """Encode padded prompts and read their features at `eot_places`."""
    config = text_tower.config
    length, heads = embedded.shape[1], config.heads
    x = embedded + text_tower.positional_embedding[:length]
    mask = torch.full((length, length), float("-inf")).triu(1).to(x)
    for block in text_tower.blocks:
        y = block.ln_1(x)
        q, k, v = F.linear(y, block.qkv.weight, block.qkv.bias).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(y, block.out.weight, block.out.bias)
        y = F.linear(block.ln_2(x), block.fc.weight, block.fc.bias)
        y = y * torch.sigmoid(1.702 * y) if config.activation == "quick_gelu" else F.gelu(y)
        x = x + F.linear(y, block.proj.weight, block.proj.bias)
    x = text_tower.ln_final(x)[torch.arange(len(x)), eot_places]
    return text_tower.projection(x)


def padded_prompts(
    backbone: Backbone, classnames: Sequence[str], context: Float[Tensor, "*C M d"], position: Position = "end"
) -> tuple[Float[Tensor, "C L d"], Int64[Tensor, " C"]]:
    """Embed prompts with a shared or class-specific context, and return the positions of EOT."""
    tokenizer, table = backbone.tokenizer, backbone.text_tower.token_embedding.weight
    length = backbone.text_tower.config.context_length
    rows, places = [], []
    for c, name in enumerate(classnames):
        own = context[c] if context.dim() == 3 else context
        name = name.replace("_", " ")
        n_name = len(tokenizer.encode(name))
        tokens = tokenizer.encode(name + ".")
        vectors = table[torch.tensor(tokens, device=table.device)]
        half = {"end": len(own), "middle": len(own) // 2, "front": 0}[position]
        row = torch.cat(
            [
                table[tokenizer.sos][None],
                own[:half],
                vectors[:n_name],
                own[half:],
                vectors[n_name:],
                table[tokenizer.eot][None],
            ]
        )
        places.append(len(row) - 1)
        padding = table[0].expand(length - len(row), -1)
        rows.append(torch.cat([row, padding]))
    return torch.stack(rows), torch.tensor(places)


def static_logits(
    backbone: Backbone,
    classnames: Sequence[str],
    features: Float[Tensor, "B e"],
    context: Float[Tensor, "*C M d"],
    position: Position = "end",
) -> Float[Tensor, "B C"]:
    """Compute CoOp's logits (IJCV 2022, equation 3)."""
    texts = F.normalize(tower(backbone.text_tower, *padded_prompts(backbone, classnames, context, position)), dim=-1)
    return backbone.logit_scale.exp() * F.normalize(features, dim=-1) @ texts.T


def conditional_logits(
    backbone: Backbone,
    classnames: Sequence[str],
    features: Float[Tensor, "B e"],
    context: Float[Tensor, "M d"],
    meta_net: MetaNet,
) -> Float[Tensor, "B C"]:
    """Compute CoCoOp's logits (CVPR 2022, equation 4)."""
    rows = []
    for x in F.normalize(features, dim=-1):
        hidden = F.relu(x @ meta_net.linear1.weight.T + meta_net.linear1.bias)
        shift = hidden @ meta_net.linear2.weight.T + meta_net.linear2.bias
        embedded, places = padded_prompts(backbone, classnames, context + shift)
        texts = F.normalize(tower(backbone.text_tower, embedded, places), dim=-1)
        rows.append(backbone.logit_scale.exp() * texts @ x)
    return torch.stack(rows)
