"""Downloads that resume, are verified by checksum, and appear only when they are complete.

A file grows as `NAME.part` and is renamed when its checksum is right. An interrupted transfer continues with a Range
request (RFC 9110, section 14); if the server ignores that, or the parts do not fit together, it starts over.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cocoop.errors import DataError
from cocoop.storage.hashing import hash_file

__all__ = ["ByteProgress", "download"]

ByteProgress = Callable[[int, "int | None"], None]
"""Called with the number of bytes done, and the total or None if it is unknown."""

_CHUNK = 1 << 20
_HEADERS = {"User-Agent": "cocoop (prompt learning; python-urllib)", "Accept-Encoding": "identity"}
_BUSY = (408, 425, 429)
"""Client errors that may go away, as server errors (500 and above) do."""


class _TransferError(Exception):
    """An interrupted transfer or a busy server, worth another attempt."""


def download(
    url: str,
    target: Path,
    *,
    checksum: str,
    on_progress: ByteProgress | None = None,
    attempts: int = 3,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Download a file, or continue an interrupted download. An existing file is only checked.

    Args:
        url: an http or https address; proxies are taken from the environment.
        target: the file to write; its directory is created.
        checksum: `md5:...` or `sha256:...`.
        on_progress: called after each chunk.
        attempts: number of attempts in a row without any progress, at least 1.
        pause: seconds before the second attempt; doubled before each further one.
        timeout: seconds to wait for the server.

    Raises:
        DataError: if the server cannot be reached, does not have the file or sends another one, or if the file cannot
            be written. Bytes received so far are kept, unless the checksum is wrong.
    """
    if target.is_file():
        _check(target, checksum, url, "Delete it and try again")
        return
    part = target.with_name(f"{target.name}.part")
    by_hand = f"download {url} in another way, save it as '{target}' and try again"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Bytes of an earlier call may be damaged or of another version: then a second pass starts over.
        for resumed in (True, False) if part.exists() else (False,):
            _transfer_with_retries(url, part, by_hand, on_progress, attempts, pause, timeout)
            try:
                _check(part, checksum, url, f"It was deleted; {by_hand}")
                break
            except DataError:
                part.unlink()
                if not resumed:
                    raise
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise DataError(f"Cannot write '{error.filename or part}': {error.strerror or error}.") from error


def _check(path: Path, checksum: str, url: str, advice: str) -> None:
    algorithm, _, expected = checksum.partition(":")
    # Owners publish MD5, which protects from accidents, not from attackers.
    actual = hash_file(path, algorithm)
    if actual != expected:
        raise DataError(
            f"'{path.name.removesuffix('.part')}' is not the published file ({url}): its {algorithm.upper()} is"
            f" {actual} instead of {expected}. {advice}."
        )


def _transfer_with_retries(
    url: str,
    part: Path,
    by_hand: str,
    on_progress: ByteProgress | None,
    attempts: int,
    pause: float,
    timeout: float,
) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, by_hand, on_progress, timeout)
            return
        except _TransferError as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= attempts:
                host, name = urllib.parse.urlsplit(url).netloc, part.stem
                if _size(part):
                    raise DataError(
                        f"The download of '{name}' from {host} stopped after {_size(part):,} bytes: {error}."
                        " Try again to continue from there."
                    ) from error
                raise DataError(
                    f"'{name}' cannot be downloaded from {host}: {error}. Check the network, or {by_hand}."
                ) from error
            time.sleep(pause * 2 ** (failures - 1))


def _transfer(url: str, part: Path, by_hand: str, on_progress: ByteProgress | None, timeout: float) -> None:
    """Send one request and append the answer to `part`."""
    start = _size(part)
    headers = {**_HEADERS, "Range": f"bytes={start}-"} if start else _HEADERS
    try:
        # A new opener reads the proxies of the environment; urlopen() would reuse those of its first call.
        opener = urllib.request.build_opener()
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:
            # `part` has all bytes already; the checksum decides if they are right.
            return
        answer = " ".join(f"the server answers {error.code} {error.reason}".split())
        if error.code in _BUSY or error.code >= 500:
            raise _TransferError(answer) from error
        raise DataError(f"{url}: {answer}; {by_hand}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(_reason(error)) from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DataError(f"{url} answers with a web page instead of '{part.stem}'; {by_hand}.")
        if response.status != 206:
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        _check_disk_space(part, total - start if total else 0)
        with part.open("rb+" if start else "wb") as file:
            file.seek(start)
            done = start
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
    if total is not None and done != total:
        raise _TransferError(f"the connection ended after {done:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        # read1() returns the bytes received so far, so that those of a slow server are written early.
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(_reason(error)) from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _check_disk_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DataError(
            f"'{part.stem}' needs {needed / 1e9:.1f} GB more, but the disk of '{part.parent}' has {free / 1e9:.1f} GB"
            " free. Make room, or choose a directory on another disk."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
