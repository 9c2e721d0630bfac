"""Models of open_clip: published weights by architecture and tag, folders, and hub repositories.

All come down to a configuration (open_clip's `model_cfg` and `preprocess_cfg`) and a file of weights.
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
from cocoop.backbones.parts import Parts, refusal
from cocoop.backbones.pickles import check_names
from cocoop.backbones.tokenizers import check_tokenizer, open_clip_tokenizer
from cocoop.backbones.weights import check_size, find_weights, read_config, readable
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
"""The models that OpenAI published, by the names of the papers, and what open_clip calls them."""

HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of weights in open_clip's repositories, the best first."""

OTHER_BLOCKS = (
    "ls_init_value",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn_inner",
    "scale_attn",
    "scale_fc",
)
"""Settings of open_clip by which a text tower's blocks are not CLIP's."""


def from_tag(identifier: str, model: str) -> Parts:
    """Published weights, downloaded unless they are cached.

    Args:
        identifier: ARCH/TAG or ARCH/TAG@REVISION; ARCH may be written as in the papers, with a slash.
        model: the name that the user typed, for messages.

    Raises:
        BackboneError: if there are no such weights, they cannot be downloaded, or cannot be used.
    """
    import open_clip

    architecture, _, tag = identifier.rpartition("/")
    tag, _, revision = tag.partition("@")
    named, architecture = f"{architecture}/{tag}", architecture.replace("/", "-")
    published = open_clip.get_pretrained_cfg(architecture, tag)
    if not published:
        raise BackboneError(_no_such_tag(architecture, tag))
    config = open_clip.get_model_config(architecture)
    # The weights know which activation they were trained with; the architecture's name often does not say it.
    config["quick_gelu"] = published.get("quick_gelu", False)
    check_text(config, model)
    weights = _published_weights(published, revision, model)
    tokenizer_directory = partial(_tokenizer_on_hub, model)
    parts = build(config, published, partial(_load, weights), tokenizer_directory, model)
    return replace(parts, repository=pinned(named, weights.parent)) if published.get("hf_hub") else parts


def from_directory(directory: Path, model: str) -> Parts:
    """A folder with `open_clip_config.json` and weights.

    Args:
        folder: as open_clip saves or publishes it.
        model: the name that the user typed, for messages.

    Raises:
        BackboneError: if files are missing or damaged, or the model cannot be used.
    """
    config, preprocess = _read_config(directory)
    check_text(config, model)
    weights = find_weights(directory)
    if weights is None:
        raise BackboneError(f"'{directory}' has a configuration, but no weights (open_clip_model.safetensors).")
    _check_size(config, weights, directory)
    # As in open_clip, a folder brings its own tokenizer, whatever repository the configuration names.
    return build(config, preprocess, partial(_load, weights), lambda _: directory, model)


def from_hub(repository: str, model: str) -> Parts:
    """A hub repository in open_clip's format, downloaded unless it is cached.

    Args:
        repository: ORG/NAME, with @REVISION or without.
        model: the name that the user typed, for messages.

    Raises:
        BackboneError: if it cannot be found or reached, is no open_clip model, or cannot be used.
    """
    directory = fetch(repository, [CONFIG, "config.json"], model)
    if not (directory / CONFIG).is_file():
        hint = f"; try transformers:{repository}" if (directory / "config.json").is_file() else ""
        raise BackboneError(f"The hub's {repository} is no open_clip model: it has no {CONFIG}{hint}.")
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
        model: the model's name, for messages.

    Returns:
        open_clip's `CLIPTextCfg`.

    Raises:
        BackboneError: saying what is different, or that the configuration is of a newer open_clip.
    """
    import open_clip

    try:
        text = open_clip.CLIPTextCfg(**config["text_cfg"])
    except (KeyError, TypeError) as error:
        raise BackboneError(
            f"The configuration of {model} is damaged, or for a newer open_clip than {open_clip.version.__version__}: "
            f"{error}."
        ) from error
    others = [name for name in OTHER_BLOCKS if getattr(text, name, None)]
    reasons = {
        f"its text tower is {text.hf_model_name}, in which every token sees the whole text": text.hf_model_name,
        "it is a CoCa model, whose text feature is read at a token behind the padding": (
            "multimodal_cfg" in config or text.embed_cls
        ),
        "its text tower is not causal: every token sees the whole text": text.no_causal_mask,
        f"its text feature is pooled by {text.pool_type!r}, not read at the end of the text": (
            text.pool_type not in ("argmax", "eos")
        ),
        "it adds a bias to its logits, as SigLIP does": config.get("init_logit_bias") is not None,
        f"the blocks of its text tower have {' and '.join(others)}, which CLIP's have not": others,
        f"its activation has settings of its own, {text.act_kwargs}": text.act_kwargs,
        f"its layer norms have settings of their own, {text.norm_kwargs}": (text.norm_kwargs or {}).keys() - {"eps"},
    }
    for reason, applies in reasons.items():
        if applies:
            raise refusal(model, reason)
    return text


def build(
    config: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    load: Callable[[nn.Module], object],
    tokenizer_directory: Callable[[str], Path],
    model: str,
) -> Parts:
    """Make a model, fill it and take it apart.

    Args:
        config: open_clip's `model_cfg`.
        preprocess: open_clip's `preprocess_cfg`; what it leaves out is as in CLIP.
        load: fills the model with weights.
        tokenizer_folder: from the name of a hub repository to a folder with its tokenizer.
        model: the model's name, for messages.

    Raises:
        BackboneError: if pieces are missing, do not fit together or cannot be used.
    """
    text = check_text(config, model)
    # The tokenizer first: it is small, and often what is missing.
    tokenizer = open_clip_tokenizer(text, tokenizer_directory, model)
    check_tokenizer(tokenizer, text.vocab_size, text.eos_id if text.pool_type == "eos" else None, model)
    network = _network(config, model)
    load(network)
    state = network.state_dict()
    return Parts(
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
            # open_clip keeps some text towers in a module of their own.
            {name.removeprefix("text."): tensor for name, tensor in state.items()},
            OPEN_CLIP,
            model,
        ),
        tokenizer=tokenizer,
        preprocessing=_preprocessing(preprocess, network.visual.image_size, model),
        logit_scale=state["logit_scale"].item(),
    )


def _network(config: Mapping[str, Any], model: str) -> Any:
    """The library's model, with random weights."""
    import open_clip

    settings = copy.deepcopy(dict(config))
    custom_text = settings.pop("custom_text", False)
    # The weights follow; those that the image tower could begin from would be downloaded in vain.
    settings["vision_cfg"]["timm_model_pretrained"] = False
    try:
        return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**settings)
    # Every kind of tower checks settings in its own way, with errors that have nothing in common.
    except Exception as error:
        raise BackboneError(f"Could not build a model from the configuration of {model}: {one_line(error)}.") from error


def _check_size(config: Mapping[str, Any], weights: Path, directory: Path) -> None:
    towers = [(part.get("width"), part.get("layers")) for part in (config["text_cfg"], config["vision_cfg"])]
    check_size(towers, [weights], directory / CONFIG)


def _load(weights: Path, network: nn.Module) -> None:
    import open_clip

    # open_clip's own reader also knows older layouts, and fits positions to another image size.
    with readable(weights):
        if weights.suffix != ".safetensors":
            check_names(weights)
        open_clip.load_checkpoint(network, str(weights), weights_only=True)


def _published_weights(published: Mapping[str, Any], revision: str, model: str) -> Path:
    """The file of a tag, from the hub where it is there as well as at an address of its own."""
    import open_clip

    if revision and not published.get("hf_hub"):
        raise BackboneError(f"The weights of {model} lie at an address of their own, without revisions; leave it out.")
    if published.get("hf_hub"):
        repository, _, file = published["hf_hub"].rpartition("/")
        names = (str(Path(file).with_suffix(".safetensors")), file) if file else HUB_WEIGHTS
        return _weights_on_hub(f"{repository}@{revision}", names, model)
    try:
        return Path(open_clip.download_pretrained(dict(published)))
    except (OSError, RuntimeError) as error:
        raise unreachable(model, error) from error


def _weights_on_hub(repository: str, names: Sequence[str], model: str) -> Path:
    """The first of several files that a repository has; the others are not downloaded."""
    for name in names:
        path = fetch(repository, [name], model) / name
        if path.is_file():
            return path
    raise BackboneError(
        f"{model} is not whole: the hub's {repository.partition('@')[0]} has none of {', '.join(names)}, or it is not "
        "cached and the hub cannot be reached. Without a network: --backbone lite"
    )


def _no_such_tag(architecture: str, tag: str) -> str:
    import open_clip

    known = open_clip.list_pretrained_tags_by_model(architecture)
    if known:
        return f"open_clip has no weights {tag!r} of {architecture}; it has {', '.join(known)}."
    published = [f"open_clip:{name}/{known}" for name, known in open_clip.list_pretrained()]
    near = difflib.get_close_matches(f"open_clip:{architecture}/{tag}", published, n=3, cutoff=0)
    return f"open_clip publishes no weights of {architecture or tag!r}; the nearest names are {', '.join(near)}."


class _Towers(Schema):
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]


class _Preprocessing(Schema):
    mean: ChannelValues | float | None = None
    std: ChannelValues | float | None = None
    interpolation: str | None = None
    resize_mode: str | None = None


class _Config(Schema):
    """What of a configuration is used here; open_clip itself reads the rest."""

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
        raise BackboneError(f"{model} takes images of {height} x {width} pixels; cocoop makes square ones only.")
    if resize not in ("shortest", "squash"):
        raise BackboneError(f"{model} wants images resized by {resize!r}; cocoop knows 'shortest' and 'squash'.")
    return Preprocessing(
        size=height,
        mean=_three(preprocess.get("mean") or open_clip.OPENAI_DATASET_MEAN),
        std=_three(preprocess.get("std") or open_clip.OPENAI_DATASET_STD),
        # 'random' is for training; open_clip tests such models with bicubic.
        interpolation="bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic",
        resize=resize,
    )


def _three(values: float | Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (values,) * 3 if isinstance(values, int | float) else values
    return float(red), float(green), float(blue)
