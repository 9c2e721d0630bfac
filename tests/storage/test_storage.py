"""Files: atomic writes, JSON with checksums, hashes and locks."""

import hashlib
import json
import os
import stat
import time

import pytest

from cocoop.errors import CheckpointError
from cocoop.storage.atomic import STALE_AFTER, remove_stale_files, remove_temporary_files, write_atomic
from cocoop.storage.hashing import hash_content, hash_file
from cocoop.storage.json_files import read_json, write_json, write_json_lines
from cocoop.storage.locks import try_lock


def test_a_write_replaces_the_file_with_ordinary_permissions(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "inside").write_text("old")
    # A directory has the name of the file, so the last step of the write fails.
    with pytest.raises(CheckpointError, match=r"Cannot write '.*folder': Is a directory"):
        write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert (path / "inside").read_text() == "old"


def test_file_names_that_are_not_text_survive_json(tmp_path):
    odd = os.fsdecode(b"caf\xe9.jpg")
    write_json(tmp_path / "a.json", {"path": odd, "name": "café ✓"})
    assert read_json(tmp_path / "a.json") == {"path": odd, "name": "café ✓"}
    write_json_lines(tmp_path / "a.jsonl", [{"path": odd}, {"path": "b"}])
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["path"] for line in lines] == [odd, "b"]


def test_a_changed_value_or_key_fails_the_checksum(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"accuracy": 12.5}, with_checksum=True)
    assert read_json(path) == {"accuracy": 12.5}
    text = path.read_text()
    for old, new in (("12.5", "13.5"), ("accuracy", "accurate"), ("checksum", "checksun")):
        path.write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=r"a\.json' is damaged: its checksum does not match"):
            read_json(path)


def test_hashes_are_those_of_hashlib(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert hash_content("abc") == hash_content(b"abc") == hash_file(tmp_path / "a") == expected
    assert hash_file(tmp_path / "a", "md5") == hashlib.md5(b"abc").hexdigest()
    assert len(hash_content(os.fsdecode(b"caf\xe9.jpg"))) == 64
    with pytest.raises(CheckpointError, match=r"^Cannot read '.*absent': No such file or directory\.$"):
        hash_file(tmp_path / "absent")


def test_only_abandoned_temporary_files_are_stale(tmp_path):
    old, new = tmp_path / ".a.json.x", tmp_path / ".a.json.y"
    for path in (old, new, tmp_path / "a.json"):
        path.touch()
    os.utime(old, (time.time() - STALE_AFTER - 60,) * 2)
    remove_stale_files(tmp_path, "*.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.json.y", "a.json"]
    remove_temporary_files(tmp_path, ["a.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_lock_is_held_once_and_released(tmp_path):
    with try_lock(tmp_path / "lock") as first, try_lock(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
    with try_lock(tmp_path / "lock") as again:
        assert again
