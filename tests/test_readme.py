"""Every code block of the README does what it says, in a real shell and a real interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COLOURS = {"golden_retriever": "goldenrod", "tibetan_mastiff": "black", "goldfish": "orange", "tree_frog": "green"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the photos that the README speaks of."""
    root = tmp_path_factory.mktemp("home")
    for place, count in (("photos", 8), ("more_photos", 4)):
        for name, colour in COLOURS.items():
            (root / place / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (64, 48), "white")
                ImageDraw.Draw(picture).ellipse((4 + i, 4, 40 + i, 40), fill=colour)
                picture.save(root / place / name / f"{i}.jpg")
    (root / "holiday").mkdir()
    (root / "holiday/1.jpg").write_bytes((root / "photos/goldfish/0.jpg").read_bytes())
    return root


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COCOOP_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_the_commands_stand_first_and_work_in_order(home):
    lines = [line.split("    #")[0].strip() for block in blocks("console") for line in block.splitlines()]
    assert lines[:2] == ["make demo", "make test"]
    commands = [line for line in lines if line.startswith("cocoop ")]
    assert len(commands) >= 4
    for command in commands:
        done = run(["bash", "-c", command], home)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout.strip(), command
    makefile = (ROOT / "Makefile").read_text()
    for target in {line.split()[1] for line in lines if line.startswith("make ")}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_python_code_runs(home):
    assert blocks("python")
    for block in blocks("python"):
        done = run([sys.executable, "-W", "error", "-c", block], home)
        assert done.returncode == 0, done.stderr


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
