"""Downloads from a server on this machine: resumed, checked, whole or not at all; every mistake has its sentence."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import WebServer, serve

from cocoop.data.catalog.download import download
from cocoop.errors import DataError
from cocoop.storage.hashing import hash_file

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as server:
        yield server


def get(url: str, target: Path, checksum: str | None = SHA256, **options: object) -> None:
    download(url, target, checksum=checksum, **{"pause": 0.0, **options})  # type: ignore[arg-type]


def everything_below(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("checksum", [SHA256, MD5, None])
def test_a_file_comes_whole_with_its_progress(web: WebServer, tmp_path: Path, checksum: str | None) -> None:
    url = web.put("/a.zip", CONTENT)
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "a.zip"
    get(url, target, checksum, on_progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (300_000, 300_000)
    assert everything_below(tmp_path) == ["a.zip"]
    assert web.requests == [("/a.zip", None, None)]


def test_checksums_are_those_of_the_command_line_tools(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc", "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert hash_file(tmp_path / "abc", "sha256").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_cut_connection_is_continued_where_it_ended(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000, 50_000])
    seen: list[int] = []
    get(url, tmp_path / "a.zip", on_progress=lambda done, _: seen.append(done))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.requests == [
        ("/a.zip", None, None),
        ("/a.zip", "bytes=100000-", '"v1"'),
        ("/a.zip", "bytes=150000-", '"v1"'),
    ]
    assert seen == sorted(seen)
    assert seen[-1] == 300_000


def test_a_cut_chunked_transfer_is_noticed_and_repeated(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000], chunked=True)
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(web.requests) == 2


def test_the_next_call_goes_on_from_what_the_last_one_got(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000, 0])
    message = (
        r"'a\.zip' from 127\.0\.0\.1:\d+ stopped after 100,000 bytes: .* 100,000 of 300,000 .* goes on from there\."
    )
    with pytest.raises(DataError, match=message):
        get(url, tmp_path / "a.zip", tries=1)
    assert everything_below(tmp_path) == ["a.zip.part", "a.zip.part.version"]
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:100_000]
    web.pages["/a.zip"].cuts.clear()
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges_asked[-1] == "bytes=100000-"
    assert everything_below(tmp_path) == ["a.zip"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_process_is_continued_by_the_next(web: WebServer, tmp_path: Path) -> None:
    hold = threading.Event()
    url = web.put("/a.zip", CONTENT, cuts=[200_000], hold=hold)
    target = tmp_path / "a.zip"
    code = (
        "import sys; from pathlib import Path; from cocoop.data.catalog.download import download;"
        "download(sys.argv[1], Path(sys.argv[2]), checksum=None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, url, str(target)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    part = tmp_path / "a.zip.part"
    try:
        while process.poll() is None and not (part.exists() and part.stat().st_size > 0):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold.set()
    assert not target.exists()
    have = part.stat().st_size
    assert 0 < have <= 200_000
    get(url, target)
    assert target.read_bytes() == CONTENT
    assert web.ranges_asked == [None, f"bytes={have}-"]


def test_a_server_without_ranges_starts_over(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000], ranges=False)
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges_asked == [None, "bytes=100000-"]


def test_a_file_that_changed_meanwhile_is_not_joined_to_the_old_one(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.txt", b"old" * 1000, tag='"old"', cuts=[1000, 0])
    with pytest.raises(DataError, match="stopped after 1,000 bytes"):
        get(url, tmp_path / "a.txt", None, tries=1)
    web.put("/a.txt", b"new" * 1000, tag='"new"')
    get(url, tmp_path / "a.txt", None)
    assert (tmp_path / "a.txt").read_bytes() == b"new" * 1000
    assert web.requests[-1] == ("/a.txt", "bytes=1000-", '"old"')


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_version_and_checksum_nothing_is_joined(web: WebServer, tmp_path: Path, tag: str | None) -> None:
    url = web.put("/a.txt", CONTENT, tag=tag, cuts=[1000])
    get(url, tmp_path / "a.txt", None)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert web.ranges_asked == [None, None]
    # A checksum tells whether two halves belong together.
    web.put("/a.txt", CONTENT, tag=tag, cuts=[1000])
    get(url, tmp_path / "b.txt")
    assert web.requests[-1] == ("/a.txt", "bytes=1000-", None)


def test_a_part_that_is_the_whole_file_is_only_checked(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges_asked == ["bytes=300000-"]


def test_a_part_that_is_longer_than_the_file_is_dropped(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges_asked == ["bytes=300004-", None]


def test_a_part_that_was_damaged_meanwhile_is_fetched_anew(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:500] + b"x" + CONTENT[501:1000])
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges_asked == ["bytes=1000-", None]
    assert everything_below(tmp_path) == ["a.zip"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_kill_as_another_version_begins_does_not_join_it_to_the_old_one(web: WebServer, tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    web.put("/a.txt", b"old" * 1000, tag='"old"', cuts=[1000, 0])
    with pytest.raises(DataError, match="stopped after 1,000 bytes"):
        get(f"{web.address}/a.txt", target, None, tries=1)
    url = web.put("/a.txt", b"new" * 1000, tag='"new"')
    # The name of the new version is written before its first byte.
    code = (
        "import os, sys; from pathlib import Path; from cocoop.data.catalog.download import download;"
        "write = Path.write_text;"
        "Path.write_text = lambda *a, **k: (write(*a, **k), os.kill(os.getpid(), 9));"
        "download(sys.argv[1], Path(sys.argv[2]), checksum=None)"
    )
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code, url, str(target)], env=paths).returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt.part.version").read_text() == '"new"'
    get(url, target, None)
    assert target.read_bytes() == b"new" * 1000


def test_another_file_than_the_published_one_is_refused(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", b"other")
    seen = hashlib.sha256(b"other").hexdigest()
    message = f"'a.zip' is not the published file: its SHA-256 is {seen}, published is {SHA256[7:]} .*It was removed"
    with pytest.raises(DataError, match=message):
        get(url, tmp_path / "a.zip")
    assert everything_below(tmp_path) == []


def test_a_file_that_is_there_is_checked_and_not_fetched(web: WebServer, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    target.write_bytes(CONTENT)
    get("http://127.0.0.1:9/a.zip", target, MD5)
    target.write_bytes(b"what a person put there")
    with pytest.raises(DataError, match=r"its MD5 is [0-9a-f]{32}, .* Remove it and run the command again\."):
        get("http://127.0.0.1:9/a.zip", target, MD5)
    assert target.read_bytes() == b"what a person put there"
    assert web.requests == []


def test_redirects_are_followed_with_the_range(web: WebServer, tmp_path: Path) -> None:
    web.put("/real.zip", CONTENT, cuts=[1000])
    url = web.put("/a.zip", location="/real.zip")
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.requests[-1] == ("/real.zip", "bytes=1000-", '"v1"')


def test_a_redirect_to_a_web_page_is_no_file(web: WebServer, tmp_path: Path) -> None:
    web.put("/login", b"<html>Please sign in</html>", kind="text/html; charset=utf-8")
    url = web.put("/a.zip", location="/login")
    message = r"/a\.zip answers with a web page instead of 'a\.zip'; fetch .* another way, put it at '.*a\.zip' and run"
    with pytest.raises(DataError, match=message):
        get(url, tmp_path / "a.zip", None)
    assert everything_below(tmp_path) == []


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/a.zip"])
def test_redirects_off_the_web_are_not_followed(web: WebServer, tmp_path: Path, place: str) -> None:
    url = web.put("/a.zip", location=place)
    with pytest.raises(DataError, match=place) as caught:
        get(url, tmp_path / "a.zip")
    assert "\n" not in str(caught.value)
    assert everything_below(tmp_path) == []


def test_a_redirect_in_circles_ends(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", location="/a.zip")
    with pytest.raises(DataError, match=r"the server answers 302 .*infinite loop") as caught:
        get(url, tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_asked_for_once(web: WebServer, tmp_path: Path) -> None:
    message = r"/gone\.zip: the server answers 404 Not Found; fetch .*gone\.zip another way, put it at"
    with pytest.raises(DataError, match=message):
        get(f"{web.address}/gone.zip", tmp_path / "gone.zip")
    assert len(web.requests) == 1


def test_a_busy_server_is_asked_again(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, statuses=[503, 429])
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    web.put("/a.zip", CONTENT, statuses=[503] * 9)
    with pytest.raises(DataError, match=r"cannot be fetched from 127.*: the server answers 503 Service Unavailable\."):
        get(url, tmp_path / "b.zip", tries=3)
    assert len(web.requests) == 3 + 3


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    message = rf"'a\.zip' cannot be fetched from 127\.0\.0\.1:{port}: Connection refused\. Check the network; or fetch"
    with pytest.raises(DataError, match=message) as caught:
        get(f"http://127.0.0.1:{port}/a.zip", tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def test_a_file_that_does_not_fit_the_disk_is_not_begun(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, length=10**18)
    with pytest.raises(
        DataError, match=r"'a\.zip' needs 1000000000\.0 GB more, but the disk of .* GB free\. Make room"
    ):
        get(url, tmp_path / "a.zip")
    assert everything_below(tmp_path) == []


def test_a_directory_that_cannot_be_made(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = web.put("/a.zip", CONTENT)
    with pytest.raises(DataError, match=r"Cannot write '.*file': (File exists|Not a directory)"):
        get(url, tmp_path / "file" / "a.zip")
