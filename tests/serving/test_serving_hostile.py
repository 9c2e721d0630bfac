"""The server faces strangers: its own description fuzzed, broken requests of every kind, clients that never finish."""

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
from made_images import environment, make_images
from PIL import ExifTags, Image
from server_process import NAMES, CountingEngine, Server, form, serving

import cocoop as package
from cocoop.serving import batching, service
from cocoop.serving.batching import Batcher
from cocoop.serving.error_responses import ApiError
from cocoop.serving.limits import ServeConfig
from cocoop.serving.scoring import Classes

pytestmark = pytest.mark.usefixtures("one_thread")

FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=2)
    package.CoCoOp(package.load_backbone("lite"), NAMES, seed=1).save_pretrained(directory / "run")
    (directory / "secret.txt").write_text("the-secret-of-the-disk")
    return directory


@pytest.fixture(scope="module")
def server(home):
    """A server that is still there when all tests have done their worst, and has nothing to say about it."""
    stderr = home / "server.err"
    command = [sys.executable, "-m", "cocoop", "serve", "run", "--port", "0", "--device", "cpu", "--max-upload", "2MiB"]
    with stderr.open("w") as said:
        process = subprocess.Popen(command, cwd=home, env=environment(), stderr=said)
    try:
        server = Server(process, stderr)
        yield server
        assert server.predict(sorted((home / "photos").rglob("*.png")))[0] == 200
        process.terminate()
        assert server.ended() == (0, "")
    finally:
        process.kill()
        process.wait()


def test_schemathesis_finds_nothing(server):
    # What is a photo cannot be said in a schema, so that bytes it allows may be refused; a number in a form is text.
    command = [Path(sys.executable).with_name("st"), "run", f"{server.url}/openapi.json", "--max-examples", "40"]
    command += ["--seed", "1", "--exclude-checks", "positive_data_acceptance,negative_data_rejection", "--no-color"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(no_proxy="127.0.0.1"))
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout


def raw(server, content: bytes, *, wait: float = 20.0) -> bytes:
    """What a server answers to bytes, until it closes the connection."""
    with connected(server, wait) as connection:
        connection.sendall(content)
        return rest(connection)


def connected(server, wait: float = 20.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=wait)


def rest(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(1 << 16):
        answer += piece
    return answer


def told(answer: bytes) -> tuple[int, str, str]:
    """Status, code and message of an error; the shape is the one the API's page tells."""
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
    "a boundary that never comes": (post(b"x" * 10, MULTIPART, "Content-Length: 10"), 400, "Invalid multipart"),
    "a form cut off": (post(PART, MULTIPART, f"Content-Length: {len(PART)}"), 422, "photos: Field required."),
    "JSON": (post(b'{"photos": []}', "Content-Type: application/json", "Content-Length: 14"), 422, "photos: "),
    "nothing": (post(b"", "Content-Length: 0"), 422, "photos: Field required."),
    "a part without a name": (
        post(b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n", MULTIPART, "Content-Length: 52"),
        400,
        '"name" must be provided',
    ),
    "an encoding that is none": (
        post(WHOLE, f"{MULTIPART}; charset=undefined", f"Content-Length: {len(WHOLE)}"),
        400,
        "",
    ),
    "a length that is no number": (post(b"", "Content-Length: many"), 400, "bad Content-Length."),
    "a length below the body": (post(WHOLE, MULTIPART, "Content-Length: 9"), 422, "photos: Field required."),
    "two lengths": (post(b"x", "Content-Length: 1", "Content-Length: 2"), 400, "conflicting Content-Length headers."),
    "a chunk that is none": (post(b"zz\r\nx\r\n", "Transfer-Encoding: chunked"), 400, "illegal chunk header"),
    "an encoding of old": (post(b"x", "Transfer-Encoding: gzip"), 501, "Only Transfer-Encoding: chunked is supported."),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400, "illegal request line."),
    "no host": (b"GET /v1/health HTTP/1.1\r\n\r\n", 400, "Missing mandatory Host: header."),
    "an address without end": (b"GET /" + b"y" * 300_000, 414, "Receive buffer too long."),
    "headers without end": (b"GET / HTTP/1.1\r\nX: " + b"y" * 300_000, 431, "Receive buffer too long."),
    "a path that goes on": (
        b"GET /v1/health/ HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n",
        404,
        "Not Found",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_refused(kind, server):
    content, status, said = BROKEN[kind]
    found, code, message = told(raw(server, content))
    assert (found, said in message) == (status, True), (found, code, message)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e3", "1" * 5000, "1.5"])
def test_numbers_that_are_none_are_refused(value, server):
    for field in ("top_k", "compare"):
        status, answer = server.predict([("x.png", b"")], **{field: value})
        assert (status, answer["error"]["code"]) == (422, "invalid_request")
        assert len(answer["error"]["message"]) < 300


def test_thousands_of_parts_are_refused_quickly(server):
    body = form([], {"classes": [f"name {i}" for i in range(10_000)]})
    started = time.monotonic()
    status, answer, _ = server.ask("POST", "/v1/predict", body, FORM)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "bad_request")
    assert "Too many fields" in json.loads(answer)["error"]["message"]
    assert time.monotonic() - started < 10
    names = "\n".join(f"name {i}" for i in range(10_000))
    image = sorted(Path(server._stderr).parent.joinpath("photos").rglob("*.png"))[0]
    status, answer = server.predict([image], classes=names)
    assert (status, answer["error"]["code"]) == (422, "too_many_classes")


def picture(kind: str, size=(32, 32), mode="RGB", **options) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, 90).save(content, kind, **options)
    return content.getvalue()


PICTURES = {
    "bomb.png": (picture("PNG", (20_000, 20_000), "1"), "pixels"),
    "page.jpg": (b"<html><script>alert(1)</script></html>", "empty, damaged or none of"),
    "drawing.jpg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "empty, damaged or none of"),
    "cut.jpg": (picture("JPEG")[:-100], ""),
    "line.png": (picture("PNG", (5000, 2)), "it is a line"),
    "four.jpg": (picture("JPEG", mode="CMYK"), None),
    "deep.tif": (picture("TIFF", mode="I;16"), None),
    "float.tif": (picture("TIFF", mode="F"), "its pixels are fractions"),
    "endless.jpg": (b"", "it is a JPEG of more than 2000 segments or 64 scans; save it anew"),
    "notes.jpg": (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 5000, "it is a JPEG of more than 2000 segments"),
    "progressive.jpg": (picture("JPEG", progressive=True), None),
    "many.gif": (picture("GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))] * 200), None),
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_image_has_its_answer_or_its_reason(name, server):
    content, reason = PICTURES[name]
    if name == "endless.jpg":
        whole = PICTURES["progressive.jpg"][0]
        last = whole.rindex(b"\xff\xda")
        # Each copy of the last scan costs a pass over all pixels again.
        content = whole[:last] + 100 * whole[last:-2] + whole[-2:]
    status, answer = server.predict([(name, content)])
    assert status == 200
    (found,) = answer["images"]
    if reason is None:
        assert found["error"] is None
    else:
        assert reason in found["error"]["message"]


def test_large_images_leave_no_memory_behind(server):
    large = picture("PNG", (6000, 6000), "RGBA")
    process = psutil.Process(server.process.pid)
    assert server.predict([("small.png", picture("PNG"))] * 4)[0] == 200
    before = process.memory_info().rss
    for _ in range(2):
        status, answer = server.predict([("large.png", large)] * 2)
        assert (status, answer["images"][0]["error"]) == (200, None)
    # Decoded, each of the four takes 144 MB and more.
    assert process.memory_info().rss - before < 140e6


def test_a_image_that_was_turned_by_its_camera_is_turned_back(server, home):
    upright = Image.open(sorted((home / "photos").rglob("*.png"))[0])
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
def test_any_names_come_back_as_they_are(names, server, home):
    image = sorted((home / "photos").rglob("*.png"))[0]
    status, answer = server.predict([image], classes=names, top_k=4)
    assert status == 200
    assert {one["label"] for one in answer["images"][0]["top"]} == set(names)
    status, answer, headers = server.ask("POST", "/v1/predict", form([image], {"classes": names}), FORM)
    assert headers["content-type"] == "application/json"
    assert b"root:" not in answer


def test_halves_of_characters_are_refused_and_strange_encodings_harm_nothing(server, home):
    image = sorted((home / "photos").rglob("*.png"))[0]

    def ask(encoding, name, file="x.png"):
        body = form([(file, image.read_bytes())], {"classes": [name, "cat"]})
        content = {"Content-Type": f"{FORM['Content-Type']}; charset={encoding}"}
        status, answer, _ = server.ask("POST", "/v1/predict", body, content)
        return status, json.loads(answer)

    status, answer = ask("unicode_escape", "dog \\ud800")
    assert (status, answer["error"]["code"]) == (422, "class_name_not_text")
    assert "'dog ?' is no valid Unicode" in answer["error"]["message"]
    status, answer = ask("unicode_escape", "dog", "\\ud800.png")
    assert (status, answer["images"][0]["file"]) == (200, "?.png")
    for encoding in ("utf-16", "hex", "rot13", "idna", "no-such"):
        assert ask(encoding, "dog")[0] in (200, 400, 422)


def test_names_that_make_no_prompt_are_named(server, home):
    image = sorted((home / "photos").rglob("*.png"))[0]
    long = "a b c " * 45
    status, answer = server.predict([image], classes=[long, "cat"])
    assert status == 422
    assert "tokens" in answer["error"]["message"]


PATHS = ["/../secret.txt", "/%2e%2e/secret.txt", "/static/../../secret.txt", "//secret.txt", "/run/config.json"]


@pytest.mark.parametrize("path", [*PATHS, *(f"{path}%00.png" for path in PATHS)])
def test_no_path_of_the_disk_is_read(path, server):
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: ../secret.txt\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"400", b"404", b"405")
    assert b"the-secret-of-the-disk" not in answer
    assert b"prompt.safetensors" not in answer


def test_file_names_of_uploads_touch_nothing(server, home):
    before = sorted(str(path) for path in home.rglob("*"))
    image = sorted((home / "photos").rglob("*.png"))[0].read_bytes()
    status, answer = server.predict([("../../secret.txt", image), ("/etc/passwd", image)])
    assert status == 200
    assert [found["error"] for found in answer["images"]] == [None, None]
    assert (home / "secret.txt").read_text() == "the-secret-of-the-disk"
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_clients_that_leave_take_nothing_with_them(server, home):
    images = sorted((home / "photos").rglob("*.png"))
    body = form(images, {})
    for part in (0.2, 0.9, 1.0):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                head = post(b"", "Content-Type: multipart/form-data; boundary=xyz", f"Content-Length: {len(body)}")
                connection.sendall(head + body[: int(part * len(body))])
    until = time.monotonic() + 60
    while server.health()["queue"] and time.monotonic() < until:
        time.sleep(0.2)
    assert server.health()["queue"] == 0
    assert server.predict(images[:1])[0] == 200


class OneIsTooMuch(CountingEngine):
    """Has memory for three images at a time."""

    def encode(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().encode(images)


def test_requests_that_fail_together_are_tried_alone(tiny_backbone):
    batcher = Batcher(OneIsTooMuch(package.CoCoOp(tiny_backbone, NAMES, seed=1)), window=0.0, max_batch=9)
    size = tiny_backbone.preprocessing.size
    jobs = [batcher.submit(torch.zeros(count, 3, size, size), Classes(NAMES, False)) for count in (2, 2, 4)]
    batcher.start()
    batcher.stop()
    assert [len(job.result()) for job in jobs[:2]] == [2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        jobs[2].result()


@pytest.mark.parametrize(
    ("engine", "names", "refusal", "said"),
    [
        (CountingEngine, ("dog", "Dog"), ApiError, "Two classes would have the same prompt"),
        (OneIsTooMuch, NAMES, torch.OutOfMemoryError, "CUDA out of memory"),
    ],
)
def test_a_request_that_fails_leaves_no_image_behind(tiny_backbone, home, monkeypatch, engine, names, refusal, said):
    monkeypatch.setattr(service, "Engine", engine)
    # pytest keeps what is logged.
    monkeypatch.setattr(batching.LOG, "disabled", True)
    served = service.Service(package.CoCoOp(tiny_backbone, NAMES, seed=1), ServeConfig())
    served.start()
    image = sorted((home / "photos").rglob("*.png"))[0]

    async def ask():
        with contextlib.ExitStack() as files, pytest.raises(refusal, match=said):  # noqa: PT012 - what is opened is closed in any case
            images = [UploadFile(files.enter_context(image.open("rb"))) for _ in range(5)]
            await served.predict(images, Classes(names, False), 1)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(ask())
        served.stop()
        shapes = [one.shape for one in gc.get_objects() if type(one) is torch.Tensor]
    finally:
        gc.enable()
    size = tiny_backbone.preprocessing.size
    assert (3, size, size) not in shapes
    assert (5, 3, size, size) not in shapes


class LeavingEngine(CountingEngine):
    """Someone stops to wait while the first of their photos are scored."""

    def score(self, features, classes):
        self.gone.cancel()
        return super().score(features, classes)


def test_who_waits_no_longer_costs_nothing_more(tiny_backbone, monkeypatch):
    monkeypatch.setattr(batching, "PROMPTS", 2 * len(NAMES))
    engine = LeavingEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1))
    batcher = Batcher(engine, window=0.0, max_batch=9)
    size = tiny_backbone.preprocessing.size
    first, engine.gone = (batcher.submit(torch.zeros(count, 3, size, size), Classes(NAMES, False)) for count in (3, 6))
    batcher.start()
    batcher.stop()
    assert engine.scored == [(2, NAMES), (1, NAMES)]
    assert len(first.result()) == 3
    assert engine.gone.cancelled()


@pytest.fixture(scope="module")
def hasty(home):
    """A server with little time and room, which writes down what it is asked."""
    options = ["--timeout", "2", "--upload-timeout", "3", "--max-connections", "6", "--log-requests"]
    with serving(home / "run", *options, "--max-held", "3MiB", "--max-upload", "2MiB", COCOOP_TOKEN="s3cret") as server:
        yield server
        # `serving` expects that nothing is said.
        server.process.terminate()
        assert server.ended()[0] == 0


KEYS = {"Authorization": "Bearer s3cret"}
KEY = "Authorization: Bearer s3cret"


def test_a_head_that_comes_slowly_is_given_up(hasty):
    with connected(hasty) as slow, connected(hasty) as silent:
        slow.sendall(b"GET /v1/health HTTP/1.1\r\n")
        assert told(rest(slow)) == (
            408,
            "request_timeout",
            "The head of the request was not complete after 2 seconds.",
        )
        assert rest(silent) == b""


def test_a_second_head_that_comes_slowly_is_given_up_too(hasty):
    with connected(hasty) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}}"):
            answer += connection.recv(1 << 16)
        assert told(answer)[:2] == (401, "unauthorized")
        connection.sendall(b"GET /v1")
        assert told(rest(connection))[:2] == (408, "request_timeout")


def trickle(connection: socket.socket) -> bytes:
    """The answer to a client that goes on slowly."""
    connection.settimeout(0.2)
    answer = b""
    while not answer.endswith(b"}}"):
        with contextlib.suppress(TimeoutError):
            answer += connection.recv(1 << 16)
            continue
        connection.sendall(b"-")
    return answer


def test_a_body_that_trickles_is_given_up(hasty):
    with connected(hasty) as connection:
        connection.sendall(post(b"--xyz", KEY, MULTIPART, "Content-Length: 1000"))
        answer = trickle(connection)
    message = "The upload took longer than 3 seconds; send fewer photos at once."
    assert told(answer) == (408, "upload_timeout", message)


def test_who_does_not_take_the_answer_is_cut_off(hasty):
    path = "/static-offline-docs/swagger-ui-bundle.js"
    size = len(hasty.ask("GET", path)[1])
    with connected(hasty) as connection:
        connection.sendall(20 * f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert eventually(lambda: is_connected_to(hasty, connection))
        assert eventually(lambda: not is_connected_to(hasty, connection))
        assert size < len(rest(connection)) < 20 * size


def is_connected_to(server, connection: socket.socket) -> bool:
    port = connection.getsockname()[1]
    return any(one.raddr and one.raddr.port == port for one in psutil.Process(server.process.pid).net_connections())


def test_connections_beyond_the_limit_are_told_to_come_again(hasty):
    with contextlib.ExitStack() as idle:
        for _ in range(6):
            idle.enter_context(connected(hasty))
        answer = raw(hasty, b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n")
        message = "6 connections are open already; try again in a moment."
        assert told(answer) == (503, "too_many_connections", message)
        assert b"retry-after: 1" in answer
    assert eventually(lambda: hasty.ask("GET", "/docs")[0] == 200)


def eventually(is_so, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_uploads_beyond_what_all_may_hold_are_told_to_come_again(hasty):
    body = b"--xyz\r\nContent-Disposition: form-data; name=x; filename=x\r\n\r\n" + bytes(1_900_000)
    with connected(hasty) as first, connected(hasty) as second:
        # Both are short of their ends.
        for connection in (first, second):
            connection.sendall(post(body, KEY, MULTIPART, f"Content-Length: {len(body) + 10}"))
        second.sendall(bytes(10))
        answers = [rest(connection) for connection in (second, first)]
    refused = [answer for answer in answers if told(answer)[:2] == (429, "queue_full")]
    assert refused
    assert all(b"retry-after: 1" in answer for answer in refused)
    assert hasty.predict([("x.png", bytes(1_900_000))], headers=KEYS)[0] == 200, "nothing is held any more"


def test_each_request_is_a_line_of_the_log_that_tells_no_secret(hasty):
    for path, given in (("/v1/health?secret=hidden", "from-the-proxy"), ("/a%0Aforged%20line", "two words")):
        status, _, headers = hasty.ask("GET", path, headers=KEYS | {"X-Request-ID": given})
        identity = headers["X-Request-ID"]
        assert (identity == given) == (" " not in given)
        line = rf"^[\d-]+ [\d:,]+ GET {path.partition('?')[0]} {status} \d+\.\d{{3}} s {identity}$"
        assert eventually(lambda line=line: re.search(line, hasty.log(), re.MULTILINE))
    assert hasty.ask("GET", "/v1/health", headers={"Authorization": "Bearer s3cre"})[0] == 401
    for secret in ("s3cre", "hidden", "two words"):
        assert secret not in hasty.log()


def test_who_leaves_is_written_down_and_waited_for_no_longer(hasty, home):
    images = 8 * sorted((home / "photos").rglob("*.png"))
    body = form(images, {"classes": [f"thing {i}" for i in range(900)]})
    with connected(hasty) as connection:
        connection.sendall(post(body, KEY, MULTIPART, f"Content-Length: {len(body)}", "X-Request-ID: gone"))
        assert eventually(lambda: hasty.health(**KEYS)["queue"] == len(images))
    assert eventually(lambda: hasty.health(**KEYS)["queue"] == 0)
    line = r" POST /v1/predict left \d+\.\d{3} s gone$"
    assert eventually(lambda: re.search(line, hasty.log(), re.MULTILINE))


def test_a_stop_waits_for_a_time_only(home):
    with serving(home / "run", "--timeout", "0.4") as server:
        assert server.health()["status"] == "ok"
        with connected(server) as connection:
            connection.sendall(post(b"--xyz", MULTIPART, "Content-Length: 1000"))
            server.process.terminate()
            answer = trickle(connection)
        assert told(answer) == (503, "stopping", "The server stops; try again later.")
        code, said = server.ended()
        assert (code, "Cancel 1 running task(s)" in said, "Traceback" in said) == (0, True, False)
