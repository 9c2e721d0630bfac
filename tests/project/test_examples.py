"""Run the notebooks and scripts in `examples/` as programs, in an empty directory."""

import json
import os
import re
import subprocess
import sys

import pytest
from made_images import environment, make_images
from paths import ROOT

import cocoop

EXAMPLES = ROOT / "examples"


def code_of(notebook):
    """Return the code cells of a notebook as one program."""
    cells = json.loads((EXAMPLES / notebook).read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code
    return "\n\n".join(code)


def run(arguments, directory, **variables):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=directory,
        env=environment(COCOOP_CACHE=str(directory / "cache"), **variables),
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested_and_listed():
    names = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert names == {"photos_to_server.ipynb", "reproduce_table.ipynb", "ray_cluster.py"}
    assert set(re.findall(r"\]\((\S+)\)", (EXAMPLES / "README.md").read_text())) == names


def test_notebooks_hold_no_output():
    notebooks = list(EXAMPLES.glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert cells
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), path.name


def test_photos_to_server(tmp_path):
    output = run(["-c", code_of("photos_to_server.ipynb")], tmp_path)
    assert "18 classes, 72 training images, 36 test images" in output
    assert len(re.findall(r"CoCoOp 0\.\d{3}   zero-shot 0\.\d{3}", output)) == 3
    assert output.splitlines()[-1] == "exit code 0"


def test_reproduce_table(tmp_path):
    output = run(["-c", code_of("reproduce_table.ipynb")], tmp_path)
    assert "{'done': 5, 'done before': 0, 'failed': 0}" in output
    rows = re.findall(r"^\| (\S.*?) \|", output, flags=re.MULTILINE)
    assert {"zero-shot CLIP", "CoOp", "CoCoOp"} <= {row.split(" (")[0] for row in rows}
    assert (tmp_path / "sweep/report/report.html").is_file()


def test_ray_cluster(tmp_path):
    pytest.importorskip("ray")
    make_images(tmp_path / "photos", per_class=3)
    method = cocoop.CoOp(cocoop.load_backbone("lite"), ["cherry", "leaf", "sea", "sun"], seed=1)
    method.save_pretrained(tmp_path / "prompt")
    arguments = ["prompt", "photos", "labels", "--ray-workers", "1", "--classes", "cherry, leaf, sea, sun"]
    output = run([EXAMPLES / "ray_cluster.py", *arguments], tmp_path, PATH=os.environ["PATH"])
    assert re.search(r"labelled 12 images in \d+ s, 0 of them unreadable", output)
    counts = re.findall(r"^ +(\d+) (?:cherry|leaf|sea|sun)$", output, flags=re.MULTILINE)
    assert sum(map(int, counts)) == 12
