"""Files made to do harm: nothing in them runs, nothing in them lasts, and what they are called is only text."""

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


def test_what_would_start_another_program_is_never_opened(tmp_path):
    # Pillow hands EPS files to Ghostscript, whatever their names are.
    file = io.BytesIO()
    picture().save(file, "EPS")
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    with pytest.raises(ImageError, match=r"a\.jpg' cannot be used: it is empty, damaged or no image"):
        open_image(str(tmp_path / "a.jpg"))


def test_files_without_an_end_are_not_begun(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg' cannot be used: it is no plain file"):
        open_image(tmp_path / "pipe.jpg")
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate((1 << 30) + 1)
    message = r"long\.jpg' cannot be used: it has 1,073,741,825 bytes, more than 1,073,741,824"
    with pytest.raises(ImageError, match=message):
        open_image(tmp_path / "long.jpg")


def test_a_jpeg_that_passes_over_its_pixels_for_hours_is_refused(tmp_path):
    picture().save(tmp_path / "a.jpg", progressive=True)
    whole = (tmp_path / "a.jpg").read_bytes()
    last = whole.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(whole[:last] + 100 * whole[last:-2] + whole[-2:])
    with pytest.raises(ImageError, match="it is a JPEG of more than 2000 segments or 64 scans; save it anew"):
        open_image(tmp_path / "a.jpg")
    # A marker without a head does not hide what follows, as a head of that length would.
    scan = whole[last : last + 2 + int.from_bytes(whole[last + 2 : last + 4], "big")]
    flood = b"\xff\x01" + scan * (0xFFDA // len(scan))
    (tmp_path / "a.jpg").write_bytes(whole[:last] + flood + whole[last:])
    with pytest.raises(ImageError, match="it is a JPEG of more than 2000 segments or 64 scans; save it anew"):
        open_image(tmp_path / "a.jpg")
    # Markers of a preview within a head are none of the photo's.
    head = b"\xff\xe1" + (2 + 4 * 500).to_bytes(2, "big") + b"\xff\xda\x00\x02" * 500
    (tmp_path / "a.jpg").write_bytes(whole[:2] + head + whole[2:])
    assert open_image(tmp_path / "a.jpg").size == (48, 32)


def test_some_hundred_damaged_files_of_every_kind_are_refused_with_a_message(tmp_path):
    script = ROOT / "benchmarks" / "fuzz.py"
    command = [sys.executable, script, "--inputs", "560", "--processes", "1", "--output", tmp_path / "found"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    total = re.search(r"^\| all \| 560 \| (\d+) \| (\d+) \| 0 \|$", done.stdout, re.MULTILINE)
    assert total is not None, done.stdout
    assert int(total[1]) > 50
    assert int(total[2]) > 300
