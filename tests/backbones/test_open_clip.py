"""Models in open_clip's format: features equal open_clip's, and unsupported models are refused with a reason."""

import json
import re
import shutil

import open_clip
import pytest
import torch
from tiny_models import (
    CONFIGS,
    TEXT,
    TEXTS,
    VIT,
    Intruder,
    error,
    image,
    images,
    open_clip_model,
    save_open_clip,
    save_transformers,
)

import cocoop
from cocoop.backbones.open_clip_models import check_text
from cocoop.data.images import test_transform as transform_of
from cocoop.errors import BackboneError

pytestmark = pytest.mark.usefixtures("one_thread")


def load(directory, **options):
    return cocoop.load_backbone(f"local-dir:{directory}", **options)


def refused(directory, message, **options):
    with pytest.raises(BackboneError, match=message) as caught:
        load(directory, **options)
    assert "\n" not in str(caught.value)


def edit(directory, **changes):
    """Change entries of `model_cfg`; `a__b` is entry b of entry a."""
    path = directory / "open_clip_config.json"
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *outer, inner = key.split("__")
        place = content["model_cfg"]
        for name in outer:
            place = place[name]
        place[inner] = value
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def vit_directory(tmp_path_factory):
    return save_open_clip(tmp_path_factory.mktemp("vit"), "vit")


@pytest.mark.parametrize("kind", CONFIGS)
def test_features_equal_those_of_the_library(kind, tmp_path):
    backbone = load(save_open_clip(tmp_path, kind))
    library, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    library.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(list(TEXTS))
    with torch.no_grad():
        theirs = library.encode_text(tokens)
        assert error(backbone.encode_text(tokens), theirs) < 1e-5
        # Texts differ enough for this to say something.
        assert error(theirs[[1, 2, 3, 0]], theirs) > 0.1
        size = backbone.preprocessing.size
        assert torch.equal(backbone.encode_image(images(size)), library.encode_image(images(size)))
    assert torch.equal(transform_of(backbone.preprocessing)(image()), transform(image()))
    assert backbone.logit_scale.item() == pytest.approx(3.21)
    assert backbone.embed_dim == CONFIGS[kind]["embed_dim"]
    assert backbone.name == f"local-dir:{tmp_path}"


def test_activations_give_different_features(tmp_path):
    """Otherwise the comparison above could not tell them apart."""
    plain, quick = (open_clip_model(kind) for kind in ("vit", "vit_quick_gelu"))
    tokens = open_clip.tokenize(list(TEXTS))
    with torch.no_grad():
        assert error(plain.encode_text(tokens), quick.encode_text(tokens)) > 1e-3


@pytest.mark.parametrize("files", [True, False, "both"])
@pytest.mark.parametrize("half", [False, True])
def test_weights_load_from_safetensors_and_pickles_in_any_data_type(files, half, tmp_path):
    directory = save_open_clip(tmp_path, "vit", files=files, half=half)
    assert len(list(directory.glob("open_clip_*model.*"))) == (2 if files == "both" else 1)
    backbone = load(directory)
    expected = open_clip_model("vit")
    if half:
        expected.half().float()
    assert all(p.dtype == torch.float32 for p in backbone.parameters())
    tokens = open_clip.tokenize(list(TEXTS))
    with torch.no_grad():
        assert error(backbone.encode_text(tokens), expected.encode_text(tokens)) < 1e-5
        assert torch.equal(backbone.encode_image(images(32)), expected.encode_image(images(32)))


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_close_to_fp32(kind, precision, tmp_path):
    directory = save_open_clip(tmp_path, kind)
    low, full = load(directory, precision=precision), load(directory)
    assert next(low.text_tower.parameters()).dtype == next(low.image_tower.parameters()).dtype != torch.float32
    tokens = open_clip.tokenize(list(TEXTS))
    size = low.preprocessing.size
    for ours, exact in (
        (low.encode_text(tokens), full.encode_text(tokens)),
        (low.encode_image(images(size)), full.encode_image(images(size))),
    ):
        assert ours.dtype == torch.float32
        assert 0 < error(ours, exact) < (0.1 if precision == "bf16" else 0.02)


def test_loaded_models_are_frozen_and_in_eval_mode(tmp_path):
    backbone = load(save_open_clip(tmp_path, "resnet"))
    before = backbone.encode_image(images(32))
    backbone.train()
    assert torch.equal(backbone.encode_image(images(32)), before)
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_loading_keeps_the_random_state(vit_directory):
    torch.manual_seed(5)
    load(vit_directory)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_relative_directories_load_from_another_working_directory(vit_directory, monkeypatch):
    monkeypatch.chdir(vit_directory.parent)
    name = cocoop.load_backbone(f"local-dir:{vit_directory.name}").name
    monkeypatch.chdir("/")
    assert cocoop.load_backbone(name).name == name == f"local-dir:{vit_directory}"


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        ({}, ("bicubic", "shortest")),
        ({"interpolation": "bilinear", "resize_mode": "squash"}, ("bilinear", "squash")),
        ({"interpolation": "random"}, ("bicubic", "shortest")),
    ],
)
def test_preprocessing_equals_that_of_the_library(preprocess, expected, tmp_path):
    directory = save_open_clip(tmp_path, "vit", preprocess=preprocess)
    found = load(directory).preprocessing
    assert (found.interpolation, found.resize) == expected
    assert (found.size, found.mean, found.std) == (32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    assert torch.equal(transform_of(found)(image()), transform(image()))


def test_missing_preprocessing_defaults_to_clip(vit_directory, tmp_path):
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    content = json.loads((directory / "open_clip_config.json").read_text())
    del content["preprocess_cfg"]
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    found = load(directory).preprocessing
    assert (found.mean, found.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)


def test_unsupported_image_sizes_are_refused(tmp_path):
    directory = save_open_clip(tmp_path / "longest", "vit", preprocess={"resize_mode": "longest"})
    refused(directory, "resizes images by 'longest'; cocoop supports 'shortest' and 'squash'")
    edit(directory, vision_cfg__image_size=[32, 48])
    refused(directory, "takes images of 32 x 48 pixels; cocoop supports only square ones")


NOT_CAUSAL = "its text tower is not causal: every token sees the whole text"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"text_cfg__no_causal_mask": True}, NOT_CAUSAL),
        ({"text_cfg__embed_cls": True}, "it is a CoCa model, whose text feature is read at a token after the padding"),
        ({"multimodal_cfg": {}}, "it is a CoCa model"),
        ({"text_cfg__hf_model_name": "xlm-roberta-base"}, "its text tower is xlm-roberta-base, in which every token"),
        ({"text_cfg__pool_type": "last"}, "its text feature is pooled by 'last', not read at the end of the text"),
        ({"init_logit_bias": -10}, "it adds a bias to its logits, as SigLIP does"),
        ({"text_cfg__qk_norm": True, "text_cfg__scale_fc": True}, "blocks of its text tower have qk_norm and scale_fc"),
        ({"text_cfg__ls_init_value": 0.1}, "the blocks of its text tower have ls_init_value, which CLIP does not have"),
        ({"text_cfg__act_kwargs": {"approximate": "tanh"}}, "its activation has custom settings"),
        ({"text_cfg__norm_kwargs": {"bias": False}}, "its layer norms have custom settings"),
    ],
)
def test_unsupported_text_towers_are_refused_before_weights_are_read(changes, reason, vit_directory, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((vit_directory / "open_clip_config.json").read_text())
    edit(tmp_path, **changes)
    refused(
        tmp_path,
        f"^local-dir:{re.escape(str(tmp_path))} cannot be used: .*{reason}.*causal text tower whose feature",
    )


def test_every_open_clip_architecture_is_accepted_or_refused_with_a_reason():
    """SigLIP, CoCa and other language models are refused; relatives of CLIP are accepted."""
    accepted, reasons = set(), {}
    for architecture in open_clip.list_models():
        try:
            check_text(open_clip.get_model_config(architecture), architecture)
            accepted.add(architecture)
        except BackboneError as refusal:
            reasons[architecture] = str(refusal)
    assert {"RN50", "ViT-B-16", "ViT-L-14-336", "convnext_base_w", "EVA02-B-16", "MobileCLIP-B"} < accepted
    assert not any("siglip" in name.casefold() or "coca" in name or "roberta" in name for name in accepted)
    assert NOT_CAUSAL in reasons["ViT-B-16-SigLIP"]
    assert "mt5-base" in reasons["mt5-base-ViT-B-32"]
    assert "it is a CoCa model" in reasons["coca_ViT-B-32"]


def test_weights_must_fit_the_configuration(vit_directory, tmp_path):
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    edit(directory, text_cfg__layers=3)
    refused(directory, r"open_clip_model.safetensors' is damaged or holds another model: .*Missing key.*resblocks\.2\.")
    edit(directory, text_cfg__layers=2, text_cfg__heads=7)
    refused(directory, "Could not build a model from the configuration of .*: embed_dim must be divisible by num_heads")
    edit(directory, text_cfg__heads=2, text_cfg__secret=1)
    refused(directory, f"is damaged or needs a newer open_clip than {open_clip.__version__}: .*'secret'")


def test_missing_and_damaged_files_are_explained(vit_directory, tmp_path):
    refused(tmp_path / "nowhere", "^The directory '.*nowhere' does not exist.$")
    refused(tmp_path, r"is not a model: it has neither open_clip_config.json \(open_clip\) nor config.json")
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    weights = directory / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    refused(directory, "open_clip_model.safetensors' is damaged or holds another model: .*incomplete")
    weights.unlink()
    refused(directory, "has a configuration but no weights")
    (directory / "open_clip_pytorch_model.bin").write_bytes(b"not a pickle")
    refused(directory, "open_clip_pytorch_model.bin' is damaged")
    (directory / "open_clip_config.json").write_text("{")
    refused(directory, "open_clip_config.json' is damaged: Expecting")
    (directory / "open_clip_config.json").write_text("{}")
    refused(directory, "open_clip_config.json' is damaged: model_cfg is missing")
    content = json.loads((vit_directory / "open_clip_config.json").read_text())
    content["model_cfg"]["vision_cfg"]["layers"] = 2**70
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    refused(directory, r"open_clip_config.json' is damaged: it asks for 1\.18e\+21 layers, more than 1,000\.")
    content["model_cfg"]["vision_cfg"] |= {"layers": 2, "width": 49_408}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    refused(
        directory, r"is damaged: it describes over 19,529,\d+,\d+ weights, but its weights files have [\d,]+ bytes\."
    )


def test_a_single_weights_file_may_have_any_name(vit_directory, tmp_path):
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    (directory / "open_clip_model.safetensors").rename(directory / "epoch_7.safetensors")
    assert load(directory).embed_dim == 48
    shutil.copy(directory / "epoch_7.safetensors", directory / "epoch_8.safetensors")
    refused(directory, r"several weights files: epoch_7.safetensors, epoch_8.safetensors. Rename the one")


def test_pickles_are_never_executed(vit_directory, tmp_path):
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    (directory / "open_clip_model.safetensors").unlink()
    trace = tmp_path / "it_ran"
    torch.save({"text_projection": Intruder(trace)}, directory / "open_clip_pytorch_model.bin")
    refused(directory, "is damaged or holds more than tensors; it was not loaded, because that could execute code")
    assert not trace.exists()


def test_training_checkpoints_load(vit_directory, tmp_path):
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    (directory / "open_clip_model.safetensors").unlink()
    state = {f"module.{name}": tensor for name, tensor in open_clip_model("vit").state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, directory / "epoch_3.pt")
    tokens = open_clip.tokenize(list(TEXTS))
    assert torch.equal(load(directory).encode_text(tokens), load(vit_directory).encode_text(tokens))


def test_a_directory_uses_its_own_tokenizer(vit_directory, tmp_path):
    """The configuration of published models names a repository instead; open_clip cleans the text first."""
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    edit(directory, text_cfg__hf_tokenizer_name="org/elsewhere")
    refused(directory, "has no tokenizer: .* has none of tokenizer.json")
    other = save_transformers(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, directory / name)
    tokenizer = load(directory).tokenizer
    library = open_clip.get_tokenizer(f"local-dir:{directory}")
    for text in ("Don\u2019t  look", "AT&amp;T", "schÃ¶n"):
        ids = library([text])[0].tolist()
        assert [tokenizer.sos, *tokenizer.encode(text), tokenizer.eot] == ids[: ids.index(tokenizer.eot) + 1]
    edit(directory, text_cfg__tokenizer_kwargs={"strip_sep_token": True})
    refused(directory, "does not end a text with an end token")
    edit(directory, text_cfg__tokenizer_kwargs={"trust_remote_code": True})
    refused(directory, "has tokenizer settings that cocoop does not support: {'trust_remote_code': True}")


def test_tokenizer_settings_are_applied(vit_directory, tmp_path):
    directory = shutil.copytree(vit_directory, tmp_path / "copy")
    edit(directory, text_cfg__tokenizer_kwargs={"clean": "canonicalize"})
    library = open_clip.get_tokenizer(f"local-dir:{directory}")
    text = "A_photo, of a CAT."
    tokenizer = load(directory).tokenizer
    assert (
        tokenizer.encode(text)
        == library.encode(text)
        == cocoop.load_backbone("lite").tokenizer.encode("a photo of a cat")
    )
    edit(directory, text_cfg__tokenizer_kwargs={"clean": "thoroughly"})
    refused(directory, "has tokenizer settings that cocoop does not support")


def test_the_tokenizer_must_end_texts_with_the_pooled_token(tmp_path):
    directory = save_open_clip(tmp_path, "vit")
    edit(directory, text_cfg__pool_type="eos", text_cfg__eos_id=49407)
    library = open_clip.create_model(f"local-dir:{directory}").eval()
    tokens = open_clip.tokenize(list(TEXTS))
    with torch.no_grad():
        assert error(load(directory).encode_text(tokens), library.encode_text(tokens)) < 1e-5
    edit(directory, text_cfg__eos_id=2)
    refused(directory, "reads the text feature at token 2, but its tokenizer ends a text with token 49407")
    edit(directory, text_cfg__vocab_size=1000)
    refused(directory, "has token ids up to 49407, but its text tower has 1000 embeddings")


def test_lite_equals_open_clip(shared):
    """Compare `lite` with open_clip's own loading of the same directory."""
    backbone = cocoop.load_backbone("lite")
    library, _, transform = open_clip.create_model_and_transforms(f"local-dir:{shared / 'models/photo-lite'}")
    library.eval()
    tokens = open_clip.tokenize(list(TEXTS))
    x = transform(image(300, 250)).unsqueeze(0)
    assert torch.equal(transform_of(backbone.preprocessing)(image(300, 250)), x[0])
    with torch.no_grad():
        assert error(backbone.encode_text(tokens), library.encode_text(tokens)) < 1e-5
        assert torch.equal(backbone.encode_image(x), library.encode_image(x))


def test_text_width_and_embedding_size_may_differ(tmp_path):
    """The text width is not the size of the joint embedding."""
    CONFIGS["narrow"] = {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": {**TEXT, "width": 40}}
    try:
        backbone = load(save_open_clip(tmp_path, "narrow"))
    finally:
        del CONFIGS["narrow"]
    config = backbone.text_tower.config
    assert (config.width, config.embed_dim, config.mlp_width) == (40, 24, 160)
