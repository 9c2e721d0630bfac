"""Models in the format of Hugging Face's transformers: directories saved by `CLIPModel`, and hub repositories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cocoop.backbones.hub_files import TOKENIZER_FILES, fetch, pinned
from cocoop.backbones.key_maps import TRANSFORMERS, text_tower
from cocoop.backbones.parts import BackboneParts, unsupported
from cocoop.backbones.pickles import check_names
from cocoop.backbones.tokenizers import TransformersTokenizer, check_tokenizer
from cocoop.backbones.transformers_import import import_transformers, quiet
from cocoop.backbones.weights import check_size, read_config, weights_errors
from cocoop.config import Preprocessing
from cocoop.errors import BackboneError, one_line
from cocoop.text.tower import TextTowerConfig

__all__ = ["CONFIG", "from_directory", "from_hub"]

CONFIG = "config.json"

OTHER_KINDS = {
    "siglip": "its text tower is not causal: every token sees the whole text",
    "siglip2": "its text tower is not causal: every token sees the whole text",
    "align": "its text tower is BERT, in which every token sees the whole text",
    "altclip": "its text tower is XLM-RoBERTa, in which every token sees the whole text",
    "chinese_clip": "its text tower is BERT, in which every token sees the whole text",
    "blip": "its text tower is BERT, in which every token sees the whole text",
    "flava": "its text tower is BERT, in which every token sees the whole text",
}
"""Reasons to refuse model types other than `clip`."""

BICUBIC, BILINEAR = 3, 2
"""Pillow's codes of the two interpolations."""


class ImageTower(nn.Module):
    """Image tower of a `CLIPModel`: its transformer and projection.

    Args:
        network: the `CLIPModel`.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.vision_model = network.vision_model
        self.visual_projection = network.visual_projection

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B e"]:
        """Return image features before normalization."""
        features: Tensor = self.visual_projection(self.vision_model(pixel_values=images).pooler_output)
        return features


def from_hub(repository: str, model: str) -> BackboneParts:
    """Load a hub repository in the format of transformers, from the cache or by download.

    Args:
        repository: ORG/NAME or ORG/NAME@REVISION.
        model: name that the user gave, for messages.

    Raises:
        BackboneError: if it does not exist, cannot be downloaded or cannot be used.
    """
    import_transformers(model)
    directory = fetch(repository, [CONFIG, "*processor_config.json", *TOKENIZER_FILES], model)
    if not (directory / CONFIG).is_file():
        raise BackboneError(f"The hub's {repository} is not a transformers model: it has no {CONFIG}.")
    _check_kind(read_config(directory / CONFIG), model)
    repository = pinned(repository, directory)
    for patterns in (["model.safetensors", "model-*.safetensors", "model.safetensors.index.json"], ["pytorch_model*"]):
        fetch(repository, patterns, model)
        if _has_weights(directory):
            break
    return replace(from_directory(directory, model), repository=repository)


def from_directory(directory: Path, model: str) -> BackboneParts:
    """Load a directory with the model, its tokenizer and its image processor.

    Args:
        directory: written by `save_pretrained` of `CLIPModel` and `CLIPProcessor`.
        model: name that the user gave, for messages.

    Raises:
        BackboneError: if transformers is not installed, files are missing or damaged, or the model cannot be used.
    """
    transformers = import_transformers(model)
    _check_kind(read_config(directory / CONFIG), model)
    if not _has_weights(directory):
        raise BackboneError(
            f"'{directory}' has no weights (model.safetensors), or the repository is only partly cached."
        )
    config = _config(transformers, directory)
    text = config.text_config
    if text.hidden_act not in ("gelu", "quick_gelu"):
        raise unsupported(model, f"its text tower's activation is {text.hidden_act!r}, not GELU or QuickGELU")
    with quiet(transformers):
        tokenizer = TransformersTokenizer(directory, model)
        preprocessing = _preprocessing(directory, config.vision_config.image_size, model)
    # transformers before 4.31 stored 2 as the id of EOT, but read the text feature at the highest token.
    check_tokenizer(tokenizer, text.vocab_size, None if text.eos_token_id == 2 else text.eos_token_id, model)
    widths = [(part.hidden_size, part.num_hidden_layers) for part in (text, config.vision_config)]
    check_size(widths, [*directory.glob("*.safetensors"), *directory.glob("*.bin")], directory / CONFIG)
    network = _network(transformers, directory)
    tower = text_tower(
        TextTowerConfig(
            vocab_size=text.vocab_size,
            context_length=text.max_position_embeddings,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            layers=text.num_hidden_layers,
            mlp_width=text.intermediate_size,
            embed_dim=config.projection_dim,
            activation=text.hidden_act,
            layer_norm_eps=text.layer_norm_eps,
        ),
        network.state_dict(),
        TRANSFORMERS,
        model,
    )
    return BackboneParts(
        image_tower=ImageTower(network),
        text_tower=tower,
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        logit_scale=network.logit_scale.item(),
    )


def _check_kind(config: dict[str, Any], model: str) -> None:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in OTHER_KINDS:
        raise unsupported(model, OTHER_KINDS[kind])
    if kind != "clip":
        raise BackboneError(
            f"{model} is a model of type {kind!r}; cocoop supports only CLIPModel ('clip') of transformers."
        )


def _has_weights(directory: Path) -> bool:
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any((directory / name).is_file() for name in names)


def _config(transformers: Any, directory: Path) -> Any:
    try:
        with quiet(transformers):
            return transformers.CLIPConfig.from_pretrained(str(directory))
    # Each version raises errors of its own.
    except Exception as error:
        raise BackboneError(f"'{directory / CONFIG}' is damaged: {one_line(error)}.") from error


def _network(transformers: Any, directory: Path) -> Any:
    """Load the library's model; missing, unexpected or misshapen weights are errors."""
    with quiet(transformers), weights_errors(directory):
        for file in directory.glob("*.bin"):
            check_names(file)
        network, loading = transformers.CLIPModel.from_pretrained(
            str(directory), local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    faults = {
        "lacks": loading["missing_keys"],
        "has unexpected": loading["unexpected_keys"],
        "has differently shaped": [name for name, *_ in loading["mismatched_keys"]],
    }
    for fault, names in faults.items():
        names = sorted(name for name in names if not name.endswith("position_ids"))
        if names:
            raise BackboneError(f"'{directory}' {fault} weights of a CLIPModel: {', '.join(names[:3])}.")
    return network


def _preprocessing(directory: Path, image_size: int, model: str) -> Preprocessing:
    """Translate the settings of the image processor."""
    import transformers

    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"{model} has no image preprocessing: '{directory}' has no readable preprocessor_config.json."
        ) from error
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    shortest = size.get("shortest_edge")
    squash = shortest is None and size.get("height") == size.get("width") == image_size
    cropped = crop is None or crop.get("height") == crop.get("width") == image_size
    fits = (shortest == image_size and crop is not None) or squash
    if not (processor.do_resize and processor.do_rescale and fits and cropped):
        raise BackboneError(
            f"The image processor of {model} resizes to {dict(size)} and crops to {crop and dict(crop)}; cocoop "
            f"supports only the model's size of {image_size} pixels."
        )
    if processor.resample not in (BICUBIC, BILINEAR):
        raise BackboneError(
            f"{model} resizes images with Pillow's filter {processor.resample}, which is not supported."
        )
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else plain
    return Preprocessing(
        size=image_size,
        mean=tuple(mean),
        std=tuple(std),
        interpolation="bicubic" if processor.resample == BICUBIC else "bilinear",
        resize="squash" if squash else "shortest",
    )
