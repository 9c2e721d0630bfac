"""ImageNet's 1,000 classes: WordNet ids, names, and which of them ImageNet-A and ImageNet-R have.

The names are those of the papers: the list that OpenAI published with CLIP (Radford et al., 2021), in the order of
the sorted WordNet ids. The subsets are those of the authors of ImageNet-A and ImageNet-R (Hendrycks et al., 2021).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

__all__ = ["DISTINCT_NAMES", "ImageNetClass", "imagenet_classes"]

DISTINCT_NAMES = {
    "n04008634": "projectile",
    "n04355933": "sunglass",
}
"""Names for the second `missile` and the first `sunglasses` of the published list, by WordNet id.

Two classes of one name have one prompt, and no classifier can tell them apart: the published numbers count one of
each pair as always wrong. These are WordNet's own words for the two. ImageNet-A has none of the four classes and
ImageNet-R one, so their names are the published ones throughout."""


@dataclass(frozen=True)
class ImageNetClass:
    """One of the 1,000 classes."""

    wnid: str
    """Its WordNet id, which is the name of its folder: `n01440764`."""
    published_name: str
    """Its name in the papers; two pairs of classes share one."""
    in_a: bool
    """Whether ImageNet-A has photos of it."""
    in_r: bool
    """Whether ImageNet-R has photos of it."""

    @property
    def name(self) -> str:
        """Its name in prompts, different for every class."""
        return DISTINCT_NAMES.get(self.wnid, self.published_name)


@functools.cache
def imagenet_classes() -> tuple[ImageNetClass, ...]:
    """All classes in the order of their labels: lines of WordNet id, subsets and name in `imagenet_classes.txt`."""
    text = resources.files(__package__).joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    rows = (line.split(" ", 2) for line in text.splitlines())
    return tuple(ImageNetClass(wnid, name, "A" in subsets, "R" in subsets) for wnid, subsets, name in rows)
