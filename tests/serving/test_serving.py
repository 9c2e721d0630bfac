"""The server in a real process: its API, its limits, its stop; its page in a real browser."""

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
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from made_images import cocoop, make_images
from server_process import FORM, NAMES, CountingEngine, form, serving

import cocoop as package
from cocoop.data import open_image, test_transform
from cocoop.errors import ConfigError, PromptError
from cocoop.serving.batching import Batcher
from cocoop.serving.limits import ServeConfig
from cocoop.serving.scoring import Classes, Engine
from cocoop.serving.server import is_local, listen

pytestmark = pytest.mark.usefixtures("one_thread")

OTHERS = ("ripe apple", "blue_lagoon, at noon", "desert")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `photos` and a `run` whose Meta-Net matters."""
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=10)
    method = package.CoCoOp(package.load_backbone("lite"), NAMES, seed=1)
    with torch.no_grad():
        method.meta_net.linear2.weight *= 4
    method.save_pretrained(directory / "run")
    return directory


@pytest.fixture(scope="module")
def method(home):
    return package.from_pretrained(home / "run")


@pytest.fixture(scope="module")
def server(home):
    with serving(home / "run") as server:
        yield server


def test_answers_are_the_librarys(server, home, method):
    images = sorted((home / "photos").rglob("*.png"))[::7]
    status, answer = server.predict(images)
    assert (status, answer["method"]) == (200, "cocoop")
    for found, image in zip(answer["images"], package.predict(method, images, top_k=4), strict=True):
        assert found["file"] == Path(image.path).name
        assert [one["label"] for one in found["top"]] == list(image.classes)
        assert [one["probability"] for one in found["top"]] == pytest.approx(image.probabilities, abs=1e-5)
        assert (found["label"], found["probability"]) == (found["top"][0]["label"], found["top"][0]["probability"])
        assert found["zero_shot"] is found["shift"] is found["error"] is None


def test_other_names_beside_zero_shot_and_the_shift(server, home, method):
    images = sorted((home / "photos").rglob("*.png"))[::9]
    # A name in each field, or names on lines of their own.
    asked = [OTHERS[0], f"{OTHERS[1]}\n\n  {OTHERS[2]}\r\n"]
    status, answer = server.predict(images, classes=asked, top_k=2, compare="true")
    assert status == 200
    own = package.Classifier(method).predict_proba(images, classes=OTHERS)
    zero_shot = package.Classifier(package.ZeroShot(method.backbone, OTHERS)).predict_proba(images)
    features = encoded(method, images)
    for row, found in enumerate(answer["images"]):
        assert len(found["top"]) == 2
        for one in found["top"]:
            place = OTHERS.index(one["label"])
            assert one["probability"] == pytest.approx(own[row][place], abs=1e-5)
            assert one["zero_shot"] == pytest.approx(zero_shot[row][place], abs=1e-5)
        best = int(zero_shot[row].argmax())
        assert found["zero_shot"]["label"] == OTHERS[best]
        assert found["zero_shot"]["probability"] == pytest.approx(zero_shot[row][best], abs=1e-5)
        with torch.no_grad():
            shift = method.meta_net(F.normalize(features[row : row + 1], dim=-1)).norm()
            relative = shift / method.context.norm(dim=-1).mean()
        assert found["shift"]["length"] == pytest.approx(float(shift), rel=1e-4)
        assert found["shift"]["relative"] == pytest.approx(float(relative), rel=1e-4)


def encoded(method, images):
    transform = test_transform(method.backbone.preprocessing)
    return method.backbone.encode_image(torch.stack([transform(open_image(image)) for image in images]))


def test_requests_at_once_get_their_own_answers(server, home, method):
    images = sorted((home / "photos").rglob("*.png"))
    asked = [([images[2 * i], images[2 * i + 1]], NAMES if i % 3 else OTHERS) for i in range(20)]
    start = threading.Barrier(len(asked))

    def ask(request):
        start.wait()
        return server.predict(request[0], classes=request[1], top_k=1)

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(ask, asked))
    classifier = package.Classifier(method)
    for (pair, names), (status, answer) in zip(asked, answers, strict=True):
        assert status == 200
        wanted = classifier.predict_proba(pair, classes=names)
        found = answer["images"]
        assert [one["file"] for one in found] == [image.name for image in pair]
        assert [one["label"] for one in found] == [names[place] for place in wanted.argmax(1)]
        # No two photos have the same probability, so that it tells whose answer this is.
        assert [one["probability"] for one in found] == pytest.approx(wanted.max(1), abs=1e-5)
    assert server.health()["queue"] == 0


def test_health_tells_what_is_served(server):
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
    """A few bytes that claim to be a picture of that size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_is_no_image_is_an_error_of_that_image(server, home):
    good = home / "photos/sea/00.png"
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    kinds = "none of JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, JPEG2000"
    reasons = {
        ("notes.txt", b"no photo"): f"it is empty, damaged or {kinds}",
        ("../../etc/passwd", b""): f"it is empty, damaged or {kinds}",
        ("drawing.eps", eps): f"it is empty, damaged or {kinds}",
        ("cut.png", good.read_bytes()[:900]): "it is damaged or of an unusual kind (",
        ("bomb.png", png_of(9000, 9000)): "it has 9000 x 9000 pixels, more than 64 million; send a smaller copy",
        ("warned.png", png_of(10_000, 10_000)): "it has 10000 x 10000 pixels, more than 64 million; send a small",
        ("larger.png", png_of(50_000, 50_000)): "it has more than 64 million pixels",
        ("line.png", png_of(5000, 10)): "at 5000 x 10 pixels it is a line, not a photo",
    }
    status, answer = server.predict([*reasons, good])
    assert status == 200
    *unreadable, last = answer["images"]
    for (name, _), reason, found in zip(reasons, reasons.values(), unreadable, strict=True):
        assert (found["file"], found["label"], found["top"]) == (name, None, [])
        assert found["error"]["code"] == "unreadable_photo"
        assert found["error"]["message"].startswith(f"The photo cannot be used: {reason}")
    assert last["error"] is None
    assert last["label"] in NAMES


LONG = " ".join("abcdefghij"[i % 10] for i in range(80))


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        (
            {"classes": "cat, dog"},
            "too_few_classes",
            "The request names one class, 'cat, dog'; give two or more, each in",
        ),
        ({"classes": "x" * 301}, "class_name_too_long", f"The class name '{'x' * 50}…' has 301 characters;"),
        (
            {"classes": "\n".join(map(str, range(1001)))},
            "too_many_classes",
            "1001 classes; this server takes up to 1000",
        ),
        ({"classes": ["dog", LONG]}, "unusable_classes", f"The prompt of class '{LONG}' has 87 tokens, more than the"),
        ({"classes": ["dog", "Dog"]}, "unusable_classes", "Two classes would have the same prompt: 'dog' and 'Dog'."),
        ({"top_k": 0}, "invalid_request", "top_k: Input should be greater than or equal to 1."),
        ({"images": "/etc/passwd"}, "invalid_request", "photos.1: "),
    ],
)
def test_what_cannot_be_asked_is_explained(server, home, fields, code, message):
    status, answer = server.predict([home / "photos/sea/00.png"], **fields)
    assert (status, answer["error"]["code"]) == (422, code)
    assert message in answer["error"]["message"]


def test_too_many_images_and_none_at_all(server):
    status, answer = server.predict([("x.png", b"")] * 65)
    assert (status, answer["error"]) == (
        422,
        {
            "code": "too_many_photos",
            "message": "The request has 65 photos; this server takes up to 64 at once.",
        },
    )
    status, answer = server.predict([], top_k=1)
    assert (status, answer["error"]) == (422, {"code": "invalid_request", "message": "photos: Field required."})


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
def test_other_paths_are_json_errors_and_no_files(server, method, path, status, code):
    found, answer, _ = server.ask(method, path)
    assert (found, json.loads(answer)["error"]["code"]) == (status, code)


def test_the_openapi_page_describes_types_and_errors_and_needs_no_network(server):
    description = json.loads(server.ask("GET", "/openapi.json")[1])
    assert set(description["paths"]) == {"/v1/health", "/v1/predict"}
    responses = description["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "408", "413", "422", "429", "500", "503", "504"}
    for code, response in responses.items():
        (content,) = response["content"].values()
        assert content["schema"]["$ref"] == f"#/components/schemas/{'Answer' if code == '200' else 'ErrorAnswer'}"
    status, page, _ = server.ask("GET", "/docs")
    assert status == 200
    loaded = re.findall(rb'(?:src|href)="([^"]+)"', page)
    assert loaded
    for path in loaded:
        assert server.ask("GET", path.decode())[0] == 200


@pytest.fixture(scope="module")
def strict(home):
    """A server that asks for a token, takes little, waits long, and soon gives up."""
    options = ["--max-upload", "0.1MiB", "--max-images", "2", "--max-waiting", "3"]
    with serving(home / "run", *options, "--batch-window-ms", 3000, "--timeout", 1, COCOOP_TOKEN="s3cret") as server:
        yield server


KEY = {"Authorization": "Bearer s3cret"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": "Basic s3cret"}])
def test_without_the_token_nothing_is_served(strict, home, headers):
    for path, method, body in (
        ("/v1/health", "GET", None),
        ("/v1/predict", "POST", form([home / "photos/sea/00.png"], {})),
    ):
        status, answer, found = strict.ask(method, path, body, FORM | headers)
        assert (status, found["WWW-Authenticate"]) == (401, "Bearer")
        assert json.loads(answer)["error"] == {
            "code": "unauthorized",
            "message": "This server needs a token: send the server's token as 'Authorization: Bearer TOKEN'.",
        }
    assert strict.health(**KEY)["status"] == "ok"


@pytest.mark.parametrize("is_length_told", [True, False])
def test_a_request_that_is_too_large_is_read_to_its_end_and_refused(strict, is_length_told):
    body = form([("large.png", bytes(500_000))], {})
    if is_length_told:
        status, answer, _ = strict.ask("POST", "/v1/predict", body, FORM | KEY)
    else:
        pieces = (body[i : i + 9000] for i in range(0, len(body), 9000))
        status, answer, _ = strict.ask("POST", "/v1/predict", pieces, FORM | KEY, encode_chunked=True)
    assert status == 413
    assert json.loads(answer)["error"] == {
        "code": "too_large",
        "message": "The request is larger than 0.1 MiB; send fewer or smaller photos at once.",
    }


def test_a_request_that_stops_in_the_middle_is_given_up(strict):
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=60)
    connection.putrequest("POST", "/v1/predict")
    for name, value in (FORM | KEY | {"Content-Length": "1000"}).items():
        connection.putheader(name, value)
    connection.endheaders(b"--xyz")
    response = connection.getresponse()
    assert response.status == 408
    assert json.loads(response.read())["error"] == {
        "code": "upload_timeout",
        "message": "Nothing came of the rest of the request for 1 seconds.",
    }
    connection.close()


def test_a_full_queue_and_the_lack_of_time_are_told(strict, home):
    images = [home / "photos/sea/00.png", home / "photos/sun/00.png"]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(strict.predict, images, headers=KEY)
        until = time.monotonic() + 30
        while strict.health(**KEY)["queue"] != 2 and time.monotonic() < until:
            time.sleep(0.01)
        status, answer = strict.predict(images, headers=KEY)
        assert (status, answer["error"]) == (
            429,
            {"code": "queue_full", "message": "2 photos are waiting already; try again in a moment."},
        )
        status, answer = first.result()
    assert (status, answer["error"]) == (
        504,
        {"code": "timeout", "message": "The answer took longer than 1 seconds; send fewer photos or classes at once."},
    )
    assert strict.health(**KEY)["queue"] == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_in_flight_be_answered(home, how):
    warning = "Anyone who reaches this machine can use it; to ask for a secret, set --token or COCOOP_TOKEN.\n"
    with (
        serving(home / "run", "--host", "0.0.0.0", "--batch-window-ms", 1500, "--no-ui") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(server.predict, [home / "photos/sea/00.png"])
        until = time.monotonic() + 30
        while server.health()["queue"] != 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert server.ask("GET", "/")[0] == 404, "there is an API alone"
        server.process.send_signal(how)
        status, answer = asked.result()
        assert server.ended() == (0, warning)
        assert (status, answer["images"][0]["error"]) == (200, None)
        with pytest.raises(ConnectionRefusedError):
            server.health()


def test_mistakes_are_told_before_the_model_is_loaded(home):
    done = cocoop("serve", home / "run", "--timeout", "0")
    assert (done.returncode, done.stderr) == (
        1,
        "cocoop: --timeout is 0.0; it must be seconds above 0, up to 86400.\n",
    )
    for settings, message in (
        ({"max_images": 0}, "`max_images` is 0; it must be at least 1."),
        ({"max_waiting": 63}, "`max_waiting` is 63; it must be at least 64."),
        ({"batch_window_ms": -1}, "--batch-window-ms is -1; it must be from 0 to 10000."),
        ({"max_held": 1}, "`max_held` is 1; it must be at least 20971520."),
        ({"max_connections": 0}, "`max_connections` is 0; it must be at least 1."),
        ({"upload_timeout": 0}, "--upload-timeout is 0; it must be seconds above 0, up to 86400."),
        ({"token": ""}, "The token is empty or has characters other than ASCII; choose another --token."),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            ServeConfig(**settings)
    assert "s3cret" not in repr(ServeConfig(token="s3cret"))


def test_a_port_that_is_taken_is_told():
    with listen("localhost", 0) as listener:
        assert is_local(listener)
        port = listener.getsockname()[1]
        message = f"Nothing can listen on 127.0.0.1, port {port}: Address already in use"
        with pytest.raises(ConfigError, match=re.escape(message)):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"--port is 70000; it must be from 0 to 65535\."):
        listen("127.0.0.1", 70_000)
    with listen("0.0.0.0", 0) as listener:
        assert not is_local(listener)


def test_what_waits_is_computed_together(tiny_backbone):
    engine = CountingEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1))
    batcher = Batcher(engine, window=0.0, max_batch=7)
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own, other, empty = Classes(NAMES, False), Classes(OTHERS, True), Classes(("dog", " "), False)
    asked = [(images[:2], own), (images[2:3], other), (images[3:5], own), (images[5:6], empty), (images[6:7], other)]
    asked += [(images[7:9], own), (images[9:12], own)]
    results = [batcher.submit(*job) for job in asked]
    results[5].cancel()
    batcher.start()
    batcher.stop()
    assert engine.encoded == [7, 3]
    assert engine.scored == [(4, NAMES), (2, OTHERS), (1, empty.names), (3, NAMES)]
    with pytest.raises(PromptError, match="is empty"):
        results[3].result()
    plain = Engine(package.CoCoOp(tiny_backbone, NAMES, seed=1))
    for place in (0, 1, 2, 4, 6):
        part, classes = asked[place]
        wanted, found = plain.score(plain.encode(part), classes), results[place].result()
        probabilities = torch.cat([one.probabilities for one in found])
        torch.testing.assert_close(probabilities, wanted.probabilities, atol=1e-5, rtol=0)
        for one in found:
            assert (one.zero_shot is None) == (one.shifts is None) == (not classes.compare)
    torch.testing.assert_close(results[1].result()[0].zero_shot.sum(-1), torch.ones(1))


class FailingEngine(CountingEngine):
    """Has no memory the first time."""

    def encode(self, images):
        features = super().encode(images)
        if len(self.encoded) == 1:
            raise RuntimeError("out of memory")
        return features


def test_what_fails_does_not_end_the_work(tiny_backbone):
    batcher = Batcher(FailingEngine(package.CoCoOp(tiny_backbone, NAMES, seed=1)), window=0.0, max_batch=1)
    images = torch.zeros(1, 3, 32, 32)
    first, second = (batcher.submit(images, Classes(NAMES, False)) for _ in range(2))
    batcher.start()
    batcher.stop()
    with pytest.raises(RuntimeError, match="out of memory"):
        first.result()
    assert second.result()[0].probabilities.shape == (1, 4)


def test_methods_without_meta_net_have_no_shift(tiny_backbone):
    features = tiny_backbone.encode_image(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for method in (package.CoOp(tiny_backbone, NAMES, seed=1), package.ZeroShot(tiny_backbone, NAMES)):
        scores = Engine(method).score(features, Classes(OTHERS, True))
        assert scores.shifts is None
        assert method.classnames == NAMES
        method.set_classes(OTHERS)
        with torch.no_grad():
            torch.testing.assert_close(scores.probabilities, torch.softmax(method.logits(features), -1))
    torch.testing.assert_close(scores.probabilities, scores.zero_shot)


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome, as it is installed."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"tests of marker `browser` need one of {', '.join(names)} in PATH")
    with sync_playwright() as play:
        # In containers, where tests run as root, there is no sandbox to be had.
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


def dropped(page, panel, images):
    files = [(image.name, base64.b64encode(image.read_bytes()).decode()) for image in images]
    page.evaluate(DROP, [f"#{panel} .drop", files])


@pytest.mark.browser
def test_the_page_in_a_browser(browser, server, home, method, tmp_path):
    image, broken = home / "photos/sea/03.png", tmp_path / "broken.png"
    broken.write_bytes(b"no photo")
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
    dropped(page, "photos", [image, broken])
    page.click("#classify")
    page.wait_for_selector("#answers h2")
    assert page.inner_text("#photos-said") == "1 photo classified, 1 could not be used."
    own = package.Classifier(method).predict_proba([image], classes=typed)[0]
    zero_shot = package.Classifier(package.ZeroShot(method.backbone, typed)).predict_proba([image])[0]
    order = sorted(range(3), key=lambda place: -own[place])
    assert page.inner_text("#answers h2") == typed[order[0]]
    assert page.locator("#answers dt").all_inner_texts() == [typed[place] for place in order]
    shown = [text.split("\n") for text in page.locator("#answers dd").all_inner_texts()]
    wanted = [[f"{100 * values[place]:.1f} %" for values in (own, zero_shot)] for place in order]
    assert [[part for part in parts if part.strip()] for parts in shown] == wanted
    assert re.search(r"Prompt shift: \d+\.\d\d \S the length of a context vector", page.inner_text("#answers"))
    assert "it is empty, damaged or none of" in page.inner_text("#answers .problem")
    assert page.evaluate("document.querySelector('#answers img').naturalWidth") == 40

    page.click("#tab-batch")
    images = sorted((home / "photos").rglob("*.png"))
    dropped(page, "batch", [*images, broken])
    page.click("#run")
    page.wait_for_selector("#csv:visible")
    assert page.inner_text("#batch-said") == "40 photos classified, 1 could not be used."
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    everything = package.Classifier(method).predict_proba(images, classes=typed)
    assert [row["file"] for row in rows] == [*(image.name for image in images), "broken.png"]
    assert [row["class"] for row in rows[:-1]] == [typed[place] for place in everything.argmax(1)]
    found = [float(row["probability"]) for row in rows[:-1]]
    assert found == pytest.approx(everything.max(1), abs=1e-5)
    assert rows[-1]["error"].startswith("The photo cannot be used")
    page.fill("#classes", f"dog, {LONG}")
    page.click("#run")
    page.wait_for_selector("#batch-said.problem")
    assert f"0 of 41 done. The prompt of class '{LONG}' has 87 tokens" in page.inner_text("#batch-said")
    for tab in ("photos", "batch"):
        page.click(f"#tab-{tab}")
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=tmp_path / f"{tab}-{width}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") == width, "the page never scrolls sideways"
    # A refused request is in the console too.
    assert [text for text in problems if "422" not in text] == []
    page.close()


@pytest.mark.browser
def test_markup_in_names_is_text_on_the_page(browser, server, home):
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
    dropped(page, "photos", [marked])
    page.click("#classify")
    page.wait_for_selector(".answer h2")
    assert sorted(page.locator(".answer dt").all_inner_texts()) == sorted(names)
    assert page.inner_text(".answer h2") in names
    assert page.inner_text(".answer .file") == marked.name
    page.click("#tab-batch")
    dropped(page, "batch", [marked])
    page.click("#run")
    page.wait_for_selector("#rows td")
    assert page.inner_text("#rows th[scope=row]") == marked.name
    assert page.inner_text("#rows td") in names
    assert page.locator("#app :is(script, b, img[src=x])").count() == 0
    assert page.title() == title
    page.close()


@pytest.mark.browser
def test_the_page_asks_for_the_token(browser, strict):
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
