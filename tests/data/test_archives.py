"""Unpacking: all formats, and refusal of hostile, oversized and damaged archives."""

import bz2
import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cocoop.data.catalog.archives import unpack
from cocoop.errors import DataError

IMAGE = random.Random(0).randbytes(5000)
FILES = {"photos/ant/1.jpg": IMAGE, "photos/bee/2.jpg": b"", "lists/Größe.txt": b"ant\n"}


def write_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def write_zip(path: Path, members: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def read_all(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def write_plain_tar(path: Path) -> Path:
    return write_tar(path, [(member(f"./{name}"), content) for name, content in FILES.items()], "w")


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.tar": write_plain_tar,
    # As ImageNetV2's archive, whose name says gzip though its content is a plain tar file.
    "plain.tar.gz": write_plain_tar,
    "a.tgz": lambda path: write_tar(path, [(member(name), content) for name, content in FILES.items()], "w:gz"),
    "a.tar.bz2": lambda path: write_tar(path, [(member(name), content) for name, content in FILES.items()], "w:bz2"),
    "a.tar.xz": lambda path: write_tar(path, [(member(name), content) for name, content in FILES.items()], "w:xz"),
    "a.zip": lambda path: write_zip(path, [*FILES.items()]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_unpack_detects_the_format_from_the_content(tmp_path: Path, name: str) -> None:
    archive = WRITERS[name](tmp_path / name)
    progress: list[tuple[int, int | None]] = []
    unpack(archive, tmp_path / "deep" / "out", on_progress=lambda done, total: progress.append((done, total)))
    assert read_all(tmp_path / "deep" / "out") == FILES
    assert names(tmp_path / "deep") == ["out"]
    assert len(progress) == 3
    assert all(0 < done <= archive.stat().st_size == total for done, total in progress)


def test_unpack_makes_directories_and_ignores_special_modes(tmp_path: Path) -> None:
    archive = write_tar(
        tmp_path / "a.tgz",
        [
            (member("./", tarfile.DIRTYPE), b""),
            (member("empty/", tarfile.DIRTYPE, mode=0), b""),
            (member("run", mode=0o6777), b"x"),
            (member("secret", mode=0), b"y"),
        ],
    )
    unpack(archive, tmp_path / "out")
    assert names(tmp_path / "out") == ["empty", "run", "secret"]
    modes = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("run", "secret")}
    assert modes["run"] & 0o7022 == 0
    assert modes["secret"] & 0o600 == 0o600
    assert names(tmp_path / "out" / "empty") == []


HOSTILE: dict[str, tuple[tarfile.TarInfo, str]] = {
    "parent": (member("../evil"), r"'\.\./evil' would be extracted to .*, which is outside the destination"),
    "hidden parent": (member("a/b/../../../evil"), "outside the destination"),
    "symbolic link": (member("link", tarfile.SYMTYPE, link="/etc"), "'link' is a link to '/etc'"),
    "inner symbolic link": (member("link", tarfile.SYMTYPE, link="good"), "is a link to 'good'"),
    "hard link": (member("link", tarfile.LNKTYPE, link="../../etc/passwd"), "is a link to"),
    "character device": (member("null", tarfile.CHRTYPE), "'null' is a special file"),
    "block device": (member("disk", tarfile.BLKTYPE), "'disk' is a special file"),
    "pipe": (member("pipe", tarfile.FIFOTYPE), "'pipe' is a special file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_unpack_refuses_hostile_tar_members_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    info, message = HOSTILE[kind]
    inside = tmp_path / "inside"
    inside.mkdir()
    archive = write_tar(inside / "a.tgz", [(member("good"), b"good"), (info, b""), (member("link/x"), b"")])
    before = read_all(tmp_path)
    with pytest.raises(DataError, match=rf"a\.tgz' was not unpacked: .*{message}"):
        unpack(archive, inside / "out")
    assert read_all(tmp_path) == before
    assert names(inside) == ["a.tgz"]


def test_unpack_keeps_absolute_names_below_the_target(tmp_path: Path) -> None:
    unpack(write_tar(tmp_path / "a.tgz", [(member("/tmp/evil"), b"x")]), tmp_path / "out")
    assert read_all(tmp_path / "out") == {"tmp/evil": b"x"}


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../evil", "evil"),
        ("/tmp/evil", "tmp/evil"),
        (zip_info("link", stat.S_IFLNK | 0o777), "link"),
        (zip_info("null", stat.S_IFCHR | 0o666), "null"),
    ],
    ids=["parent", "absolute", "link", "device"],
)
def test_unpack_writes_hostile_zip_members_as_plain_files_below_the_target(
    tmp_path: Path, name: str | zipfile.ZipInfo, kept: str
) -> None:
    archive = write_zip(tmp_path / "a.zip", [("good", b"good"), (name, b"/etc/passwd")])
    unpack(archive, tmp_path / "out")
    assert read_all(tmp_path / "out") == {"good": b"good", kept: b"/etc/passwd"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert names(tmp_path) == ["a.zip", "out"]


def test_unpack_refuses_an_encrypted_zip(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("secret", IMAGE)])
    content = bytearray(archive.read_bytes())
    # Bit 0 of the flags, in the local header and in the central directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip' was not unpacked: .*'secret' is encrypted"):
        unpack(archive, tmp_path / "out")


BOMBS: dict[str, Callable[[Path], Path]] = {
    "tar": lambda directory: write_tar(directory / "bomb", [(member("zeros"), bytes(5_000_000))]),
    "zip": lambda directory: write_zip(directory / "bomb", [("zeros", bytes(5_000_000))]),
    "many": lambda directory: write_tar(directory / "bomb", [(member(f"zeros{n}"), bytes(500_000)) for n in range(10)]),
    "empty": lambda directory: write_tar(directory / "bomb", [(member(str(n)), b"") for n in range(3000)]),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_unpack_stops_at_the_size_limit(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = BOMBS[kind](tmp_path)
    packed = archive.stat().st_size
    message = f"bomb' was not unpacked: its {packed:,} bytes hold files of more than"
    with pytest.raises(DataError, match=rf"{message} 1,000,000 bytes\. Download it again"):
        unpack(archive, tmp_path / "out", max_bytes=1_000_000)
    monkeypatch.setattr("cocoop.data.catalog.archives.ALWAYS_ALLOWED", 500_000)
    monkeypatch.setattr("cocoop.data.catalog.archives.MAX_RATIO", 10)
    with pytest.raises(DataError, match=message):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["bomb"]
    monkeypatch.undo()
    unpack(archive, tmp_path / "out")


def test_unpack_refuses_a_zip_with_a_false_size(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", [("zeros", bytes(5_000_000))])
    content = bytearray(archive.read_bytes())
    actual, claimed = (5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    assert content.count(actual) == 2
    archive.write_bytes(content.replace(actual, claimed))
    with pytest.raises(DataError, match=r"a\.zip' is damaged"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


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
def test_unpack_refuses_other_files(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(DAMAGED[kind])
    with pytest.raises(DataError, match=r"a\.zip' is damaged, or neither a tar nor a zip file: .*Delete it and down"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_unpack_leaves_nothing_of_a_file_that_is_cut_short(tmp_path: Path, name: str) -> None:
    archive = WRITERS[name](tmp_path / name)
    archive.write_bytes(archive.read_bytes()[:-900])
    with pytest.raises(DataError, match="is damaged"):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    "headers", [{"map": "a,b"}, {"map": "0,9,x"}, {"size": "x"}, {"realsize": "x"}, {"major": "1", "minor": "0"}]
)
def test_unpack_refuses_malformed_sparse_headers(tmp_path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = member("1.jpg")
        info.size, info.pax_headers = 10, {f"GNU.sparse.{name}": value for name, value in headers.items()}
        tar.addfile(info, io.BytesIO(bytes(10)))
    with pytest.raises(DataError, match=r"a\.tar' is damaged, or neither a tar nor a zip file"):
        unpack(tmp_path / "a.tar", tmp_path / "target")
    assert names(tmp_path) == ["a.tar"]


def test_unpack_leaves_an_existing_directory_alone(tmp_path: Path) -> None:
    archive = WRITERS["a.zip"](tmp_path / "a.zip")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"'a\.zip' cannot be unpacked to '.*out': File exists\."):
        unpack(archive, tmp_path / "out")
    assert read_all(tmp_path / "out") == {"mine": b"mine"}


def test_unpack_names_a_missing_archive_and_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'gone\.zip' cannot be unpacked to '.*out': No such file or directory\."):
        unpack(tmp_path / "gone.zip", tmp_path / "out")
    archive = write_zip(tmp_path / "a.zip", [("x" * 3000, b"")])
    with pytest.raises(DataError, match=r"'a\.zip' cannot be unpacked to '.*out': File name too long\."):
        unpack(archive, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"]


def test_unpack_leaves_nothing_when_interrupted(tmp_path: Path) -> None:
    archive = WRITERS["a.tgz"](tmp_path / "a.tgz")

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, tmp_path / "out", on_progress=interrupt)
    assert names(tmp_path) == ["a.tgz"]


def test_unpack_needs_the_filter_of_the_standard_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(DataError, match=r"needs Python 3\.10\.12, 3\.11\.4 or newer"):
        unpack(WRITERS["a.tgz"](tmp_path / "a.tgz"), tmp_path / "out")
