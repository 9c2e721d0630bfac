"""Tiny backbone with random weights and CLIP's vocabulary."""

import torch
from torch import nn


def make_tiny_backbone(activation="quick_gelu", *, width=32, layers=3, heads=4, embed_dim=48, seed=0, precision="fp32"):
    """Return a backbone with CLIP's vocabulary and random weights, large enough that gradients matter."""
    from cocoop.backbones.backbone import Backbone
    from cocoop.backbones.tokenizers import clip_tokenizer
    from cocoop.config import Preprocessing
    from cocoop.text.tower import TextTower, TextTowerConfig

    generator = torch.Generator().manual_seed(seed)
    config = TextTowerConfig(
        vocab_size=49408,
        context_length=77,
        width=width,
        heads=heads,
        layers=layers,
        mlp_width=4 * width,
        embed_dim=embed_dim,
        activation=activation,
    )
    tower = TextTower(config)
    for name, parameter in tower.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = ".ln_" in f".{name}"
        parameter.data = (1.0 if is_norm and name.endswith("weight") else 0.0) + noise * (0.1 if is_norm else 0.15)
    image_tower = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, embed_dim))
    for parameter in image_tower.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return Backbone(
        name="tiny",
        image_tower=image_tower,
        text_tower=tower,
        tokenizer=clip_tokenizer(),
        preprocessing=Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        logit_scale=3.0,
        precision=precision,
    )
