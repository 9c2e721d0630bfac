"""Downloads from a local server: resumed, checked, and complete or absent; each failure has its message."""

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
from local_server import WebServer, serve

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


def get(url: str, target: Path, checksum: str = SHA256, **options: object) -> None:
    download(url, target, checksum=checksum, **{"pause": 0.0, **options})  # type: ignore[arg-type]


def files_below(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_download_writes_the_file_and_reports_progress(web: WebServer, tmp_path: Path, checksum: str) -> None:
    url = web.put("/a.zip", CONTENT)
    progress: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "a.zip"
    get(url, target, checksum, on_progress=lambda done, total: progress.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert progress[-1] == (300_000, 300_000)
    assert files_below(tmp_path) == ["a.zip"]
    assert web.requests == [("/a.zip", None)]


def test_hash_file_equals_that_of_command_line_tools(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert hash_file(tmp_path / "abc", "md5") == "900150983cd24fb0d6963f7d28e17f72"
    assert hash_file(tmp_path / "abc", "sha256").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_download_continues_after_a_cut_connection(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000, 50_000])
    progress: list[int] = []
    get(url, tmp_path / "a.zip", on_progress=lambda done, _: progress.append(done))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert progress == sorted(progress)
    assert progress[-1] == 300_000


def test_download_continues_a_cut_chunked_transfer(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000], chunked=True)
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(web.requests) == 2


def test_download_continues_in_the_next_call(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000, 0])
    message = (
        r"'a\.zip' from 127\.0\.0\.1:\d+ stopped after 100,000 bytes: .* 100,000 of 300,000 .*\. Try again to continue"
    )
    with pytest.raises(DataError, match=message):
        get(url, tmp_path / "a.zip", attempts=1)
    assert files_below(tmp_path) == ["a.zip.part"]
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:100_000]
    web.pages["/a.zip"].cuts.clear()
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges[-1] == "bytes=100000-"
    assert files_below(tmp_path) == ["a.zip"]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_download_continues_after_a_killed_process(web: WebServer, tmp_path: Path) -> None:
    hold = threading.Event()
    url = web.put("/a.zip", CONTENT, cuts=[200_000], hold=hold)
    target = tmp_path / "a.zip"
    code = (
        "import sys; from pathlib import Path; from cocoop.data.catalog.download import download;"
        "download(sys.argv[1], Path(sys.argv[2]), checksum=sys.argv[3])"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, url, str(target), SHA256],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    part = tmp_path / "a.zip.part"
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and not (part.exists() and part.stat().st_size > 0):
            assert time.monotonic() < deadline
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
    assert web.ranges == [None, f"bytes={have}-"]


def test_download_starts_over_without_ranges(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, cuts=[100_000], ranges=False)
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == [None, "bytes=100000-"]


def test_download_starts_over_if_the_file_has_changed(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.txt", b"old" * 1000, cuts=[1000, 0])
    checksum = f"md5:{hashlib.md5(b'new' * 1000).hexdigest()}"
    with pytest.raises(DataError, match="stopped after 1,000 bytes"):
        get(url, tmp_path / "a.txt", checksum, attempts=1)
    web.put("/a.txt", b"new" * 1000)
    get(url, tmp_path / "a.txt", checksum)
    assert (tmp_path / "a.txt").read_bytes() == b"new" * 1000
    assert web.ranges == [None, "bytes=1000-", None]


def test_download_only_checks_a_complete_part(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == ["bytes=300000-"]


def test_download_drops_a_part_that_is_too_long(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == ["bytes=300004-", None]


def test_download_starts_over_after_a_damaged_part(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:500] + b"x" + CONTENT[501:1000])
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == ["bytes=1000-", None]
    assert files_below(tmp_path) == ["a.zip"]


def test_download_refuses_another_file(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", b"other")
    actual = hashlib.sha256(b"other").hexdigest()
    message = (
        rf"'a.zip' is not the published file \({url}\): its SHA256 is {actual} instead of {SHA256[7:]}\. It was del"
    )
    with pytest.raises(DataError, match=message):
        get(url, tmp_path / "a.zip")
    assert files_below(tmp_path) == []


def test_download_only_checks_an_existing_file(web: WebServer, tmp_path: Path) -> None:
    target = tmp_path / "a.zip"
    target.write_bytes(CONTENT)
    get("http://127.0.0.1:9/a.zip", target, MD5)
    target.write_bytes(b"what a person put there")
    with pytest.raises(DataError, match=r"its MD5 is [0-9a-f]{32} instead of .* Delete it and try again\."):
        get("http://127.0.0.1:9/a.zip", target, MD5)
    assert target.read_bytes() == b"what a person put there"
    assert web.requests == []


def test_download_continues_after_a_redirect(web: WebServer, tmp_path: Path) -> None:
    web.put("/real.zip", CONTENT, cuts=[1000])
    url = web.put("/a.zip", location="/real.zip")
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.requests[-1] == ("/real.zip", "bytes=1000-")


def test_download_refuses_a_web_page(web: WebServer, tmp_path: Path) -> None:
    web.put("/login", b"<html>Please sign in</html>", kind="text/html; charset=utf-8")
    url = web.put("/a.zip", location="/login")
    message = r"/a\.zip answers with a web page instead of 'a\.zip'; download .* in another way, save it"
    with pytest.raises(DataError, match=message):
        get(url, tmp_path / "a.zip")
    assert files_below(tmp_path) == []


def test_download_does_not_follow_redirects_to_files(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", location="file:///etc/passwd")
    with pytest.raises(DataError, match="file:///etc/passwd") as caught:
        get(url, tmp_path / "a.zip")
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


def test_download_stops_at_circular_redirects(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", location="/a.zip")
    with pytest.raises(DataError, match=r"the server answers 302 .*infinite loop") as caught:
        get(url, tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def test_download_does_not_repeat_requests_for_missing_files(web: WebServer, tmp_path: Path) -> None:
    message = r"/gone\.zip: the server answers 404 Not Found; download .*gone\.zip in another way, save it as"
    with pytest.raises(DataError, match=message):
        get(f"{web.address}/gone.zip", tmp_path / "gone.zip")
    assert len(web.requests) == 1


def test_download_repeats_requests_to_a_busy_server(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, statuses=[503, 429])
    get(url, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    web.put("/a.zip", CONTENT, statuses=[503] * 9)
    with pytest.raises(
        DataError, match=r"cannot be downloaded from 127.*: the server answers 503 Service Unavailable\."
    ):
        get(url, tmp_path / "b.zip", attempts=3)
    assert len(web.requests) == 3 + 3


def test_download_names_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    message = rf"'a\.zip' cannot be downloaded from 127\.0\.0\.1:{port}: Connection refused\. Check the network, or dow"
    with pytest.raises(DataError, match=message) as caught:
        get(f"http://127.0.0.1:{port}/a.zip", tmp_path / "a.zip")
    assert "\n" not in str(caught.value)


def test_download_checks_the_disk_space_first(web: WebServer, tmp_path: Path) -> None:
    url = web.put("/a.zip", CONTENT, length=10**18)
    with pytest.raises(
        DataError, match=r"'a\.zip' needs 1000000000\.0 GB more, but the disk of .* GB free\. Make room"
    ):
        get(url, tmp_path / "a.zip")
    assert files_below(tmp_path) == []


def test_download_names_a_directory_that_cannot_be_made(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    url = web.put("/a.zip", CONTENT)
    with pytest.raises(DataError, match=r"Cannot write '.*file': (File exists|Not a directory)"):
        get(url, tmp_path / "file" / "a.zip")
