"""The scikit-learn estimator: the checks of scikit-learn, and its tools on image files."""

import hashlib
import os
import pickle
import shutil
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
from made_images import COLOURS, make_images
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny_models import save_open_clip

import cocoop
from cocoop.errors import ConfigError, DataError
from cocoop.sklearn import CoCoOpClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

# Checks are collected before fixtures run, and their names contain this directory: it must be the same in all workers.
HOME = Path(gettempdir()) / f"cocoop-sklearn-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
TINY = f"local-dir:{HOME}/tiny"
"""Name of the backbone that the fixture `tiny` writes."""


@pytest.fixture(scope="module", autouse=True)
def tiny():
    save_open_clip(HOME / "tiny", "vit")
    yield
    shutil.rmtree(HOME)


class Drawn(CoCoOpClassifier):
    """Draws each row of the numbers that scikit-learn's checks generate as an image."""

    def _paths(self, X):  # noqa: N803
        rows = np.asarray(X, dtype=float)
        return [str(drawn(row)) for row in rows]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # Here an image is a row of several numbers, not one entry.
        tags.input_tags.one_d_array = False
        # Random weights classify such images badly.
        tags.classifier_tags.poor_score = True
        return tags


def drawn(row):
    path = HOME / f"{hashlib.sha256(row.tobytes()).hexdigest()}.png"
    if not path.exists():
        stripes = np.resize(128 + 100 * np.tanh(row / 5), 32).astype(np.uint8)
        Image.fromarray(np.broadcast_to(stripes, (32, 32)).copy()).save(path)
    return path


ONE_DIMENSION = "a list of paths has one dimension and is accepted; scikit-learn expects an error"


@parametrize_with_checks(
    [Drawn(backbone=TINY, epochs=2, batch_size=8, learning_rate=0.01)],
    expected_failed_checks=lambda _: {"check_fit1d": ONE_DIMENSION, "check_fit2d_predict1d": ONE_DIMENSION},
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Paths and labels of eight images in each of four colours."""
    root = make_images(tmp_path_factory.mktemp("photos"), per_class=8)
    paths = sorted(root.rglob("*.png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


def estimator(**settings):
    return CoCoOpClassifier(backbone=TINY, **({"epochs": 3, "batch_size": 4, "random_state": 1} | settings))


def test_fit_gives_the_same_prompt_as_the_library(images):
    paths, labels = images
    ours = estimator().fit(paths, labels)
    names = tuple(sorted(COLOURS))
    items = tuple(cocoop.Item(path, names.index(label)) for path, label in zip(paths, labels, strict=True))
    data = cocoop.Dataset(names, items, (), (), Path(), "photos")
    method = cocoop.CoCoOp(cocoop.load_backbone(TINY), names, "a photo of a", seed=1)
    result = cocoop.fit(
        method, data, cocoop.TrainConfig(epochs=3, batch_size=4, cache_features=True, seed=1, workers=0)
    )
    assert [epoch["loss"] for epoch in ours.history_] == [epoch["loss"] for epoch in result.history]
    assert ours.classes_.tolist() == list(names)
    np.testing.assert_array_equal(ours.predict_proba(paths), cocoop.Classifier(method).predict_proba(paths))
    assert ours.score(paths, labels) == np.mean(ours.predict(paths) == np.array(labels))
    assert ours.score(paths, labels) > 0.3


def test_paths_are_accepted_in_all_forms(images):
    paths, labels = images
    expected = estimator().fit(paths, labels).predict_proba(paths)
    for given in (
        np.array(paths),
        np.array(paths)[:, None],
        [[p] for p in paths],
        [Path(p) for p in paths],
        tuple(paths),
    ):
        fitted = estimator().fit(given, np.array(labels))
        np.testing.assert_array_equal(fitted.predict_proba(given), expected)
        np.testing.assert_array_equal(fitted.predict_proba(paths), expected)


@pytest.mark.parametrize("method", ["cocoop", "coop", "zero-shot"])
def test_every_method_can_be_fitted_and_pickled(method, images):
    paths, labels = images
    fitted = estimator(method=method, context="a picture of").fit(paths, labels)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))
    assert (fitted.classifier_.method.key, fitted.get_params()["method"]) == (method, method)


def test_numeric_labels_get_class_names(images):
    paths, labels = images
    numbers = [sorted(COLOURS).index(label) * 10 for label in labels]
    names = {0: "cherry", 10: "leaf", 20: "sea", 30: "sun", 40: "never seen"}
    fitted = estimator(classnames=names).fit(paths, numbers)
    assert fitted.classifier_.classes == ("cherry", "leaf", "sea", "sun")
    found = fitted.predict(paths)
    assert found.dtype == np.array(numbers).dtype
    assert set(found) <= {0, 10, 20, 30}
    np.testing.assert_array_equal(fitted.predict_proba(paths), estimator().fit(paths, labels).predict_proba(paths))


def test_cross_validation_pipelines_and_searches_work(images):
    paths, labels = np.array(images[0]), np.array(images[1])
    scores = cross_val_score(estimator(epochs=1), paths, labels, cv=2)
    halves = [np.isin(np.arange(32) % 8, range(4)), np.isin(np.arange(32) % 8, range(4, 8))]
    for score, test, train in zip(scores, halves, reversed(halves), strict=True):
        assert score == estimator(epochs=1).fit(paths[train], labels[train]).score(paths[test], labels[test])

    pipe = Pipeline([("absolute", FunctionTransformer(absolute)), ("prompt", estimator())])
    directory = Path(paths[0]).parents[1]
    relative = np.array([str(Path(path).relative_to(directory)) for path in paths])
    pipe.set_params(absolute__kw_args={"directory": directory}).fit(relative, labels)
    np.testing.assert_array_equal(pipe.predict(relative), estimator().fit(paths, labels).predict(paths))

    search = GridSearchCV(estimator(epochs=1), {"context": ["a photo of a", None], "learning_rate": [1e-4, 0.1]}, cv=2)
    search.fit(paths, labels)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])
    assert search.best_estimator_.predict(paths).shape == (32,)


def absolute(paths, directory):
    return np.array([str(directory / path) for path in paths])


def test_a_clone_is_not_fitted(images):
    fitted = estimator(context=None).fit(*images)
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError, match="This CoCoOpClassifier instance is not fitted yet"):
        copy.predict(images[0])


def test_a_seed_determines_the_result(images):
    paths, labels = images
    once, again, other = (
        estimator(random_state=state, context=None).fit(paths, labels).predict_proba(paths)
        for state in (np.random.RandomState(3), np.random.RandomState(3), 3)
    )
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "change", "error", "message"),
    [
        (
            {},
            lambda x, y: (np.array([x, x]).T, y),
            ValueError,
            "X has 2 columns; give one path of an image for each label",
        ),
        ({}, lambda x, y: (np.zeros(len(y)), y), ValueError, r"X\[0\] is .*0\.0.*; it must be the path of an image"),
        (
            {},
            lambda x, y: (x, ["a"] * len(y)),
            ValueError,
            "y has only one class, .*'a'.*; a classifier needs at least",
        ),
        ({}, lambda x, y: (x, ["a", "A"] * 16), DataError, "has several classes of the same name: 'A', 'a'"),
        ({}, lambda x, y: (["absent.png", *x[1:]], y), DataError, "1 of the 32 images .* are not in .*'absent.png'"),
        (
            {"method": "maple"},
            lambda x, y: (x, y),
            ConfigError,
            "`method` is 'maple'; it must be one of zero-shot, coop, cocoop",
        ),
        ({"epochs": 0}, lambda x, y: (x, y), ConfigError, "`epochs` is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_explained(settings, change, error, message, images):
    with pytest.raises(error, match=message):
        estimator(**settings).fit(*change(*images))


def test_an_unreadable_image_is_named(images, tmp_path):
    paths, labels = images
    (tmp_path / "bad.png").write_bytes(b"none")
    with pytest.raises(
        DataError, match=r"1 image could not be read \('.*bad.png': it is empty, damaged or not in a supported format\)"
    ):
        estimator().fit([*paths[:-1], str(tmp_path / "bad.png")], labels)
    with pytest.raises(DataError, match=r"images\[1\]: Cannot read the image '.*bad.png': it is empty, damaged or not"):
        estimator().fit(paths, labels).predict([paths[0], str(tmp_path / "bad.png")])
