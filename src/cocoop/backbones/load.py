"""Load a backbone by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from cocoop.backbones import open_clip_models, openai_files, transformers_models
from cocoop.backbones.backbone import Backbone, check_precision
from cocoop.backbones.open_clip_models import OPENAI_NAMES
from cocoop.backbones.parts import BackboneParts
from cocoop.config import Precision
from cocoop.errors import BackboneError
from cocoop.storage.hashing import hash_file

__all__ = ["SOURCES", "load_backbone"]

LITE = Path(__file__).parent / "lite"
LITE_SHA256 = "c1e01d454401854d485695197a5e43b266a5aec2661a2548a05871f1034abea0"
"""SHA-256 of the bundled weights."""


def load_backbone(name: str, *, precision: Precision = "fp32", device: str | torch.device = "cpu") -> Backbone:
    """Load a frozen backbone.

    | name | model |
    |---|---|
    | `lite` | the small bundled model |
    | `ViT-B/16`, `ViT-L/14@336px`, `RN50`, ... | OpenAI's CLIP, by the papers' names |
    | `open_clip:ARCH/TAG` | weights published by open_clip; `@REVISION` may follow |
    | `hf-hub:ORG/NAME` | a hub repository in open_clip's format; `@REVISION` may follow |
    | `transformers:ORG/NAME` | a hub repository of a `CLIPModel`; `@REVISION` may follow |
    | `local-dir:PATH` | a directory in either format |
    | `openai:FILE.pt` | a file with OpenAI's parameter names: their archive, or a plain state dict |

    Nothing in a file is executed, and the global random state is unchanged.

    Args:
        name: a name from the table.
        precision: data type of the frozen weights and activations.
        device: device of the weights.

    Returns:
        The backbone, in eval mode.

    Raises:
        BackboneError: for an unknown name, files that are missing, damaged or cannot be downloaded, a text tower that
            is not causal, or a missing device.

    Example:
        ```python
        import cocoop

        backbone = cocoop.load_backbone("lite")
        print(backbone.name, backbone.embed_dim)
        ```
    """
    check_precision(precision)
    _check_device(device)
    full_name, load = _find(name)
    # Libraries initialize models at random before they load weights; that must not change the caller's random state.
    with torch.random.fork_rng(devices=[]):
        parts = load()
        backbone = Backbone(
            name=full_name if parts.repository is None else f"{full_name.partition(':')[0]}:{parts.repository}",
            image_tower=parts.image_tower,
            text_tower=parts.text_tower,
            tokenizer=parts.tokenizer,
            preprocessing=parts.preprocessing,
            logit_scale=parts.logit_scale,
            precision=precision,
        )
    return backbone.to(device)


def _bundled(name: str) -> BackboneParts:
    """Load the bundled model."""
    weights = LITE / "open_clip_model.safetensors"
    if hash_file(weights) != LITE_SHA256:
        raise BackboneError(f"'{weights}' is damaged; install cocoop again.")
    return open_clip_models.from_directory(LITE, name)


def _from_local_directory(path: str, name: str) -> BackboneParts:
    """Load a directory in the format of open_clip or transformers; open_clip takes precedence if both are present."""
    directory = Path(path)
    if not directory.is_dir():
        raise BackboneError(f"The directory '{directory}' does not exist.")
    for library in (open_clip_models, transformers_models):
        if (directory / library.CONFIG).is_file():
            return library.from_directory(directory, name)
    raise BackboneError(
        f"'{directory}' is not a model: it has neither {open_clip_models.CONFIG} (open_clip) nor "
        f"{transformers_models.CONFIG} (transformers)."
    )


def _from_openai_file(path: str, name: str) -> BackboneParts:
    return openai_files.from_file(Path(path), name)


SOURCES: dict[str, Callable[[str, str], BackboneParts]] = {
    "open_clip": open_clip_models.from_tag,
    "hf-hub": open_clip_models.from_hub,
    "transformers": transformers_models.from_hub,
    "local-dir": _from_local_directory,
    "openai": _from_openai_file,
}
"""Loaders by the prefix of a name; arguments: the text after the colon, and the full name for messages."""

EXAMPLES = (
    "open_clip:ARCH/TAG",
    "hf-hub:ORG/NAME",
    "transformers:ORG/NAME",
    "local-dir:PATH",
    "openai:FILE.pt",
)


def _find(name: str) -> tuple[str, Callable[[], BackboneParts]]:
    """Return the full name of a backbone, which works from any directory, and its loader."""
    if name == "lite":
        return name, lambda: _bundled(name)
    if name in OPENAI_NAMES:
        # The papers' names need no revision: their weights have not changed since 2021.
        return name, lambda: replace(open_clip_models.from_tag(f"{OPENAI_NAMES[name]}/openai", name), repository=None)
    source, colon, identifier = name.partition(":")
    if not colon or not identifier or source not in SOURCES:
        raise BackboneError(_unknown_name(name))
    if source in ("local-dir", "openai"):
        identifier = str(Path(identifier).expanduser().absolute())
    full_name = f"{source}:{identifier}"
    return full_name, lambda: SOURCES[source](identifier, full_name)


def _unknown_name(name: str) -> str:
    """Return the message for an unknown name, with a suggestion."""
    names = ["lite", *OPENAI_NAMES]
    near = difflib.get_close_matches(name.casefold(), {k.casefold(): k for k in names}, n=1, cutoff=0.6)
    if name and Path(name).is_dir():
        hint = f"local-dir:{name}"
    elif Path(name).is_file():
        hint = f"openai:{name}"
    elif near:
        hint = next(k for k in names if k.casefold() == near[0])
    elif name.count("/") == 1 and ":" not in name:
        hint = f"hf-hub:{name} (open_clip) or transformers:{name}"
    else:
        return f"There is no backbone {name!r}. Use one of {', '.join([*names, *EXAMPLES])}."
    return f"There is no backbone {name!r}; did you mean {hint}? Choose from {', '.join([*names, *EXAMPLES])}."


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    # PyTorch builds without the device raise AssertionError.
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"The device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
