"""Malicious files: nothing in them is executed, and decoding them always ends."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from made_images import environment
from paths import ROOT
from PIL import Image

from cocoop.data import open_image
from cocoop.data.images import ImageError


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


def test_formats_that_start_another_program_are_refused(tmp_path):
    # Pillow passes EPS files to Ghostscript, whatever their names.
    file = io.BytesIO()
    picture().save(file, "EPS")
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    with pytest.raises(ImageError, match=r"a\.jpg': it is empty, damaged or not in a supported format"):
        open_image(str(tmp_path / "a.jpg"))


def test_pipes_and_huge_files_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg': it is not a regular file"):
        open_image(tmp_path / "pipe.jpg")
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate((1 << 30) + 1)
    message = r"long\.jpg': it has 1,073,741,825 bytes, more than 1,073,741,824"
    with pytest.raises(ImageError, match=message):
        open_image(tmp_path / "long.jpg")


def test_jpeg_with_very_many_scans_is_refused(tmp_path):
    picture().save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(whole[:last] + 100 * whole[last:-2] + whole[-2:])
    with pytest.raises(ImageError, match="it is a JPEG of more than 2000 segments or 64 scans; save it again"):
        open_image(tmp_path / "a.jpg")
    # A marker without a header does not hide the markers after it.
    scan = whole[last : last + 2 + int.from_bytes(whole[last + 2 : last + 4], "big")]
    flood = b"\xff\x01" + scan * (0xFFDA // len(scan))
    (tmp_path / "a.jpg").write_bytes(whole[:last] + flood + whole[last:])
    with pytest.raises(ImageError, match="it is a JPEG of more than 2000 segments or 64 scans; save it again"):
        open_image(tmp_path / "a.jpg")
    # Markers of a preview inside a header do not count.
    head = b"\xff\xe1" + (2 + 4 * 500).to_bytes(2, "big") + b"\xff\xda\x00\x02" * 500
    (tmp_path / "a.jpg").write_bytes(whole[:2] + head + whole[2:])
    assert open_image(tmp_path / "a.jpg").size == (48, 32)


def test_fuzzed_files_are_refused_with_a_message(tmp_path):
    script = ROOT / "benchmarks" / "fuzz.py"
    command = [sys.executable, script, "--inputs", "560", "--processes", "1", "--output", tmp_path / "found"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    total = re.search(r"^\| all \| 560 \| (\d+) \| (\d+) \| 0 \|$", done.stdout, re.MULTILINE)
    assert total is not None, done.stdout
    assert int(total[1]) > 50
    assert int(total[2]) > 300
