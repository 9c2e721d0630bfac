"""The bundled images of the demo: what is in the archive, and how it is unpacked."""

from __future__ import annotations

import hashlib
import io
from zipfile import ZipFile

import pytest
from PIL import Image

import cocoop
from cocoop.data.demo_images import ARCHIVE, TEST_IMAGES, TRAIN_IMAGES, unpack_demo_images
from cocoop.errors import DataError

CLASSES = (
    "apple, butterfly, cactus, carrot, cherry, goldfish, hot air balloon, jellyfish, kite, "
    "light bulb, lighthouse, moon, pumpkin, sailboat, snowman, sunflower, umbrella, watermelon"
)


def test_archive_holds_all_classes_and_splits():
    with ZipFile(ARCHIVE) as archive:
        names = archive.namelist()
    expected = [
        f"{split}/{name.replace(' ', '_')}/{number:03d}.jpg"
        for split, count in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES))
        for name in CLASSES.split(", ")
        for number in range(count)
    ]
    assert (TRAIN_IMAGES, TEST_IMAGES) == (24, 20)
    assert names == expected


def test_archived_images_are_readable_and_different():
    digests = set()
    with ZipFile(ARCHIVE) as archive:
        for name in archive.namelist():
            image = Image.open(io.BytesIO(archive.read(name)))
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (224, 224)), name
            digests.add(hashlib.sha256(image.tobytes()).digest())
        assert len(digests) == len(archive.namelist())


def test_unpacked_images_are_a_data_set(tmp_path):
    data = unpack_demo_images(tmp_path / "images", train=3, test=2)
    assert ", ".join(data.classnames) == CLASSES
    assert [len(data.train), len(data.val), len(data.test)] == [54, 0, 36]
    assert {item.path for item in data.train if data.classnames[item.label] == "hot air balloon"} == {
        f"train/hot_air_balloon/00{number}.jpg" for number in range(3)
    }
    assert [len(half.classnames) for half in (data.base(), data.new())] == [9, 9]
    data.check_files()
    read = cocoop.load_data(tmp_path / "images")
    assert (read.classnames, read.train, read.val, read.test) == (data.classnames, data.train, data.val, data.test)


def test_unpacking_replaces_its_own_files_and_ignores_others(tmp_path):
    unpack_demo_images(tmp_path, train=2, test=1)
    image = tmp_path / "train" / "apple" / "000.jpg"
    content = image.read_bytes()
    image.write_bytes(b"broken")
    (tmp_path / "test" / "kite" / "mine.jpg").write_bytes(b"mine")
    data = unpack_demo_images(tmp_path, train=1, test=1)
    assert image.read_bytes() == content
    assert (tmp_path / "test" / "kite" / "mine.jpg").read_bytes() == b"mine"
    assert (len(data.train), len(data.test)) == (18, 18)


def test_unpacking_names_the_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "train").write_text("a file where a directory should be")
    with pytest.raises(DataError, match=r"^Cannot write the demo's images to '.+': "):
        unpack_demo_images(tmp_path)
