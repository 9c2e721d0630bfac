"""Interpret a learned prompt: words near the context, shifts by images, and their effect on the answers.

References:
    Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (section 4.3: nearest words).
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (equation 4: the shift pi).

Shapes: N images, C classes, M context vectors, V vocabulary words, S seeds, d text width, e joint embedding size.
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
from cocoop.training.features import Features, Progress, check_same_classes

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
"""Relative difference below which fp32 numbers count as equal up to rounding."""

SAMPLED_WORDS = 256
"""Number of words to sample for the median distance to the nearest other word."""


@dataclass(frozen=True)
class NearWord:
    """A vocabulary word near a context vector."""

    text: str
    """The word; with CLIP's vocabulary, a dash follows a token that does not end a word."""
    token: int
    """Index in the vocabulary."""
    distance: float
    """Euclidean distance between its embedding and the context vector."""


@dataclass(frozen=True)
class ContextWords:
    """A context vector and the words nearest to it."""

    position: int
    """Position among the context vectors, from 1."""
    classname: str | None
    """Class name, for class-specific contexts."""
    norm: float
    """Euclidean norm."""
    words: tuple[NearWord, ...]
    """Nearest first."""


@dataclass(frozen=True)
class Shifts:
    """Statistics of the shifts pi, which Meta-Net adds to the context for each image."""

    images: int
    """Number of images N."""
    context_norm: float
    """Mean norm of the context vectors."""
    norm_mean: float
    """Mean norm of the shifts."""
    norm_std: float
    """Standard deviation of the norms."""
    constant: float
    """Norm of the mean shift, which acts like a static context."""
    spread: float
    """Root mean square distance of the shifts to their mean: the part that differs between images."""
    between_classes: float | None
    """Share of the variance of the shifts that is between class means; None if all shifts are equal."""
    explained: tuple[float, float]
    """Shares of the variance along the first two principal components."""
    components: tuple[tuple[float, float], ...]
    """Coordinates of each image's shift along these components."""
    labels: tuple[int, ...]
    """Label of each image."""
    classnames: tuple[str, ...]
    """Class names."""

    def record(self) -> dict[str, Any]:
        """Return the statistics as plain JSON."""
        within = None if self.between_classes is None else 1 - self.between_classes
        return {**asdict(self), "within_classes": within}


@dataclass(frozen=True)
class Control:
    """Accuracy when Meta-Net gets another input, compared with its true input."""

    name: str
    """Input of Meta-Net: `true`, `noise`, `other` or `mean`."""
    accuracies: tuple[float, ...]
    """Accuracy in percent, one per seed; only one if nothing is random."""
    changed: tuple[float, ...]
    """Answers that differ from those with the true input, in percent, one per seed."""
    loss: float
    """Accuracy lost without the true input, in percentage points, mean over the seeds."""
    standard_error: float
    """Standard error of `loss` in a paired comparison over the images."""


def nearest_words(method: Method, count: int = 5) -> tuple[ContextWords, ...]:
    """Return the vocabulary words nearest to each learned context vector.

    Args:
        method: CoOp or CoCoOp; CoCoOp's vectors are used without a shift.
        count: number of words per vector.

    Raises:
        ConfigError: for a method without learned context, or a count below 1.
    """
    check_int("count", count, 1)
    if not isinstance(method, CoOp | CoCoOp):
        raise ConfigError(f"The method {method.key} has no learned context; use a run of coop or cocoop.")
    tokens, table = _vocabulary(method.backbone)
    context = method.context.detach().float()
    is_class_specific = context.dim() == 3
    vectors = context.reshape(-1, context.shape[-1])
    best = _distances(vectors, table).topk(min(count, len(table)), largest=False)
    found = []
    for row, (distances, indices) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        ids = [int(tokens[index]) for index in indices]
        texts = [_printable(method.backbone.tokenizer.piece(token)) for token in ids]
        found.append(
            ContextWords(
                position=row % method.context_length + 1,
                classname=method.saved_classnames[row // method.context_length] if is_class_specific else None,
                norm=float(vectors[row].norm()),
                words=tuple(NearWord(*word) for word in zip(texts, ids, distances, strict=True)),
            )
        )
    return tuple(found)


def word_distance(backbone: Backbone) -> float:
    """Return the distance between a word and the nearest other word: the median over a random sample of words."""
    _, table = _vocabulary(backbone)
    rows = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:SAMPLED_WORDS].to(table.device)
    nearest_two = torch.cdist(table[rows], table).topk(2, largest=False).values
    return float(nearest_two[:, 1].median())


def prompt_shifts(method: CoCoOp, features: Features) -> Shifts:
    """Measure how far Meta-Net shifts the context, and how much the shifts differ between images.

    Args:
        method: the trained method.
        features: the encoded images.

    Raises:
        DataError: for fewer than two images.
    """
    _check_two_images(features)
    with torch.no_grad():
        pi = method.meta_net(_unit_features(method, features)).double().cpu()
    centred = pi - pi.mean(0)
    total = float(centred.square().sum())
    # Equal shifts differ only by rounding errors, whose components mean nothing.
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
        between_classes=_between_classes(centred, features.labels) / total if total else None,
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
    """Test whether the image that Meta-Net sees matters.

    Only the input of Meta-Net is replaced, not the image to classify: by noise (random unit vectors), by the feature of
    another image (a permutation of the images), or by the mean of all images. If the accuracy stays the same,
    conditioning on the image has no effect on these data.

    Args:
        method: its class names must be those of the features.
        features: the encoded images.
        seeds: number of repetitions with other noise and other permutations.
        on_progress: called with the passes done and their total.

    Returns:
        The controls `true`, `noise`, `other` and `mean`, in this order.

    Raises:
        ConfigError: for `seeds` below 1.
        DataError: for fewer than two images, or class names other than the method's.
    """
    check_int("seeds", seeds, 1)
    _check_two_images(features)
    check_same_classes(method, features.classnames)
    images, labels = _unit_features(method, features), features.labels
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
            answers[name].append(_predict(method, images, make()))
            done += 1
            if on_progress:
                on_progress(done, total)
    true = answers["true"][0]
    return tuple(_compare(name, torch.stack(found), true, labels) for name, found in answers.items())


def _compare(name: str, answers: Int64[Tensor, "S N"], true: Int64[Tensor, " N"], labels: Tensor) -> Control:
    correct: Bool[Tensor, "S N"] = answers == labels
    # One number per image, for a paired comparison.
    better = (true == labels).double() - correct.double().mean(0)
    return Control(
        name=name,
        accuracies=tuple((100 * correct.double().mean(1)).tolist()),
        changed=tuple((100 * (answers != true).double().mean(1)).tolist()),
        loss=100 * float(better.mean()),
        standard_error=100 * float(better.std()) / sqrt(len(labels)),
    )


@torch.no_grad()
def _predict(method: CoCoOp, images: Float[Tensor, "N e"], inputs: Float[Tensor, "N e"]) -> Int64[Tensor, " N"]:
    """Return the predicted label of each image, with `inputs` as the input of Meta-Net."""
    size = method.prompts.images_at_once
    parts = zip(images.split(size), inputs.split(size), strict=True)
    # The logit scale does not change the highest logit.
    found = [torch.einsum("be,bce->bc", own, method.text_features(given)).argmax(-1) for own, given in parts]
    return torch.cat(found).cpu()


def _noise(images: Tensor, seed: int) -> Tensor:
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1).to(images.device)


def _derangement(count: int, seed: int) -> Int64[Tensor, " N"]:
    """Return a permutation without fixed points: each row takes the previous one in a random cycle."""
    circle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(circle)
    other[circle] = circle.roll(1)
    return other


def _unit_features(method: CoCoOp, features: Features) -> Float[Tensor, "N e"]:
    return F.normalize(features.features.to(method.backbone.device).float(), dim=-1)


def _check_two_images(features: Features) -> None:
    if len(features.labels) < 2:
        raise DataError(f"There is {len(features.labels)} image; at least two are needed.")


def _principal(centred: Tensor) -> tuple[tuple[float, float], tuple[tuple[float, float], ...]]:
    """Return the shares of variance of the first two principal components, and each row's coordinates."""
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary; make its largest entry positive.
    signs = v.gather(1, v.abs().argmax(1, keepdim=True)).sign().squeeze(1)
    coordinates = F.pad(u * s * signs, (0, 2))[:, :2]
    shares = F.pad(s.square() / s.square().sum().clamp_min(torch.finfo(s.dtype).tiny), (0, 2))[:2].tolist()
    return (shares[0], shares[1]), tuple((x, y) for x, y in coordinates.tolist())


def _between_classes(centred: Tensor, labels: Tensor) -> float:
    """Return the sum of squares between classes: squared class means, weighted by the number of images."""
    groups = (centred[labels == label] for label in labels.unique())
    return sum(len(group) * float(group.mean(0).square().sum()) for group in groups)


def _vocabulary(backbone: Backbone) -> tuple[Int64[Tensor, " V"], Float[Tensor, "V d"]]:
    """Return tokens and embeddings of all words of the text tower.

    Start and end tokens, rows after the vocabulary and rows of zeros, which were never trained, are left out.
    """
    tokenizer = backbone.tokenizer
    table = backbone.text_tower.token_embedding.weight.detach().float()
    is_word = table.any(dim=1).cpu()
    is_word[tokenizer.highest + 1 :] = False
    is_word[[tokenizer.sos, tokenizer.eot]] = False
    tokens = is_word.nonzero().squeeze(1)
    return tokens, table[tokens.to(table.device)]


def _printable(text: str) -> str:
    """Escape control characters; some single-byte tokens are such characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _distances(vectors: Float[Tensor, "M d"], table: Float[Tensor, "V d"]) -> Float[Tensor, "M V"]:
    # With a matrix product, the distance of a word to itself would not be 0.
    return torch.cdist(vectors, table, compute_mode="donot_use_mm_for_euclid_dist")
