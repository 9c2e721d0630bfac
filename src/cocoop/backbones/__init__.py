"""Backbones: one loader for every source of CLIP-like models."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.tokenizers import clip_tokenizer
from cocoop.config import Precision, Preprocessing
from cocoop.errors import BackboneError
from cocoop.text.tower import TextTower, TextTowerConfig

__all__ = ["Backbone", "load_backbone"]

_LITE = Path(__file__).parent / "lite"


def load_backbone(name: str, *, precision: Precision = "fp32", device: str | torch.device = "cpu") -> Backbone:
    """Load the frozen model that a name stands for; so far only `lite`, the bundled one."""
    if name != "lite":
        raise BackboneError(f"There is no backbone {name!r}; use lite.")
    import open_clip
    from safetensors.torch import load_file

    config = json.loads((_LITE / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"])
    state = {key: value.float() for key, value in load_file(_LITE / "open_clip_model.safetensors").items()}
    model.load_state_dict(state)
    text = config["model_cfg"]["text_cfg"]
    tower = TextTower(
        TextTowerConfig(
            vocab_size=text["vocab_size"],
            context_length=text["context_length"],
            width=text["width"],
            heads=text["heads"],
            layers=text["layers"],
            mlp_width=4 * text["width"],
            embed_dim=config["model_cfg"]["embed_dim"],
            activation="gelu",
        )
    )
    ours = {}
    parts = {"attn.in_proj_": "qkv.", "attn.out_proj.": "out.", "mlp.c_fc.": "fc.", "mlp.c_proj.": "proj."}
    for key, value in state.items():
        if key.startswith("transformer.resblocks."):
            key = key.replace("transformer.resblocks.", "blocks.")
            for theirs, mine in parts.items():
                key = key.replace(theirs, mine)
            ours[key] = value
        elif key in ("positional_embedding", "token_embedding.weight", "ln_final.weight", "ln_final.bias"):
            ours[key] = value
        elif key == "text_projection":
            ours["projection.weight"] = value.T
    tower.load_state_dict(ours)
    preprocess = config["preprocess_cfg"]
    preprocessing = Preprocessing(
        size=config["model_cfg"]["vision_cfg"]["image_size"],
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        resize=preprocess["resize_mode"],
    )
    return Backbone(
        name=name,
        image_tower=model.visual,
        text_tower=tower,
        tokenizer=clip_tokenizer(),
        preprocessing=preprocessing,
        logit_scale=state["logit_scale"].item(),
        precision=precision,
    ).to(device)
