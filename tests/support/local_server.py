"""HTTP servers on this machine: files that fail as a test wants, and a stand-in for the Hugging Face hub."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

USER, TOKEN = "ann", "hf_annsown"
"""The hub's only user, who may write to her own repositories."""


@dataclass
class Page:
    """Answer of one address; tests change it while the server runs."""

    content: bytes = b""
    tag: str | None = '"v1"'
    ranges: bool = True
    """Answer Range requests with a part."""
    cuts: list[int] = field(default_factory=list)
    """Number of bytes after which each of the next answers ends too early."""
    statuses: list[int] = field(default_factory=list)
    """Status codes of the next answers, all errors."""
    location: str | None = None
    """Address to redirect to."""
    kind: str = "application/octet-stream"
    length: int | None = None
    """A wrong Content-Length."""
    chunked: bool = False
    pace: float = 0.0
    """Seconds before every 64 KiB."""
    hold: threading.Event | None = None
    """Event to wait for before a connection is cut."""


@dataclass
class WebServer:
    """Pages by path."""

    address: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range of each request."""

    def put(self, path: str, content: bytes = b"", **options: Any) -> str:
        """Serve a page and return its address."""
        self.pages[path] = Page(content, **options)
        return f"{self.address}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    @property
    def ranges(self) -> list[str | None]:
        return [requested for _, requested in self.requests]


@dataclass
class Repository:
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    """All files after each commit."""
    messages: list[str] = field(default_factory=list)

    @staticmethod
    def sha(number: int) -> str:
        return f"{number:040x}"

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return commit and files of `main` or a commit."""
        number = len(self.commits) - 1 if revision == "main" else int(revision, 16) if len(revision) == 40 else -1
        return (self.sha(number), self.commits[number]) if 0 <= number < len(self.commits) else None


@dataclass
class Hub:
    """Repositories by name."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""


@contextmanager
def serve() -> Iterator[WebServer]:
    """Serve pages."""
    with _running(WebServer(), _PageHandler) as web:
        yield web


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve repositories by the protocol of the Hugging Face hub."""
    with _running(Hub(), _HubHandler) as hub:
        yield hub


@contextmanager
def _running(state: Any, handler: type[_Handler]) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"state": state}))
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Any

    def log_message(self, *_: object) -> None:
        pass

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _PageHandler(_Handler):
    state: WebServer

    def do_GET(self) -> None:
        self.close_connection = True
        requested = self.headers.get("Range")
        self.state.requests.append((self.path, requested))
        page = self.state.pages.get(self.path)
        if page is None or page.statuses:
            self.head(404 if page is None else page.statuses.pop(0), {"Content-Length": "0"})
        elif page.location is not None:
            self.head(302, {"Location": page.location, "Content-Length": "0"})
        else:
            self._send(page, requested)

    def _send(self, page: Page, requested: str | None) -> None:
        size, start, headers = len(page.content), 0, {"Content-Type": page.kind}
        if page.tag is not None:
            headers["ETag"] = page.tag
        if requested is not None and page.ranges:
            start = int(requested.removeprefix("bytes=").rstrip("-"))
            if start >= size:
                self.head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if page.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(size - start if page.length is None else page.length)
        self.head(206 if "Content-Range" in headers else 200, headers)
        cut = page.cuts.pop(0) if page.cuts else None
        body = page.content[start:][:cut]
        while page.pace and body:
            time.sleep(page.pace)
            self.wfile.write(body[: 1 << 16])
            body = body[1 << 16 :]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) if page.chunked and body else body)
        if page.chunked and cut is None:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        if cut is not None and page.hold is not None:
            page.hold.wait(60)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _HubHandler(_Handler):
    state: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(f"{self.command} {path}")
        self.body = self._read_body()
        authorization = self.headers.get("Authorization")
        self.authorized = authorization == f"Bearer {TOKEN}"
        if authorization is not None and not self.authorized:
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
            return
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                self._create(json.loads(self.body))
            case ["api", "validate-yaml"]:
                yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
                self._answer(200, {"errors": [], "warnings": []})
            case ["api", "models", user, name, *rest]:
                self._model(f"{user}/{name}", rest)
            case [user, name, "resolve", revision, *rest]:
                self._file(f"{user}/{name}", revision, "/".join(rest))
            case _:
                self._answer(404, {"error": "no such page"})

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _create(self, options: dict) -> None:
        name = f"{options.get('organization') or USER}/{options['name']}"
        if not self.authorized:
            self._answer(401, {"error": "Invalid username or password."})
        elif not name.startswith(f"{USER}/"):
            self._answer(403, {"error": f"You don't have the rights to create a model under {name.split('/')[0]}"})
        elif name in self.state.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.state.address}/{name}"})
        else:
            private = options.get("private") is True or options.get("visibility") == "private"
            self.state.repositories[name] = Repository(private)
            self._answer(200, {"url": f"{self.state.address}/{name}"})

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return commit and files of a revision, or answer that it may not be read."""
        repository = self.state.repositories.get(name)
        if repository is None or (repository.private and not self.authorized):
            # The hub does not tell strangers which repositories exist.
            status = 404 if self.authorized else 401
            self._answer(status, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        found = repository.files(revision)
        if found is None:
            self._answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return found

    def _model(self, name: str, rest: list[str]) -> None:
        match rest:
            case [] | ["revision", _]:
                if found := self._find(name, rest[1] if rest else "main"):
                    private = self.state.repositories[name].private
                    siblings = [{"rfilename": file} for file in found[1]]
                    self._answer(200, {"id": name, "sha": found[0], "private": private, "siblings": siblings})
            case ["tree", revision]:
                if found := self._find(name, revision):
                    files = [
                        {"type": "file", "path": file, "size": len(content), "oid": git_oid(content)}
                        for file, content in found[1].items()
                    ]
                    self._answer(200, files)
            case ["preupload", "main"]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(self.body)["files"]
                ]
                self._answer(200, {"files": files})
            case ["commit", "main"]:
                self._commit(name, [json.loads(line) for line in self.body.splitlines()])
            case _:
                self._answer(404, {"error": "no such page"})

    def _commit(self, name: str, lines: list[dict]) -> None:
        if not (self.authorized and name.startswith(f"{USER}/")):
            self._answer(403, {"error": "Forbidden"})
            return
        repository = self.state.repositories[name]
        files = dict(repository.commits[-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            else:
                assert (line["key"], value["encoding"]) == ("file", "base64")
                files[value["path"]] = base64.b64decode(value["content"])
        repository.commits.append(files)
        sha = repository.sha(len(repository.commits) - 1)
        self._answer(200, {"commitUrl": f"{self.state.address}/{name}/commit/{sha}", "commitOid": sha})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{git_oid(files[path])}"', "X-Repo-Commit": sha}
        if path.endswith(".safetensors"):
            # Git LFS names files by their SHA-256.
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        self._answer(200, files[path], headers)

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        is_file = isinstance(content, bytes)
        body = content if is_file else json.dumps(content).encode()
        more = {"X-Error-Message": str(content.get("error", ""))} if status >= 400 and isinstance(content, dict) else {}
        kind = "application/octet-stream" if is_file else "application/json"
        self.head(status, {**(headers or {}), **more, "Content-Type": kind, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)
