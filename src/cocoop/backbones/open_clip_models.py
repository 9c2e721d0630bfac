"""Models in open_clip's format: published weights by architecture and tag, directories, and hub repositories.

Each consists of a configuration (open_clip's `model_cfg` and `preprocess_cfg`) and a weights file.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from cocoop.backbones.hub_files import TOKENIZER_FILES, fetch, pinned, unreachable
from cocoop.backbones.key_maps import OPEN_CLIP, text_tower
from cocoop.backbones.parts import BackboneParts, unsupported
from cocoop.backbones.pickles import check_names
from cocoop.backbones.tokenizers import check_tokenizer, open_clip_tokenizer
from cocoop.backbones.weights import check_size, find_weights, read_config, weights_errors
from cocoop.config import Preprocessing
from cocoop.errors import BackboneError, one_line
from cocoop.storage.json_schema import ChannelValues, Schema, check_schema
from cocoop.text.tower import TextTowerConfig

__all__ = ["CONFIG", "OPENAI_NAMES", "build", "from_directory", "from_hub", "from_tag"]

CONFIG = "open_clip_config.json"

OPENAI_NAMES = {
    "RN50": "RN50",
    "RN101": "RN101",
    "RN50x4": "RN50x4",
    "RN50x16": "RN50x16",
    "RN50x64": "RN50x64",
    "ViT-B/32": "ViT-B-32",
    "ViT-B/16": "ViT-B-16",
    "ViT-L/14": "ViT-L-14",
    "ViT-L/14@336px": "ViT-L-14-336",
}
"""OpenAI's models: the papers' names, and open_clip's."""

HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of weights files in open_clip's repositories, in order of preference."""

OTHER_BLOCKS = (
    "ls_init_value",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
"""open_clip settings of text-tower blocks that CLIP does not have."""


def from_tag(identifier: str, model: str) -> BackboneParts:
    """Load published weights, from the cache or by download.

    Args:
        identifier: ARCH/TAG or ARCH/TAG@REVISION; ARCH may contain a slash, as in the papers.
        model: name that the user gave, for messages.

    Raises:
        BackboneError: if the weights do not exist, cannot be downloaded or cannot be used.
    """
    import open_clip

    architecture, _, tag = identifier.rpartition("/")
    tag, _, revision = tag.partition("@")
    name, architecture = f"{architecture}/{tag}", architecture.replace("/", "-")
    published = open_clip.get_pretrained_cfg(architecture, tag)
    if not published:
        raise BackboneError(_no_such_tag(architecture, tag))
    config = open_clip.get_model_config(architecture)
    # The activation depends on the weights; the name of the architecture often does not reveal it.
    config["quick_gelu"] = published.get("quick_gelu", False)
    check_text(config, model)
    weights = _published_weights(published, revision, model)
    tokenizer_directory = partial(_tokenizer_on_hub, model)
    parts = build(config, published, partial(_load, weights), tokenizer_directory, model)
    return replace(parts, repository=pinned(name, weights.parent)) if published.get("hf_hub") else parts


def from_directory(directory: Path, model: str) -> BackboneParts:
    """Load a directory with `open_clip_config.json` and weights.

    Args:
        directory: directory as open_clip saves or publishes it.
        model: name that the user gave, for messages.

    Raises:
        BackboneError: if files are missing or damaged, or the model cannot be used.
    """
    config, preprocess = _read_config(directory)
    check_text(config, model)
    weights = find_weights(directory)
    if weights is None:
        raise BackboneError(f"'{directory}' has a configuration but no weights (open_clip_model.safetensors).")
    _check_size(config, weights, directory)
    # As in open_clip, a directory has its own tokenizer, even if the configuration names a repository.
    return build(config, preprocess, partial(_load, weights), lambda _: directory, model)


def from_hub(repository: str, model: str) -> BackboneParts:
    """Load a hub repository in open_clip's format, from the cache or by download.

    Args:
        repository: ORG/NAME or ORG/NAME@REVISION.
        model: name that the user gave, for messages.

    Raises:
        BackboneError: if it does not exist, cannot be downloaded, is not an open_clip model or cannot be used.
    """
    directory = fetch(repository, [CONFIG, "config.json"], model)
    if not (directory / CONFIG).is_file():
        hint = f"; try transformers:{repository}" if (directory / "config.json").is_file() else ""
        raise BackboneError(f"The hub's {repository} is not an open_clip model: it has no {CONFIG}{hint}.")
    config, preprocess = _read_config(directory)
    check_text(config, model)
    repository = pinned(repository, directory)
    weights = _weights_on_hub(repository, HUB_WEIGHTS, model)
    _check_size(config, weights, directory)
    parts = build(config, preprocess, partial(_load, weights), partial(_tokenizer_on_hub, model), model)
    return replace(parts, repository=repository)


def check_text(config: Mapping[str, Any], model: str) -> Any:
    """Refuse a text tower that prompt learning cannot use, before any weights are read.

    Args:
        config: open_clip's `model_cfg`.
        model: name of the model, for messages.

    Returns:
        open_clip's `CLIPTextCfg`.

    Raises:
        BackboneError: with the difference, or if the configuration needs a newer open_clip.
    """
    import open_clip

    try:
        text = open_clip.CLIPTextCfg(**config["text_cfg"])
    except (KeyError, TypeError) as error:
        raise BackboneError(
            f"The configuration of {model} is damaged or needs a newer open_clip than {open_clip.version.__version__}: "
            f"{error}."
        ) from error
    others = [name for name in OTHER_BLOCKS if getattr(text, name, None)]
    reasons = {
        f"its text tower is {text.hf_model_name}, in which every token sees the whole text": text.hf_model_name,
        "it is a CoCa model, whose text feature is read at a token after the padding": (
            "multimodal_cfg" in config or text.embed_cls
        ),
        "its text tower is not causal: every token sees the whole text": text.no_causal_mask,
        f"its text feature is pooled by {text.pool_type!r}, not read at the end of the text": (
            text.pool_type not in ("argmax", "eos")
        ),
        "it adds a bias to its logits, as SigLIP does": config.get("init_logit_bias") is not None,
        f"the blocks of its text tower have {' and '.join(others)}, which CLIP does not have": others,
        f"its activation has custom settings, {text.act_kwargs}": text.act_kwargs,
        f"its layer norms have custom settings, {text.norm_kwargs}": (text.norm_kwargs or {}).keys() - {"eps"},
    }
    for reason, applies in reasons.items():
        if applies:
            raise unsupported(model, reason)
    return text


def build(
    config: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    load: Callable[[nn.Module], object],
    tokenizer_directory: Callable[[str], Path],
    model: str,
) -> BackboneParts:
    """Build a model, load its weights and split it into parts.

    Args:
        config: open_clip's `model_cfg`.
        preprocess: open_clip's `preprocess_cfg`; missing entries default to CLIP's.
        load: function that loads the weights into the model.
        tokenizer_directory: function from the name of a hub repository to a directory with its tokenizer.
        model: name of the model, for messages.

    Raises:
        BackboneError: if parts are missing, do not fit together or cannot be used.
    """
    text = check_text(config, model)
    # The tokenizer comes first, because it is small and most often missing.
    tokenizer = open_clip_tokenizer(text, tokenizer_directory, model)
    check_tokenizer(tokenizer, text.vocab_size, text.eos_id if text.pool_type == "eos" else None, model)
    network = _network(config, model)
    load(network)
    state = network.state_dict()
    return BackboneParts(
        image_tower=network.visual,
        text_tower=text_tower(
            TextTowerConfig(
                vocab_size=text.vocab_size,
                context_length=text.context_length,
                width=text.width,
                heads=text.heads,
                layers=text.layers,
                mlp_width=int(text.width * text.mlp_ratio),
                embed_dim=config["embed_dim"],
                activation="quick_gelu" if config.get("quick_gelu") else "gelu",
                layer_norm_eps=(text.norm_kwargs or {}).get("eps", 1e-5),
                projection=text.proj_type != "none",
                projection_bias=text.proj_bias,
            ),
            # open_clip keeps some text towers in a submodule.
            {name.removeprefix("text."): tensor for name, tensor in state.items()},
            OPEN_CLIP,
            model,
        ),
        tokenizer=tokenizer,
        preprocessing=_preprocessing(preprocess, network.visual.image_size, model),
        logit_scale=state["logit_scale"].item(),
    )


def _network(config: Mapping[str, Any], model: str) -> Any:
    """Build the library's model with random weights."""
    import open_clip

    settings = copy.deepcopy(dict(config))
    custom_text = settings.pop("custom_text", False)
    # All weights are loaded later, so timm need not download any.
    settings["vision_cfg"]["timm_model_pretrained"] = False
    try:
        return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**settings)
    # Each kind of tower raises errors of its own.
    except Exception as error:
        raise BackboneError(f"Could not build a model from the configuration of {model}: {one_line(error)}.") from error


def _check_size(config: Mapping[str, Any], weights: Path, directory: Path) -> None:
    towers = [(part.get("width"), part.get("layers")) for part in (config["text_cfg"], config["vision_cfg"])]
    check_size(towers, [weights], directory / CONFIG)


def _load(weights: Path, network: nn.Module) -> None:
    import open_clip

    # open_clip's own loader also reads older layouts and resizes position embeddings.
    with weights_errors(weights):
        if weights.suffix != ".safetensors":
            check_names(weights)
        open_clip.load_checkpoint(network, str(weights), weights_only=True)


def _published_weights(published: Mapping[str, Any], revision: str, model: str) -> Path:
    """Return the weights file of a tag, downloaded from the hub, or from its own URL if it is not there."""
    import open_clip

    if revision and not published.get("hf_hub"):
        raise BackboneError(
            f"The weights of {model} are not on the hub, so they have no revisions; leave @{revision} out."
        )
    if published.get("hf_hub"):
        repository, _, file = published["hf_hub"].rpartition("/")
        names = (str(Path(file).with_suffix(".safetensors")), file) if file else HUB_WEIGHTS
        return _weights_on_hub(f"{repository}@{revision}", names, model)
    try:
        return Path(open_clip.download_pretrained(dict(published)))
    except (OSError, RuntimeError) as error:
        raise unreachable(model, error) from error


def _weights_on_hub(repository: str, names: Sequence[str], model: str) -> Path:
    """Download the first of the named files that the repository has."""
    for name in names:
        path = fetch(repository, [name], model) / name
        if path.is_file():
            return path
    raise BackboneError(
        f"{model} is incomplete: the hub's {repository.partition('@')[0]} has none of {', '.join(names)}, or the hub "
        'cannot be reached. Without a network, use `backbone="lite"`.'
    )


def _no_such_tag(architecture: str, tag: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tags:
        return f"open_clip has no weights {tag!r} of {architecture}; it has {', '.join(tags)}."
    published = [f"open_clip:{name}/{other}" for name, other in open_clip.list_pretrained()]
    near = difflib.get_close_matches(f"open_clip:{architecture}/{tag}", published, n=3, cutoff=0)
    return f"open_clip has no published weights of {architecture or tag!r}; the nearest names are {', '.join(near)}."


class _Towers(Schema):
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]


class _Preprocessing(Schema):
    mean: ChannelValues | float | None = None
    std: ChannelValues | float | None = None
    interpolation: str | None = None
    resize_mode: str | None = None


class _Config(Schema):
    """Entries of a configuration that cocoop reads; open_clip checks the others."""

    model_cfg: _Towers
    preprocess_cfg: _Preprocessing | None = None


def _read_config(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    content = read_config(directory / CONFIG)
    check_schema(content, _Config, directory / CONFIG, raises=BackboneError)
    return content["model_cfg"], content.get("preprocess_cfg") or {}


def _tokenizer_on_hub(model: str, repository: str) -> Path:
    return fetch(repository, TOKENIZER_FILES, model)


def _preprocessing(preprocess: Mapping[str, Any], size: int | Sequence[int], model: str) -> Preprocessing:
    import open_clip

    height, width = (size, size) if isinstance(size, int) else size
    resize: Any = preprocess.get("resize_mode") or "shortest"
    if height != width:
        raise BackboneError(f"{model} takes images of {height} x {width} pixels; cocoop supports only square ones.")
    if resize not in ("shortest", "squash"):
        raise BackboneError(f"{model} resizes images by {resize!r}; cocoop supports 'shortest' and 'squash'.")
    return Preprocessing(
        size=height,
        mean=_rgb(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=_rgb(preprocess.get("std") or open_clip.OPENAI_DATASET_STD),
        # For models that were trained with 'random' interpolation, open_clip evaluates with bicubic.
        interpolation="bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic",
        resize=resize,
    )


def _rgb(values: float | Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (values,) * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)
