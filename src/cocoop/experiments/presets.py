"""The papers' settings of each method and experiment, and changes to them.

References: CoOp, IJCV 2022, section 4.1 (few-shot: 16 random context vectors, 50 to 200 epochs); CoCoOp, CVPR 2022,
section 4 (everything else: the context starts as "a photo of a").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cocoop.config import TrainConfig, check_int, paper_config
from cocoop.errors import ConfigError
from cocoop.methods import METHODS

__all__ = [
    "CHANGEABLE",
    "PAPER_DATA",
    "PAPER_SHIFTS",
    "PRESETS",
    "Preset",
    "Settings",
    "method_defaults",
    "settings_for",
]

PAPER_DATA = (
    "imagenet",
    "caltech101",
    "oxford-pets",
    "stanford-cars",
    "flowers102",
    "food101",
    "fgvc-aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
"""The eleven data sets of the papers, in the order of their tables."""
PAPER_SHIFTS = ("imagenetv2", "imagenet-sketch", "imagenet-a", "imagenet-r")
"""The domains of ImageNet's classes in the CoCoOp paper."""

PAPER_CONTEXT = "a photo of a"
RANDOM_LENGTH = {"coop": 16, "cocoop": 4}
"""Number of randomly initialized context vectors (CoOp, section 4.1; CoCoOp, section 4)."""

Preset = Literal["paper", "cached"]
"""`paper`: as published; `cached`: the same, but each image is encoded once, without augmentation."""
PRESETS: tuple[Preset, ...] = get_args(Preset)

PROMPT_CHANGES = ("context", "context_length")
TRAIN_CHANGES = tuple(
    field.name
    for field in dataclasses.fields(TrainConfig)
    if field.name not in ("seed", "cache_features", "workers", "skip_unreadable")
)
CHANGEABLE = PROMPT_CHANGES + TRAIN_CHANGES
"""Settings that an experiment may change."""


@dataclass(frozen=True)
class Settings:
    """Settings of one run."""

    method: dict[str, Any]
    """Keyword arguments of the method."""
    train: TrainConfig
    """Settings of the training; unused by zero-shot."""
    changes: dict[str, Any]
    """Settings that differ from the published ones."""


def method_defaults(method: str, *, seed: int, template: str | None = None) -> dict[str, Any]:
    """Return the keyword arguments of a method in the CoCoOp paper: the context starts as "a photo of a".

    Args:
        method: key of the method.
        seed: seed of the initial values.
        template: template of the data set for zero-shot (`Dataset.template`); None: "a photo of a {}."

    Raises:
        ConfigError: for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    if method == "zero-shot":
        return {} if template is None else {"templates": template}
    return {"context": PAPER_CONTEXT, "seed": seed}


def settings_for(
    protocol: str,
    method: str,
    *,
    data: str,
    shots: int,
    seed: int,
    template: str | None = None,
    preset: Preset = "paper",
    changes: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the published settings of one run, with changes.

    Args:
        protocol: name of the experiment (see `cocoop.experiments.plans`).
        method: key of the method.
        data: name of the training data set; ImageNet has settings of its own.
        shots: training images per class.
        seed: seed of the initial values, the batch order and the augmentation.
        template: template of the data set, for zero-shot.
        preset: `paper`, or `cached` for images encoded once.
        changes: changed values by the names in `CHANGEABLE`; `context=""` initializes the context at random.

    Raises:
        ConfigError: for an unknown method, preset or setting, or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"`preset` is {preset!r}; choose one of {', '.join(PRESETS)}.")
    check_int("shots", shots, 1)
    prompt = method_defaults(method, seed=seed, template=template)
    published: dict[str, Any] = {}
    if method == "zero-shot":
        return Settings(prompt, paper_config(method, seed=seed, cache_features=preset == "cached"), {})
    if method == "coop":
        if protocol == "few-shot":
            prompt |= {"context": None, "context_length": RANDOM_LENGTH[method]}
            published["epochs"] = 50 if shots == 1 else 100 if shots <= 4 else 200
        if data.lower() == "imagenet":
            published["epochs"] = 50
    train = paper_config(method, seed=seed, cache_features=preset == "cached", **published)
    before = {"context_length": None, **prompt, **dataclasses.asdict(train)}
    given: dict[str, Any] = {}
    for name, value in (changes or {}).items():
        if name not in CHANGEABLE:
            raise ConfigError(f"There is no setting {name!r} to change; choose one of {', '.join(CHANGEABLE)}.")
        value = value or None if name == "context" else value
        if value != before[name]:
            given[name] = value
    if given.get("context") and "context_length" not in given:
        prompt.pop("context_length", None)
    if given.get("context_length") is not None and (prompt | given)["context"] is not None:
        raise ConfigError('`context_length` needs a random start; add `context=""`.')
    prompt |= {name: value for name, value in given.items() if name in PROMPT_CHANGES}
    if prompt["context"] is None:
        # Explicit, so that records keep their meaning when a default changes.
        prompt.setdefault("context_length", RANDOM_LENGTH[method])
    train = dataclasses.replace(train, **{name: value for name, value in given.items() if name in TRAIN_CHANGES})
    # Records store a random start as an empty context.
    return Settings(prompt, train, {name: "" if value is None else value for name, value in given.items()})
