"""Checkpoints in the format of the papers' code: read by the library, and imported by the command."""

import json
import os
from pathlib import Path

import pytest
import torch
from made_images import cocoop
from reference import conditional_logits, padded_prompts, static_logits
from tiny_backbone import make_tiny_backbone

import cocoop as package
from cocoop.checkpoints.reference import read_reference
from cocoop.cli.flags import with_flags
from cocoop.cli.import_ import ImportCommand
from cocoop.errors import CheckpointError, ConfigError
from cocoop.methods import CoCoOp, CoOp

NAMES = ["annual crop land", "forget-me-not", "boeing 737", "st. bernard"]


class WarmupScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Scheduler whose state holds another scheduler object, like that of the papers' trainer."""

    def __init__(self, optimizer, successor):
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self):
        return [1e-5]


class Hostile:
    """Creates a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.makedirs, (self.path, 0o777, True))


def learned(method):
    """Change all learned values, so that a tensor that is not read is noticed."""
    with torch.no_grad():
        for parameter in method.learned().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return method


MAKERS = {
    "cocoop": lambda backbone: CoCoOp(backbone, NAMES, seed=1),
    "coop": lambda backbone: CoOp(backbone, NAMES, context_length=5, seed=1),
    "class-specific": lambda backbone: CoOp(backbone, NAMES, context_length=3, class_specific=True, seed=1),
}


def state_of(method, names=NAMES, prefix="", dtype=torch.float32):
    """Return a state dict with the names and buffers of the papers' code."""
    m = method.context_length
    blank = torch.zeros(m, method.context.shape[-1])
    prompts, _ = padded_prompts(method.backbone, names, blank)
    state = {"ctx": method.context.detach(), "token_prefix": prompts[:, :1], "token_suffix": prompts[:, 1 + m :]}
    state |= {name: tensor.detach() for name, tensor in method.learned().items() if name != "context"}
    return {f"{prefix}{name}": tensor.clone().to(dtype) for name, tensor in state.items()}


def save(path, state, **more):
    """Save a checkpoint like the papers' trainer, with the states of optimizer and scheduler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    scheduler = WarmupScheduler(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10))
    content = {
        "state_dict": state,
        "epoch": 10,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "val_result": None,
    }
    torch.save(content | more, path)
    return path


def features(backbone, count=3):
    return torch.randn(count, backbone.embed_dim, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("prefix", ["", "module.", "prompt_learner.", "module.prompt_learner."])
@pytest.mark.parametrize("kind", MAKERS)
def test_logits_equal_those_of_the_saved_method(kind, prefix, tiny_backbone, tmp_path):
    method = learned(MAKERS[kind](tiny_backbone))
    path = save(tmp_path / "prompt_learner" / "model.pth.tar-10", state_of(method, prefix=prefix))
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    restored = read_reference(path).restore(tiny_backbone)
    assert type(restored) is type(method)
    assert restored.classnames == ("annual crop land", "forget - me - not", "boeing 7 3 7", "st . bernard")
    with torch.no_grad():
        assert torch.equal(restored.logits(features(tiny_backbone)), method.logits(features(tiny_backbone)))


def test_half_precision_is_read_as_fp32(tiny_backbone, tmp_path):
    method = learned(MAKERS["cocoop"](tiny_backbone))
    state = state_of(method, dtype=torch.float16)
    restored = read_reference(save(tmp_path / "model", state)).restore(tiny_backbone)
    assert {tensor.dtype for tensor in restored.learned().values()} == {torch.float32}
    assert torch.equal(restored.context, state["ctx"].float())
    assert len(restored.classnames) == len(NAMES)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_the_position_of_the_class_name_is_an_argument(position, tiny_backbone, tmp_path):
    state = state_of(learned(MAKERS["coop"](tiny_backbone)))
    restored = read_reference(save(tmp_path / "model", state)).restore(tiny_backbone, ["cat", "dog"], position)
    x = features(tiny_backbone)
    expected = static_logits(tiny_backbone, ["cat", "dog"], x, state["ctx"], position)
    torch.testing.assert_close(restored.logits(x), expected, rtol=0, atol=1e-4)


def test_logits_equal_the_reference(tiny_backbone, tmp_path):
    state = state_of(learned(MAKERS["cocoop"](tiny_backbone)))
    restored = read_reference(save(tmp_path / "model", state)).restore(tiny_backbone, NAMES)
    x = features(tiny_backbone)
    meta_net = torch.nn.Module()
    for layer in ("linear1", "linear2"):
        weight, bias = state[f"meta_net.{layer}.weight"], state[f"meta_net.{layer}.bias"]
        linear = torch.nn.Linear(*reversed(weight.shape))
        linear.load_state_dict({"weight": weight, "bias": bias})
        setattr(meta_net, layer, linear)
    # The type checker of the tests wants a Meta-Net.
    meta_net.__class__ = type(restored.meta_net)
    expected = conditional_logits(tiny_backbone, NAMES, x, state["ctx"], meta_net)
    torch.testing.assert_close(restored.logits(x), expected, rtol=0, atol=1e-4)


def test_nothing_in_a_file_is_run(tiny_backbone, tmp_path):
    target = tmp_path / "created by the pickle"
    method = learned(MAKERS["cocoop"](tiny_backbone))
    path = save(tmp_path / "model", state_of(method), val_result=Hostile(target), more=[Hostile(target)])
    restored = read_reference(path).restore(tiny_backbone)
    assert torch.equal(restored.context, method.context)
    hostile = save(tmp_path / "other", {"ctx": Hostile(target)})
    with pytest.raises(CheckpointError, match="is not a checkpoint of CoOp or CoCoOp: it has no `state_dict` of"):
        read_reference(hostile)
    # The format before 2020 is one pickle, and is refused if it holds more than tensors.
    old = tmp_path / "old"
    torch.save({"state_dict": state_of(method), "more": Hostile(target)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="holds more than tensors; it was not loaded, because that could execute"):
        read_reference(old)
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.is_dir(), "the file is harmless, so nothing was tested"


def test_an_old_file_without_objects_is_read(tiny_backbone, tmp_path):
    method = learned(MAKERS["coop"](tiny_backbone))
    torch.save({"state_dict": state_of(method)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert torch.equal(read_reference(tmp_path / "old").restore(tiny_backbone).context, method.context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual.proj": torch.ones(1)}, "prompt learner: it also holds 'visual.proj'"),
        ({"ctx": None}, "is not a checkpoint of CoOp or CoCoOp: it has no 'ctx'"),
        ({"meta_net.linear2.bias": None}, "is not a checkpoint of CoOp or CoCoOp: it has no 'meta_net.linear2.bias'"),
        ({"ctx": torch.ones(32)}, r"is damaged: 'ctx' is torch.float32 of shape \(32,\)"),
        ({"ctx": torch.ones(4, 32, dtype=torch.int64)}, r"is damaged: 'ctx' is torch.int64 of shape \(4, 32\)"),
        ({"ctx": torch.ones(4, 4, 32)}, r"is damaged: 'ctx' is torch.float32 of shape \(4, 4, 32\)"),
        ({"ctx": torch.ones(4, 40)}, "was trained on a text tower of width 40, but tiny has 32; pass the `backbone`"),
        ({"meta_net.linear1.weight": torch.ones(3, 50)}, "takes image features of size 50, but those of tiny have 48"),
        (
            {"meta_net.linear2.bias": torch.ones(9)},
            r"does not fit cocoop on tiny: tensor 'meta_net.linear2.bias' is \(",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message, tiny_backbone, tmp_path):
    state = state_of(MAKERS["cocoop"](tiny_backbone)) | change
    path = save(tmp_path / "model", {name: tensor for name, tensor in state.items() if tensor is not None})
    with pytest.raises(CheckpointError, match=message):
        read_reference(path).restore(tiny_backbone, NAMES)


def test_another_backbone_of_the_same_shape_is_refused(tiny_backbone, tmp_path):
    path = save(tmp_path / "model", state_of(MAKERS["coop"](tiny_backbone)))
    with pytest.raises(
        CheckpointError, match="was trained on another text tower than that of tiny: their start tokens"
    ):
        read_reference(path).restore(make_tiny_backbone(seed=5), NAMES)


@pytest.mark.parametrize("kind", MAKERS)
def test_class_names_missing_in_the_file_must_be_passed(kind, tiny_backbone, tmp_path):
    method = learned(MAKERS[kind](tiny_backbone))
    state = {name: tensor for name, tensor in state_of(method).items() if not name.startswith("token_")}
    checkpoint = read_reference(save(tmp_path / "model", state))
    with pytest.raises(CheckpointError, match=r"cannot be decoded on tiny \(fp32\); pass them as `classnames`"):
        checkpoint.restore(tiny_backbone)
    assert checkpoint.restore(tiny_backbone, NAMES).classnames == tuple(NAMES)


def test_class_specific_contexts_need_as_many_names(tiny_backbone, tmp_path):
    checkpoint = read_reference(save(tmp_path / "model", state_of(MAKERS["class-specific"](tiny_backbone))))
    with pytest.raises(CheckpointError, match="has contexts for 4 classes, but there are 2 class names"):
        checkpoint.restore(tiny_backbone, ["cat", "dog"])


def test_cocoop_has_one_position(tiny_backbone, tmp_path):
    checkpoint = read_reference(save(tmp_path / "model", state_of(MAKERS["cocoop"](tiny_backbone))))
    with pytest.raises(ConfigError, match="`position` is 'front', but in CoCoOp the class name is always at the end"):
        checkpoint.restore(tiny_backbone, NAMES, "front")


@pytest.mark.parametrize("content", [b"", b"x" * 40, b"PK\x05\x06" + bytes(18)])
def test_damaged_files_are_named(content, tmp_path):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"'.*model' is damaged"):
        read_reference(tmp_path / "model")


def test_a_directory_is_refused_with_the_files_in_it(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a directory; give a file: the file is called model\.pth\.tar-EPOCH"):
        read_reference(tmp_path)
    (tmp_path / "prompt_learner").mkdir()
    (tmp_path / "prompt_learner" / "model.pth.tar-10").touch()
    with pytest.raises(CheckpointError, match=r"give a file: it contains '.*prompt_learner/model\.pth\.tar-10'"):
        read_reference(tmp_path)
    with pytest.raises(CheckpointError, match=r"There is no file '.*nowhere'"):
        read_reference(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def home(home):
    """A directory with photos and a checkpoint on the bundled backbone, and the method in the checkpoint."""
    method = learned(CoCoOp(package.load_backbone("lite"), ["cherry", "leaf", "sea", "sun"], seed=1))
    save(home / "out" / "prompt_learner" / "model.pth.tar-10", state_of(method, method.classnames))
    return home, method


FILE = "out/prompt_learner/model.pth.tar-10"


def test_the_command_writes_a_directory_to_predict_with(home):
    directory, method = home
    done = cocoop("import", FILE, "--backbone", "lite", cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "cocoop on lite, 4 classes." in done.stderr
    assert "Predict with: cocoop predict runs/imported-cocoop PHOTOS..." in done.stderr
    found = package.from_pretrained(directory / "runs" / "imported-cocoop", backbone=method.backbone)
    assert found.classnames == method.classnames
    x = features(method.backbone)
    with torch.no_grad():
        assert torch.equal(found.logits(x), method.logits(x))
    done = cocoop("eval", "runs/imported-cocoop", "photos", "--all-images", "--format", "json", cwd=directory)
    assert done.returncode == 0, done.stderr
    data = package.load_data(directory / "photos")
    everything = package.Dataset(data.classnames, (), (), data.train + data.val + data.test, data.image_root, "photos")
    assert json.loads(done.stdout)["accuracy"] == package.evaluate(method, everything, workers=0).accuracy


def test_class_names_come_from_a_list_or_a_file(home, monkeypatch):
    directory, _ = home
    monkeypatch.chdir(directory)
    (directory / "names.txt").write_text("red fruit\n\n  green leaf \nwater\n")
    for number, classes in enumerate(("names.txt", "red fruit, green leaf,water")):
        output = directory / f"run{number}"
        ImportCommand(file=Path(FILE), backbone="lite", classes=classes, output=output).run()
        assert json.loads((output / "config.json").read_text())["classnames"] == ["red fruit", "green leaf", "water"]


def test_messages_name_the_flag_for_class_names():
    command = ImportCommand(file=Path(FILE), backbone="lite")
    assert with_flags("pass them as `classnames`", command) == "pass them as --classes"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere", "--backbone", "lite"), 1, "There is no file 'nowhere'."),
        ((FILE, "--backbone", "lite", "--classes", ","), 1, "--classes is ','; give names separated by commas"),
        ((FILE, "--backbone", "lite", "--output", "photos"), 1, "'photos' exists already; choose another --output."),
        ((FILE,), 2, "--backbone"),
    ],
)
def test_mistakes_are_explained(arguments, code, message, home):
    done = cocoop("import", *arguments, cwd=home[0])
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
