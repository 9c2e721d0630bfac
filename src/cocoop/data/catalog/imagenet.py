"""The 1,000 classes of ImageNet, and the subsets in ImageNet-A and ImageNet-R.

Names: the list that OpenAI published with CLIP (Radford et al., 2021), which the papers use. Subsets: the evaluation
code of the authors of ImageNet-A and ImageNet-R (Hendrycks et al., 2021).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

from cocoop.data.catalog.entry import Rule

__all__ = ["DISTINCT_NAMES", "ImageNetClass", "class_directories", "imagenet_classes"]

DISTINCT_NAMES = {
    "n04008634": "projectile",
    "n04355933": "sunglass",
}
"""WordNet's names for the second `missile` and the first `sunglasses` of the published list, by WordNet id.

Two classes of the same name have the same prompt, so no classifier can tell them apart: in the published numbers, one
class of each pair is always wrong. ImageNet-A has none of these four classes and ImageNet-R has one, with its
published name."""


@dataclass(frozen=True)
class ImageNetClass:
    """A class of ImageNet."""

    wnid: str
    """WordNet id, which is also the name of its directory: `n01440764`."""
    published_name: str
    """Name in the papers; two pairs of classes share one."""
    in_a: bool
    """True if ImageNet-A has the class."""
    in_r: bool
    """True if ImageNet-R has the class."""

    @property
    def name(self) -> str:
        """Name in prompts, unique to the class."""
        return DISTINCT_NAMES.get(self.wnid, self.published_name)


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """Return all classes in the order of their labels, which is that of their WordNet ids."""
    # Each line has a WordNet id, the subsets and a name.
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    rows = (line.split(" ", 2) for line in text.splitlines())
    return tuple(ImageNetClass(wnid, name, "A" in subsets, "R" in subsets) for wnid, subsets, name in rows)


def class_directories(rule: Rule) -> list[tuple[str, str]]:
    """Return directory and name of each class of ImageNet or one of its variants, in the order of the labels.

    ImageNet-A and ImageNet-R have 200 of the classes, relabelled from 0. The directories of ImageNetV2 are named by
    label, 0 to 999; all others by WordNet id.
    """
    classes = imagenet_classes()
    if rule == "imagenetv2":
        return [(str(label), c.name) for label, c in enumerate(classes)]
    if rule == "imagenet-a":
        classes = tuple(c for c in classes if c.in_a)
    elif rule == "imagenet-r":
        classes = tuple(c for c in classes if c.in_r)
    return [(c.wnid, c.name) for c in classes]
