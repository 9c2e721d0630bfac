"""Predictions: the method's own answers, in the order that was asked, unreadable photos under their names."""

import pytest
import torch
from made_images import make_images
from PIL import Image

import cocoop
from cocoop.data import open_image
from cocoop.data import test_transform as eval_transform
from cocoop.data.find_images import find_images
from cocoop.errors import ConfigError, DataError
from cocoop.inference.predictor import predict
from cocoop.methods import CoCoOp


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("photos"), per_class=3)


@pytest.fixture(scope="module")
def method(tiny_backbone):
    return CoCoOp(tiny_backbone, ["cherry", "leaf", "sea", "sun"], seed=1)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_predictions_are_the_methods_own(batch_size, images, method):
    paths = [images / "sun" / "01.png", *find_images([images]), images / "leaf" / "00.png"]
    images = torch.stack([eval_transform(method.backbone.preprocessing)(open_image(path)) for path in paths])
    with torch.no_grad():
        wanted = method(images).softmax(-1)
    found = list(predict(method, paths, top_k=4, batch_size=batch_size))
    assert [p.path for p in found] == [str(path) for path in paths]
    for prediction, row in zip(found, wanted, strict=True):
        assert list(prediction.probabilities) == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-6)
        assert list(prediction.classes) == [method.classnames[i] for i in row.argsort(descending=True)]
        assert sum(prediction.probabilities) == pytest.approx(1)
        assert prediction.error is None


def test_more_than_all_classes_are_all_classes(images, method):
    (prediction,) = predict(method, [images / "sun" / "00.png"], top_k=100)
    assert sorted(prediction.classes) == ["cherry", "leaf", "sea", "sun"]


def test_classes_never_trained_on_can_be_named(images, tiny_backbone):
    method = CoCoOp(tiny_backbone, ["cherry", "leaf"], seed=1)
    method.set_classes(["red fruit", "blue_water", "yellow star"])
    (prediction,) = predict(method, [images / "sun" / "00.png"], top_k=3)
    assert sorted(prediction.classes) == ["blue_water", "red fruit", "yellow star"]


def test_paths_stay_as_they_were_given(images, method, monkeypatch):
    monkeypatch.chdir(images)
    found = list(predict(method, ["sun/00.png", "./sea/00.png"]))
    assert [p.path for p in found] == ["sun/00.png", "./sea/00.png"]


def test_unreadable_images_keep_their_place_when_skipped(images, method, tmp_path):
    unreadable = tmp_path / "bad.jpg"
    unreadable.write_bytes(b"no photo")
    sun, sea = images / "sun" / "00.png", images / "sea" / "00.png"
    asked = [unreadable, sun, unreadable, sea, sun, unreadable]
    found = list(predict(method, asked, top_k=4, skip_unreadable=True, batch_size=4))
    assert [p.path for p in found] == [str(path) for path in asked]
    alone = {path: next(predict(method, [path], top_k=4)) for path in (sun, sea)}
    assert alone[sun].probabilities != pytest.approx(alone[sea].probabilities, abs=1e-4)
    for path, prediction in zip(asked, found, strict=True):
        if path is unreadable:
            assert (prediction.classes, prediction.error) == ((), "it is empty, damaged or no image")
        else:
            assert (prediction.classes, prediction.error) == (alone[path].classes, None)
            assert prediction.probabilities == pytest.approx(alone[path].probabilities, abs=1e-5)


def test_only_unreadable_images_are_no_crash(method, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    (found,) = predict(method, [tmp_path / "bad.jpg"], skip_unreadable=True)
    assert found.error == "it is empty, damaged or no image"


def test_unreadable_images_fail_under_the_name_they_were_given_by(images, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    found = predict(method, [images / "sun" / "00.png", "bad.jpg"], batch_size=1)
    assert next(found).classes
    wanted = r"1 photo could not be read \('bad.jpg': it is empty, damaged or no image\)\. .* --skip-unreadable"
    with pytest.raises(DataError, match=wanted):
        next(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "`top_k` is 0; it must be at least 1"),
        ({"batch_size": 0}, "`batch_size` is 0; it must be at least 1"),
        ({"workers": -1}, "`workers` is -1; it must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_said_before_the_first_image(options, message, method):
    with pytest.raises(ConfigError, match=message):
        predict(method, ["nowhere.jpg"], **options)


def test_no_images_are_an_error(method):
    with pytest.raises(DataError, match="There are no photos to classify; give at least one"):
        predict(method, [])


def test_directories_are_searched_and_what_is_hidden_is_not(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.webp", ".hidden.jpg", ".thumbnails/d.jpg", "notes.txt"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name, "png")
    single = tmp_path / "photos" / "notes.txt"
    found = find_images([tmp_path / "photos", single])
    assert [str(path.relative_to(tmp_path / "photos")) for path in found] == [
        "a.png",
        "b.JPG",
        "deep/er/c.webp",
        "notes.txt",
    ]


def test_a_search_that_finds_nothing_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"There are no photos in '.*empty'; give photos or folders of photos"):
        find_images([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"There is no '.*absent.jpg'; give photos or folders of photos"):
        find_images([tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match="No photo is named; give photos or folders of photos"):
        find_images([])


def test_the_public_function_is_this_one():
    assert cocoop.predict is predict
