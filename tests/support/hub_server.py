"""A local stand-in for the Hugging Face hub: repositories, commits and downloads in its HTTP protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

USER, TOKEN = "ann", "hf_annsown"
"""The only user; she may write to repositories below her name."""


@dataclass
class Repository:
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    """Files after each commit."""
    messages: list[str] = field(default_factory=list)

    @staticmethod
    def sha(number: int) -> str:
        return f"{number:040x}"

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return commit hash and files of `main` or of a commit."""
        number = len(self.commits) - 1 if revision == "main" else int(revision, 16) if len(revision) == 40 else -1
        return (self.sha(number), self.commits[number]) if 0 <= number < len(self.commits) else None


@dataclass
class Hub:
    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""


@contextmanager
def serve_hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    _Handler.hubs[server.server_port] = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        del _Handler.hubs[server.server_port]


def oid(content: bytes) -> str:
    """Return the hash that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hubs: dict[int, Hub] = {}  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _serve(self) -> None:
        self.hub = self.hubs[self.server.server_port]  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        who = self.headers.get("Authorization")
        self.logged_in = who == f"Bearer {TOKEN}"
        if who is not None and not self.logged_in:
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

    def _create(self, request: dict) -> None:
        name = f"{request.get('organization') or USER}/{request['name']}"
        if not self.logged_in:
            self._answer(401, {"error": "Invalid username or password."})
        elif not name.startswith(f"{USER}/"):
            self._answer(403, {"error": f"You don't have the rights to create a model under {name.split('/')[0]}"})
        elif name in self.hub.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"})
        else:
            private = request.get("private") is True or request.get("visibility") == "private"
            self.hub.repositories[name] = Repository(private)
            self._answer(200, {"url": f"{self.hub.address}/{name}"})

    def _found(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return commit hash and files if they may be read; otherwise send an error."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self.logged_in):
            # Without a login, the hub does not reveal whether a repository exists.
            self._answer(
                404 if self.logged_in else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            )
            return None
        found = repository.files(revision)
        if found is None:
            self._answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return found

    def _model(self, name: str, rest: list[str]) -> None:
        match rest:
            case [] | ["revision", _]:
                if found := self._found(name, rest[1] if rest else "main"):
                    private = self.hub.repositories[name].private
                    siblings = [{"rfilename": file} for file in found[1]]
                    self._answer(200, {"id": name, "sha": found[0], "private": private, "siblings": siblings})
            case ["tree", revision]:
                if found := self._found(name, revision):
                    files = [
                        {"type": "file", "path": file, "size": len(content), "oid": oid(content)}
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
        if not (self.logged_in and name.startswith(f"{USER}/")):
            self._answer(403, {"error": "Forbidden"})
            return
        repository = self.hub.repositories[name]
        files = dict(repository.commits[-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.messages.append(value["summary"])
            else:
                assert (line["key"], value["encoding"]) == ("file", "base64")
                files[value["path"]] = base64.b64decode(value["content"])
        repository.commits.append(files)
        oid = repository.sha(len(repository.commits) - 1)
        self._answer(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{oid}", "commitOid": oid})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._found(name, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{oid(files[path])}"', "X-Repo-Commit": sha}
        if path.endswith(".safetensors"):
            # Git LFS
            headers["X-Linked-ETag"] = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        self._answer(200, files[path], headers)

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        plain = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        if status >= 400 and isinstance(content, dict):
            self.send_header("X-Error-Message", str(content.get("error", "")))
        self.send_header("Content-Type", "application/octet-stream" if content is plain else "application/json")
        self.send_header("Content-Length", str(len(plain)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(plain)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
