"""Tiny models with random weights, in the formats in which libraries write the real ones."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import nn

TEXTS = (
    "a photo of a cat.",
    "a photo of a dog.",
    "X",
    "a satellite photo of an annual crop land, seen from far above, with two roads and a river between the fields.",
)

VIT = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "image_size": 32}
TEXT = {"width": 64, "heads": 2, "layers": 2}
CONFIGS = {
    "vit": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit_quick_gelu": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "resnet": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": TEXT},
    "timm": {
        "embed_dim": 48,
        "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_proj_bias": True, "image_size": 64},
        "text_cfg": TEXT,
    },
    "custom_text": {"embed_dim": 48, "custom_text": True, "vision_cfg": VIT, "text_cfg": TEXT},
    # What seldom differs from CLIP: all of it at once.
    "unusual_text": {
        "embed_dim": 48,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": {
            "width": 60,
            "heads": 5,
            "layers": 1,
            "mlp_ratio": 2.51,
            "context_length": 40,
            "vocab_size": 49500,
            "proj_bias": True,
            "norm_kwargs": {"eps": 0.2},
        },
    },
    "no_projection": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "proj_type": "none"},
    },
}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights large enough for every one of them to matter, also the moving averages of batch norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or name in ("logit_scale", "attn_mask"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.5 * noise.abs())
            elif tensor.ndim <= 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.2 * noise)
            else:
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
                tensor.copy_(noise * (0.3 if "embedding" in name else fan_in**-0.5))
        for name, tensor in module.state_dict().items():
            if name == "logit_scale":
                tensor.fill_(3.21)
    return module


def open_clip_model(kind: str, seed: int = 0) -> nn.Module:
    config = json.loads(json.dumps(CONFIGS[kind]))
    make = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return randomise(make(**config), seed).eval()


def save_open_clip(
    directory: Path, kind: str, *, files: bool | str = True, half: bool = False, preprocess: dict | None = None
) -> Path:
    """A folder as open_clip's own `save_for_hf` writes it before it is pushed to the hub."""
    from open_clip.push_to_hf_hub import save_for_hf

    model = open_clip_model(kind)
    wanted = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), **(preprocess or {})}
    open_clip.set_model_preprocess_cfg(model, wanted)

    class NoTokenizer:
        """CLIP's vocabulary is part of open_clip; the file that goes along is for transformers."""

        def save_pretrained(self, directory: Path) -> None:
            (directory / "README.md").write_text("a tiny model\n")

    save_for_hf(model.half() if half else model, NoTokenizer(), CONFIGS[kind], directory, safe_serialization=files)
    return directory


def openai_model(kind: str, *, half: bool = True) -> nn.Module:
    """A model as OpenAI's code makes it: heads of 64, QuickGELU, the mask no part of the state."""
    vision = {
        "vit": {"layers": 2, "width": 128, "patch_size": 16, "image_size": 48},
        "resnet": {"layers": [1, 2, 1, 1], "width": 16, "image_size": 64},
    }
    text = {"width": 128, "heads": 2, "layers": 3, "vocab_size": 49408, "context_length": 77}
    model = open_clip.CLIP(embed_dim=56, quick_gelu=True, vision_cfg=vision[kind], text_cfg=text)
    randomise(model, seed=3)
    if half:
        # OpenAI stores matrices in fp16 and the rest in fp32.
        open_clip.convert_weights_to_fp16(model)
    return model.float().eval() if not half else model.eval()


def save_openai_archive(path: Path, model: nn.Module) -> Path:
    """A TorchScript archive with the entries of OpenAI's."""
    size, context_length, vocab_size = model.visual.image_size, model.context_length, model.vocab_size
    size = size if isinstance(size, int) else size[0]
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    mask = model._buffers.pop("attn_mask")
    model.attn_mask = mask
    del model.context_length, model.vocab_size
    for name, value in (("input_resolution", size), ("context_length", context_length), ("vocab_size", vocab_size)):
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        # Scripts are on their way out of PyTorch; OpenAI's files remain.
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, size, size), torch.zeros(1, context_length, dtype=torch.long)
        script = torch.jit.trace(model.float(), example, check_trace=False)
        for name, parameter in script.named_parameters():
            parameter.data = parameter.data.to(dtypes[name])
        torch.jit.save(script, path)
    return path


def with_pickle(archive: Path, target: Path, content: bytes) -> Path:
    """The same archive with another tree of modules."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("/data.pkl") else old.read(name))
    return target


class Intruder:
    """What runs when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def intruding_pickle(trace: Path) -> bytes:
    buffer = io.BytesIO()
    pickle.dump({"text_projection": Intruder(trace)}, buffer, protocol=2)
    return buffer.getvalue()


def save_transformers(
    directory: Path,
    *,
    activation: str = "quick_gelu",
    eos: int = 49407,
    half: bool = False,
    processor: dict | None = None,
    **text: object,
) -> Path:
    """A folder as transformers' own `save_pretrained` of model and processor writes it."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = CLIPConfig(
        text_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "hidden_act": activation,
            "layer_norm_eps": 0.01,
            "eos_token_id": eos,
            **text,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=48,
    )
    model = randomise(CLIPModel(config), seed=5)
    (model.half() if half else model).save_pretrained(directory)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    images = CLIPImageProcessor(**{**size, "image_mean": [0.4, 0.5, 0.6], **(processor or {})})
    with TemporaryDirectory() as vocabulary:
        tokenizer = AutoTokenizer.from_pretrained(save_vocabulary(Path(vocabulary)))
        CLIPProcessor(images, tokenizer).save_pretrained(directory)
    return directory


def save_as_published(directory: Path) -> Path:
    """A folder laid out as OpenAI's repositories on the hub are, written by the transformers of 2021 and 2022."""
    from safetensors.torch import load_file

    save_transformers(directory, eos=2)
    state = load_file(directory / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, directory / "pytorch_model.bin")
    for name in ("model.safetensors", "tokenizer.json", "processor_config.json"):
        (directory / name).unlink(missing_ok=True)
    save_vocabulary(directory)
    old = {"crop_size": 32, "size": 32, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    steps = {"do_center_crop": True, "do_normalize": True, "do_resize": True}
    colours = {"image_mean": list(open_clip.OPENAI_DATASET_MEAN), "image_std": list(open_clip.OPENAI_DATASET_STD)}
    (directory / "preprocessor_config.json").write_text(json.dumps({**old, **steps, **colours}))
    return directory


def save_vocabulary(directory: Path) -> Path:
    """CLIP's vocabulary in the files that the first CLIPTokenizer had."""
    library = open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in library.encoder.items()}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(" ".join(pair) for pair in library.bpe_ranks)
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    around = {"bos_token": "<|startoftext|>", **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **around}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def image(width: int = 90, height: int = 70) -> Image.Image:
    """A picture in which every pixel differs from its neighbours."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def images(size: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over largest entry."""
    theirs = theirs.float()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
