"""Backbones with random weights in published shapes, and any number of class names."""

from __future__ import annotations

import open_clip
import torch
from torch import nn

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.tokenizers import clip_tokenizer
from cocoop.config import Precision, Preprocessing
from cocoop.text.tower import TextTower, TextTowerConfig

SHAPES = {
    "ViT-B/16": {"width": 512, "heads": 8, "layers": 12, "embed_dim": 512},
    "ViT-L/14": {"width": 768, "heads": 12, "layers": 12, "embed_dim": 768},
    "tiny": {"width": 64, "heads": 2, "layers": 2, "embed_dim": 64},
}
"""Shapes of text towers, named after the CLIP model they belong to; `tiny` is for a quick look."""


def random_backbone(shape: str, precision: Precision = "fp32", device: str = "cpu") -> Backbone:
    """Make a backbone with a random text tower of a published shape and no image tower.

    Args:
        shape: a key of `SHAPES`.
        precision: number type of the tower.
        device: device of the tower.
    """
    sizes = SHAPES[shape]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        tower = TextTower(
            TextTowerConfig(
                vocab_size=49408,
                context_length=77,
                width=sizes["width"],
                heads=sizes["heads"],
                layers=sizes["layers"],
                mlp_width=4 * sizes["width"],
                embed_dim=sizes["embed_dim"],
                activation="quick_gelu",
            )
        )
    backbone = Backbone(
        name=f"random {shape}",
        image_tower=nn.Identity(),
        text_tower=tower,
        tokenizer=clip_tokenizer(),
        preprocessing=Preprocessing(size=224, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        logit_scale=4.6,
        precision=precision,
    )
    return backbone.to(device)


def imagenet_names(count: int) -> list[str]:
    """Return the first ImageNet class names; repeated ones, and those beyond 1,000, get a number."""
    names: dict[str, None] = {}
    turn = 1
    while len(names) < count:
        for name in open_clip.IMAGENET_CLASSNAMES:
            names[name if name not in names else f"{name} {turn + 1}"] = None
            if len(names) == count:
                break
        turn += 1
    return list(names)
