"""The methods: zero-shot CLIP, CoOp and CoCoOp."""

from cocoop.methods.base import Method
from cocoop.methods.cocoop import CoCoOp
from cocoop.methods.coop import CoOp
from cocoop.methods.zero_shot import ZeroShot

__all__ = ["METHODS", "CoCoOp", "CoOp", "Method", "ZeroShot"]

METHODS: dict[str, type[Method]] = {"zero-shot": ZeroShot, "coop": CoOp, "cocoop": CoCoOp}
"""All methods by name, as used on the command line and in saved runs."""
