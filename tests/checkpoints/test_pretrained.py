"""Saved methods: round trips, strict reading, and messages for damaged files."""

import json
import shutil

import pytest
import safetensors.torch
import torch

import cocoop
from cocoop.errors import CheckpointError
from cocoop.methods import CoCoOp, CoOp, ZeroShot
from cocoop.storage.tensor_files import read_tensors

NAMES = ["ant", "bumble bee", "cat", "dog"]

MAKERS = {
    "cocoop": lambda backbone: CoCoOp(backbone, NAMES, seed=1),
    "cocoop, random context": lambda backbone: CoCoOp(backbone, NAMES, context=None, context_length=3, seed=1),
    "coop": lambda backbone: CoOp(backbone, NAMES, seed=1, context_length=5),
    "coop, words": lambda backbone: CoOp(backbone, NAMES, context="a drawing of"),
    "coop, middle": lambda backbone: CoOp(backbone, NAMES, context_length=5, position="middle", seed=1),
    "coop, front": lambda backbone: CoOp(backbone, NAMES, context_length=2, position="front", seed=1),
    "coop, class-specific": lambda backbone: CoOp(backbone, NAMES, context_length=3, class_specific=True, seed=1),
    "zero-shot": lambda backbone: ZeroShot(backbone, NAMES),
    "zero-shot, ensemble": lambda backbone: ZeroShot(backbone, NAMES, ["a {}.", "the {}.", "{} texture."]),
}


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_saved_method_gives_the_same_logits(kind, images, tiny_backbone, tmp_path):
    method = MAKERS[kind](tiny_backbone)
    with torch.no_grad():
        for parameter in method.learned().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    method.save_pretrained(tmp_path / "new" / "folder")
    loaded = cocoop.from_pretrained(tmp_path / "new" / "folder", backbone=tiny_backbone)
    assert type(loaded) is type(method)
    assert loaded.classnames == tuple(NAMES)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(images), method(images))


def test_function_and_method_write_the_same_files(tiny_backbone, tmp_path):
    method = MAKERS["cocoop"](tiny_backbone)
    method.save_pretrained(tmp_path / "one")
    cocoop.save_pretrained(method, tmp_path / "two")
    names = {"config.json", "prompt.safetensors", "README.md"}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert {path.name for path in (tmp_path / "one").iterdir()} == names


def test_a_checkpoint_holds_only_the_learned_tensors(tiny_backbone, tmp_path):
    MAKERS["cocoop"](tiny_backbone).save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "prompt.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == {
        "context": (4, 32),
        "meta_net.linear1.weight": (3, 48),
        "meta_net.linear1.bias": (3,),
        "meta_net.linear2.weight": (32, 3),
        "meta_net.linear2.bias": (32,),
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("saved_as") == read_tensors(tmp_path / "prompt.safetensors")[1]["saved_as"]
    assert config == {
        "format": 1,
        "method": "cocoop",
        "backbone": "tiny",
        "precision": "fp32",
        "classnames": NAMES,
        "settings": {"context": None, "context_length": 4},
    }


def test_replaced_classes_are_saved(images, tiny_backbone, tmp_path):
    method = MAKERS["cocoop"](tiny_backbone)
    method.set_classes(["eel", "fox"])
    method.save_pretrained(tmp_path)
    loaded = cocoop.from_pretrained(tmp_path, backbone=tiny_backbone)
    assert loaded.classnames == ("eel", "fox")
    with torch.no_grad():
        assert torch.equal(loaded(images), method(images))


def test_class_specific_contexts_are_saved_with_their_classes(images, tiny_backbone, tmp_path):
    method = MAKERS["coop, class-specific"](tiny_backbone)
    with torch.no_grad():
        whole = method(images)
    method.set_classes(["dog", "ant"])
    method.save_pretrained(tmp_path)
    loaded = cocoop.from_pretrained(tmp_path, backbone=tiny_backbone)
    assert loaded.classnames == tuple(NAMES)
    with torch.no_grad():
        assert torch.equal(loaded(images), whole)


def test_the_saved_backbone_is_loaded_by_name(tmp_path):
    backbone = cocoop.load_backbone("lite", precision="bf16")
    cocoop.CoOp(backbone, NAMES, context="a photo of a").save_pretrained(tmp_path)
    loaded = cocoop.from_pretrained(tmp_path)
    assert (loaded.backbone.name, loaded.backbone.precision) == ("lite", "bf16")
    assert cocoop.from_pretrained(tmp_path, precision="fp32").backbone.precision == "fp32"


@pytest.fixture
def saved(tiny_backbone, tmp_path):
    MAKERS["cocoop"](tiny_backbone).save_pretrained(tmp_path)
    return tmp_path


def changed(directory, **changes):
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "remove"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has the format 2, but this version of cocoop reads 1"),
        ({"format": "remove"}, "has the format None, but this version of cocoop reads 1"),
        ({"method": "maple"}, "has the method 'maple'; it must be one of zero-shot, coop, cocoop"),
        ({"method": ["cocoop"]}, r"has the method \['cocoop'\]; it must be one of zero-shot, coop, cocoop"),
        ({"backbone": 3}, "is damaged: backbone is 3; input should be a valid string"),
        ({"precision": "fp8"}, "is damaged: precision is 'fp8'; input should be 'fp32', 'bf16' or 'fp16'"),
        ({"classnames": "ant"}, "is damaged: classnames is 'ant'; input should be a valid"),
        ({"classnames": [1, 2]}, r"is damaged: classnames.0 is 1; input should be a valid string"),
        ({"classnames": "remove"}, "is damaged: classnames is missing"),
        (
            {"settings": {"context": None, "context_length": 2**31}},
            "cannot be used: `context_length` is 2147483648; it must be from 1 to 77",
        ),
        ({"classnames": ["ant", "ant"]}, "cannot be used: Two classes would have the same prompt"),
        ({"settings": []}, r"is damaged: settings is \[\]; input should be"),
        ({"settings": {"depth": 9}}, "cannot be used: .*unexpected keyword argument 'depth'"),
        (
            {"settings": {"context": None, "context_length": 6}},
            r"prompt.safetensors' does not fit cocoop on tiny: tensor 'context' is \(4, 32\) there and should be \(6",
        ),
        ({"method": "coop", "settings": {"context_length": 4}}, r"tensor 'meta_net.linear1.bias' is \(3,\) there and"),
    ],
)
def test_an_invalid_config_is_refused(changes, message, saved, tiny_backbone):
    changed(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        cocoop.from_pretrained(saved, backbone=tiny_backbone)


def test_a_missing_tensor_is_named(saved, tiny_backbone):
    tensors = safetensors.torch.load_file(saved / "prompt.safetensors")
    del tensors["meta_net.linear2.bias"]
    safetensors.torch.save_file(tensors, saved / "prompt.safetensors")
    message = r"tensor 'meta_net.linear2.bias' is missing there and should be \(32,\)"
    with pytest.raises(CheckpointError, match=message):
        cocoop.from_pretrained(saved, backbone=tiny_backbone)


def test_damaged_files_are_named(saved, tiny_backbone):
    good = (saved / "prompt.safetensors").read_bytes()
    for content in (b"", b"x" * 50, good[:-1], good[:40]):
        (saved / "prompt.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"'.*prompt\.safetensors' is damaged"):
            cocoop.from_pretrained(saved, backbone=tiny_backbone)
    (saved / "prompt.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is incomplete: it has no prompt\.safetensors"):
        cocoop.from_pretrained(saved, backbone=tiny_backbone)
    for content in (b"\xff\xfe", b"{", b"[" * 100_000):
        (saved / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"'.*config\.json' is damaged"):
            cocoop.from_pretrained(saved, backbone=tiny_backbone)


def test_deeply_nested_metadata_is_damage(saved, tiny_backbone):
    tensors = safetensors.torch.load_file(saved / "prompt.safetensors")
    safetensors.torch.save_file(tensors, saved / "prompt.safetensors", {"cocoop": "[" * 100_000})
    with pytest.raises(CheckpointError, match=r"prompt\.safetensors' is damaged: "):
        cocoop.from_pretrained(saved, backbone=tiny_backbone)


def test_files_of_two_prompts_do_not_load(saved, tiny_backbone, tmp_path):
    other = CoCoOp(tiny_backbone, ["sun", "sea"], context="a photo of a", seed=1)
    other.save_pretrained(tmp_path / "other")
    # A crash while one prompt is saved over another can leave these two files.
    shutil.copy(tmp_path / "other" / "prompt.safetensors", saved)
    with pytest.raises(CheckpointError, match="belong to different prompts"):
        cocoop.from_pretrained(saved, backbone=tiny_backbone)


def test_other_directories_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"There is no directory '.*nowhere'; give one written by"):
        cocoop.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"is not a saved prompt: it has no config\.json"):
        cocoop.from_pretrained(tmp_path)


def test_a_failed_load_does_not_change_the_method(saved, tiny_backbone):
    from cocoop.checkpoints.pretrained import load_learned

    method = MAKERS["cocoop"](tiny_backbone)
    before = method.context.detach().clone()
    tensors = {name: tensor.detach() + 1 for name, tensor in method.learned().items()}
    tensors["meta_net.linear2.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="'somewhere' does not fit"):
        load_learned(method, tensors, saved.parent.joinpath("somewhere").relative_to(saved.parent))
    assert torch.equal(method.context, before)
