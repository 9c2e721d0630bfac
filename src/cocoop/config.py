"""Settings: frozen dataclasses, one sentence a field, checked when made. Standard library only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from cocoop.errors import ConfigError

__all__ = [
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
"""Number type of the frozen towers."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Position = Literal["end", "middle", "front"]
"""Where the class name stands among CoOp's context vectors."""
POSITIONS: tuple[Position, ...] = get_args(Position)

ClassSubset = Literal["all", "base", "new"]
"""Which classes: all, the base ones (the first half, rounded up) or the new ones (the rest)."""


def _check(ok: bool, flag: str, seen: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"--{flag.replace('_', '-')} is {seen!r}; it must be {wanted}.")


def check_int(flag: str, value: object, least: int) -> None:
    """Check a whole number.

    Raises:
        ConfigError: naming the flag, what was given and what is allowed.
    """
    # True and False are integers to Python.
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= least
    _check(ok, flag, value, f"a whole number from {least} up")


def parse_bytes(flag: str, text: str) -> int:
    """Bytes from a size such as `2GiB`, `512 MiB`, `1.5G` or `1000000`; K, M, G and T are powers of 1024.

    Raises:
        ConfigError: naming the flag, what was given and what is allowed.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, flags=re.IGNORECASE)
    _check(match is not None, flag, text, "a size such as 2GiB or 512MiB")
    number, unit = match.groups()  # type: ignore[union-attr]
    return int(float(number) * 1024 ** " kmgt".index(unit.lower() or " "))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its images, as published with its weights."""

    size: int
    """Height and width of the model's input, in pixels."""
    mean: tuple[float, float, float]
    """Mean of each RGB channel, in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of each RGB channel, in [0, 1]."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How pixels are interpolated when an image is resized."""
    resize: Literal["shortest", "squash"] = "shortest"
    """`shortest`: scale the shorter edge to `size`, crop the centre; `squash`: scale both edges to `size`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a prompt is trained. The defaults are CoCoOp's (CVPR 2022): SGD, ten epochs, one image a step."""

    epochs: int = 10
    """Number of passes over the training photos."""
    batch_size: int = 1
    """Photos a step; the last incomplete batch is dropped when there is at least one full one."""
    learning_rate: float = 0.002
    """Peak rate of SGD; after the warm-up it follows half a cosine down, changing once an epoch."""
    warmup_epochs: int = 1
    """Epochs at the constant warm-up rate before the cosine begins."""
    warmup_learning_rate: float = 1e-5
    """The rate during warm-up."""
    momentum: float = 0.9
    """Momentum of SGD, without dampening or Nesterov's correction."""
    weight_decay: float = 5e-4
    """L2 penalty on every learned tensor, biases too."""
    cache_features: bool = False
    """Encode every training photo once, without augmentation, instead of anew in each epoch."""
    seed: int = 1
    """Seed of the batch order and the augmentation; any integer from 0 up."""
    workers: int = 2
    """Processes that decode and augment photos; 0 decodes in the main process."""
    skip_unreadable: bool = True
    """Leave unreadable photos out of training and count them, instead of stopping at the first."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ConfigError: naming the flag, what was given and what is allowed.
        """
        for flag, least in (("epochs", 1), ("batch_size", 1), ("warmup_epochs", 0), ("workers", 0)):
            check_int(flag, getattr(self, flag), least)
        for flag in ("learning_rate", "warmup_learning_rate"):
            rate = getattr(self, flag)
            _check(_is_number(rate) and rate > 0, flag, rate, "a positive number")
        _check(_is_number(self.momentum) and 0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        ok = _is_number(self.weight_decay) and self.weight_decay >= 0
        _check(ok, "weight_decay", self.weight_decay, "0 or more")
        check_int("seed", self.seed, 0)
        _check(self.seed < 2**63, "seed", self.seed, "below 2**63")

    def learning_rate_at(self, epoch: int) -> float:
        """Rate of one epoch: constant during warm-up, then a cosine over the epochs since its end.

        The reference counts the cosine's period in all epochs, so the last epoch's rate is above zero.

        Args:
            epoch: from 1 to `epochs`.

        Returns:
            The learning rate, in the unit of `learning_rate`.

        Raises:
            ConfigError: for an epoch out of that range.
        """
        if not 1 <= epoch <= self.epochs:
            raise ConfigError(f"There is no epoch {epoch}; this training has the epochs 1 to {self.epochs}.")
        if epoch <= self.warmup_epochs:
            return self.warmup_learning_rate
        progress = (epoch - self.warmup_epochs - 1) / self.epochs
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2


PAPER: dict[str, TrainConfig] = {
    "coop": TrainConfig(epochs=200, batch_size=32),
    "cocoop": TrainConfig(epochs=10, batch_size=1),
}
"""The published training of each method with 16 shots, as the CoCoOp paper uses it."""


def paper_config(method: str, **changes: Any) -> TrainConfig:
    """The published training of a method, with changes; a change to None keeps the published value.

    Raises:
        ConfigError: for a value out of range.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(PAPER.get(method, TrainConfig()), **given)
