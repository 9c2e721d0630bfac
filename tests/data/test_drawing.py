"""`tools/demo_images`, which draws the demo's images: deterministic, and the source of the bundled archive."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from zipfile import ZipFile

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

import draw

HASHES = """
import hashlib, draw
for name in reversed(draw.PAINTERS):
    print(name, hashlib.sha256(draw.draw_image(name, 5, size=96).tobytes()).hexdigest())
"""


def digest(classname, index, size=64):
    return hashlib.sha256(draw.draw_image(classname, index, size=size).tobytes()).hexdigest()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)), dtype=np.float32)


def test_archive_lists_the_images_of_the_generator():
    with ZipFile(draw.ARCHIVE) as archive:
        assert archive.namelist() == list(draw.image_paths())


@pytest.mark.parametrize("classname", draw.PAINTERS)
def test_archived_images_match_a_fresh_drawing(classname):
    paths = [path for path, (name, _) in draw.image_paths().items() if name == classname]
    with ZipFile(draw.ARCHIVE) as archive:
        for path in (paths[3], paths[-1]):
            drawn = draw.encode_image(draw.draw_image(*draw.image_paths()[path]))
            # Equal with the locked versions of NumPy and Pillow; others may round a few pixels differently.
            assert np.abs(pixels(drawn) - pixels(archive.read(path))).mean() < 0.5, path


def test_images_are_the_same_in_every_process():
    printed = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT / "tools" / "demo_images")}
        done = subprocess.run(
            [sys.executable, "-c", HASHES], env=environment, capture_output=True, text=True, check=True
        )
        printed.append(dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()))
    # Here they are drawn in another order.
    assert printed == [{name: digest(name, 5, size=96) for name in draw.PAINTERS}] * 2


@pytest.mark.parametrize("classname", draw.PAINTERS)
def test_an_image_has_its_size_and_contrast(classname):
    image = draw.draw_image(classname, 0, size=64)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    darkest, brightest = image.convert("L").getextrema()
    assert brightest - darkest > 60


def test_no_image_is_drawn_twice():
    keys = list(draw.image_paths().values())
    assert len(set(keys)) == len(keys) == 44 * 18
    assert len({digest(name, index) for name, index in keys if name in ("kite", "moon") and index < 6}) == 12


def test_archives_are_the_same_whenever_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "IMAGES", {"train": 1, "test": 1})
    monkeypatch.setattr(draw, "PAINTERS", {"kite": draw.PAINTERS["kite"]})
    for name in ("first.zip", "second.zip"):
        draw.main(tmp_path / name)
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
