"""The server faces strangers: its own description fuzzed, broken requests of every kind, clients that never finish."""

import contextlib
import io
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import cocoop as package
from cocoop.serving.batching import Batcher
from cocoop.serving.scoring import Classes
from made_photos import environment, make_photos
from test_serve import NAMES, CountingEngine, Server, form

pytestmark = pytest.mark.usefixtures("one_thread")

FORM = {"Content-Type": "multipart/form-data; boundary=xyz"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    make_photos(folder / "photos", per_class=2)
    package.CoCoOp(package.load_backbone("lite"), NAMES, seed=1).save_pretrained(folder / "run")
    (folder / "secret.txt").write_text("the-secret-of-the-disk")
    return folder


@pytest.fixture(scope="module")
def server(home):
    """A server that is still there, and quick, when all tests have done their worst; it may say what it refused."""
    stderr = home / "server.err"
    command = [sys.executable, "-m", "cocoop", "serve", "run", "--port", "0", "--device", "cpu", "--max-upload", "2MiB"]
    with stderr.open("w") as said:
        process = subprocess.Popen(command, cwd=home, env=environment(), stderr=said)
    try:
        server = Server(process, stderr)
        yield server
        assert server.predict(sorted((home / "photos").rglob("*.png")))[0] == 200
        process.terminate()
        code, said = server.ended()
        assert code == 0
        assert "Traceback" not in said
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
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        answer = b""
        # It may have seen enough before all is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(content)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
    return answer


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/predict HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


BROKEN = {
    "no boundary": post(b"x" * 10, "Content-Type: multipart/form-data", "Content-Length: 10"),
    "a boundary that never comes": post(
        b"x" * 10, "Content-Type: multipart/form-data; boundary=xyz", "Content-Length: 10"
    ),
    "JSON": post(b'{"photos": []}', "Content-Type: application/json", "Content-Length: 14"),
    "nothing": post(b"", "Content-Length: 0"),
    "a part without a name": post(
        b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n",
        "Content-Type: multipart/form-data; boundary=xyz",
        "Content-Length: 57",
    ),
    "a length that is no number": post(b"", "Content-Length: many"),
    "a length below the body": post(
        form([], {"classes": "a"}), "Content-Type: multipart/form-data; boundary=xyz", "Content-Length: 9"
    ),
    "two lengths": post(b"x", "Content-Length: 1", "Content-Length: 2"),
    "a chunk that is none": post(b"zz\r\nx\r\n", "Transfer-Encoding: chunked"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "headers without end": b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 200_000,
    "ten thousand headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_refused(kind, server):
    answer = raw(server, BROKEN[kind])
    status = int(answer.split()[1]) if answer else 400
    assert 400 <= status < 500, answer[:300]
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/json" in head:
        assert json.loads(body)["error"]["message"]


def test_thousands_of_parts_are_refused_quickly(server):
    body = form([], {"classes": [f"name {i}" for i in range(10_000)]})
    started = time.monotonic()
    status, answer, _ = server.ask("POST", "/v1/predict", body, FORM)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "bad_request")
    assert "Too many fields" in json.loads(answer)["error"]["message"]
    assert time.monotonic() - started < 10
    names = "\n".join(f"name {i}" for i in range(10_000))
    photo = sorted(Path(server._stderr).parent.joinpath("photos").rglob("*.png"))[0]
    status, answer = server.predict([photo], classes=names)
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
    "many.gif": (picture("GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))] * 200), None),
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_photo_has_its_answer_or_its_reason(name, server):
    content, reason = PICTURES[name]
    status, answer = server.predict([(name, content)])
    assert status == 200
    (found,) = answer["photos"]
    if reason is None:
        assert found["error"] is None
    else:
        assert reason in found["error"]["message"]


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
    photo = sorted((home / "photos").rglob("*.png"))[0]
    status, answer = server.predict([photo], classes=names, top_k=4)
    assert status == 200
    assert {one["label"] for one in answer["photos"][0]["top"]} == set(names)
    status, answer, headers = server.ask("POST", "/v1/predict", form([photo], {"classes": names}), FORM)
    assert headers["content-type"] == "application/json"
    assert b"root:" not in answer


def test_names_that_make_no_prompt_are_named(server, home):
    photo = sorted((home / "photos").rglob("*.png"))[0]
    long = "a b c " * 45
    status, answer = server.predict([photo], classes=[long, "cat"])
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
    photo = sorted((home / "photos").rglob("*.png"))[0].read_bytes()
    status, answer = server.predict([("../../secret.txt", photo), ("/etc/passwd", photo)])
    assert status == 200
    assert [found["error"] for found in answer["photos"]] == [None, None]
    assert (home / "secret.txt").read_text() == "the-secret-of-the-disk"
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_headers_that_never_end_are_given_up(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        started = time.monotonic()
        connection.sendall(b"GET /v1/health HTTP/1.1\r\nHost: x\r\n")
        connection.settimeout(0.5)
        closed = False
        while time.monotonic() - started < 25 and not closed:
            try:
                connection.sendall(b"X-Slow: y\r\n")
                closed = connection.recv(100) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
    assert closed
    assert 5 < time.monotonic() - started < 20
    assert server.health()["status"] == "ok"


def test_clients_that_leave_take_nothing_with_them(server, home):
    photos = sorted((home / "photos").rglob("*.png"))
    body = form(photos, {})
    for part in (0.2, 0.9, 1.0):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                head = post(b"", "Content-Type: multipart/form-data; boundary=xyz", f"Content-Length: {len(body)}")
                connection.sendall(head + body[: int(part * len(body))])
    until = time.monotonic() + 60
    while server.health()["queue"] and time.monotonic() < until:
        time.sleep(0.2)
    assert server.health()["queue"] == 0
    assert server.predict(photos[:1])[0] == 200


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
    assert [len(job.result().probabilities) for job in jobs[:2]] == [2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        jobs[2].result()
