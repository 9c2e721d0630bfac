"""What was learned: words near the context, how far images move it, and whether that changes any answer.

References:
    Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (section 4.3: nearest words).
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (equation 4: the shift pi).

Shapes: N photos, C classes, M context vectors, V vocabulary words, d text width, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cocoop.backbones.backbone import Backbone
from cocoop.config import check_int
from cocoop.errors import ConfigError, DataError
from cocoop.methods import CoCoOp, CoOp, Method
from cocoop.training.features import Features, Progress

__all__ = [
    "ContextWords",
    "Control",
    "NearWord",
    "Shifts",
    "control_study",
    "nearest_words",
    "prompt_shifts",
    "word_distance",
]

ROUNDING = 1e-6
"""Relative size below which differences of fp32 numbers are rounding."""

YARDSTICK_WORDS = 256
"""Words whose nearest other word is looked for, to tell which distance is short."""


@dataclass(frozen=True)
class NearWord:
    """A vocabulary word near a context vector."""

    text: str
    """The word; with CLIP's vocabulary, a dash follows a part that a word goes on after."""
    token: int
    """Its number in the vocabulary."""
    distance: float
    """Euclidean distance of its embedding to the vector."""


@dataclass(frozen=True)
class ContextWords:
    """One context vector and the words nearest to it."""

    place: int
    """Which of the context vectors it is, from 1."""
    classname: str | None
    """The class it belongs to, where classes have contexts of their own."""
    norm: float
    """Its length."""
    words: tuple[NearWord, ...]
    """Nearest first."""


@dataclass(frozen=True)
class Shifts:
    """What Meta-Net adds to the context of each photo: the shift pi."""

    images: int
    """N."""
    context_norm: float
    """Mean length of the context vectors."""
    norm_mean: float
    """Mean length of the shifts."""
    norm_std: float
    """Standard deviation of their lengths over the photos."""
    constant: float
    """Length of the mean shift: what all photos share is no more than another static context."""
    spread: float
    """Root mean square distance of the shifts to their mean: what differs from photo to photo."""
    between_classes: float | None
    """Share of the variance of the shifts that is between the means of classes; None if they do not differ at all."""
    explained: tuple[float, float]
    """Shares of the variance along the first two principal components."""
    components: tuple[tuple[float, float], ...]
    """The shift of each photo along these."""
    labels: tuple[int, ...]
    """The class of each photo."""
    classnames: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The numbers as plain JSON."""
        within = None if self.between_classes is None else 1 - self.between_classes
        return {**asdict(self), "within_classes": within}


@dataclass(frozen=True)
class Control:
    """Accuracy with something else in the place of Meta-Net's true input, beside that with the true one."""

    name: str
    """What Meta-Net was given: `true`, `noise`, `other` or `mean`."""
    accuracies: tuple[float, ...]
    """In percent, one for each seed; a single one where nothing is drawn."""
    changed: tuple[float, ...]
    """Answers that differ from those with the true input, in percent, one for each seed."""
    loss: float
    """Percentage points by which the true input is better, mean over the seeds."""
    standard_error: float
    """Of `loss` over the photos, which are compared one by one."""


def nearest_words(method: Method, count: int = 5) -> tuple[ContextWords, ...]:
    """The vocabulary words nearest to each learned context vector.

    Args:
        method: CoOp or CoCoOp; CoCoOp's vectors are taken without a shift.
        count: words for each vector.

    Raises:
        ConfigError: for a method without learned context, or a count below 1.
    """
    check_int("words", count, 1)
    if not isinstance(method, CoOp | CoCoOp):
        raise ConfigError(f"The method {method.key} has learned no context; explain a run of coop or cocoop.")
    tokens, table = _vocabulary(method.backbone)
    context = method.context.detach().float()
    own = context.dim() == 3
    vectors = context.reshape(-1, context.shape[-1])
    best = _distances(vectors, table).topk(min(count, len(table)), largest=False)
    found = []
    for row, (distances, places) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        ids = [int(tokens[place]) for place in places]
        words = zip(ids, distances, strict=True)
        found.append(
            ContextWords(
                place=row % method.context_length + 1,
                classname=method.saved_classnames[row // method.context_length] if own else None,
                norm=float(vectors[row].norm()),
                words=tuple(NearWord(_shown(method.backbone.tokenizer.piece(token)), token, d) for token, d in words),
            )
        )
    return tuple(found)


def word_distance(backbone: Backbone) -> float:
    """How far a word lies from the nearest other word: the median over words drawn at random."""
    _, table = _vocabulary(backbone)
    rows = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:YARDSTICK_WORDS].to(table.device)
    nearest_two = torch.cdist(table[rows], table).topk(2, largest=False).values
    return float(nearest_two[:, 1].median())


def prompt_shifts(method: CoCoOp, features: Features) -> Shifts:
    """How far Meta-Net moves the context, and how much of that differs from photo to photo.

    Args:
        method: the learned method.
        features: of photos, with their classes.

    Raises:
        DataError: for fewer than two photos.
    """
    _check_several(features)
    with torch.no_grad():
        pi = method.meta_net(_images(method, features)).double().cpu()
    centred = pi - pi.mean(0)
    total = float(centred.square().sum())
    # Equal shifts differ by rounding, whose shares would mean nothing.
    if total <= ROUNDING**2 * float(pi.square().sum()):
        centred, total = torch.zeros_like(centred), 0.0
    explained, components = _principal(centred)
    norms = pi.norm(dim=-1)
    return Shifts(
        images=len(pi),
        context_norm=float(method.context.detach().norm(dim=-1).mean()),
        norm_mean=float(norms.mean()),
        norm_std=float(norms.std()),
        constant=float(pi.mean(0).norm()),
        spread=sqrt(total / len(pi)),
        between_classes=_between(centred, features.labels) / total if total else None,
        explained=explained,
        components=components,
        labels=tuple(features.labels.tolist()),
        classnames=features.classnames,
    )


def control_study(
    method: CoCoOp,
    features: Features,
    *,
    seeds: int = 5,
    on_progress: Progress | None = None,
) -> tuple[Control, ...]:
    """Does it matter which image Meta-Net sees?

    Images and classes stay as they are; only what Meta-Net is given is replaced: by noise (unit vectors in random
    directions), by the feature of another photo (each photo gives to one and takes from one), or by the mean of all
    photos. If accuracy stays, conditioning on the image does nothing on these data.

    Args:
        method: classifies among the classes of the features.
        features: of photos, with their classes.
        seeds: how often noise and other photos are drawn.
        on_progress: called with passes done and passes in all.

    Returns:
        `true`, `noise`, `other` and `mean`, in this order.

    Raises:
        ConfigError: for seeds below 1.
        DataError: for fewer than two photos, or classes other than the method's.
    """
    check_int("seeds", seeds, 1)
    _check_several(features)
    if tuple(method.classnames) != tuple(features.classnames):
        raise DataError("The method knows other classes than the data; call set_classes(features.classnames) first.")
    images, labels = _images(method, features), features.labels
    mean = F.normalize(images.mean(0, keepdim=True), dim=-1).expand_as(images)
    inputs: dict[str, list[Callable[[], Tensor]]] = {
        "true": [lambda: images],
        "noise": [lambda seed=seed: _noise(images, seed) for seed in range(seeds)],  # type: ignore[misc]
        "other": [lambda seed=seed: images[_derangement(len(images), seed)] for seed in range(seeds)],  # type: ignore[misc]
        "mean": [lambda: mean],
    }
    total, done = sum(map(len, inputs.values())), 0
    answers: dict[str, list[Tensor]] = {}
    for name, makers in inputs.items():
        answers[name] = []
        for make in makers:
            answers[name].append(_answers(method, images, make()))
            done += 1
            if on_progress:
                on_progress(done, total)
    true = answers["true"][0]
    return tuple(_compared(name, torch.stack(found), true, labels) for name, found in answers.items())


def _compared(name: str, answers: Int64[Tensor, "S N"], true: Int64[Tensor, " N"], labels: Tensor) -> Control:
    right: Bool[Tensor, "S N"] = answers == labels
    # One number a photo, so that the error is that of a paired comparison.
    better = (true == labels).double() - right.double().mean(0)
    return Control(
        name=name,
        accuracies=tuple((100 * right.double().mean(1)).tolist()),
        changed=tuple((100 * (answers != true).double().mean(1)).tolist()),
        loss=100 * float(better.mean()),
        standard_error=100 * float(better.std()) / sqrt(len(labels)),
    )


@torch.no_grad()
def _answers(method: CoCoOp, images: Float[Tensor, "N e"], inputs: Float[Tensor, "N e"]) -> Int64[Tensor, " N"]:
    """The class of each image by prompts that are conditioned on something else."""
    size = method.prompts.images_at_once
    parts = zip(images.split(size), inputs.split(size), strict=True)
    # The scale of the logits does not change which is highest.
    found = [torch.einsum("be,bce->bc", own, method.text_features(given)).argmax(-1) for own, given in parts]
    return torch.cat(found).cpu()


def _noise(images: Tensor, seed: int) -> Tensor:
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1).to(images.device)


def _derangement(count: int, seed: int) -> Int64[Tensor, " N"]:
    """For each row another one, each taken once: all rows stand in a random circle, and take from their neighbour."""
    circle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(circle)
    other[circle] = circle.roll(1)
    return other


def _images(method: CoCoOp, features: Features) -> Float[Tensor, "N e"]:
    return F.normalize(features.features.to(method.backbone.device).float(), dim=-1)


def _check_several(features: Features) -> None:
    if len(features.labels) < 2:
        raise DataError(f"There is {len(features.labels)} photo; at least two are needed to compare them.")


def _principal(centred: Tensor) -> tuple[tuple[float, float], tuple[tuple[float, float], ...]]:
    """Shares of variance along the first two principal components, and each row's place along them."""
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary; its largest entry is made positive.
    signs = v.gather(1, v.abs().argmax(1, keepdim=True)).sign().squeeze(1)
    places = F.pad(u * s * signs, (0, 2))[:, :2]
    shares = F.pad(s.square() / s.square().sum().clamp_min(torch.finfo(s.dtype).tiny), (0, 2))[:2].tolist()
    return (shares[0], shares[1]), tuple((x, y) for x, y in places.tolist())


def _between(centred: Tensor, labels: Tensor) -> float:
    """Sum of squares of the classes' means, each counted once a photo."""
    groups = (centred[labels == label] for label in labels.unique())
    return sum(len(group) * float(group.mean(0).square().sum()) for group in groups)


def _vocabulary(backbone: Backbone) -> tuple[Int64[Tensor, " V"], Float[Tensor, "V d"]]:
    """Numbers and embeddings of all words that the text tower knows.

    Start and end token are no words, nor is what comes after the last word; an embedding of zeros was never trained.
    """
    tokenizer = backbone.tokenizer
    table = backbone.text_tower.token_embedding.weight.detach().float()
    known = table.any(dim=1).cpu()
    known[tokenizer.highest + 1 :] = False
    known[[tokenizer.sos, tokenizer.eot]] = False
    tokens = known.nonzero().squeeze(1)
    return tokens, table[tokens.to(table.device)]


def _shown(text: str) -> str:
    """A word that a terminal and a page can show: some tokens are single bytes, control characters among them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _distances(vectors: Float[Tensor, "M d"], table: Float[Tensor, "V d"]) -> Float[Tensor, "M V"]:
    # By way of a matrix product, a word would lie some way off itself.
    return torch.cdist(vectors, table, compute_mode="donot_use_mm_for_euclid_dist")
