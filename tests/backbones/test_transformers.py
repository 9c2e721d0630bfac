"""Models in the format of transformers: features, tokens and preprocessing equal the library's."""

import json
import shutil
import subprocess
import sys

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TEXTS, error, image, images, save_as_published, save_transformers

import cocoop
from cocoop.backbones.tokenizers import clip_tokenizer
from cocoop.data.images import test_transform as transform_of
from cocoop.errors import BackboneError

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

PREPROCESSOR = "preprocessor_config.json"


def load(directory, **options):
    return cocoop.load_backbone(f"local-dir:{directory}", **options)


def refused(directory, message):
    with pytest.raises(BackboneError, match=message) as caught:
        load(directory)
    assert "\n" not in str(caught.value)


def edit(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, inner = key.split("__")
        place = content
        for name in outer:
            place = place[name]
        place[inner] = value
    path.write_text(json.dumps(content))


def edit_processor(directory, **changes):
    path = processor_file(directory)
    within = "image_processor__" if path.name == "processor_config.json" else ""
    edit(path, **{f"{within}{key}": value for key, value in changes.items()})


def processor_file(directory):
    """Version 5 saves all processors of a model in one file."""
    return next(path for path in directory.iterdir() if path.name in ("processor_config.json", PREPROCESSOR))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_transformers(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def backbone(saved):
    return load(saved)


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def library_features(directory):
    """Compute text and image features with the library and its tokenizer."""
    model = transformers.CLIPModel.from_pretrained(directory).float().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokens = tokenizer(list(TEXTS), padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        text = model.get_text_features(**tokens)
        image = model.get_image_features(images(32))
    # Before version 5 these were tensors.
    text, image = (getattr(features, "pooler_output", features) for features in (text, image))
    return tokens["input_ids"], text, image


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "gelu"},
        {"half": True},
        # As transformers before 4.31 wrote it: the feature is read at the highest token.
        {"eos": 2},
        {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 50, "max_position_embeddings": 77},
    ],
    ids=str,
)
def test_features_equal_those_of_the_library(options, tmp_path):
    backbone = load(save_transformers(tmp_path, **options))
    tokens, text, image = library_features(tmp_path)
    assert error(backbone.encode_text(tokens), text) < 1e-5
    assert error(text[[1, 2, 3, 0]], text) > 0.1
    assert error(backbone.encode_image(images(32)), image) < 1e-6
    assert backbone.logit_scale.item() == pytest.approx(3.21, abs=0.002)
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())


def test_repositories_in_openais_original_layout_load(tmp_path):
    """Pickled weights with position ids, end token 2, sizes as one number, and two vocabulary files."""
    backbone = load(save_as_published(tmp_path))
    tokens, text, image = library_features(tmp_path)
    assert error(backbone.encode_text(tokens), text) < 1e-5
    assert error(backbone.encode_image(images(32)), image) < 1e-6
    assert backbone.tokenizer.encode(ORDINARY[0]) == clip_tokenizer().encode(ORDINARY[0])
    found = backbone.preprocessing
    assert (found.size, found.resize, found.interpolation) == (32, "shortest", "bicubic")
    assert (found.mean, found.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_close_to_fp32(precision, backbone, saved):
    low, full = load(saved, precision=precision), backbone
    tokens = open_clip.tokenize(list(TEXTS))
    bound = 0.1 if precision == "bf16" else 0.02
    assert 0 < error(low.encode_text(tokens), full.encode_text(tokens)) < bound
    assert 0 < error(low.encode_image(images(32)), full.encode_image(images(32))) < bound


def test_pickled_weights_equal_those_of_the_library(backbone, copy):
    before = backbone.encode_text(open_clip.tokenize(list(TEXTS)))
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert torch.equal(load(copy).encode_text(open_clip.tokenize(list(TEXTS))), before)


ORDINARY = [
    "a photo of a golden retriever.",
    "A centered satellite photo of Annual Crop Land.",
    "it's 2012 BMW M3 coupe, they'll say we've won",
    "  x   y\tz\nw ",
    "café crème naïve",
    "日本語 猫",
    "привет мир",
    "🙂 smile 100% #1",
    "hello_world (v2.0): A-B/C",
    "aardvark xylophone supercalifragilisticexpialidocious",
    "İstanbul ẞ",
    "737-200",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_token_ids_equal_those_of_open_clip(text, backbone):
    tokenizer, clip = backbone.tokenizer, clip_tokenizer()
    assert tokenizer.encode(text) == clip.encode(text)
    assert (tokenizer.sos, tokenizer.eot) == (clip.sos, clip.eot) == (49406, 49407)


@pytest.mark.parametrize("text", ["don\u2019t", "AT&amp;T", "schÃ¶n", "ﬁne", "x <|endoftext|> y"])
def test_text_is_cleaned_as_by_the_library(text, backbone, saved):
    """Where the two libraries differ, each model uses its own."""
    tokenizer, clip = backbone.tokenizer, clip_tokenizer()
    library = transformers.AutoTokenizer.from_pretrained(saved)
    assert [tokenizer.sos, *tokenizer.encode(text), tokenizer.eot] == library(text)["input_ids"]
    assert tokenizer.encode(text) != clip.encode(text)


def test_long_texts_are_not_truncated_and_cause_no_warning(backbone, caplog, capfd):
    assert len(backbone.tokenizer.encode("cat " * 300)) == 300
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_methods_run_on_the_backbone(backbone, saved):
    method = cocoop.CoCoOp(backbone, ["cat", "golden retriever"])
    assert method(images(32)).shape == (3, 2)
    zero_shot = cocoop.ZeroShot(backbone, ["cat", "golden retriever"], templates=["a photo of a {}."])
    library = transformers.CLIPModel.from_pretrained(saved).float().eval()
    tokens = transformers.AutoTokenizer.from_pretrained(saved)(
        ["a photo of a cat.", "a photo of a golden retriever."], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = library(pixel_values=images(32), **tokens).logits_per_image
        assert error(zero_shot(images(32)), expected) < 1e-5


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({}, ("bicubic", "shortest")),
        ({"resample": 2}, ("bilinear", "shortest")),
        ({"size": {"height": 32, "width": 32}}, ("bicubic", "squash")),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, ("bicubic", "squash")),
    ],
    ids=str,
)
def test_preprocessing_equals_that_of_the_library(processor, expected, tmp_path):
    found = load(save_transformers(tmp_path, processor=processor)).preprocessing
    assert (found.interpolation, found.resize) == expected
    assert (found.size, found.mean) == (32, (0.4, 0.5, 0.6))
    assert found.std == pytest.approx(open_clip.OPENAI_DATASET_STD)
    ours = transform_of(found)(image(90, 70))
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path)(image(90, 70), return_tensors="pt")
    # The library scales in floating point, Pillow (and so CLIP) in steps of 1/255.
    step = 1 / 255 / min(found.std)
    assert (ours - theirs["pixel_values"][0]).abs().max() <= 1.01 * step


def test_the_pillow_processor_gives_the_same_preprocessing(backbone, saved):
    pil = getattr(transformers, "CLIPImageProcessorPil", None)
    if pil is None:
        pytest.skip("this transformers has one image processor only")
    theirs = pil.from_pretrained(saved)(image(90, 70), return_tensors="pt")["pixel_values"][0]
    ours = transform_of(backbone.preprocessing)(image(90, 70))
    assert torch.allclose(ours, torch.as_tensor(theirs), atol=1e-6)


def test_without_normalization_pixels_stay_in_0_to_1(copy):
    edit_processor(copy, do_normalize=False)
    found = load(copy).preprocessing
    assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": {"shortest_edge": 40}},
            r"resizes to .*40.* and crops to .*32.*; cocoop supports only the model's size of 32 pix",
        ),
        (
            {"crop_size": {"height": 24, "width": 24}},
            r"crops to .*24.*; cocoop supports only the model's size of 32 pixels",
        ),
        ({"do_center_crop": False}, "resizes to .*32.* and crops to None; cocoop supports only"),
        ({"do_resize": False}, "cocoop supports only the model's size of 32 pixels"),
        ({"resample": 0}, "resizes images with Pillow's filter 0, which is not supported"),
    ],
)
def test_unsupported_preprocessing_is_refused(changes, message, copy):
    edit_processor(copy, **changes)
    refused(copy, message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("siglip", "cannot be used: its text tower is not causal: every token sees the whole text.* as in ViT-B/16"),
        ("altclip", "cannot be used: its text tower is XLM-RoBERTa"),
        ("chinese_clip", "cannot be used: its text tower is BERT"),
        ("llama", r"is a model of type 'llama'; cocoop supports only CLIPModel \('clip'\) of transformers"),
        (None, "is a model of type None"),
    ],
)
def test_other_model_types_are_refused_before_weights_are_read(kind, message, saved, tmp_path):
    shutil.copy(saved / "config.json", tmp_path)
    edit(tmp_path / "config.json", model_type=kind)
    refused(tmp_path, message)


def test_siglip_is_refused(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.SiglipConfig(
        text_config={**small, "vocab_size": 100}, vision_config={**small, "image_size": 32, "patch_size": 16}
    )
    transformers.SiglipModel(config).save_pretrained(tmp_path)
    refused(tmp_path, "its text tower is not causal")


def test_unknown_activations_are_refused(copy):
    edit(copy / "config.json", text_config__hidden_act="relu")
    refused(copy, "its text tower's activation is 'relu', not GELU or QuickGELU")


def test_damaged_configurations_are_explained(copy):
    edit(copy / "config.json", text_config__hidden_size=63)
    # Early versions notice only when the model is made.
    refused(copy, r"is damaged.*(hidden size \(63\) is not a multiple|`embed_dim`: 63 and `num_heads`: 2)")


def test_the_end_token_must_be_that_of_the_tokenizer(copy):
    edit(copy / "config.json", text_config__eos_token_id=49000)
    refused(copy, "reads the text feature at token 49000, but its tokenizer ends a text with token 49407")


def test_missing_and_unexpected_weights_are_refused(copy):
    path = copy / "model.safetensors"
    state = load_file(path)
    del state["text_model.encoder.layers.1.mlp.fc1.bias"]
    save_file(state, path, metadata={"format": "pt"})
    refused(copy, "lacks weights of a CLIPModel: text_model.encoder.layers.1.mlp.fc1.bias")
    state["text_model.encoder.layers.1.mlp.fc1.bias"] = torch.zeros(96)
    state["adapter.weight"] = torch.zeros(1)
    # Files of older versions have this; it says nothing.
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, path, metadata={"format": "pt"})
    refused(copy, "has unexpected weights of a CLIPModel: adapter.weight.$")
    del state["adapter.weight"]
    save_file(state, path, metadata={"format": "pt"})
    assert load(copy).embed_dim == 48
    state["text_model.final_layer_norm.weight"] = torch.zeros(60)
    save_file(state, path, metadata={"format": "pt"})
    refused(copy, "has differently shaped weights of a CLIPModel: text_model.final_layer_norm.weight.$")


def test_missing_and_damaged_files_are_explained(copy):
    for name in ("vocab.json", "merges.txt"):
        # Early versions write these as well.
        (copy / name).unlink(missing_ok=True)
    (copy / "tokenizer.json").rename(copy / "elsewhere")
    refused(copy, "has no tokenizer: '.*' has none of tokenizer.json, vocab.json")
    (copy / "tokenizer.json").write_text("{}")
    refused(copy, "The tokenizer in '.*' is damaged")
    (copy / "elsewhere").rename(copy / "tokenizer.json")
    processor = processor_file(copy)
    processor.rename(copy / "elsewhere")
    refused(copy, "has no image preprocessing: '.*' has no readable preprocessor_config.json")
    (copy / "elsewhere").rename(processor)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(copy, "is damaged or holds another model")
    weights.unlink()
    refused(copy, r"has no weights \(model.safetensors\)")
    (copy / "config.json").write_text("[]")
    refused(copy, "config.json' must hold a JSON object, not list")


def test_loading_prints_nothing(saved, capfd, caplog):
    load(saved)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


WITHOUT_TRANSFORMERS = """
import sys
sys.modules["transformers"] = None
import cocoop
print(cocoop.load_backbone("lite").name)
for name in sys.argv[1:]:
    try:
        cocoop.load_backbone(name)
    except cocoop.BackboneError as error:
        print(error)
"""


def test_without_transformers_the_message_says_how_to_install_it(saved):
    """Everything else works."""
    names = [f"local-dir:{saved}", "transformers:org/name"]
    run = subprocess.run([sys.executable, "-c", WITHOUT_TRANSFORMERS, *names], capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "lite",
        *(
            f"{name} needs the library transformers, which is not installed: pip install 'cocoop[transformers]'"
            for name in names
        ),
    ], run.stderr
