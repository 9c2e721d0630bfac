"""Backbones: one loader for all sources of CLIP-like models."""

from cocoop.backbones.backbone import Backbone
from cocoop.backbones.load import load_backbone

__all__ = ["Backbone", "load_backbone"]
