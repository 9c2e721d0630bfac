"""Every code block of the README and of the documentation does what it says, in real shells and interpreters.

The blocks of a page run in order, in a folder with the photos that they speak of. ```console is a shell script; of
`make`, only the target must be there; `cocoop serve` serves until the page's end. ```python is a program. ```text is
only shown.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image, ImageDraw

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COLOURS = {"golden_retriever": "goldenrod", "tibetan_mastiff": "black", "goldfish": "orange", "tree_frog": "green"}
DEFAULT_PORT = "7860"


def blocks(page):
    """Language and text of each block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with the photos that the pages speak of."""
    root = tmp_path_factory.mktemp("photos")
    for place, count in (("images", 8), ("more_images", 4)):
        for name, colour in COLOURS.items():
            (root / place / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (64, 48), "white")
                ImageDraw.Draw(picture).ellipse((4 + i, 4, 40 + i, 40), fill=colour)
                picture.save(root / place / name / f"{i}.jpg")
    (root / "holiday").mkdir()
    (root / "holiday/1.jpg").write_bytes((root / "photos/goldfish/0.jpg").read_bytes())
    return root


@pytest.fixture(scope="module")
def home(images, tmp_path_factory):
    """The same, after a reader's quick start, in brief."""
    root = tmp_path_factory.mktemp("home") / "home"
    shutil.copytree(images, root)
    done = run(["cocoop", "train", "photos", "--cache-features", "--epochs", "1", "--compare", "none"], root)
    assert done.returncode == 0, done.stderr
    return root


def environment(directory):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The catalog of data sets looks in the folder too.
    places = {"COCOOP_CACHE": str(directory / "cache"), "COCOOP_DATA": str(directory / "data")}
    return os.environ | places | {"PATH": path, "PYTHONPATH": str(ROOT / "src")}


def run(command, directory):
    return subprocess.run(
        command, cwd=directory, env=environment(directory), capture_output=True, text=True, timeout=300, check=False
    )


@contextmanager
def serving(command, port, directory):
    """A server in a process of its own, from its first line on."""
    process = subprocess.Popen(
        [*command.split(), "--port", port], cwd=directory, env=environment(directory), stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert f"http://127.0.0.1:{port}" in process.stderr.readline()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def has_code(page):
    return any(language != "text" for language, _ in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if has_code(page)], ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, request, tmp_path):
    # The README begins from nothing; other pages go on from there.
    start = request.getfixturevalue("photos" if page.name == "README.md" else "home")
    directory = shutil.copytree(start, tmp_path / "home")
    port = free_port()
    with ExitStack() as servers:
        for language, text in blocks(page):
            if language == "python":
                done = run(
                    [sys.executable, "-W", "error", "-c", text.replace(f":{DEFAULT_PORT}", f":{port}")], directory
                )
            elif text.startswith("cocoop serve"):
                servers.enter_context(serving(text.strip(), port, directory))
                continue
            elif text.startswith("make"):
                check_targets(text)
                continue
            elif language == "console":
                done = run(["bash", "-euc", text], directory)
            else:
                assert language == "text", f"a block of {language} that nothing runs"
                continue
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            assert done.stdout.strip(), text


def check_targets(text):
    makefile = (ROOT / "Makefile").read_text()
    for line in text.splitlines():
        make, target = line.split("#")[0].split()
        assert make == "make"
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_what_to_do_stands_first():
    language, text = blocks(PAGES[0])[0]
    assert (language, re.findall(r"^make \w+", text, flags=re.MULTILINE)) == ("console", ["make demo", "make test"])


def test_no_block_is_left_out():
    for page in PAGES:
        assert page.read_text().count("```") == 2 * len(blocks(page)), page.name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[0].read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target
