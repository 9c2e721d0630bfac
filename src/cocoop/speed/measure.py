"""Ours beside the published computation: a training step and an evaluation, for a grid of sizes.

The text tower has a published shape and random weights; names are ImageNet's; image features are random, because the
image tower is the same in both. The published computation grows with the number of prompts (classes x images: it
takes one image after the other) and often fits neither patience nor memory; beyond a limit it is measured at the limit
and scaled in proportion, and the record says so.

Shapes: B images, C classes, M context vectors.
"""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cocoop.backbones.backbone import DTYPES, Backbone
from cocoop.backbones.tokenizers import clip_tokenizer
from cocoop.config import Precision, Preprocessing, check_int
from cocoop.errors import ConfigError
from cocoop.methods import CoCoOp, CoOp
from cocoop.speed.probes import matmul_rate, matmul_work, median_seconds, peak_bytes
from cocoop.speed.published import conditional_logits
from cocoop.text.tower import TextTower, TextTowerConfig

__all__ = [
    "Backbones",
    "Case",
    "Plan",
    "imagenet_names",
    "machine",
    "measure_case",
    "measure_methods",
    "random_backbone",
]

SHAPES = {
    "ViT-B/16": {"width": 512, "heads": 8, "layers": 12, "embed_dim": 512},
    "ViT-L/14": {"width": 768, "heads": 12, "layers": 12, "embed_dim": 768},
    "tiny": {"width": 64, "heads": 2, "layers": 2, "embed_dim": 64},
}
"""Text towers by the name of the CLIP they belong to; `tiny` for a quick look."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size."""

    classes: int
    """C."""
    batch: int
    """B."""
    context_length: int
    """M."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: naming the flag, what was given and what is allowed.
        """
        for flag, least in (("classes", 2), ("batch", 1), ("context_length", 1)):
            check_int(flag, getattr(self, flag), least)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to measure."""

    shape: str = "ViT-B/16"
    """The text tower, a key of `SHAPES`."""
    precision: Precision = "fp32"
    """Number type of our towers; the published computation stays in fp32."""
    rounds: int = 3
    """How often each computation is timed; the median counts."""
    published_prompts: int = 100
    """Most prompts (classes x images) for which the published computation is really run."""
    memory: bool = True
    """Whether peak memory is measured as well, in a step of its own."""
    device: str = "cpu"
    """Where to compute."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: naming the flag, what was given and what is allowed.
        """
        if self.shape not in SHAPES:
            raise ConfigError(f"--shape is {self.shape!r}; it must be one of {', '.join(SHAPES)}.")
        check_int("rounds", self.rounds, 1)
        check_int("published_prompts", self.published_prompts, 2)


def random_backbone(shape: str, precision: Precision = "fp32", device: str = "cpu") -> Backbone:
    """A backbone of random weights with a published text tower and no image tower.

    Args:
        shape: a key of `SHAPES`.
        precision: number type of the tower.
        device: where to put it.
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


class Backbones(NamedTuple):
    """What a plan measures with; in fp32 both are the same."""

    ours: Backbone
    """In the plan's precision."""
    published: Backbone
    """In fp32."""

    @classmethod
    def of(cls, plan: Plan) -> Backbones:
        """Made once for all sizes: drawing the weights takes seconds."""
        plain = random_backbone(plan.shape, "fp32", plan.device)
        if plan.precision == "fp32":
            return cls(plain, plain)
        return cls(random_backbone(plan.shape, plan.precision, plan.device), plain)


def imagenet_names(count: int) -> list[str]:
    """The first ImageNet names, numbered where one comes again or the 1,000 do not suffice."""
    import open_clip

    names: dict[str, None] = {}
    turn = 1
    while len(names) < count:
        for name in open_clip.IMAGENET_CLASSNAMES:
            unique = name if name not in names else f"{name} {turn + 1}"
            names[unique] = None
            if len(names) == count:
                break
        turn += 1
    return list(names)


def measure_case(case: Case, plan: Plan, backbones: Backbones) -> dict[str, Any]:
    """Measure one size.

    Args:
        case: the size.
        plan: how to measure.
        backbones: of the plan's shape.

    Returns:
        Plain JSON: for `published` and `ours` seconds of a training step and of the evaluation of the batch, peak
        bytes of the step; ratios; our matrix-product work, the machine's rate at that time and our share of it.
    """
    ours = _Task(backbones.ours, case)
    published = _Task(backbones.published, _affordable(case, plan.published_prompts))
    scale = case.classes * case.batch / (published.case.classes * published.case.batch)
    ours.step()
    calls = {
        "published step": published.plain_step,
        "step": ours.step,
        "published evaluation": published.plain_evaluation,
        "evaluation": ours.evaluation,
    }
    # The rate is taken on both sides of the step's own timing: it changes with what else the machine does.
    before = matmul_rate(ours.device, DTYPES[plan.precision])
    seconds = median_seconds(calls, plan.rounds, ours.device)
    rate = max(before, matmul_rate(ours.device, DTYPES[plan.precision]))
    work = matmul_work(calls["step"])
    record: dict[str, Any] = {
        **dataclasses.asdict(case),
        "rows": ours.method.prompts.rows,
        "published_rows": 77 * case.classes,
        "published": {
            "step_seconds": seconds["published step"] * scale,
            "evaluation_seconds": seconds["published evaluation"] * scale,
            "measured_prompts": published.case.classes * published.case.batch,
            "scaled_by": scale,
        },
        "ours": {"step_seconds": seconds["step"], "evaluation_seconds": seconds["evaluation"]},
        "step_matmul_operations": work,
        "matmul_operations_per_second": rate,
        "rate_share": work / seconds["step"] / rate,
        "floor_seconds": work / rate,
        "step_ratio": seconds["published step"] * scale / seconds["step"],
        "evaluation_ratio": seconds["published evaluation"] * scale / seconds["evaluation"],
    }
    if plan.memory:
        record["published"]["peak_bytes"] = int(peak_bytes(calls["published step"], ours.device) * scale)
        record["ours"]["peak_bytes"] = peak_bytes(calls["step"], ours.device)
        record["memory_ratio"] = record["published"]["peak_bytes"] / record["ours"]["peak_bytes"]
    return record


def measure_methods(plan: Plan, backbone: Backbone, *, classes: int = 50, batch: int = 32) -> dict[str, Any]:
    """A CoCoOp step beside a CoOp step of the same batch: seconds, and the arithmetic that each demands."""
    case = Case(classes=classes, batch=batch, context_length=4)
    tasks = {kind.key: _Task(backbone, case, kind) for kind in (CoOp, CoCoOp)}
    calls = {key: task.step for key, task in tasks.items()}
    for call in calls.values():
        call()
    seconds = median_seconds(calls, plan.rounds, backbone.device)
    work = {key: matmul_work(call) for key, call in calls.items()}
    return {
        **dataclasses.asdict(case),
        "coop_seconds": seconds["coop"],
        "cocoop_seconds": seconds["cocoop"],
        "time_ratio": seconds["cocoop"] / seconds["coop"],
        "arithmetic_ratio": work["cocoop"] / work["coop"],
    }


def machine(plan: Plan) -> dict[str, Any]:
    """What was measured on, and its matrix-product rate in the plan's precision, in operations a second."""
    device = torch.device(plan.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": plan.device,
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "shape": plan.shape,
        "precision": plan.precision,
        "matmul_operations_per_second": matmul_rate(device, DTYPES[plan.precision]),
    }


def _affordable(case: Case, prompts: int) -> Case:
    """The case, or as large a part of it as has at most so many prompts."""
    classes = min(case.classes, prompts)
    return dataclasses.replace(case, classes=classes, batch=min(case.batch, max(1, prompts // classes)))


class _Task:
    """One method on random features, ready to be timed."""

    def __init__(self, backbone: Backbone, case: Case, kind: type[CoOp] | type[CoCoOp] = CoCoOp) -> None:
        self.case, self.device = case, backbone.device
        names = imagenet_names(case.classes)
        self.method: CoOp | CoCoOp = kind(backbone, names, None, context_length=case.context_length, seed=0)
        self.features = torch.randn(case.batch, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
        self.features = self.features.to(self.device)
        self.labels = (torch.arange(case.batch) % case.classes).to(self.device)
        self.scorer = self.method.scorer()

    def step(self) -> None:
        """A training step without the optimiser, as `cocoop.training.fit.fit` takes it."""
        for loss, _ in self.method.losses(self.features, self.labels):
            loss.backward()

    @torch.no_grad()
    def evaluation(self) -> Tensor:
        return self.scorer(self.features).argmax(-1)

    def plain_step(self) -> None:
        F.cross_entropy(self._plain_logits(), self.labels).backward()

    @torch.no_grad()
    def plain_evaluation(self) -> Tensor:
        return self._plain_logits().argmax(-1)

    def _plain_logits(self) -> Tensor:
        method = self.method
        if not isinstance(method, CoCoOp):
            raise TypeError(f"The published computation is kept for CoCoOp, not for {method.key}.")
        return conditional_logits(method.backbone, method.classnames, self.features, method.context, method.meta_net)
