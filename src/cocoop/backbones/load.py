"""From the string that names a backbone to the backbone."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from cocoop.backbones import open_clip_models, openai_files, transformers_models
from cocoop.backbones.backbone import Backbone, check_precision
from cocoop.backbones.open_clip_models import OPENAI_NAMES
from cocoop.backbones.parts import Parts
from cocoop.config import Precision
from cocoop.errors import BackboneError
from cocoop.storage.hashing import hash_file

__all__ = ["SOURCES", "load_backbone"]

LITE = Path(__file__).parent / "lite"
LITE_SHA256 = "c1e01d454401854d485695197a5e43b266a5aec2661a2548a05871f1034abea0"
"""Of its weights."""


def load_backbone(name: str, *, precision: Precision = "fp32", device: str | torch.device = "cpu") -> Backbone:
    """Load the frozen model that a name stands for.

    | name | model |
    |---|---|
    | `lite` | the small one that is bundled |
    | `ViT-B/16`, `ViT-L/14@336px`, `RN50`, ... | OpenAI's CLIP, by the names of the papers |
    | `open_clip:ARCH/TAG` | weights that open_clip publishes; `@REVISION` of their repository may follow |
    | `hf-hub:ORG/NAME` | a hub repository in open_clip's format; `@REVISION` may follow |
    | `transformers:ORG/NAME` | a hub repository of a `CLIPModel`; `@REVISION` may follow |
    | `local-dir:PATH` | a folder in either format |
    | `openai:FILE.pt` | a file with OpenAI's names: their archive, or a plain state dict |

    Files are only read, never run. Loading draws no random numbers.

    Args:
        name: one of these.
        precision: number type of the frozen weights and activations.
        device: where to put them.

    Raises:
        BackboneError: if the name stands for nothing, files are missing, damaged or out of reach, the text tower is
            not causal, or the device is not there.
    """
    check_precision(precision)
    _check_device(device)
    full_name, load = _find(name)
    # A model is made with random weights before it is filled: not from the numbers that a caller's seed stands for.
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


def _bundled(name: str) -> Parts:
    """The model in the package, if it is the one that was packed."""
    weights = LITE / "open_clip_model.safetensors"
    if hash_file(weights) != LITE_SHA256:
        raise BackboneError(f"'{weights}' is damaged: it is not the file of this cocoop. Install cocoop again.")
    return open_clip_models.from_directory(LITE, name)


def _from_local_directory(path: str, name: str) -> Parts:
    """A folder in open_clip's format, or that of transformers; where it is in both, open_clip's is read."""
    directory = Path(path)
    if not directory.is_dir():
        raise BackboneError(f"There is no folder '{directory}'.")
    for library in (open_clip_models, transformers_models):
        if (directory / library.CONFIG).is_file():
            return library.from_directory(directory, name)
    raise BackboneError(
        f"'{directory}' is no model: it has neither {open_clip_models.CONFIG} (open_clip) nor "
        f"{transformers_models.CONFIG} (transformers)."
    )


def _from_openai_file(path: str, name: str) -> Parts:
    return openai_files.from_file(Path(path), name)


SOURCES: dict[str, Callable[[str, str], Parts]] = {
    "open_clip": open_clip_models.from_tag,
    "hf-hub": open_clip_models.from_hub,
    "transformers": transformers_models.from_hub,
    "local-dir": _from_local_directory,
    "openai": _from_openai_file,
}
"""What stands before the colon, and how what stands behind it is loaded; the second argument is the whole name."""

EXAMPLES = (
    "open_clip:ARCH/TAG",
    "hf-hub:ORG/NAME",
    "transformers:ORG/NAME",
    "local-dir:PATH",
    "openai:FILE.pt",
)


def _find(name: str) -> tuple[str, Callable[[], Parts]]:
    """The name by which a backbone can be loaded again, from any folder, and its loader."""
    if name == "lite":
        return name, lambda: _bundled(name)
    if name in OPENAI_NAMES:
        # By the papers' names: what they stand for has not changed since 2021.
        return name, lambda: replace(open_clip_models.from_tag(f"{OPENAI_NAMES[name]}/openai", name), repository=None)
    source, colon, identifier = name.partition(":")
    if not colon or not identifier or source not in SOURCES:
        raise BackboneError(_unknown(name))
    if source in ("local-dir", "openai"):
        identifier = str(Path(identifier).expanduser().absolute())
    full_name = f"{source}:{identifier}"
    return full_name, lambda: SOURCES[source](identifier, full_name)


def _unknown(name: str) -> str:
    """What to type instead of a name that stands for nothing."""
    known = ["lite", *OPENAI_NAMES]
    near = difflib.get_close_matches(name.casefold(), {k.casefold(): k for k in known}, n=1, cutoff=0.6)
    if name and Path(name).is_dir():
        hint = f"local-dir:{name}"
    elif Path(name).is_file():
        hint = f"openai:{name}"
    elif near:
        hint = next(k for k in known if k.casefold() == near[0])
    elif name.count("/") == 1 and ":" not in name:
        hint = f"hf-hub:{name} (open_clip) or transformers:{name}"
    else:
        return f"There is no backbone {name!r}. Use one of {', '.join([*known, *EXAMPLES])}."
    return f"There is no backbone {name!r}; did you mean {hint}? There are {', '.join([*known, *EXAMPLES])}."


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    # A build of PyTorch without the device asserts.
    except (RuntimeError, AssertionError) as error:
        raise BackboneError(f"The device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from error
