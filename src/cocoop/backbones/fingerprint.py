"""Fingerprints of backbones: hashes of the weights and of everything else that affects their results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch
from torch import nn

from cocoop.backbones.backbone import Backbone

__all__ = ["image_side_key", "model_key"]


def image_side_key(backbone: Backbone) -> str:
    """Hash everything that determines an image feature: image tower, weights, precision and preprocessing."""
    digest = hashlib.sha256(json.dumps([backbone.precision, dataclasses.asdict(backbone.preprocessing)]).encode())
    for name, part in backbone.image_tower.named_modules():
        # Activations, heads, strides and epsilons do not show in the weights.
        traits = {key: _trait(value) for key, value in vars(part).items() if not key.startswith("_")}
        digest.update(f"{name} {type(part).__qualname__} {sorted(traits.items())}".encode())
    _add_weights(digest, backbone.image_tower)
    return digest.hexdigest()[:32]


def model_key(backbone: Backbone) -> str:
    """Hash everything that determines a logit: both towers, preprocessing, precision and logit scale."""
    facts = [image_side_key(backbone), backbone.logit_scale.item(), dataclasses.asdict(backbone.text_tower.config)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    _add_weights(digest, backbone.text_tower)
    return digest.hexdigest()[:32]


def _add_weights(digest: Any, module: nn.Module) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def _trait(value: object) -> str:
    """Describe a setting of a module identically in every process: functions by name, other objects by type."""
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_trait, value))}]"
    return str(getattr(value, "__qualname__", type(value).__qualname__))
