"""Files from their owners' servers: continued where they stopped, checked, and there whole or not at all.

A file grows under the name `NAME.part`, with what the server says about its version beside it in `NAME.part.version`.
It gets its own name once it is complete and its checksum is the published one. A transfer that is cut off is continued
by a Range request (RFC 9110, section 14) that holds only for the same version (If-Range); a server that ignores it, or
has another version, makes it start over.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any

from cocoop.errors import DataError
from cocoop.storage.atomic import sync_directory
from cocoop.storage.hashing import hash_file

__all__ = ["ByteProgress", "download"]

ByteProgress = Callable[[int, "int | None"], None]
"""Called with the bytes that are done and all there are, where that is known."""

_CHUNK = 1 << 20
_HEADERS = {"User-Agent": "cocoop (prompt learning; python-urllib)", "Accept-Encoding": "identity"}


class _Cut(Exception):  # noqa: N818
    """A transfer that ended early, or a server that may answer later; worth another try."""


def download(
    url: str,
    target: Path,
    *,
    checksum: str | None,
    on_progress: ByteProgress | None = None,
    tries: int = 3,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Fetch a file, or go on fetching it.

    A file that is at `target` already is only checked.

    Args:
        url: an http or https address.
        target: where the file goes; its folder is made.
        checksum: `md5:...` or `sha256:...`, as published; None takes what comes.
        on_progress: called often.
        tries: how often in a row a transfer may fail without a byte gained; at least 1.
        pause: seconds before the second of them; doubled before each further one.
        timeout: seconds that the server may keep silent.

    Raises:
        DataError: if the server cannot be reached, has no such file, answers with a web page, sends another file than
            the published one, or the disk is full. What came stays, unless it is wrong.
    """
    if target.is_file():
        _check(target, checksum, url, advice="Remove it and run the command again")
        return
    part = target.with_name(f"{target.name}.part")
    continued = _size(part) > 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        failed = 0
        while True:
            before = _size(part)
            try:
                _fetch(url, part, target, guarded=checksum is not None, on_progress=on_progress, timeout=timeout)
                break
            except _Cut as cut:
                failed = 1 if _size(part) > before else failed + 1
                if failed >= tries:
                    raise DataError(_stopped(url, part, target, str(cut))) from cut
                time.sleep(pause * 2 ** (failed - 1))
        try:
            _check(part, checksum, url, advice=f"It was removed; {_by_hand(url, target)}")
        except DataError:
            _remove(part)
            if not continued:
                raise
            # What another call had left may have been damaged since.
            download(url, target, checksum=checksum, on_progress=on_progress, tries=tries, pause=pause, timeout=timeout)
            return
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        sync_directory(target.parent)
        _version_file(part).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"Cannot write '{error.filename or part}': {error.strerror or error}.") from error


def _fetch(
    url: str, part: Path, target: Path, *, guarded: bool, on_progress: ByteProgress | None, timeout: float
) -> None:
    """One request, appended to `part`."""
    have = _size(part)
    version = _version_file(part).read_text(encoding="utf-8") if _version_file(part).is_file() else ""
    if have and not version and not guarded:
        # Neither a version nor a checksum would tell if two halves of different files were joined.
        _remove(part)
        have = 0
    headers = dict(_HEADERS)
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    response = _open(urllib.request.Request(url, headers=headers), part, target, timeout)
    if response is None:
        return
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DataError(f"{url} answers with a web page instead of '{target.name}'; {_by_hand(url, target)}.")
        start = _start(response, have)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        if not start:
            # A crash must not leave bytes of the old version beside the name of the new one.
            _remove(part)
        _check_room(part, start, total)
        _version_file(part).write_text(_version(response.headers), encoding="utf-8")
        with part.open("rb+" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            _copy(response, file, start, total, on_progress)
    if total is not None and _size(part) != total:
        raise _Cut(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _open(request: urllib.request.Request, part: Path, target: Path, timeout: float) -> http.client.HTTPResponse | None:
    """The server's answer; None if there is nothing left to fetch."""
    opener = urllib.request.build_opener(_WebOnly)
    url = request.full_url
    try:
        response: http.client.HTTPResponse = opener.open(request, timeout=timeout)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and _size(part):
            # Our part is not shorter than the file: it is the file, or it is wrong.
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(_size(part)):
                return None
            _remove(part)
            raise _Cut("the server has a shorter file now") from error
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Cut(f"the server answers {error.code} {error.reason}") from error
        answer = " ".join(f"{error.code} {error.reason}".split())
        raise DataError(f"{url}: the server answers {answer}; {_by_hand(url, target)}.") from error
    except urllib.error.URLError as error:
        raise _Cut(_reason(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_reason(error)) from error


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], done: int, total: int | None, on_progress: ByteProgress | None
) -> None:
    while True:
        try:
            # Whatever is there: a slow server must not keep what it sent from the disk.
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            # What a cut chunked transfer had already is left to the next request.
            raise _Cut(_reason(error)) from error
        if not chunk:
            return
        file.write(chunk)
        done += len(chunk)
        if on_progress is not None:
            on_progress(done, total)


def _start(response: http.client.HTTPResponse, have: int) -> int:
    """Where the body of an answer begins in the file: at the end of our part, or at 0 if Range was ignored."""
    if response.status != 206:
        return 0
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if given is None or int(given[1]) != have:
        raise _Cut("the server answers with another range of bytes than was asked for")
    return have


def _version(headers: Message) -> str:
    """What If-Range may name: a strong ETag, else the date of the last change."""
    tag = str(headers.get("ETag") or "")
    return tag if tag.startswith('"') else str(headers.get("Last-Modified") or "")


def _check_room(part: Path, start: int, total: int | None) -> None:
    if total is None:
        return
    free = shutil.disk_usage(part.parent).free
    if total - start > free:
        raise DataError(
            f"'{part.stem}' needs {_gigabytes(total - start)} more, but the disk of '{part.parent}' has"
            f" {_gigabytes(free)} free. Make room, or name a folder on another disk by --data-root."
        )


def _check(path: Path, checksum: str | None, url: str, *, advice: str) -> None:
    if checksum is None:
        return
    algorithm, _, published = checksum.partition(":")
    # MD5 is what the owners publish; it guards against accidents, not against attackers.
    seen = hash_file(path, algorithm)
    if seen != published:
        name = {"md5": "MD5", "sha256": "SHA-256"}[algorithm]
        raise DataError(
            f"'{path.name.removesuffix('.part')}' is not the published file: its {name} is {seen}, published is"
            f" {published} ({url}). {advice}."
        )


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            fp.close()
            raise DataError(f"{req.full_url} leads to {newurl}, which is not followed: it is no safe web address.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _stopped(url: str, part: Path, target: Path, reason: str) -> str:
    host = urllib.parse.urlsplit(url).netloc
    if _size(part):
        return (
            f"The download of '{target.name}' from {host} stopped after {_size(part):,} bytes: {reason}."
            " The same command goes on from there."
        )
    return f"'{target.name}' cannot be fetched from {host}: {reason}. Check the network; or {_by_hand(url, target)}."


def _by_hand(url: str, target: Path) -> str:
    return f"fetch {url} another way, put it at '{target}' and run the command again"


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)
