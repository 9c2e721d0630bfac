"""The published computation, plainly: whole 77-token prompts through a standard causal tower, image by image.

Slow on purpose and written without cocoop's tower, prompts or methods: only their weights are read. The fast path
is held against it, outputs and gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def tower(text_tower, embedded, eot_places):
    """Text features (N, e) of padded prompts (N, 77, d), read at `eot_places` (N,)."""
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
    return x @ text_tower.projection.weight.T


def padded_prompts(backbone, classnames, context, position="end"):
    """Embedded prompts (C, 77, d) with `context` (M, d) or (C, M, d) in place, and where EOT stands."""
    tokenizer, table = backbone.tokenizer, backbone.text_tower.token_embedding.weight
    length = backbone.text_tower.config.context_length
    rows, places = [], []
    for c, name in enumerate(classnames):
        own = context[c] if context.dim() == 3 else context
        name = name.replace("_", " ")
        n_name = len(tokenizer.encode(name))
        tokens = tokenizer.encode(name + ".")
        vectors = table[torch.tensor(tokens)]
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


def static_logits(backbone, classnames, features, context, position="end"):
    """CoOp's logits (B, C)."""
    texts = F.normalize(tower(backbone.text_tower, *padded_prompts(backbone, classnames, context, position)), dim=-1)
    return backbone.logit_scale.exp() * F.normalize(features, dim=-1) @ texts.T


def conditional_logits(backbone, classnames, features, context, meta_net):
    """CoCoOp's logits (B, C); `meta_net` holds `linear1` and `linear2`."""
    rows = []
    for x in F.normalize(features, dim=-1):
        hidden = F.relu(x @ meta_net.linear1.weight.T + meta_net.linear1.bias)
        shift = hidden @ meta_net.linear2.weight.T + meta_net.linear2.bias
        embedded, places = padded_prompts(backbone, classnames, context + shift)
        texts = F.normalize(tower(backbone.text_tower, embedded, places), dim=-1)
        rows.append(backbone.logit_scale.exp() * texts @ x)
    return torch.stack(rows)
