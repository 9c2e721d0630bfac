"""Zero-shot CLIP: hand-written templates, alone or as an ensemble.

    p(y = c | x) = softmax_c( cos(x, w_c) / tau ),  w_c = normalise( mean over templates t of normalise(g(t(c))) )

with image feature x, text tower g and temperature tau.

Reference: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021
(section 3.1.4).

Shapes: B images, C classes, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cocoop.backbones.backbone import Backbone
from cocoop.methods.base import Method
from cocoop.methods.templates import DEFAULT_TEMPLATE, resolve_templates
from cocoop.text.prompts import check_length, clean_name, text_tokens
from cocoop.text.tree import Prompts

__all__ = ["ZeroShot"]


class ZeroShot(Method):
    """CLIP with hand-written prompts; nothing is trained.

    Args:
        backbone: the frozen model.
        classnames: names of the classes, in label order.
        templates: one template with `{}` for the class name, several to be averaged, or the name of a
            published ensemble (`ensemble-7`, `ensemble-80`).

    Raises:
        PromptError: if a class name or template cannot be used in a prompt.

    Example:
        ```python
        import cocoop

        backbone = cocoop.load_backbone("lite")
        data = cocoop.load_data("photos")
        method = cocoop.ZeroShot(backbone, data.classnames, ["a photo of a {}.", "a drawing of a {}."])
        print(cocoop.evaluate(method, data).accuracy)
        ```
    """

    key = "zero-shot"
    matrix: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    ) -> None:
        super().__init__(backbone, classnames)
        self.templates = resolve_templates(templates)
        self.build_prompts(self.classnames)

    def learned(self) -> dict[str, nn.Parameter]:
        """Return an empty dictionary."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the templates."""
        return {"templates": list(self.templates)}

    def build_prompts(self, classnames: tuple[str, ...]) -> None:
        """Encode the prompts of all classes."""
        per_template = [self._encode(template, classnames) for template in self.templates]
        matrix = F.normalize(torch.stack(per_template).mean(0), dim=-1)
        self.register_buffer("matrix", matrix, persistent=False)

    def text_features(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "1 C e"]:  # noqa: ARG002
        """Return the text features, which are the same for every image."""
        return self.matrix.unsqueeze(0)

    @torch.no_grad()
    def _encode(self, template: str, names: Sequence[str]) -> Float[Tensor, "C e"]:
        tokenizer, tower = self.backbone.tokenizer, self.backbone.text_tower
        suffixes = []
        for name in names:
            tokens = text_tokens(tokenizer, template.replace("{}", clean_name(name)), name)
            check_length(name, len(tokens) + 2, tower.config.context_length)
            suffixes.append([*tokens, tokenizer.eot])
        prompts = Prompts([tokenizer.sos], suffixes, device=self.backbone.device)
        return F.normalize(tower(None, prompts)[0].float(), dim=-1)
