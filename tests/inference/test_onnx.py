"""ONNX: the exported file gives PyTorch's numbers for any batch size, in the same commands."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from made_images import cocoop, environment
from paths import DRIVER_PATH, ROOT, SUPPORT
from PIL import Image

from cocoop.cli.predict import PredictCommand
from cocoop.data import open_image, test_transform
from cocoop.errors import CheckpointError, CocoopError
from cocoop.inference.onnx import OnnxPrompt
from cocoop.storage.json_files import read_json, write_json


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports of every method on every kind of tower, with PyTorch's results.

    They are made in another process, because the tests check shapes in signatures, and a traced batch has no size.
    """
    home = tmp_path_factory.mktemp("exported")
    done = subprocess.run(
        [sys.executable, SUPPORT / "export_driver.py", home],
        env=environment(PYTHONPATH=DRIVER_PATH),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return home


CASES = [
    ("vit", "zero-shot"),
    ("vit", "coop-end"),
    ("vit", "coop-middle"),
    ("vit", "cocoop"),
    ("resnet", "cocoop"),
    ("transformers", "cocoop"),
    ("vit", "cocoop-several-trees"),
    ("vit", "cocoop-weights-apart"),
]


@pytest.mark.parametrize(("tower", "method"), CASES)
def test_graph_gives_the_numbers_of_pytorch_for_any_batch_size(tower, method, exported):
    directory = exported / f"{tower}-{method}"
    # With onnxruntime alone, as other programs use it.
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    truth = np.load(directory.with_suffix(".npz"))
    for count in (1, 3, 7):
        images, expected = truth[f"images{count}"], truth[f"logits{count}"]
        logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
        assert (
            logits.shape
            == expected.shape
            == (count, len(json.loads((directory / "export.json").read_text())["classnames"]))
        )
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(probabilities, torch.tensor(expected).softmax(-1).numpy(), atol=1e-4, rtol=0)
        assert np.ptp(expected, axis=1).min() > 1e-2, "the classes differ by more than the tolerance"


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize(("size", "turned"), [((500, 375), 1), ((375, 501), 1), ((640, 427), 6)])
def test_documented_program_gives_the_same_probabilities(exported, resize, size, turned, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "export.md").read_text()
    program = re.search(r"```python\n(import json.*?)```", text, re.DOTALL)[1]
    shutil.copytree(exported / "vit-cocoop", tmp_path / "cats-and-dogs")
    file = tmp_path / "cats-and-dogs" / "export.json"
    about = read_json(file)
    about["preprocessing"]["resize"] = resize
    write_json(file, about, with_checksum=True)
    (tmp_path / "holiday").mkdir()
    exif = Image.Exif()
    exif[274] = turned
    Image.radial_gradient("L").resize(size).convert("RGB").save(tmp_path / "holiday" / "1.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    told = {}
    exec(program, told)
    prompt = OnnxPrompt(tmp_path / "cats-and-dogs")
    image = test_transform(prompt.preprocessing)(open_image(tmp_path / "holiday" / "1.jpg"))
    np.testing.assert_allclose(told["probabilities"], prompt(image[None])[1].numpy(), atol=1e-5, rtol=0)


def test_graph_that_differs_from_pytorch_is_refused(exported):
    messages = json.loads((exported / "refused.json").read_text())
    assert re.fullmatch(
        r"The ONNX file of local-dir:\S+ differs from PyTorch by \d\.\de-\d\d in probabilities and \d\.\de-\d\d in "
        r"similarities, more than 1e-12; nothing was written. Please report it, with the versions of torch and "
        r"onnxruntime.",
        messages["far"],
    )
    assert "differs from PyTorch by nan in probabilities and nan in similarities, more than 0.0001;" in messages["nan"]
    assert list((exported / "refused").iterdir()) == []


def test_graph_computes_the_prefix_once_and_no_padding(exported):
    graph = onnx.load(exported / "vit-cocoop" / "model.onnx").graph
    shapes = {tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.value_info}
    rows = json.loads((exported / "vit-cocoop.rows.json").read_text())
    # SOS, four context vectors and the tokens of the names; not 77 positions for each of 5 classes.
    assert rows["rows"] < 40
    assert any(rows["rows"] in shape for shape in shapes)
    assert not any(77 in shape for shape in shapes)


def test_graph_holds_only_the_tokens_of_its_prompts(exported):
    tensors = onnx.load(exported / "vit-cocoop" / "model.onnx").graph.initializer
    # The whole token table has 49,408 rows.
    assert max(tensor.dims[0] for tensor in tensors if tensor.dims) < 1000


def test_graph_splits_prompts_into_smaller_trees(exported):
    shapes = {}
    for name in ("vit-cocoop", "vit-cocoop-several-trees"):
        tensors = onnx.load(exported / name / "model.onnx").graph.initializer
        shapes[name] = [tuple(tensor.dims) for tensor in tensors]
    rows = json.loads((exported / "vit-cocoop.rows.json").read_text())["rows"]
    # Masks: all rows of one tree, against 12 rows at most in each of several.
    assert shapes["vit-cocoop"].count((rows, rows)) == 1
    assert (rows, rows) not in shapes["vit-cocoop-several-trees"]
    assert sum(shape in [(n, n) for n in range(8, 13)] for shape in shapes["vit-cocoop-several-trees"]) > 1


def test_export_keeps_classes_and_preprocessing(exported):
    prompt = OnnxPrompt(exported / "vit-cocoop")
    assert prompt.classnames == ("cat", "dog", "tree frog", "tree", "café au lait")
    assert (prompt.preprocessing.size, prompt.preprocessing.mean) == (32, (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("vit-cocoop", "model.onnx"),
        ("vit-cocoop-weights-apart", "model.onnx"),
        ("vit-cocoop-weights-apart", "model.onnx.data"),
    ],
)
def test_changed_graph_is_refused(directory, name, exported, tmp_path):
    shutil.copytree(exported / directory, tmp_path, dirs_exist_ok=True)
    OnnxPrompt(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"/{name}' is damaged: it differs from the exported file"):
        OnnxPrompt(tmp_path)


def test_graph_without_checksum_is_refused(exported, tmp_path):
    shutil.copytree(exported / "vit-cocoop", tmp_path, dirs_exist_ok=True)
    description = json.loads((tmp_path / "export.json").read_text())
    del description["checksum"]
    (tmp_path / "export.json").write_text(json.dumps(description | {"sha256": {}}))
    with pytest.raises(CheckpointError, match=r"model.onnx' is damaged"):
        OnnxPrompt(tmp_path)


@pytest.fixture(scope="module")
def home(home):
    (home / "photos" / "leaf" / "05.png").write_bytes(b"no image")
    arguments = ("--shots", 2, "--epochs", 1, "--cache-features", "--skip-unreadable", "--compare", "none")
    done = cocoop("train", "photos", *arguments, "--output", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    done = cocoop("export", "run", "--classes", "cherry, leaf, tree frog", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "Exported 3 classes with opset " in done.stderr
    assert "Probabilities differ from PyTorch's by at most" in done.stderr
    assert "Predict with: cocoop predict run/onnx PHOTOS... --runtime onnx" in done.stderr
    return home


def test_predict_gives_the_same_with_torch_and_onnx(home):
    arguments = ("photos", "--format", "jsonl", "--skip-unreadable", "--top-k", 2)
    with_torch = cocoop("predict", "run", *arguments, "--classes", "cherry, leaf, tree frog", cwd=home)
    with_onnx = cocoop("predict", "run/onnx", *arguments, "--runtime", "onnx", cwd=home)
    assert with_onnx.returncode == 0, with_onnx.stderr
    rows, others = ([json.loads(line) for line in done.stdout.splitlines()] for done in (with_torch, with_onnx))
    assert len(rows) == 40
    for row, other in zip(rows, others, strict=True):
        assert (row["path"], row.get("error")) == (other["path"], other.get("error"))
        for one, two in zip(row["predictions"], other["predictions"], strict=True):
            assert one["class"] == two["class"]
            assert one["probability"] == pytest.approx(two["probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "run"}, "'run' holds no exported prompt .* create one with `cocoop export`"),
        ({"classes": "cat, dog"}, "`classes` cannot change an exported prompt; export it again with these classes"),
        ({"shortlist": 2}, "`shortlist` has no effect on an exported prompt; omit it or use "),
        ({"precision": "bf16"}, "`precision` has no effect on an exported prompt"),
    ],
)
def test_options_that_cannot_apply_are_refused(arguments, message, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(CocoopError, match=message):
        PredictCommand(**({"source": "run/onnx", "images": ("photos",), "runtime": "onnx"} | arguments)).run()


def test_export_does_not_overwrite(home):
    before = (home / "run" / "onnx" / "model.onnx").stat().st_mtime_ns
    done = cocoop("export", "run", cwd=home)
    assert done.returncode == 1
    assert "cocoop: 'run/onnx' exists already; choose another " in done.stderr
    assert (home / "run" / "onnx" / "model.onnx").stat().st_mtime_ns == before


def test_prediction_needs_onnxruntime_only(home):
    hide = "import sys; sys.modules.update(onnx=None, onnxscript=None); from cocoop.cli import main; "
    hide += "main(['predict', 'run/onnx', 'photos/sun', '--runtime', 'onnx', '--format', 'csv'])"
    done = subprocess.run([sys.executable, "-c", hide], cwd=home, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 11


def test_missing_library_is_reported_with_install_command(home):
    hide = "import sys; sys.modules['onnxruntime'] = None; from cocoop.cli import main; "
    hide += "main(['export', 'run', '--output', 'x'])"
    done = subprocess.run([sys.executable, "-c", hide], cwd=home, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    expected = "cocoop: ONNX needs the library onnxruntime, which is not installed: pip install 'cocoop[export]'\n"
    assert done.stderr == expected
    assert not (home / "x").exists()
