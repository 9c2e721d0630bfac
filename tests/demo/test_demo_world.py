"""The drawn world: the same pictures for everybody, none in two splits, and a data set that the library reads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cocoop
from cocoop.demo.study import world_data
from cocoop.demo.world import CLASS_NAMES, Picture, draw_picture, plan_world, write_pictures
from cocoop.errors import DataError

HASHES = """
import hashlib
from cocoop.demo.world import CLASS_NAMES, draw_picture
for name in reversed(CLASS_NAMES):
    print(name, hashlib.sha256(draw_picture(name, 5, size=96).tobytes()).hexdigest())
"""


def digest(*arguments, **options):
    return hashlib.sha256(draw_picture(*arguments, **options).tobytes()).hexdigest()


def test_pictures_are_the_same_in_every_process():
    said = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", HASHES], env=environment, capture_output=True, text=True, check=True
        )
        said.append(dict(line.rsplit(" ", 1) for line in done.stdout.splitlines()))
    assert said[0] == said[1]
    assert tuple(sorted(said[0])) == CLASS_NAMES
    # Here they are drawn in another order, and after other pictures.
    assert {name: digest(name, 5, size=96) for name in CLASS_NAMES} == said[0]


def test_class_index_and_seed_each_make_another_picture():
    pictures = [("kite", 0, 0), ("kite", 1, 0), ("moon", 0, 0), ("kite", 0, 1)]
    assert len({digest(name, index, seed=seed, size=64) for name, index, seed in pictures}) == 4


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_a_picture_has_its_size_and_is_not_flat(name):
    picture = draw_picture(name, 0, size=64)
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    darkest, brightest = picture.convert("L").getextrema()
    assert brightest - darkest > 60


def test_no_picture_is_in_two_splits():
    plan = plan_world(train=7, test=5)
    assert len(plan) == 12 * len(CLASS_NAMES)
    for name in CLASS_NAMES:
        drawn = [(picture.split, picture.index) for picture in plan if picture.classname == name]
        train = {index for split, index in drawn if split == "train"}
        test = {index for split, index in drawn if split == "test"}
        assert (len(train), len(test), train & test) == (7, 5, set())
    some = [picture for picture in plan if picture.classname == "cherry"]
    assert len({digest(picture.classname, picture.index, size=64) for picture in some}) == len(some)


def test_a_larger_world_begins_with_the_smaller_one():
    assert set(plan_world(train=2, test=1)) < set(plan_world(train=3, test=4))
    assert Picture("train", "hot air balloon", 3).path == "train/hot_air_balloon/003.jpg"


def test_the_library_reads_the_world_and_strays_are_no_part_of_it(tmp_path):
    plan = plan_world(train=1, test=1)
    calls = []
    write_pictures(tmp_path, plan, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 36) for k in range(1, 37)]
    read, made = cocoop.load_data(tmp_path), world_data(tmp_path, plan)
    assert read.classnames == made.classnames == CLASS_NAMES
    assert (read.train, read.val, read.test) == (made.train, made.val, made.test)
    made.check_files()
    (tmp_path / "test" / "kite" / "mine.jpg").write_bytes(b"")
    assert len(cocoop.load_data(tmp_path).test) == 19
    assert len(world_data(tmp_path, plan).test) == 18


def test_base_and_new_classes_are_enough_to_compare():
    data = world_data(Path(), plan_world(train=1, test=1))
    assert (len(data.base().classnames), len(data.new().classnames)) == (9, 9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_picture("dragon", 0), "The drawn world has no class 'dragon'; use one of: apple, butterfly, "),
        (lambda: draw_picture("kite", -1), "Picture -1 of 'kite' cannot be drawn: an index is 0 or more."),
        (lambda: draw_picture("kite", 0, size=8), "A picture of 8 pixels cannot be drawn: use a size of 16 or more."),
        (lambda: plan_world(train=0, test=1), "0 train pictures of each class cannot be drawn; ask for 1 or more."),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(DataError) as error:
        call()
    assert str(error.value).startswith(message)


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "train").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"Cannot write '.*train/apple/000\.jpg': "):
        write_pictures(tmp_path, plan_world(train=1, test=1))
