"""A web server on this machine for tests of downloads: it cuts connections, ignores ranges, and so on, when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What one address answers; changed by the tests while the server runs."""

    content: bytes = b""
    tag: str | None = '"v1"'
    ranges: bool = True
    """Whether Range is understood."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the next answers end too early, one answer each."""
    statuses: list[int] = field(default_factory=list)
    """Errors that the next answers have."""
    location: str | None = None
    kind: str = "application/octet-stream"
    length: int | None = None
    """A Content-Length that is not the content's."""
    chunked: bool = False
    pace: float = 0.0
    """Seconds before every 64 KiB."""
    hold: threading.Event | None = None
    """Waited for in place of the end of a connection that is cut."""


@dataclass
class WebServer:
    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Path, Range and If-Range of each request."""

    def put(self, path: str, content: bytes = b"", **options: object) -> str:
        """Serve a page; returns its address."""
        self.pages[path] = Page(content, **options)  # type: ignore[arg-type]
        return f"{self.address}{path}"

    @property
    def ranges_asked(self) -> list[str | None]:
        return [asked for _, asked, _ in self.requests]


@contextmanager
def serve() -> Iterator[WebServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    web = WebServer(f"http://127.0.0.1:{server.server_port}")
    _Handler.webs[server.server_port] = web
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        del _Handler.webs[server.server_port]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    webs: dict[int, WebServer] = {}  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        web = self.webs[self.server.server_port]  # type: ignore[attr-defined]
        asked, version = self.headers.get("Range"), self.headers.get("If-Range")
        web.requests.append((self.path, asked, version))
        page = web.pages.get(self.path)
        if page is None or page.statuses:
            self._head(404 if page is None else page.statuses.pop(0), {"Content-Length": "0"})
        elif page.location is not None:
            self._head(302, {"Location": page.location, "Content-Length": "0"})
        else:
            self._answer(page, asked, version)

    def _answer(self, page: Page, asked: str | None, version: str | None) -> None:
        size, start, headers = len(page.content), 0, {"Content-Type": page.kind}
        if page.tag is not None:
            headers["ETag"] = page.tag
        if asked is not None and page.ranges and version in (None, page.tag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= size:
                self._head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if page.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(size - start if page.length is None else page.length)
        self._head(206 if "Content-Range" in headers else 200, headers)
        body = page.content[start:]
        cut = page.cuts.pop(0) if page.cuts else None
        body = body if cut is None else body[:cut]
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

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
