"""The server under hostile requests: fuzzing by its own description, malformed HTTP, slow and disconnecting clients."""

import asyncio
import contextlib
import gc
import io
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from fastapi import UploadFile
from made_images import environment
from PIL import ExifTags, Image
from server_process import FORM, NAMES, CountingEngine, eventually, form, serving

import cocoop as package
from cocoop.serving import batching, service
from cocoop.serving.batching import Batcher
from cocoop.serving.error_responses import ApiError
from cocoop.serving.limits import ServeConfig
from cocoop.serving.scoring import ScoreRequest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def server(home):
    """A server that must survive all tests of this file and print nothing."""
    with serving(home / "run", "--max-upload", "2MiB") as server:
        yield server
        assert server.predict(sorted((home / "photos").rglob("*.png"))[::5])[0] == 200


def test_schemathesis_finds_nothing(server):
    # A schema cannot describe images, so data that it allows may be refused; and every number in a form is text.
    command = [Path(sys.executable).with_name("st"), "run", f"{server.url}/openapi.json", "--max-examples", "40"]
    command += ["--seed", "1", "--exclude-checks", "positive_data_acceptance,negative_data_rejection", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(no_proxy="127.0.0.1"))
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout


def raw(server, content: bytes, *, wait: float = 20.0) -> bytes:
    """Send bytes and return everything until the server closes the connection."""
    with connected(server, wait) as connection:
        connection.sendall(content)
        return rest(connection)


def connected(server, wait: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=wait)


def rest(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(1 << 16):
        answer += data
    return answer


def parse_error(answer: bytes) -> tuple[int, str, str]:
    """Return status, code and message of an error response."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower(), answer[:300]
    content = json.loads(body)
    assert set(content) == {"error"}
    assert set(content["error"]) == {"code", "message"}
    return int(answer.split()[1]), content["error"]["code"], content["error"]["message"]


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/predict HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


MULTIPART = f"Content-Type: {FORM['Content-Type']}"
PART = b'--xyz\r\nContent-Disposition: form-data; name="top_k"'
WHOLE = PART + b"\r\n\r\n1\r\n--xyz--\r\n"

BROKEN = {
    "no boundary": (post(b"x" * 10, "Content-Type: multipart/form-data", "Content-Length: 10"), 400, "boundary"),
    "an empty boundary": (post(b"x", "Content-Type: multipart/form-data; boundary=", "Content-Length: 1"), 400, ""),
    "a boundary that never appears": (post(b"x" * 10, MULTIPART, "Content-Length: 10"), 400, "Invalid multipart"),
    "a truncated form": (post(PART, MULTIPART, f"Content-Length: {len(PART)}"), 422, "images: Field required."),
    "JSON": (post(b'{"images": []}', "Content-Type: application/json", "Content-Length: 14"), 422, "images: "),
    "nothing": (post(b"", "Content-Length: 0"), 422, "images: Field required."),
    "a part without a name": (
        post(b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n", MULTIPART, "Content-Length: 52"),
        400,
        '"name" must be provided',
    ),
    "an unknown encoding": (
        post(WHOLE, f"{MULTIPART}; charset=undefined", f"Content-Length: {len(WHOLE)}"),
        400,
        "",
    ),
    "a length below the body": (post(WHOLE, MULTIPART, "Content-Length: 9"), 422, "images: Field required."),
    "a path with a trailing slash": (
        b"GET /v1/health/ HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n",
        404,
        "Not Found",
    ),
}


MALFORMED_HTTP = {
    "a length that is no number": post(b"", "Content-Length: many"),
    "two lengths": post(b"x", "Content-Length: 1", "Content-Length: 2"),
    "an invalid chunk": post(b"zz\r\nx\r\n", "Transfer-Encoding: chunked"),
    "an unknown transfer encoding": post(b"x", "Transfer-Encoding: gzip"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "no host": b"GET /v1/health HTTP/1.1\r\n\r\n",
    "a very long address": b"GET /" + b"y" * 70_000,
    "very long headers": b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_malformed_requests_are_refused(kind, server):
    content, status, text = BROKEN[kind]
    found, code, message = parse_error(raw(server, content))
    assert (found, text in message) == (status, True), (found, code, message)


@pytest.mark.parametrize("kind", MALFORMED_HTTP)
def test_malformed_http_is_refused(kind, server):
    assert raw(server, MALFORMED_HTTP[kind]).split()[1] == b"400"


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e3", "1" * 5000, "1.5"])
def test_invalid_numbers_are_refused(value, server):
    for field in ("top_k", "compare"):
        status, answer = server.predict([("x.png", b"")], **{field: value})
        assert (status, answer["error"]["code"]) == (422, "invalid_request")
        assert len(answer["error"]["message"]) < 300


def test_thousands_of_parts_are_refused_quickly(server, image):
    body = form([], {"classes": [f"name {i}" for i in range(10_000)]})
    started = time.monotonic()
    status, answer, _ = server.request("POST", "/v1/predict", body, FORM)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "bad_request")
    assert "Too many fields" in json.loads(answer)["error"]["message"]
    assert time.monotonic() - started < 10
    names = "\n".join(f"name {i}" for i in range(10_000))
    status, answer = server.predict([image], classes=names)
    assert (status, answer["error"]["code"]) == (422, "too_many_classes")


def encoded(kind: str, size=(32, 32), mode="RGB", **options) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, 90).save(content, kind, **options)
    return content.getvalue()


IMAGES = {
    "bomb.png": (encoded("PNG", (20_000, 20_000), "1"), "pixels"),
    "page.jpg": (b"<html><script>alert(1)</script></html>", "empty, damaged or "),
    "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "empty, damaged or "),
    "cut.jpg": (encoded("JPEG")[:-100], ""),
    "line.png": (encoded("PNG", (5000, 2)), "5000 x 2 pixels"),
    "four.jpg": (encoded("JPEG", mode="CMYK"), None),
    "deep.tif": (encoded("TIFF", mode="I;16"), None),
    "float.tif": (encoded("TIFF", mode="F"), "without a known range"),
    "endless.jpg": (b"", "JPEG "),
    "notes.jpg": (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 5000, "JPEG "),
    "progressive.jpg": (encoded("JPEG", progressive=True), None),
    "many.gif": (encoded("GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))] * 200), None),
}


@pytest.mark.parametrize("name", IMAGES)
def test_each_image_gets_a_result_or_a_reason(name, server):
    content, reason = IMAGES[name]
    if name == "endless.jpg":
        whole = IMAGES["progressive.jpg"][0]
        last = whole.rindex(b"\xff\xda")
        # Decoding passes over all pixels once per scan.
        content = whole[:last] + 100 * whole[last:-2] + whole[-2:]
    status, answer = server.predict([(name, content)])
    assert status == 200
    (found,) = answer["images"]
    if reason is None:
        assert found["error"] is None
    else:
        assert reason in found["error"]["message"]


def test_large_images_leave_no_memory_behind(server):
    large = encoded("PNG", (6000, 6000), "RGBA")
    process = psutil.Process(server.process.pid)
    assert server.predict([("small.png", encoded("PNG"))] * 4)[0] == 200
    before = process.memory_info().rss
    for _ in range(2):
        status, answer = server.predict([("large.png", large)] * 2)
        assert (status, answer["images"][0]["error"]) == (200, None)
    # Each of the four takes at least 144 MB while it is decoded.
    assert process.memory_info().rss - before < 140e6


def test_exif_orientation_is_applied(server, image):
    upright = Image.open(image)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned, plain = io.BytesIO(), io.BytesIO()
    upright.rotate(90, expand=True).save(turned, "PNG", exif=exif)
    upright.save(plain, "PNG")
    status, answer = server.predict([("turned.png", turned.getvalue()), ("plain.png", plain.getvalue())])
    assert status == 200
    first, second = ([one["probability"] for one in found["top"]] for found in answer["images"])
    assert first == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize(
    "names",
    [
        ["<script>alert(1)</script>", "<b>bold</b>"],
        ["\u202eright to left", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "猫"],
        ["../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd"],
        ["%s%s%n", "'; DROP TABLE photos; --", "{{7*7}}"],
    ],
)
def test_any_class_names_are_returned_unchanged(names, server, image):
    status, answer = server.predict([image], classes=names, top_k=4)
    assert status == 200
    assert {one["label"] for one in answer["images"][0]["top"]} == set(names)
    status, answer, headers = server.request("POST", "/v1/predict", form([image], {"classes": names}), FORM)
    assert headers["content-type"] == "application/json"
    assert b"root:" not in answer


def test_lone_surrogates_are_refused_and_unusual_encodings_are_harmless(server, image):

    def send(encoding, name, file="x.png"):
        body = form([(file, image.read_bytes())], {"classes": [name, "cat"]})
        content = {"Content-Type": f"{FORM['Content-Type']}; charset={encoding}"}
        status, answer, _ = server.request("POST", "/v1/predict", body, content)
        return status, json.loads(answer)

    status, answer = send("unicode_escape", "dog \\ud800")
    assert (status, answer["error"]["code"]) == (422, "class_name_not_text")
    assert "'dog ?' is not valid Unicode" in answer["error"]["message"]
    status, answer = send("unicode_escape", "dog", "\\ud800.png")
    assert (status, answer["images"][0]["file"]) == (200, "?.png")
    for encoding in ("utf-16", "hex", "rot13", "idna", "no-such"):
        assert send(encoding, "dog")[0] in (200, 400, 422)


def test_too_long_class_names_are_reported(server, image):
    long = "a b c " * 45
    status, answer = server.predict([image], classes=[long, "cat"])
    assert status == 422
    assert "tokens" in answer["error"]["message"]


PATHS = ["/../secret.txt", "/%2e%2e/secret.txt", "/static/../../secret.txt", "//secret.txt", "/run/config.json"]


@pytest.mark.parametrize("path", [*PATHS, *(f"{path}%00.png" for path in PATHS)])
def test_no_path_reads_the_disk(path, server):
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: ../secret.txt\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"400", b"404", b"405")
    assert b"the-secret-of-the-disk" not in answer
    assert b"prompt.safetensors" not in answer


def test_file_names_of_uploads_are_not_used_as_paths(server, home, image):
    before = sorted(str(path) for path in home.rglob("*"))
    content = image.read_bytes()
    status, answer = server.predict([("../../secret.txt", content), ("/etc/passwd", content)])
    assert status == 200
    assert [found["error"] for found in answer["images"]] == [None, None]
    assert (home / "secret.txt").read_text() == "the-secret-of-the-disk"
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_disconnecting_clients_leave_an_empty_queue(server, home):
    images = sorted((home / "photos").rglob("*.png"))[::5]
    body = form(images, {})
    for fraction in (0.2, 0.9, 1.0):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                head = post(b"", "Content-Type: multipart/form-data; boundary=xyz", f"Content-Length: {len(body)}")
                connection.sendall(head + body[: int(fraction * len(body))])
    assert eventually(lambda: server.health()["queue"] == 0, seconds=60)
    assert server.predict(images[:1])[0] == 200


class SmallMemoryEngine(CountingEngine):
    """Run out of memory with more than three images."""

    def encode(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().encode(images)


def test_requests_that_fail_together_are_repeated_one_by_one(tiny_backbone):
    batcher = Batcher(SmallMemoryEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1)), window=0.0, max_batch=9)
    size = tiny_backbone.preprocessing.size
    jobs = [batcher.submit(torch.zeros(count, 3, size, size), ScoreRequest(NAMES, False)) for count in (2, 2, 4)]
    batcher.start()
    batcher.stop()
    assert [len(job.result()) for job in jobs[:2]] == [2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        jobs[2].result()


@pytest.mark.parametrize(
    ("engine", "names", "error", "message"),
    [
        (CountingEngine, ("dog", "Dog"), ApiError, "Two classes would have the same prompt"),
        (SmallMemoryEngine, NAMES, torch.OutOfMemoryError, "CUDA out of memory"),
    ],
)
def test_failed_request_keeps_no_image_in_memory(tiny_backbone, image, monkeypatch, engine, names, error, message):
    monkeypatch.setattr(service, "Engine", engine)
    # pytest keeps log records, and their exceptions.
    monkeypatch.setattr(batching.LOG, "disabled", True)
    served = service.Service(package.CoCoOp(tiny_backbone, NAMES, seed=1), ServeConfig())
    served.start()

    async def send():
        with contextlib.ExitStack() as files, pytest.raises(error, match=message):  # noqa: PT012 - ExitStack closes the files
            images = [UploadFile(files.enter_context(image.open("rb"))) for _ in range(5)]
            await served.predict(images, ScoreRequest(names, False), 1)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(send())
        served.stop()
        shapes = [item.shape for item in gc.get_objects() if type(item) is torch.Tensor]
    finally:
        gc.enable()
    size = tiny_backbone.preprocessing.size
    assert (3, size, size) not in shapes
    assert (5, 3, size, size) not in shapes


class CancellingEngine(CountingEngine):
    """Cancel a request while its first images are scored."""

    def score(self, features, request):
        self.cancelled.cancel()
        return super().score(features, request)


def test_cancelled_requests_are_not_scored(tiny_backbone, monkeypatch):
    monkeypatch.setattr(batching, "MAX_PROMPTS", 2 * len(NAMES))
    engine = CancellingEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1))
    batcher = Batcher(engine, window=0.0, max_batch=9)
    size = tiny_backbone.preprocessing.size
    first, engine.cancelled = (
        batcher.submit(torch.zeros(count, 3, size, size), ScoreRequest(NAMES, False)) for count in (3, 6)
    )
    batcher.start()
    batcher.stop()
    assert engine.scored == [(2, NAMES), (1, NAMES)]
    assert len(first.result()) == 3
    assert engine.cancelled.cancelled()


@pytest.fixture(scope="module")
def hasty(home):
    """A server with short timeouts and small limits, which logs requests."""
    options = ["--timeout", "2", "--upload-timeout", "3", "--max-connections", "3", "--log-requests"]
    with serving(home / "run", *options, "--max-held", "3MiB", "--max-upload", "2MiB", COCOOP_TOKEN="s3cret") as server:
        yield server
        # `serving` expects no output.
        server.process.terminate()
        assert server.wait()[0] == 0


KEYS = {"Authorization": "Bearer s3cret"}
KEY = "Authorization: Bearer s3cret"


def trickle(connection: socket.socket) -> bytes:
    """Send a byte every 0.2 seconds until the server answers."""
    connection.settimeout(0.2)
    answer = b""
    while not answer.endswith(b"}}"):
        with contextlib.suppress(TimeoutError):
            answer += connection.recv(1 << 16)
            continue
        connection.sendall(b"-")
    return answer


def test_slow_upload_times_out(hasty):
    with connected(hasty) as connection:
        connection.sendall(post(b"--xyz", KEY, MULTIPART, "Content-Length: 1000"))
        answer = trickle(connection)
    message = "The upload took longer than 3 seconds; send fewer images."
    assert parse_error(answer) == (408, "upload_timeout", message)


def test_requests_beyond_the_limit_are_refused(hasty):
    with contextlib.ExitStack() as uploads:
        for _ in range(3):
            connection = uploads.enter_context(connected(hasty))
            connection.sendall(post(b"--xyz", KEY, MULTIPART, "Content-Length: 1000"))
        refusal = 503, "too_many_connections", "The server is handling 3 requests already; try again in a moment."
        answers = []

        def is_refused():
            answers.append(raw(hasty, b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
            return answers[-1].split()[1] == b"503"

        assert eventually(is_refused)
        assert parse_error(answers[-1]) == refusal
        assert b"retry-after: 1" in answers[-1]
    assert eventually(lambda: hasty.request("GET", "/docs")[0] == 200)


def test_uploads_beyond_the_held_bytes_are_refused(hasty):
    body = b"--xyz\r\nContent-Disposition: form-data; name=x; filename=x\r\n\r\n" + bytes(1_900_000)
    with connected(hasty) as first, connected(hasty) as second:
        # Both uploads lack their last bytes.
        for connection in (first, second):
            connection.sendall(post(body, KEY, MULTIPART, f"Content-Length: {len(body) + 10}"))
        second.sendall(bytes(10))
        answers = [rest(connection) for connection in (second, first)]
    refused = [answer for answer in answers if parse_error(answer)[:2] == (429, "queue_full")]
    assert refused
    assert all(b"retry-after: 1" in answer for answer in refused)
    assert hasty.predict([("x.png", bytes(1_900_000))], headers=KEYS)[0] == 200, "no bytes are held any more"


def test_log_has_a_line_per_request_and_no_secrets(hasty):
    for path, given in (("/v1/health?secret=hidden", "from-the-proxy"), ("/a%0Aforged%20line", "two words")):
        status, _, headers = hasty.request("GET", path, headers=KEYS | {"X-Request-ID": given})
        request_id = headers["X-Request-ID"]
        assert (request_id == given) == (" " not in given)
        line = rf"^[\d-]+ [\d:,]+ GET {path.partition('?')[0]} {status} \d+\.\d{{3}} s {request_id}$"
        assert eventually(lambda line=line: re.search(line, hasty.log(), re.MULTILINE))
    assert hasty.request("GET", "/v1/health", headers={"Authorization": "Bearer s3cre"})[0] == 401
    for secret in ("s3cre", "hidden", "two words"):
        assert secret not in hasty.log()


def test_disconnected_request_is_logged_and_cancelled(hasty, home):
    images = 8 * sorted((home / "photos").rglob("*.png"))[::5]
    body = form(images, {"classes": [f"thing {i}" for i in range(900)]})
    with connected(hasty) as connection:
        connection.sendall(post(body, KEY, MULTIPART, f"Content-Length: {len(body)}", "X-Request-ID: gone"))
        assert eventually(lambda: hasty.health(**KEYS)["queue"] == len(images))
    assert eventually(lambda: hasty.health(**KEYS)["queue"] == 0)
    line = r" POST /v1/predict left \d+\.\d{3} s gone$"
    assert eventually(lambda: re.search(line, hasty.log(), re.MULTILINE))


def test_stop_ends_slow_uploads(home):
    with serving(home / "run", "--timeout", "0.4") as server:
        assert server.health()["status"] == "ok"
        with connected(server) as connection:
            connection.sendall(post(b"--xyz", MULTIPART, "Content-Length: 1000"))
            server.process.terminate()
            answer = trickle(connection)
        assert parse_error(answer) == (503, "stopping", "The server is stopping; try again later.")
        code, log = server.wait()
        assert (code, "Cancel 1 running task(s)" in log, "Traceback" in log) == (0, True, False)
