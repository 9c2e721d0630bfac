"""Unpacking: what is kept, and how every trick and mistake in an archive is answered."""

import bz2
import gzip
import io
import lzma
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cocoop.data.catalog.archives import Limits, unpack
from cocoop.errors import DataError

IMAGE = random.Random(0).randbytes(5000)
FILES = {"photos/ant/1.jpg": IMAGE, "photos/bee/2.jpg": b"", "lists/Größe.txt": b"ant\n"}


def tar_of(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def zip_of(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def unix_zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def content_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def plain_tar(path: Path) -> Path:
    return tar_of(path, [(member(f"./{name}"), content) for name, content in FILES.items()], "w")


MAKERS: dict[str, Callable[[Path], Path]] = {
    "a.tar": plain_tar,
    # ImageNetV2's archive is of this kind: the name says gzip, the content is a plain tar.
    "plain.tar.gz": plain_tar,
    "a.tgz": lambda path: tar_of(path, [(member(name), content) for name, content in FILES.items()], "w:gz"),
    "a.tar.bz2": lambda path: tar_of(path, [(member(name), content) for name, content in FILES.items()], "w:bz2"),
    "a.tar.xz": lambda path: tar_of(path, [(member(name), content) for name, content in FILES.items()], "w:xz"),
    "a.zip": lambda path: zip_of(path, [*FILES.items()]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_all_kinds_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    archive = MAKERS[name](tmp_path / name)
    seen: list[tuple[int, int | None]] = []
    unpack(archive, tmp_path / "deep" / "out", on_progress=lambda done, total: seen.append((done, total)))
    assert content_of(tmp_path / "deep" / "out") == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert len(seen) == 3
    assert all(0 < done <= archive.stat().st_size == total for done, total in seen)


def test_directories_are_made_and_modes_of_the_archive_are_not_taken(tmp_path: Path) -> None:
    archive = tar_of(
        tmp_path / "a.tgz",
        [
            (member("./", tarfile.DIRTYPE), b""),
            (member("empty/", tarfile.DIRTYPE, mode=0), b""),
            (member("run", mode=0o6777), b"x"),
            (member("secret", mode=0), b"y"),
        ],
    )
    unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["empty", "run", "secret"]
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("run", "secret")}
    assert modes["run"] == modes["secret"]
    assert modes["run"] & 0o7111 == 0
    assert list((tmp_path / "out" / "empty").iterdir()) == []


OUT = "which leads out of its folder"
EVIL_TARS: dict[str, tuple[tarfile.TarInfo, str]] = {
    "parent": (member("../evil"), rf"has the member '\.\./evil', {OUT}"),
    "hidden parent": (member("a/b/../../../evil"), OUT),
    "absolute": (member("/tmp/evil"), OUT),
    "drive": (member("C:/evil"), OUT),
    "backslash": (member("..\\evil"), OUT),
    "symbolic link": (member("link", tarfile.SYMTYPE, link="/etc"), "'link', which is a link to '/etc'"),
    "inner symbolic link": (member("link", tarfile.SYMTYPE, link="good"), "is a link to 'good'"),
    "hard link": (member("link", tarfile.LNKTYPE, link="../../etc/passwd"), "is a link to"),
    "character device": (member("null", tarfile.CHRTYPE), "'null', which is neither a plain file nor a folder"),
    "block device": (member("disk", tarfile.BLKTYPE), "neither a plain file nor a folder"),
    "pipe": (member("pipe", tarfile.FIFOTYPE), "neither a plain file nor a folder"),
}


@pytest.mark.parametrize("kind", EVIL_TARS)
def test_tar_members_that_are_refused(tmp_path: Path, kind: str) -> None:
    info, message = EVIL_TARS[kind]
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = tar_of(inside / "a.tgz", [(member("good"), b"good"), (info, b""), (member("link/x"), b"")])
    before = content_of(tmp_path)
    with pytest.raises(DataError, match=rf"a\.tgz' is not unpacked: it .*{message}"):
        unpack(archive, inside / "out")
    # Nothing stays: neither outside nor the members before.
    assert content_of(tmp_path) == before
    assert [path.name for path in inside.iterdir()] == ["a.tgz"]


EVIL_ZIPS: dict[str, tuple[str | zipfile.ZipInfo, str]] = {
    "parent": ("../evil", rf"has the member '\.\./evil', {OUT}"),
    "absolute": ("/tmp/evil", OUT),
    "backslash": ("a\\..\\..\\evil", OUT),
    "symbolic link": (unix_zip_info("link", stat.S_IFLNK | 0o777), "'link', which is a link"),
    "device": (unix_zip_info("null", stat.S_IFCHR | 0o666), "neither a plain file nor a folder"),
}


@pytest.mark.parametrize("kind", EVIL_ZIPS)
def test_zip_members_that_are_refused(tmp_path: Path, kind: str) -> None:
    name, message = EVIL_ZIPS[kind]
    archive = zip_of(tmp_path / "a.zip", [("good", b"good"), (name, b"/etc/passwd")])
    with pytest.raises(DataError, match=rf"a\.zip' is not unpacked: it .*{message}"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [("secret", IMAGE)])
    content = bytearray(archive.read_bytes())
    # Bit 0 of the flags, in the local header and in the central directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="'secret', which is encrypted"):
        unpack(archive, tmp_path / "out")


BOMBS: dict[str, Callable[[Path], Path]] = {
    "tar": lambda directory: tar_of(directory / "bomb", [(member("zeros"), bytes(5_000_000))]),
    "zip": lambda directory: zip_of(directory / "bomb", [("zeros", bytes(5_000_000))]),
    "many": lambda directory: tar_of(directory / "bomb", [(member(f"zeros{n}"), bytes(500_000)) for n in range(10)]),
    # No file at all, but a header of names that never ends.
    "header": lambda directory: tar_of(directory / "bomb", [(named("x" * 5_000_000), b"")]),
}


def named(comment: str) -> tarfile.TarInfo:
    info = member("small")
    info.pax_headers = {"comment": comment}
    return info


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize(
    "limits",
    [Limits(ratio=50, spared=1_000_000), Limits(size=1_000_000)],
    ids=["ratio", "size"],
)
def test_floods_are_stopped(tmp_path: Path, kind: str, limits: Limits) -> None:
    archive = BOMBS[kind](tmp_path)
    packed = archive.stat().st_size
    assert packed < 20_000
    message = f"it holds more than 1,000,000 bytes, though it has only {packed:,} bytes; photos do not pack like that"
    with pytest.raises(DataError, match=message):
        unpack(archive, tmp_path / "out", limits=limits)
    assert [path.name for path in tmp_path.iterdir()] == ["bomb"]
    unpack(archive, tmp_path / "out")


def test_a_zip_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [("zeros", bytes(5_000_000))])
    content = bytearray(archive.read_bytes())
    true, claimed = (5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert content.count(true) == 2
    archive.write_bytes(content.replace(true, claimed))
    with pytest.raises(DataError, match=r"a\.zip' is damaged"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", [(f"{n}.txt", b"") for n in range(11)])
    with pytest.raises(DataError, match="it holds more than 10 files"):
        unpack(archive, tmp_path / "out", limits=Limits(members=10))
    unpack(archive, tmp_path / "out", limits=Limits(members=11))
    assert len(list((tmp_path / "out").iterdir())) == 11


def flipped(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 255]) + content[half + 1 :]


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "text": b"<html>Please sign in</html>" * 100,
    "gzip of text": gzip.compress(b"no tar" * 1000),
    "gzip cut short": gzip.compress(IMAGE)[:2000],
    "bzip2 cut short": bz2.compress(IMAGE)[:2000],
    "xz cut short": lzma.compress(IMAGE)[:2000],
    "zip cut short": b"PK\x03\x04" + IMAGE,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_archive_is_said_to_be_damaged(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(DAMAGED[kind])
    with pytest.raises(DataError, match=r"a\.zip' is damaged, or neither tar nor zip: .*Remove it and get it again\."):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip"])
@pytest.mark.parametrize("damage", [flipped, lambda content: content[: len(content) - 900]], ids=["flipped", "cut"])
def test_damage_leaves_nothing_half_unpacked(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    archive = MAKERS[name](tmp_path / name)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(DataError, match="is damaged"):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "said", [{"map": "a,b"}, {"map": "0,9,x"}, {"size": "x"}, {"realsize": "x"}, {"major": "1", "minor": "0"}]
)
def test_holes_that_are_none_are_damage(tmp_path: Path, said: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = member("1.jpg")
        info.size, info.pax_headers = 10, {f"GNU.sparse.{name}": value for name, value in said.items()}
        tar.addfile(info, io.BytesIO(bytes(10)))
    with pytest.raises(DataError, match=r"a\.tar' is damaged, or neither tar nor zip"):
        unpack(tmp_path / "a.tar", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_directory_that_is_there_is_not_touched(tmp_path: Path) -> None:
    archive = MAKERS["a.zip"](tmp_path / "a.zip")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"out' is there already; 'a\.zip' is not unpacked over it"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_archive_and_a_name_too_long_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'gone\.zip' cannot be unpacked to '.*out': No such file or directory\."):
        unpack(tmp_path / "gone.zip", tmp_path / "out")
    archive = zip_of(tmp_path / "a.zip", [("x" * 3000, b"")])
    with pytest.raises(DataError, match=r"'a\.zip' cannot be unpacked to '.*out': File name too long\."):
        unpack(archive, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    archive = MAKERS["a.tgz"](tmp_path / "a.tgz")

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_what_a_killed_process_left_is_cleared_and_unpacked_anew(tmp_path: Path) -> None:
    archive = MAKERS["a.tgz"](tmp_path / "a.tgz")
    code = (
        "import sys, time; from pathlib import Path; from cocoop.data.catalog.archives import unpack;"
        "wait = lambda *_: print('begun', flush=True) or time.sleep(60);"
        "unpack(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=wait)"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(archive), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out").exists()
    staging = tmp_path / ".out.unpacking"
    (staging / "stale").write_bytes(b"of another version")
    unpack(archive, tmp_path / "out")
    assert content_of(tmp_path / "out") == FILES
    assert not staging.exists()
