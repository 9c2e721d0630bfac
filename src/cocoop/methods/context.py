"""Context vectors: how they begin, and where they stand in the prompt.

Reference: Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (section 3.2).

Shapes: C classes, M context vectors, d text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.config import POSITIONS, Position
from cocoop.errors import PromptError
from cocoop.text.prompts import check_length, name_tokens
from cocoop.text.tree import Prompts

__all__ = ["POSITIONS", "Position", "PromptIds", "pack_prompts", "prompt_ids", "random_context", "word_context"]

PromptIds = tuple[list[int], list[list[int]]]
"""Ids of the shared prefix, and of each class's suffix: a token, or -1 - m for context vector m."""


def word_context(backbone: Backbone, words: str) -> Float[Tensor, "M d"]:
    """Context vectors that begin as the token embeddings of words, whole words however many tokens they have.

    Raises:
        PromptError: if the words have no tokens.
    """
    tokens = backbone.tokenizer.encode(words.replace("_", " "))
    if not tokens:
        raise PromptError(f'The context {words!r} has no tokens; give words, such as "a photo of a".')
    table = backbone.text_tower.token_embedding.weight
    return table[torch.tensor(tokens, device=table.device)].detach().float().clone()


def random_context(backbone: Backbone, *shape: int) -> Float[Tensor, "*shape d"]:
    """Context vectors from a normal distribution with standard deviation 0.02.

    Raises:
        PromptError: for a length below 1, or beyond the text tower.
    """
    longest = backbone.text_tower.config.context_length
    if shape[-1] > longest:
        raise PromptError(f"The context length is {shape[-1]}; the text tower takes {longest} tokens in all.")
    if shape[-1] < 1:
        raise PromptError(f"The context length is {shape[-1]}; at least one context vector is needed.")
    # Drawn on the CPU, so that a seed gives the same start on every device.
    return (torch.randn(*shape, backbone.text_tower.config.width) * 0.02).to(backbone.device)


def prompt_ids(
    backbone: Backbone,
    classnames: Sequence[str],
    *,
    context_length: int,
    position: Position = "end",
    class_specific: bool = False,
) -> PromptIds:
    """Prompts of all classes around M context vectors.

    `end`: [SOS][context][name][.][EOT]; `middle`: half of the context (M // 2) before the name, the rest after
    it; `front`: the context after the name. What comes before the first thing that differs between classes
    is the shared prefix.

    Raises:
        PromptError: for a prompt longer than the tower, or a class name without tokens.
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
    """Prompts on the backbone's device, with what the first layer makes of class names computed."""
    prompts = Prompts(*ids, device=backbone.device)
    backbone.text_tower.remember(prompts)
    return prompts
