"""The classifier: the same results for images of any kind and from any thread."""

import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from made_images import COLOURS, make_images
from PIL import Image

import cocoop
from cocoop.data.find_images import find_images
from cocoop.errors import ConfigError, DataError, PromptError
from cocoop.inference.classifier import Classifier
from cocoop.methods import CoCoOp, CoOp, ZeroShot

NAMES = sorted(COLOURS)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return find_images([make_images(tmp_path_factory.mktemp("photos"), per_class=2)])


@pytest.fixture
def classifier(tiny_backbone):
    return Classifier(CoCoOp(tiny_backbone, NAMES, seed=1))


@pytest.fixture(scope="module")
def expected(images, tiny_backbone):
    """Probabilities (images, classes) of `cocoop.predict`."""
    found = cocoop.predict(CoCoOp(tiny_backbone, NAMES, seed=1), images, top_k=4)
    rows = [dict(zip(p.classes, p.probabilities, strict=True)) for p in found]
    return np.array([[row[name] for name in NAMES] for row in rows])


def as_array(path):
    return np.asarray(Image.open(path))


def as_tensor(path):
    return torch.tensor(as_array(path)).permute(2, 0, 1)


KINDS = {
    "path": lambda path: path,
    "string": str,
    "bytes": lambda path: io.BytesIO(path.read_bytes()),
    "image": Image.open,
    "image with transparency": lambda path: Image.open(path).convert("RGBA"),
    "array": as_array,
    "array of floats": lambda path: as_array(path) / 255,
    "array of half floats": lambda path: (as_array(path) / 255).astype(np.float16),
    "tensor": as_tensor,
    "tensor of floats": lambda path: as_tensor(path) / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_any_kind_give_the_same_result(kind, images, classifier, expected):
    given = [KINDS[kind](path) for path in images]
    found = classifier.predict_proba(given)
    assert (found.shape, found.dtype) == ((8, 4), np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    labels = [NAMES[i] for i in expected.argmax(1)]
    assert classifier.predict([KINDS[kind](path) for path in images]) == labels
    assert classifier.predict(KINDS[kind](images[3])) == labels[3]
    np.testing.assert_allclose(classifier.predict_proba(KINDS[kind](images[3])), expected[3:4], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "batch",
    [
        lambda paths: np.stack([as_array(path) for path in paths]),
        lambda paths: torch.stack([as_tensor(path) for path in paths]),
        lambda paths: np.array([str(path) for path in paths]),
        tuple,
        lambda paths: [paths[0], str(paths[1]), *map(as_array, paths[2:5]), *map(as_tensor, paths[5:])],
    ],
)
def test_batches_of_any_kind_give_the_same_result(batch, images, classifier, expected):
    np.testing.assert_allclose(classifier.predict_proba(batch(images)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_does_not_change_the_result(batch_size, images, tiny_backbone, expected):
    classifier = Classifier(CoCoOp(tiny_backbone, NAMES, seed=1), batch_size=batch_size)
    np.testing.assert_allclose(classifier.predict_proba(images), expected, rtol=0, atol=1e-6)


def test_empty_list_gives_empty_results(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 4)


@pytest.mark.parametrize("make", [CoCoOp, CoOp, ZeroShot])
def test_classes_can_be_set_at_any_time(make, images, tiny_backbone):
    classifier = Classifier(make(tiny_backbone, NAMES, **({} if make is ZeroShot else {"seed": 1})))
    before = classifier.predict_proba(images)
    classifier.classes = ["red fruit", "water"]
    assert classifier.classes == ("red fruit", "water")
    assert set(classifier.predict(images)) <= {"red fruit", "water"}
    after = classifier.predict_proba(images)
    assert after.shape == (8, 2)
    with pytest.raises(PromptError, match="Two classes would have the same prompt"):
        classifier.classes = ["sun", "Sun"]
    np.testing.assert_array_equal(classifier.predict_proba(images), after)
    # Class names for one call do not change the others.
    np.testing.assert_array_equal(classifier.predict_proba(images, classes=NAMES), before)
    assert classifier.classes == ("red fruit", "water")
    with pytest.raises(PromptError, match="lass names"):
        classifier.predict(images, classes="sun")
    np.testing.assert_array_equal(classifier.predict_proba(images), after)


def test_threads_with_different_classes_do_not_interfere(images, classifier):
    requests = [NAMES, ["red fruit", "water"], ["a", "b", "c"], list(reversed(NAMES)), None]
    alone = [classifier.predict_proba(images, classes=names) for names in requests]
    assert np.abs(alone[0] - alone[3]).max() > 0.01
    start = threading.Barrier(len(requests))

    def classify(names):
        start.wait()
        found = [classifier.predict_proba(images, classes=names) for _ in range(8)]
        labels = [classifier.predict(images, classes=names) for _ in range(8)]
        return found, labels

    with ThreadPoolExecutor(len(requests)) as threads:
        for names, rows, (found, labels) in zip(requests, alone, threads.map(classify, requests), strict=True):
            for probabilities in found:
                np.testing.assert_allclose(probabilities, rows, rtol=0, atol=1e-6)
            assert labels == [[(names or NAMES)[i] for i in rows.argmax(1)]] * 8
    assert classifier.classes == tuple(NAMES)


def test_setting_classes_does_not_mix_results_of_other_threads(images, classifier):
    sets = [NAMES, ["one", "two", "three", "four", "five"]]
    stop = threading.Event()

    def switch():
        while not stop.is_set():
            for names in sets:
                classifier.classes = names

    switching = threading.Thread(target=switch)
    switching.start()
    try:
        for _ in range(30):
            labels = set(classifier.predict(images))
            assert any(labels <= set(names) for names in sets)
            assert classifier.predict_proba(images).sum(1) == pytest.approx(np.ones(8), abs=1e-5)
    finally:
        stop.set()
        switching.join()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda path: path.with_name("absent.png"), r"images\[2\]: .*'.*absent.png'.*: there is no such file"),
        (lambda path: io.BytesIO(b"none"), r"images\[2\]: .*'upload'.*: it is empty, damaged or"),
        (lambda path: Image.new("RGB", (500, 2)), r"images\[2\]: .*'image'.*500 x 2 pixels"),
        (lambda path: as_array(path)[..., 0], r"images\[2\]: the array has the shape \(32, 40\); it must be \(H, W, 3"),
        (
            lambda path: as_tensor(path).numpy(),
            r"images\[2\]: the array has the shape \(3, 32, 40\); it must be \(H, W",
        ),
        (lambda path: as_array(path)[:0], r"images\[2\]: the array has the shape \(0, 40, 3\); it must be \(H, W, 3\)"),
        (lambda path: torch.tensor(as_array(path)), r"the tensor has the shape \(32, 40, 3\); it must be \(3, H, W\)"),
        (lambda path: np.full((4, 4, 3), 255.0), r"the array has floats from 255 to 255; they must lie in \[0, 1\]"),
        (lambda path: torch.full((3, 4, 4), float("nan")), r"the tensor has floats from nan to nan; they must lie in"),
        (lambda path: as_array(path).astype(int), "the array is of type int64; it must be uint8, or floats in"),
    ],
)
def test_unreadable_image_is_named_with_its_position(image, message, images, classifier):
    with pytest.raises(DataError, match=message):
        classifier.predict([images[0], images[1], image(images[2])])


def test_wrong_type_is_named_with_its_position(images, classifier):
    with pytest.raises(
        DataError, match=r"images\[1\] is of type int; pass a path, a PIL image, an array \(H, W, 3\) or a"
    ):
        classifier.predict(np.array([images[0], 3], dtype=object))


def test_single_unreadable_image_has_no_position(classifier, tmp_path):
    with pytest.raises(DataError, match=r"^the image: .*'.*absent.png'.*: there is no such file"):
        classifier.predict(tmp_path / "absent.png")


def test_batch_size_must_be_positive(tiny_backbone):
    with pytest.raises(ConfigError, match="`batch_size` is 0; it must be at least 1"):
        Classifier(CoCoOp(tiny_backbone, NAMES), batch_size=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A saved prompt with class-specific context, the hardest kind to pickle."""
    directory = tmp_path_factory.mktemp("run")
    method = CoOp(cocoop.load_backbone("lite"), NAMES, context_length=2, class_specific=True, seed=1)
    method.save_pretrained(directory)
    return directory, method


def test_saved_prompt_can_be_loaded_and_pickled(run, images):
    directory, method = run
    classifier = cocoop.Classifier.from_pretrained(directory, classes=["sun", "cherry"], batch_size=5)
    found = classifier.predict_proba(images)
    method.set_classes(["sun", "cherry"])
    np.testing.assert_allclose(found, Classifier(method).predict_proba(images), rtol=0, atol=1e-6)
    content = pickle.dumps(classifier)
    assert len(content) < 50_000, "the pickle does not hold the backbone"
    again = pickle.loads(content)
    assert (again.classes, again.batch_size) == (("sun", "cherry"), 5)
    np.testing.assert_array_equal(again.predict_proba(images), found)
    again.classes = NAMES
    assert again.predict_proba(images).shape == (8, 4)
