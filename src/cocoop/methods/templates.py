"""Hand-written prompts: the papers' template for each data set, and CLIP's published ensembles.

References: CLIP's prompt notebook; CoOp, IJCV 2022, and its code.
"""

from __future__ import annotations

from collections.abc import Sequence

from cocoop.errors import PromptError

__all__ = ["DATASET_TEMPLATES", "DEFAULT_TEMPLATE", "ENSEMBLES", "resolve_templates"]

DEFAULT_TEMPLATE = "a photo of a {}."

DATASET_TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    "Caltech101": DEFAULT_TEMPLATE,
    "StanfordCars": DEFAULT_TEMPLATE,
    "SUN397": DEFAULT_TEMPLATE,
    "ImageNet": DEFAULT_TEMPLATE,
    "ImageNetV2": DEFAULT_TEMPLATE,
    "ImageNet-Sketch": DEFAULT_TEMPLATE,
    "ImageNet-A": DEFAULT_TEMPLATE,
    "ImageNet-R": DEFAULT_TEMPLATE,
}
"""The template of each data set in the papers' zero-shot rows."""

ENSEMBLES = {
    "ensemble-7": "SIMPLE_IMAGENET_TEMPLATES",
    "ensemble-80": "OPENAI_IMAGENET_TEMPLATES",
}
"""Published ensembles, by the name under which open_clip carries them."""


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates as strings with one `{}` each.

    Args:
        templates: a template, several, or the name of an ensemble.

    Raises:
        PromptError: for a template without exactly one `{}`, or none at all.
    """
    if isinstance(templates, str):
        if templates in ENSEMBLES:
            import open_clip

            return tuple(template("{}") for template in getattr(open_clip, ENSEMBLES[templates]))
        templates = [templates]
    if not templates:
        raise PromptError('There are no templates; give at least one, such as "a photo of a {}."')
    for template in templates:
        if template.count("{}") != 1:
            raise PromptError(
                f"The template {template!r} must contain {{}} once, where the class name goes, "
                f"or be one of {', '.join(ENSEMBLES)}."
            )
    return tuple(templates)
