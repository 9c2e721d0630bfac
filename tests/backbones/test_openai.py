"""OpenAI's archives and plain state dicts: features equal OpenAI's, and nothing in a file is executed."""

import io
import pickle
import warnings
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import (
    TEXTS,
    Intruder,
    error,
    images,
    intruding_pickle,
    openai_model,
    save_openai_archive,
    with_pickle,
)

import cocoop
from cocoop.backbones.openai_files import architecture
from cocoop.backbones.weights import read_weights
from cocoop.errors import BackboneError

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ("vit", "resnet")
SIZES = {"vit": 48, "resnet": 64}


def load(path, **options):
    return cocoop.load_backbone(f"openai:{path}", **options)


def refused(path, message):
    with pytest.raises(BackboneError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    directory = tmp_path_factory.mktemp("archives")
    return {kind: save_openai_archive(directory / f"{kind}.pt", openai_model(kind)) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def same_numbers(backbone, library, size):
    tokens = open_clip.tokenize(list(TEXTS))
    with torch.no_grad():
        theirs = library.encode_text(tokens)
        assert error(backbone.encode_text(tokens), theirs) < 1e-5
        assert error(theirs[[1, 2, 3, 0]], theirs) > 0.1
        assert torch.equal(backbone.encode_image(images(size)), library.encode_image(images(size)))


def test_archives_give_the_tensors_that_open_clip_reads(kind, archives):
    """open_clip loads the archive with TorchScript; cocoop only reads its tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = open_clip.load_openai_model(str(archives[kind]), precision="fp32", device="cpu")
    backbone = load(archives[kind])
    same_numbers(backbone, library, SIZES[kind])
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())
    assert backbone.logit_scale.item() == pytest.approx(3.21)
    assert backbone.preprocessing.size == SIZES[kind]
    assert backbone.preprocessing.mean == open_clip.OPENAI_DATASET_MEAN
    assert (backbone.text_tower.config.activation, backbone.text_tower.config.heads) == ("quick_gelu", 2)


def test_archives_hold_fp16_and_fp32(archives):
    """OpenAI's archives do; otherwise a reader of one type would pass the test above."""
    types = {tensor.dtype for tensor in read_weights(archives["resnet"]).values()}
    assert types == {torch.float16, torch.float32, torch.int64}


@pytest.mark.parametrize("form", ["plain", "module.", "checkpoint", "safetensors"])
def test_state_dicts_are_not_rounded(form, kind, tmp_path):
    """Weights in fp32, as after fine-tuning, are not rounded to OpenAI's fp16."""
    model = openai_model(kind, half=False)
    state = model.state_dict()
    path = tmp_path / "weights.pt"
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif form == "checkpoint":
        torch.save({"epoch": 1, "state_dict": state}, path)
    else:
        torch.save({f"{form.removeprefix('plain')}{name}": tensor for name, tensor in state.items()}, path)
    same_numbers(load(path), model, SIZES[kind])


def test_archives_with_the_attention_mask_load(tmp_path):
    model = openai_model("vit")
    expected = openai_model("vit").float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, 48, 48), torch.zeros(1, 77, dtype=torch.long)
        torch.jit.save(torch.jit.trace(model.float(), example, check_trace=False), tmp_path / "mask.pt")
    same_numbers(load(tmp_path / "mask.pt"), expected, 48)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_close_to_fp32(precision, kind, archives):
    low, full = load(archives[kind], precision=precision), load(archives[kind])
    tokens = open_clip.tokenize(list(TEXTS))
    bound = 0.1 if precision == "bf16" else 0.02
    assert 0 < error(low.encode_text(tokens), full.encode_text(tokens)) < bound
    assert 0 < error(low.encode_image(images(SIZES[kind])), full.encode_image(images(SIZES[kind]))) < bound


@pytest.mark.parametrize(
    ("name", "vision", "text_width"),
    [
        ("RN50", {"layers": [3, 4, 6, 3], "width": 64, "image_size": 224}, 512),
        ("RN50x4", {"layers": [4, 6, 10, 6], "width": 80, "image_size": 288}, 640),
        ("ViT-B-16", {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224}, 512),
        ("ViT-L-14-336", {"layers": 24, "width": 1024, "patch_size": 14, "image_size": 336}, 768),
    ],
)
def test_architectures_follow_from_the_shapes(name, vision, text_width):
    """Compare with open_clip's configurations of the same models, built on the meta device."""
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        state = open_clip.CLIP(**config).state_dict()
    found = architecture(state)
    assert found["vision_cfg"] == {"head_width": 64, **vision}
    assert found["embed_dim"] == config["embed_dim"]
    assert found["quick_gelu"]
    assert found["text_cfg"] == {
        "context_length": 77,
        "vocab_size": 49408,
        "width": text_width,
        "heads": config["text_cfg"]["heads"],
        "layers": 12,
    }


def test_other_files_are_refused(tmp_path, archives):
    path = tmp_path / "weights.pt"
    refused(path, r"^The file '.*weights.pt' does not exist.$")
    path.write_bytes(b"")
    refused(path, "weights.pt' is damaged")
    path.write_text("hello\n")
    refused(path, "weights.pt' is damaged")
    torch.save([1, 2], path)
    refused(path, r"must hold a state dict \(tensors by name\), not list")
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    refused(path, "does not hold a CLIP model with OpenAI's names: 'token_embedding.weight'")
    state = openai_model("vit").state_dict()
    del state["visual.ln_post.weight"]
    torch.save(state, path)
    refused(path, 'is damaged or holds another model: .*Missing key.* "visual.ln_post.weight"')
    state["visual.ln_post.weight"] = torch.zeros(128)
    state["adapter"] = torch.zeros(1)
    torch.save(state, path)
    refused(path, 'is damaged or holds another model: .*Unexpected key.* "adapter"')
    path.write_bytes(archives["vit"].read_bytes()[:-1000])
    refused(path, "weights.pt' is damaged")


def test_truncated_archives_are_refused(tmp_path, archives):
    path = tmp_path / "short.pt"
    with zipfile.ZipFile(archives["vit"]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:-8] if name.endswith("/data/3") else content)
    refused(path, "short.pt' is damaged or holds another model")


def test_pickles_are_never_executed(tmp_path, archives):
    trace = tmp_path / "it_ran"
    torch.save({"text_projection": Intruder(trace)}, tmp_path / "plain.pt")
    with_pickle(archives["vit"], tmp_path / "archive.pt", intruding_pickle(trace))
    for name in ("plain.pt", "archive.pt"):
        refused(tmp_path / name, "holds more than tensors; it was not loaded, because that could execute code")
    assert not trace.exists()
    # It would have: this is what a reader without care does.
    pickle.load(io.BytesIO(intruding_pickle(trace)))
    assert trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("torch", "load"), ("torch.jit._pickle", "x"), ("os", "x")],
)
def test_classes_other_than_tensors_are_refused(module, name, tmp_path, archives):
    content = f"c{module}\n{name}\n(S'1'\ntR.".encode()
    refused(with_pickle(archives["vit"], tmp_path / "a.pt", content), "holds more than tensors")


def test_all_kinds_of_tensors_are_read(tmp_path):
    """Views of shared storage, transposed, of many data types, scalar or empty; other objects are skipped."""

    class Forms(torch.nn.Module):
        def __init__(self):
            super().__init__()
            numbers = torch.arange(24.0)
            self.inner = torch.nn.Linear(2, 3, dtype=torch.bfloat16)
            self.sizes = [1, 2, 3]
            self.name = "forms"
            forms = {
                "whole": numbers,
                "turned": numbers.view(4, 6).T,
                "part": numbers[5:9],
                "apart": numbers[::5],
                "halfs": torch.tensor([0.5, -2.0]).half(),
                "doubles": torch.tensor(1 / 3, dtype=torch.float64),
                "truth": torch.tensor([True, False]),
                "bytes": torch.tensor([1, 255], dtype=torch.uint8),
                "empty": torch.empty(0, 3, dtype=torch.int32),
            }
            for name, tensor in forms.items():
                self.register_buffer(name, tensor)

        def forward(self, x):
            return self.inner(x) + self.sizes[0] + len(self.name)

    path = tmp_path / "forms.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Forms()), path)
        expected = torch.jit.load(path).state_dict()
    found = read_weights(path)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])


def test_code_in_archives_is_never_executed(tmp_path):
    """TorchScript runs `__setstate__` while it loads; here it would raise."""

    class Loud(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.token_embedding = torch.nn.Embedding(4, 2)

        @torch.jit.export
        def __getstate__(self):
            return self.token_embedding.weight, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            raise RuntimeError("code of the archive ran")

        def forward(self, x):
            return self.token_embedding(x)

    path = tmp_path / "loud.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Loud()), path)
        with pytest.raises(torch.jit.Error, match="code of the archive ran"):
            torch.jit.load(path)
    with pytest.raises(BackboneError) as caught:
        load(path)
    assert "damaged" in str(caught.value)
    assert "code of the archive ran" not in str(caught.value)


@pytest.mark.parametrize("packed", [True, False])
def test_overlong_class_names_are_refused_at_once(packed, tmp_path):
    # PyTorch's message about it would be searched for hours.
    content = b"\x80\x02}q\x00X\n\x00\x00\x00state_dictq\x01cposix\n" + b"x" * 5_000_000 + b"\n."
    if packed:
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            archive.writestr("a/data.pkl", content)
            archive.writestr("a/version", "3\n")
    else:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BackboneError, match=r"a\.pt' is damaged or holds more than tensors; it was not loaded"):
        cocoop.load_backbone(f"openai:{tmp_path / 'a.pt'}")
