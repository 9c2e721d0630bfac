"""A server in a process of its own, and requests to it."""

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


class Server:
    """A process that serves, and requests to it."""

    def __init__(self, process, stderr):
        self.process = process
        self._stderr = stderr
        until = time.monotonic() + 120
        while "\n" not in stderr.read_text() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        address = re.search(r"http://\S+:(\d+)", stderr.read_text())
        assert address, stderr.read_text()
        self.port = int(address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def ended(self):
        """Exit code, and what was said after the first line."""
        code = self.process.wait(timeout=60)
        return code, self._stderr.read_text().split("\n", 1)[1]

    def log(self):
        """What was said so far."""
        return self._stderr.read_text()

    def ask(self, method, path, body=None, headers=None, **options):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {}, **options)
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def predict(self, images, /, headers=None, **fields):
        """Status and JSON of a request with photos: paths, or (name, bytes)."""
        body = form(images, fields)
        status, answer, _ = self.ask("POST", "/v1/predict", body, FORM | (headers or {}))
        return status, json.loads(answer)

    def health(self, **headers):
        return json.loads(self.ask("GET", "/v1/health", headers=headers)[1])


FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}


def form(images, fields):
    parts = []
    for image in images:
        name, content = image if isinstance(image, tuple) else (image.name, image.read_bytes())
        parts.append((f'name="images"; filename="{name}"', content))
    for field, values in fields.items():
        values = values if isinstance(values, list | tuple) else [values]
        parts += [(f'name="{field}"', str(value).encode()) for value in values]
    head = "--xyz\r\nContent-Disposition: form-data; "
    return b"".join(f"{head}{about}\r\n\r\n".encode() + content + b"\r\n" for about, content in parts) + b"--xyz--\r\n"


@contextmanager
def serving(run, *options, **more):
    """A server on a free port, which stops in the end as it should."""
    stderr = run.parent / f"{time.monotonic_ns()}.err"
    with stderr.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "cocoop", "serve", str(run), "--port", "0", "--device", "cpu", *map(str, options)],
            env=environment(**more),
            stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        server = Server(process, stderr)
        yield server
        if process.poll() is None:
            process.terminate()
            assert server.ended() == (0, "")
    finally:
        process.kill()
        process.wait()


class CountingEngine(Engine):
    """Notes how many photos pass the image tower together, and how many are scored together."""

    def __init__(self, method):
        super().__init__(method)
        self.encoded, self.scored = [], []

    def encode(self, images):
        self.encoded.append(len(images))
        return super().encode(images)

    def score(self, features, classes):
        self.scored.append((len(features), classes.names))
        return super().score(features, classes)
