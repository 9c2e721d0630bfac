"""Context vectors: their initial values, and their positions in the prompt.

Reference: Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (section 3.2).

Shapes: C classes, M context vectors, d text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.config import Position
from cocoop.errors import PromptError
from cocoop.text.prompts import check_length, name_tokens
from cocoop.text.tree import Prompts

__all__ = ["PromptIds", "pack_prompts", "prompt_ids", "random_context", "word_context"]

PromptIds = tuple[list[int], list[list[int]]]
"""Ids of the shared prefix and of each class's suffix: tokens, and -1 - m for context vector m."""


def word_context(backbone: Backbone, words: str) -> Float[Tensor, "M d"]:
    """Return the token embeddings of words as initial context vectors.

    Raises:
        PromptError: if the words have no tokens.
    """
    tokens = backbone.tokenizer.encode(words.replace("_", " "))
    if not tokens:
        raise PromptError(f'`context` is {words!r}, which has no tokens; give words, such as "a photo of a".')
    table = backbone.text_tower.token_embedding.weight
    return table[torch.tensor(tokens, device=table.device)].detach().float().clone()


def random_context(backbone: Backbone, *shape: int) -> Float[Tensor, "*shape d"]:
    """Return initial context vectors from a normal distribution with standard deviation 0.02.

    Raises:
        PromptError: if the last number of `shape`, the context length, is below 1 or does not fit the text tower.
    """
    longest = backbone.text_tower.config.context_length
    if not 1 <= shape[-1] <= longest:
        raise PromptError(f"`context_length` is {shape[-1]}; it must be from 1 to {longest}, the text tower's length.")
    # Drawn on the CPU, so that a seed gives the same values on every device.
    return (torch.randn(*shape, backbone.text_tower.config.width) * 0.02).to(backbone.device)


def prompt_ids(
    backbone: Backbone,
    classnames: Sequence[str],
    *,
    context_length: int,
    position: Position = "end",
    class_specific: bool = False,
) -> PromptIds:
    """Return the prompts of all classes with M context vectors.

    The class name stands at the `end`: [SOS][context][name][.][EOT]; in the `middle`, after half of the context
    (M // 2); or in `front` of it. The prefix ends where the prompts of the classes start to differ.

    Raises:
        PromptError: if a prompt is too long for the tower, or a class name has no tokens.
    """
    tokenizer, tower = backbone.tokenizer, backbone.text_tower
    before = {"end": context_length, "middle": context_length // 2, "front": 0}[position]
    prefix, suffixes = [tokenizer.sos], []
    for c, classname in enumerate(classnames):
        name, stop = name_tokens(tokenizer, classname)
        check_length(classname, 2 + context_length + len(name) + len(stop), tower.config.context_length)
        first = c * context_length if class_specific else 0
        context = [-1 - (first + m) for m in range(context_length)]
        leading = context[:before] if class_specific else []
        suffixes.append([*leading, *name, *context[before:], *stop, tokenizer.eot])
    if not class_specific:
        prefix += [-1 - m for m in range(before)]
    return prefix, suffixes


def pack_prompts(backbone: Backbone, ids: PromptIds) -> Prompts:
    """Return prompts on the backbone's device, with precomputed first-layer projections of the class names."""
    prompts = Prompts(*ids, device=backbone.device)
    backbone.text_tower.precompute(prompts)
    return prompts
