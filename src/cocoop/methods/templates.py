"""Hand-written prompts: the default template, and CLIP's published ensembles.

The templates of the papers' data sets are in the catalog (`Dataset.template`).

References: CLIP's prompt notebook; CoOp, IJCV 2022, and its code.
"""

from __future__ import annotations

from collections.abc import Sequence

from cocoop.errors import PromptError

__all__ = ["DEFAULT_TEMPLATE", "ENSEMBLES", "resolve_templates"]

DEFAULT_TEMPLATE = "a photo of a {}."

ENSEMBLES = {
    "ensemble-7": "SIMPLE_IMAGENET_TEMPLATES",
    "ensemble-80": "OPENAI_IMAGENET_TEMPLATES",
}
"""Published ensembles, and their names in open_clip."""


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Return templates as strings with one `{}` each.

    Args:
        templates: one template, several, or the name of an ensemble.

    Raises:
        PromptError: if there are none, or one does not contain `{}` exactly once.
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
