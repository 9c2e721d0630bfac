"""Run every code block of the README and of the documentation, in real shells and interpreters.

The blocks of a page run in order, in a directory with the photos that the page mentions. A `console` block is a shell
script; of `make` commands only the target is checked; `cocoop serve` runs until the end of the page. A `python` block
is a program. A `text` block is only shown.
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
    """Return language and text of each block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A directory with the photos that the pages mention."""
    root = tmp_path_factory.mktemp("photos")
    for folder, count in (("photos", 8), ("more_photos", 4)):
        for name, colour in COLOURS.items():
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (64, 48), "white")
                ImageDraw.Draw(image).ellipse((4 + i, 4, 40 + i, 40), fill=colour)
                image.save(root / folder / name / f"{i}.jpg")
    (root / "holiday").mkdir()
    (root / "holiday/1.jpg").write_bytes((root / "photos/goldfish/0.jpg").read_bytes())
    return root


@pytest.fixture(scope="module")
def home(photos, tmp_path_factory):
    """The same photos, and the run that the README trains, with fewer epochs."""
    root = tmp_path_factory.mktemp("home") / "home"
    shutil.copytree(photos, root)
    done = run(["cocoop", "train", "photos", "--cache-features", "--epochs", "1", "--compare", "none"], root)
    assert done.returncode == 0, done.stderr
    return root


def environment(directory):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    directories = {"COCOOP_CACHE": str(directory / "cache"), "COCOOP_DATA": str(directory / "data")}
    return os.environ | directories | {"PATH": path, "PYTHONPATH": str(ROOT / "src")}


def run(command, directory):
    return subprocess.run(
        command, cwd=directory, env=environment(directory), capture_output=True, text=True, timeout=300, check=False
    )


@contextmanager
def serving(command, port, directory):
    """Run a server in another process, and wait for its first line."""
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
def test_code_blocks_of_a_page_run(page, request, tmp_path):
    # The README starts with photos only; other pages use its run.
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
                assert language == "text", f"no way to run a block of {language}"
                continue
            assert done.returncode == 0, f"{text}\n{done.stderr}"
            assert done.stdout.strip(), text


def check_targets(text):
    makefile = (ROOT / "Makefile").read_text()
    for line in text.splitlines():
        make, target = line.split("#")[0].split()
        assert make == "make"
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_starts_with_make_demo_and_make_test():
    language, text = blocks(PAGES[0])[0]
    assert (language, re.findall(r"^make \w+", text, flags=re.MULTILINE)) == ("console", ["make demo", "make test"])


def test_every_block_has_a_language():
    assert len(PAGES) > 10
    for page in PAGES:
        assert page.read_text().count("```") == 2 * len(blocks(page)), page.name


def test_links_of_the_readme_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", PAGES[0].read_text())
    assert len(targets) > 10
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_readme_is_short():
    assert len(PAGES[0].read_text().splitlines()) <= 150
