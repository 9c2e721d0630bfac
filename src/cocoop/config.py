"""Settings as frozen dataclasses, checked when they are built."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from cocoop.errors import ConfigError

__all__ = [
    "METHOD_NAMES",
    "PAPER",
    "POSITIONS",
    "PRECISIONS",
    "ClassSubset",
    "Position",
    "Precision",
    "Preprocessing",
    "TrainConfig",
    "check_int",
    "paper_config",
    "parse_bytes",
]

Precision = Literal["fp32", "bf16", "fp16"]
"""Data type of the frozen towers."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Position = Literal["end", "middle", "front"]
"""Position of the class name among CoOp's context vectors."""
POSITIONS: tuple[Position, ...] = get_args(Position)

ClassSubset = Literal["all", "base", "new"]
"""All classes, the base classes (the first half, rounded up) or the new classes (the rest)."""


def _check(ok: bool, field: str, value: object, requirement: str) -> None:
    if not ok:
        raise ConfigError(f"`{field}` is {value!r}; it must be {requirement}.")


def check_int(field: str, value: object, least: int) -> None:
    """Check an integer setting.

    Args:
        field: name of the setting, for the message.
        value: its value.
        least: the smallest allowed value.

    Raises:
        ConfigError: if the value is not an integer, or too small.
    """
    # bool is a subclass of int.
    _check(isinstance(value, int) and not isinstance(value, bool), field, value, "an integer")
    _check(value >= least, field, value, f"at least {least}")  # type: ignore[operator]


def parse_bytes(field: str, text: str) -> int:
    """Parse a size in bytes, such as `2GiB`, `512 MiB`, `1.5G` or `1000000`; K, M, G and T are powers of 1024.

    Raises:
        ConfigError: if the text is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, flags=re.IGNORECASE)
    _check(match is not None, field, text, "a size such as 2GiB or 512MiB")
    number, unit = match.groups()  # type: ignore[union-attr]
    return int(float(number) * 1024 ** " kmgt".index(unit.lower() or " "))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Preprocessing:
    """Image preprocessing that a backbone was trained with."""

    size: int
    """Height and width of the model's input, in pixels."""
    mean: tuple[float, float, float]
    """Mean of each RGB channel, in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of each RGB channel, in [0, 1]."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Interpolation used for resizing."""
    resize: Literal["shortest", "squash"] = "shortest"
    """`shortest` scales the shorter edge to `size` and crops the centre; `squash` scales both edges to `size`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training settings; the defaults are CoCoOp's (CVPR 2022): SGD, ten epochs, one image per step."""

    epochs: int = 10
    """Number of passes over the training images."""
    batch_size: int = 1
    """Images per step; the last incomplete batch is dropped unless it is the only one."""
    learning_rate: float = 0.002
    """Peak learning rate of SGD; after the warm-up it follows a cosine and changes once per epoch."""
    warmup_epochs: int = 1
    """Number of epochs at the constant warm-up rate."""
    warmup_learning_rate: float = 1e-5
    """Learning rate during the warm-up."""
    momentum: float = 0.9
    """Momentum of SGD, without dampening or Nesterov's correction."""
    weight_decay: float = 5e-4
    """L2 penalty on every trained tensor, biases included."""
    cache_features: bool = False
    """Encode each training image once, without augmentation, instead of again in every epoch."""
    seed: int = 1
    """Seed of the batch order and the augmentation."""
    workers: int = 2
    """Processes that decode and augment images; 0 decodes in the main process."""
    skip_unreadable: bool = True
    """Skip and count unreadable training images instead of stopping at the first."""

    def __post_init__(self) -> None:
        """Check all settings.

        Raises:
            ConfigError: naming the first setting that is out of range.
        """
        for field, least in (("epochs", 1), ("batch_size", 1), ("warmup_epochs", 0), ("workers", 0), ("seed", 0)):
            check_int(field, getattr(self, field), least)
        _check(self.seed < 2**63, "seed", self.seed, "below 2**63")
        for field in ("learning_rate", "warmup_learning_rate"):
            rate = getattr(self, field)
            _check(_is_number(rate) and rate > 0, field, rate, "a positive number")
        _check(_is_number(self.momentum) and 0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        ok = _is_number(self.weight_decay) and self.weight_decay >= 0
        _check(ok, "weight_decay", self.weight_decay, "0 or more")

    def learning_rate_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch: constant in the warm-up, then a cosine.

        As in the reference implementation, the period of the cosine is the number of all epochs, so the last epoch's
        rate is above zero.

        Args:
            epoch: from 1 to `epochs`.

        Raises:
            ConfigError: if there is no such epoch.
        """
        if not 1 <= epoch <= self.epochs:
            raise ConfigError(f"There is no epoch {epoch}; this training has the epochs 1 to {self.epochs}.")
        if epoch <= self.warmup_epochs:
            return self.warmup_learning_rate
        progress = (epoch - self.warmup_epochs - 1) / self.epochs
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2


METHOD_NAMES = {"zero-shot": "zero-shot CLIP", "coop": "CoOp", "cocoop": "CoCoOp"}
"""Names of the methods in tables, reports and model cards."""

PAPER: dict[str, TrainConfig] = {
    "coop": TrainConfig(epochs=200, batch_size=32),
    "cocoop": TrainConfig(epochs=10, batch_size=1),
}
"""Training settings of each method in the CoCoOp paper, with 16 shots."""


def paper_config(method: str, **changes: Any) -> TrainConfig:
    """Return the published training settings of a method, with changes.

    Args:
        method: name of the method, such as `cocoop`.
        changes: settings to replace; None keeps the published value.

    Raises:
        ConfigError: if a setting is out of range.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(PAPER.get(method, TrainConfig()), **given)
