"""The server in its own process: API, limits, graceful stop; the web page in a browser."""

import base64
import csv
import http.client
import io
import json
import re
import shutil
import signal
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_images import cocoop
from server_process import FORM, NAMES, CountingEngine, eventually, form, serving

import cocoop as package
from cocoop.data import open_image, test_transform
from cocoop.errors import ConfigError, PromptError
from cocoop.serving.batching import Batcher
from cocoop.serving.limits import ServeConfig
from cocoop.serving.scoring import Engine, ScoreRequest
from cocoop.serving.server import listen

pytestmark = pytest.mark.usefixtures("one_thread")

OTHER_NAMES = ("ripe apple", "blue_lagoon, at noon", "desert")


@pytest.fixture(scope="module")
def method(home):
    return package.from_pretrained(home / "run")


@pytest.fixture(scope="module")
def server(home):
    with serving(home / "run") as server:
        yield server


def test_predict_returns_the_probabilities_of_the_library(server, home, method):
    images = sorted((home / "photos").rglob("*.png"))[::7]
    status, answer = server.predict(images)
    assert (status, answer["method"]) == (200, "cocoop")
    for found, image in zip(answer["images"], package.predict(method, images, top_k=4), strict=True):
        assert found["file"] == Path(image.path).name
        assert [one["label"] for one in found["top"]] == list(image.classes)
        assert [one["probability"] for one in found["top"]] == pytest.approx(image.probabilities, abs=1e-5)
        assert (found["label"], found["probability"]) == (found["top"][0]["label"], found["top"][0]["probability"])
        assert found["zero_shot"] is found["shift"] is found["error"] is None


def test_compare_adds_zero_shot_and_shift_for_any_class_names(server, home, method):
    images = sorted((home / "photos").rglob("*.png"))[::9]
    # One name per field, or several on separate lines.
    fields = [OTHER_NAMES[0], f"{OTHER_NAMES[1]}\n\n  {OTHER_NAMES[2]}\r\n"]
    status, answer = server.predict(images, classes=fields, top_k=2, compare="true")
    assert status == 200
    own = package.Classifier(method).predict_proba(images, classes=OTHER_NAMES)
    zero_shot = package.Classifier(package.ZeroShot(method.backbone, OTHER_NAMES)).predict_proba(images)
    features = encoded(method, images)
    for row, found in enumerate(answer["images"]):
        assert len(found["top"]) == 2
        for one in found["top"]:
            place = OTHER_NAMES.index(one["label"])
            assert one["probability"] == pytest.approx(own[row][place], abs=1e-5)
            assert one["zero_shot"] == pytest.approx(zero_shot[row][place], abs=1e-5)
        best = int(zero_shot[row].argmax())
        assert found["zero_shot"]["label"] == OTHER_NAMES[best]
        assert found["zero_shot"]["probability"] == pytest.approx(zero_shot[row][best], abs=1e-5)
        with torch.no_grad():
            shift = method.meta_net(F.normalize(features[row : row + 1], dim=-1)).norm()
            relative = shift / method.context.norm(dim=-1).mean()
        assert found["shift"]["length"] == pytest.approx(float(shift), rel=1e-4)
        assert found["shift"]["relative"] == pytest.approx(float(relative), rel=1e-4)


def encoded(method, images):
    transform = test_transform(method.backbone.preprocessing)
    return method.backbone.encode_image(torch.stack([transform(open_image(image)) for image in images]))


def test_concurrent_requests_get_their_own_results(server, home, method):
    images = sorted((home / "photos").rglob("*.png"))
    requests = [([images[2 * i], images[2 * i + 1]], NAMES if i % 3 else OTHER_NAMES) for i in range(20)]
    start = threading.Barrier(len(requests))

    def send(request):
        start.wait()
        return server.predict(request[0], classes=request[1], top_k=1)

    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(send, requests))
    classifier = package.Classifier(method)
    for (pair, names), (status, answer) in zip(requests, answers, strict=True):
        assert status == 200
        expected = classifier.predict_proba(pair, classes=names)
        found = answer["images"]
        assert [one["file"] for one in found] == [image.name for image in pair]
        assert [one["label"] for one in found] == [names[place] for place in expected.argmax(1)]
        # No two images have the same probability, so mixed-up results would be noticed.
        assert [one["probability"] for one in found] == pytest.approx(expected.max(1), abs=1e-5)
    assert server.health()["queue"] == 0


def test_old_field_name_photos_is_accepted(server, image):
    body = form([image], {}, image_field="photos")
    status, content, _ = server.request("POST", "/v1/predict", body, FORM)
    assert (status, json.loads(content)) == server.predict([image])


def test_health_describes_model_and_limits(server):
    health = server.health()
    assert health["limits"].pop("max_upload") == 20 * 1024 * 1024
    assert health == {
        "status": "ok",
        "version": package.__version__,
        "method": "cocoop",
        "backbone": "lite",
        "classes": list(NAMES),
        "queue": 0,
        "limits": {"max_images": 64, "max_pixels": 64_000_000, "max_classes": 1000, "max_name_length": 300},
    }


def png_of(width, height):
    """Return a few bytes that claim to be an image of this size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_unreadable_image_is_an_error_of_that_image_only(server, home):
    good = home / "photos/sea/00.png"
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    unknown = "it is empty, damaged or not in a supported format."
    reasons = {
        ("notes.txt", b"no image"): unknown,
        ("../../etc/passwd", b""): unknown,
        ("drawing.eps", eps): unknown,
        ("cut.png", good.read_bytes()[:900]): "it is damaged or of an unsupported kind (",
        ("bomb.png", png_of(9000, 9000)): "it has 9000 x 9000 pixels, more than 64,000,000",
        ("warned.png", png_of(10_000, 10_000)): "it has 10000 x 10000 pixels, more than 64,000,000",
        ("larger.png", png_of(50_000, 50_000)): "it has too many pixels to decode safely; use a smaller copy",
        ("line.png", png_of(5000, 10)): "it has 5000 x 10 pixels; the longer edge may be at most 100 times the shorter",
    }
    status, answer = server.predict([*reasons, good])
    assert status == 200
    *unreadable, last = answer["images"]
    for (name, _), reason, found in zip(reasons, reasons.values(), unreadable, strict=True):
        assert (found["file"], found["label"], found["top"]) == (name, None, [])
        assert found["error"]["code"] == "unreadable_image"
        assert found["error"]["message"].startswith(f"Cannot read the image: {reason}")
    assert last["error"] is None
    assert last["label"] in NAMES


LONG = " ".join("abcdefghij"[i % 10] for i in range(80))


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        (
            {"classes": "cat, dog"},
            "too_few_classes",
            "The request names one class, 'cat, dog'; send two or more, each in",
        ),
        ({"classes": "x" * 301}, "class_name_too_long", f"The class name '{'x' * 50}…' has 301 characters;"),
        (
            {"classes": "\n".join(map(str, range(1001)))},
            "too_many_classes",
            "1001 classes; this server accepts up to 1000",
        ),
        ({"classes": ["dog", LONG]}, "unusable_classes", f"The prompt of class '{LONG}' has 87 tokens, more than the"),
        ({"classes": ["dog", "Dog"]}, "unusable_classes", "Two classes would have the same prompt: 'dog' and 'Dog'."),
        ({"top_k": 0}, "invalid_request", "top_k: Input should be greater than or equal to 1."),
        ({"images": "/etc/passwd"}, "invalid_request", "images.1: "),
    ],
)
def test_invalid_requests_are_explained(server, home, fields, code, message):
    status, answer = server.predict([home / "photos/sea/00.png"], **fields)
    assert (status, answer["error"]["code"]) == (422, code)
    assert message in answer["error"]["message"]


def test_too_many_images_and_no_images_are_refused(server):
    status, answer = server.predict([("x.png", b"")] * 65)
    assert (status, answer["error"]) == (
        422,
        {
            "code": "too_many_images",
            "message": "The request has 65 images; this server accepts up to 64 at once.",
        },
    )
    status, answer = server.predict([], top_k=1)
    assert (status, answer["error"]) == (422, {"code": "invalid_request", "message": "images: Field required."})


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("GET", "/../../../../etc/passwd", 404, "not_found"),
        ("GET", "/static-offline-docs/..%2f..%2f__init__.py", 404, "not_found"),
        ("GET", "/static-offline-docs/%2fetc%2fpasswd", 404, "not_found"),
    ],
)
def test_unknown_paths_are_json_errors_and_read_no_files(server, method, path, status, code):
    found, answer, _ = server.request(method, path)
    assert (found, json.loads(answer)["error"]["code"]) == (status, code)


def test_openapi_page_describes_types_and_errors_without_network(server):
    description = json.loads(server.request("GET", "/openapi.json")[1])
    assert set(description["paths"]) == {"/v1/health", "/v1/predict"}
    responses = description["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "408", "413", "422", "429", "500", "503", "504"}
    for code, response in responses.items():
        (content,) = response["content"].values()
        assert (
            content["schema"]["$ref"]
            == f"#/components/schemas/{'PredictResponse' if code == '200' else 'ErrorResponse'}"
        )
    status, page, _ = server.request("GET", "/docs")
    assert status == 200
    loaded = re.findall(rb'(?:src|href)="([^"]+)"', page)
    assert loaded
    for path in loaded:
        assert server.request("GET", path.decode())[0] == 200


@pytest.fixture(scope="module")
def strict(home):
    """A server with a token, small limits, a long batch window and a short timeout."""
    options = ["--max-upload", "0.1MiB", "--max-images", "2", "--max-waiting", "3"]
    with serving(home / "run", *options, "--batch-window-ms", 3000, "--timeout", 1, COCOOP_TOKEN="s3cret") as server:
        yield server


KEY = {"Authorization": "Bearer s3cret"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": "Basic s3cret"}])
def test_requests_without_the_token_are_refused(strict, home, headers):
    for path, method, body in (
        ("/v1/health", "GET", None),
        ("/v1/predict", "POST", form([home / "photos/sea/00.png"], {})),
    ):
        status, answer, found = strict.request(method, path, body, FORM | headers)
        assert (status, found["WWW-Authenticate"]) == (401, "Bearer")
        assert json.loads(answer)["error"] == {
            "code": "unauthorized",
            "message": "This server needs a token: send it as 'Authorization: Bearer TOKEN'.",
        }
    assert strict.health(**KEY)["status"] == "ok"


@pytest.mark.parametrize("has_length", [True, False])
def test_too_large_request_gets_an_answer(strict, has_length):
    body = form([("large.png", bytes(500_000))], {})
    if has_length:
        status, answer, _ = strict.request("POST", "/v1/predict", body, FORM | KEY)
    else:
        pieces = (body[i : i + 9000] for i in range(0, len(body), 9000))
        status, answer, _ = strict.request("POST", "/v1/predict", pieces, FORM | KEY, encode_chunked=True)
    assert status == 413
    assert json.loads(answer)["error"] == {
        "code": "too_large",
        "message": "The request is larger than 0.1 MiB; send fewer or smaller images.",
    }


def test_stalled_upload_times_out(strict):
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=60)
    connection.putrequest("POST", "/v1/predict")
    for name, value in (FORM | KEY | {"Content-Length": "1000"}).items():
        connection.putheader(name, value)
    connection.endheaders(b"--xyz")
    response = connection.getresponse()
    assert response.status == 408
    assert json.loads(response.read())["error"] == {
        "code": "upload_timeout",
        "message": "No data of the upload arrived for 1 seconds.",
    }
    connection.close()


def test_full_queue_and_timeout_are_reported(strict, home):
    images = [home / "photos/sea/00.png", home / "photos/sun/00.png"]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(strict.predict, images, headers=KEY)
        assert eventually(lambda: strict.health(**KEY)["queue"] == 2)
        status, answer = strict.predict(images, headers=KEY)
        assert (status, answer["error"]) == (
            429,
            {"code": "queue_full", "message": "2 images are waiting already; try again in a moment."},
        )
        status, answer = first.result()
    assert (status, answer["error"]) == (
        504,
        {"code": "timeout", "message": "The answer took longer than 1 seconds; send fewer images or classes."},
    )
    assert strict.health(**KEY)["queue"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_answers_requests_in_progress(home, number):
    with (
        serving(home / "run", "--host", "0.0.0.0", "--batch-window-ms", 1500, "--no-ui") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        response = pool.submit(server.predict, [home / "photos/sea/00.png"])
        assert eventually(lambda: server.health()["queue"] == 1)
        assert server.request("GET", "/")[0] == 404, "--no-ui serves the API alone"
        server.process.send_signal(number)
        status, answer = response.result()
        code, log = server.wait()
        assert code == 0
        assert log.startswith("Everyone who can reach this machine can use the server; set ")
        assert (status, answer["images"][0]["error"]) == (200, None)
        with pytest.raises(ConnectionRefusedError):
            server.health()


def test_invalid_settings_are_reported_before_the_model_is_loaded(home):
    done = cocoop("serve", home / "run", "--timeout", "0")
    assert done.returncode == 1
    assert "timeout" in done.stderr
    assert "is 0.0; it must be above 0 and at most 86400 seconds." in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_images": 0}, "`max_images` is 0; it must be at least "),
        ({"max_waiting": 63}, "`max_waiting` is 63; it must be at least "),
        ({"batch_window_ms": -1}, r"`batch_window_ms` is -1; it must be from 0 to 10000\."),
        ({"max_held": 1}, "`max_held` is 1; it must be at least "),
        ({"max_connections": 0}, "`max_connections` is 0; it must be at least "),
        ({"upload_timeout": 0}, r"`upload_timeout` is 0; it must be above 0 and at most 86400 seconds\."),
        ({"token": ""}, r"`token` is empty or has characters other than printable ASCII; choose another one\."),
    ],
)
def test_config_refuses_values_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**settings)


def test_config_does_not_print_the_token():
    assert "s3cret" not in repr(ServeConfig(token="s3cret"))


def test_unusable_address_is_reported():
    with listen("localhost", 0) as listener:
        port = listener.getsockname()[1]
        message = f"Cannot listen on 127.0.0.1, port {port}: Address already in use"
        with pytest.raises(ConfigError, match=re.escape(message)):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"`port` is 70000; it must be from 0 to 65535\."):
        listen("127.0.0.1", 70_000)


def test_waiting_requests_are_computed_together(tiny_backbone):
    engine = CountingEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1))
    batcher = Batcher(engine, window=0.0, max_batch=7)
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own, other, empty = ScoreRequest(NAMES, False), ScoreRequest(OTHER_NAMES, True), ScoreRequest(("dog", " "), False)
    jobs = [(images[:2], own), (images[2:3], other), (images[3:5], own), (images[5:6], empty), (images[6:7], other)]
    jobs += [(images[7:9], own), (images[9:12], own)]
    results = [batcher.submit(*job) for job in jobs]
    results[5].cancel()
    batcher.start()
    batcher.stop()
    assert engine.encoded == [7, 3]
    assert engine.scored == [(4, NAMES), (2, OTHER_NAMES), (1, empty.classnames), (3, NAMES)]
    with pytest.raises(PromptError, match="is empty"):
        results[3].result()
    plain = Engine(package.CoCoOp(tiny_backbone, NAMES, seed=1))
    for place in (0, 1, 2, 4, 6):
        batch, request = jobs[place]
        expected, found = plain.score(plain.encode(batch), request), results[place].result()
        logits = torch.cat([scores.logits for scores in found])
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=0)
        for scores in found:
            assert (scores.zero_shot is None) == (scores.shifts is None) == (not request.compare)


class FailingEngine(CountingEngine):
    """Run out of memory the first time."""

    def encode(self, images):
        features = super().encode(images)
        if len(self.encoded) == 1:
            raise RuntimeError("out of memory")
        return features


def test_batcher_continues_after_a_failure(tiny_backbone):
    batcher = Batcher(FailingEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1)), window=0.0, max_batch=1)
    images = torch.zeros(1, 3, 32, 32)
    first, second = (batcher.submit(images, ScoreRequest(NAMES, False)) for _ in range(2))
    batcher.start()
    batcher.stop()
    with pytest.raises(RuntimeError, match="out of memory"):
        first.result()
    assert second.result()[0].logits.shape == (1, 4)


def test_other_methods_have_no_shift(tiny_backbone):
    features = tiny_backbone.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for method in (package.CoOp(tiny_backbone, NAMES, seed=1), package.ZeroShot(tiny_backbone, NAMES)):
        scores = Engine(method).score(features, ScoreRequest(OTHER_NAMES, True))
        assert scores.shifts is None
        assert method.classnames == NAMES
        method.set_classes(OTHER_NAMES)
        with torch.no_grad():
            torch.testing.assert_close(scores.logits, method.logits(features))
    torch.testing.assert_close(scores.logits, scores.zero_shot)


@pytest.fixture(scope="module")
def browser():
    """The installed Chromium or Chrome."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"tests of marker `browser` need one of {', '.join(names)} in PATH")
    with sync_playwright() as play:
        # Chromium refuses to run as root, as in containers, with its sandbox.
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


DROP = """([selector, files]) => {
  const data = new DataTransfer();
  for (const [name, base64] of files) {
    data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
  }
  const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector(selector).dispatchEvent(drop);
}"""


def drop_images(page, panel, images):
    files = [(image.name, base64.b64encode(image.read_bytes()).decode()) for image in images]
    page.evaluate(DROP, [f"#{panel} .drop", files])


@pytest.mark.browser
def test_page_classifies_images_and_writes_csv(browser, server, home, method, tmp_path):
    image, broken = home / "photos/sea/03.png", tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith((server.url, "blob:", "data:")) or problems.append(request.url),
    )
    policy = page.goto(server.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    page.wait_for_selector("#app:visible")
    assert page.inner_text("#about") == "CoCoOp on lite, trained on 4 classes."
    assert page.get_attribute("#classes", "placeholder") == ", ".join(NAMES)

    typed = ["<b>wine</b>", "tree frog", "=blue lagoon"]
    page.fill("#classes", f"{typed[0]}, {typed[1]}\n{typed[2]}")
    drop_images(page, "photos", [image, broken])
    page.click("#classify")
    page.wait_for_selector("#answers h2")
    assert page.inner_text("#photos-status") == "1 photo classified, 1 could not be read."
    own = package.Classifier(method).predict_proba([image], classes=typed)[0]
    zero_shot = package.Classifier(package.ZeroShot(method.backbone, typed)).predict_proba([image])[0]
    order = sorted(range(3), key=lambda place: -own[place])
    assert page.inner_text("#answers h2") == typed[order[0]]
    assert page.locator("#answers dt").all_inner_texts() == [typed[place] for place in order]
    shown = [text.split("\n") for text in page.locator("#answers dd").all_inner_texts()]
    wanted = [[f"{100 * values[place]:.1f} %" for values in (own, zero_shot)] for place in order]
    assert [[part for part in parts if part.strip()] for parts in shown] == wanted
    assert re.search(r"Prompt shift: \d+\.\d\d \S the length of a context vector", page.inner_text("#answers"))
    assert "it is empty, damaged or " in page.inner_text("#answers .problem")
    assert page.evaluate("document.querySelector('#answers img').naturalWidth") == 40

    page.click("#tab-batch")
    images = sorted((home / "photos").rglob("*.png"))
    drop_images(page, "batch", [*images, broken])
    page.click("#run")
    page.wait_for_selector("#csv:visible")
    assert page.inner_text("#batch-status") == "40 photos classified, 1 could not be read."
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    everything = package.Classifier(method).predict_proba(images, classes=typed)
    assert [row["file"] for row in rows] == [*(image.name for image in images), "broken.png"]
    assert [row["class"] for row in rows[:-1]] == [typed[place] for place in everything.argmax(1)]
    found = [float(row["probability"]) for row in rows[:-1]]
    assert found == pytest.approx(everything.max(1), abs=1e-5)
    assert rows[-1]["error"].startswith("Cannot read the image")
    page.fill("#classes", f"dog, {LONG}")
    page.click("#run")
    page.wait_for_selector("#batch-status.problem")
    assert f"0 of 41 classified. The prompt of class '{LONG}' has 87 tokens" in page.inner_text("#batch-status")
    for tab in ("photos", "batch"):
        page.click(f"#tab-{tab}")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=tmp_path / f"{tab}-{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") == width, "the page does not scroll sideways"
    # The console reports the refused request too.
    assert [text for text in problems if "422" not in text] == []
    page.close()


@pytest.mark.browser
def test_page_shows_markup_in_names_as_text(browser, server, home):
    names = [
        "<img src=x onerror=\"document.title='broken in'\">",
        "<script>document.title='broken in'</script>",
        "a&lt;b",
    ]
    image = home / "photos/sea/00.png"
    marked = home / "<b onclick=x>&amp;.png"
    marked.write_bytes(image.read_bytes())
    page = browser.new_page()
    page.goto(server.url)
    title = page.title()
    page.wait_for_selector("#app:visible")
    page.fill("#classes", "\n".join(names))
    drop_images(page, "photos", [marked])
    page.click("#classify")
    page.wait_for_selector(".answer h2")
    assert sorted(page.locator(".answer dt").all_inner_texts()) == sorted(names)
    assert page.inner_text(".answer h2") in names
    assert page.inner_text(".answer .file") == marked.name
    page.click("#tab-batch")
    drop_images(page, "batch", [marked])
    page.click("#run")
    page.wait_for_selector("#rows td")
    assert page.inner_text("#rows th[scope=row]") == marked.name
    assert page.inner_text("#rows td") in names
    assert page.locator("#app :is(script, b, img[src=x])").count() == 0
    assert page.title() == title
    page.close()


@pytest.mark.browser
def test_page_asks_for_the_token(browser, strict):
    page = browser.new_page()
    page.goto(strict.url)
    page.wait_for_selector("#key:visible")
    assert page.inner_text("#about") == "This server is protected."
    page.fill("#token", "wrong")
    page.click("#key button")
    page.wait_for_selector("#about:text('This server needs a token')")
    page.fill("#token", "s3cret")
    page.click("#key button")
    page.wait_for_selector("#app:visible")
    assert page.inner_text("#about") == "CoCoOp on lite, trained on 4 classes."
    page.close()
