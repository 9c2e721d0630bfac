"""A server in its own process, and requests to it."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

from made_images import environment

from cocoop.serving.scoring import Engine

NAMES = ("cherry", "leaf", "sea", "sun")
FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}


def eventually(condition, seconds=20.0):
    """Return True as soon as the condition holds, False after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Server:
    """A server process and its port."""

    def __init__(self, process, stderr):
        self.process = process
        self._stderr = stderr
        eventually(lambda: "\n" in self.log() or process.poll() is not None, seconds=120)
        address = re.search(r"http://\S+:(\d+)", self.log())
        assert address, self.log()
        self.port = int(address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def wait(self):
        """Return the exit code and everything on stderr after the first line."""
        code = self.process.wait(timeout=60)
        return code, self.log().split("\n", 1)[1]

    def log(self):
        """Return everything on stderr so far."""
        return self._stderr.read_text()

    def request(self, method, path, body=None, headers=None, **options):
        """Return status, body and headers of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {}, **options)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def predict(self, images, /, headers=None, **fields):
        """Return status and JSON for images: paths, or (name, bytes)."""
        status, body, _ = self.request("POST", "/v1/predict", form(images, fields), FORM | (headers or {}))
        return status, json.loads(body)

    def health(self, **headers):
        return json.loads(self.request("GET", "/v1/health", headers=headers)[1])


def form(images, fields, image_field="images"):
    """Return a multipart body with the boundary `xyz`."""
    parts = []
    for image in images:
        name, content = image if isinstance(image, tuple) else (image.name, image.read_bytes())
        parts.append((f'name="{image_field}"; filename="{name}"', content))
    for field, values in fields.items():
        values = values if isinstance(values, list | tuple) else [values]
        parts += [(f'name="{field}"', str(value).encode()) for value in values]
    start = "--xyz\r\nContent-Disposition: form-data; "
    body = b"".join(f"{start}{header}\r\n\r\n".encode() + content + b"\r\n" for header, content in parts)
    return body + b"--xyz--\r\n"


@contextmanager
def serving(run, *options, **variables):
    """Start a server on a free port; stop it at the end, expecting exit code 0 and nothing on stderr."""
    stderr = run.parent / f"{time.monotonic_ns()}.err"
    with stderr.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cocoop", "serve", str(run), "--port", "0", "--device", "cpu", *map(str, options)],
            cwd=run.parent,
            env=environment(**variables),
            stderr=file,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        server = Server(process, stderr)
        yield server
        if process.poll() is None:
            process.terminate()
            assert server.wait() == (0, "")
    finally:
        process.kill()
        process.wait()


class CountingEngine(Engine):
    """An engine that records how many images are encoded and scored together."""

    def __init__(self, method):
        super().__init__(method)
        self.encoded, self.scored = [], []

    def encode(self, images):
        self.encoded.append(len(images))
        return super().encode(images)

    def score(self, features, request):
        self.scored.append((len(features), request.classnames))
        return super().score(features, request)
