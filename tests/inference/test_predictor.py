"""Predictions of image files: probabilities of the method, order, unreadable images."""

import pytest
import torch
from made_images import make_images
from PIL import Image

import cocoop
from cocoop.data import open_image
from cocoop.data import test_transform as eval_transform
from cocoop.data.find_images import find_images
from cocoop.errors import ConfigError, DataError
from cocoop.inference.predictor import ModelSpec, predict, top_classes
from cocoop.methods import CoCoOp

UNREADABLE = "it is empty, damaged or not in a supported format"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("photos"), per_class=3)


@pytest.fixture(scope="module")
def method(tiny_backbone):
    return CoCoOp(tiny_backbone, ["cherry", "leaf", "sea", "sun"], seed=1)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_predictions_are_those_of_the_method(batch_size, images, method):
    paths = [images / "sun" / "01.png", *find_images([images]), images / "leaf" / "00.png"]
    tensors = torch.stack([eval_transform(method.backbone.preprocessing)(open_image(path)) for path in paths])
    with torch.no_grad():
        expected = method(tensors).softmax(-1)
    found = list(predict(method, paths, top_k=4, batch_size=batch_size))
    assert [p.path for p in found] == [str(path) for path in paths]
    for prediction, row in zip(found, expected, strict=True):
        assert list(prediction.probabilities) == pytest.approx(sorted(row.tolist(), reverse=True), abs=1e-6)
        assert list(prediction.classes) == [method.classnames[i] for i in row.argsort(descending=True)]
        assert sum(prediction.probabilities) == pytest.approx(1)
        assert prediction.error is None


def test_top_k_above_the_number_of_classes_returns_all(images, method):
    (prediction,) = predict(method, [images / "sun" / "00.png"], top_k=100)
    assert sorted(prediction.classes) == ["cherry", "leaf", "sea", "sun"]


def test_any_class_names_can_be_predicted(images, tiny_backbone):
    method = CoCoOp(tiny_backbone, ["cherry", "leaf"], seed=1)
    method.set_classes(["red fruit", "blue_water", "yellow star"])
    (prediction,) = predict(method, [images / "sun" / "00.png"], top_k=3)
    assert sorted(prediction.classes) == ["blue_water", "red fruit", "yellow star"]


def test_paths_are_returned_as_given(images, method, monkeypatch):
    monkeypatch.chdir(images)
    found = list(predict(method, ["sun/00.png", "./sea/00.png"]))
    assert [p.path for p in found] == ["sun/00.png", "./sea/00.png"]


def test_skipped_unreadable_images_keep_their_position(images, method, tmp_path):
    unreadable = tmp_path / "broken.jpg"
    unreadable.write_bytes(b"no image")
    sun, sea = images / "sun" / "00.png", images / "sea" / "00.png"
    paths = [unreadable, sun, unreadable, sea, sun, unreadable]
    found = list(predict(method, paths, top_k=4, skip_unreadable=True, batch_size=4))
    assert [p.path for p in found] == [str(path) for path in paths]
    alone = {path: next(predict(method, [path], top_k=4)) for path in (sun, sea)}
    assert alone[sun].probabilities != pytest.approx(alone[sea].probabilities, abs=1e-4)
    for path, prediction in zip(paths, found, strict=True):
        if path is unreadable:
            assert (prediction.classes, prediction.error) == ((), UNREADABLE)
        else:
            assert (prediction.classes, prediction.error) == (alone[path].classes, None)
            assert prediction.probabilities == pytest.approx(alone[path].probabilities, abs=1e-5)


def test_all_images_may_be_unreadable(method, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"")
    (found,) = predict(method, [tmp_path / "broken.jpg"], skip_unreadable=True)
    assert found.error == UNREADABLE


def test_unreadable_image_is_named_as_given(images, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    found = predict(method, [images / "sun" / "00.png", "broken.jpg"], batch_size=1)
    assert next(found).classes
    with pytest.raises(DataError, match=rf"\('broken.jpg': {UNREADABLE}\)\. .* pass `skip_unreadable=True`"):
        next(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "`top_k` is 0; it must be at least 1"),
        ({"batch_size": 0}, "`batch_size` is 0; it must be at least 1"),
        ({"workers": -1}, "`workers` is -1; it must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_first_image(options, message, method):
    with pytest.raises(ConfigError, match=message):
        predict(method, ["nowhere.jpg"], **options)


def test_no_images_are_refused(method):
    with pytest.raises(DataError, match="There are no images to classify; give at least one"):
        predict(method, [])


def test_find_images_skips_hidden_files(tmp_path):
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


def test_find_images_refuses_empty_results(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"There are no images in '.*empty'; pass images or directories of images"):
        find_images([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"'.*absent.jpg' does not exist; pass images or directories of images"):
        find_images([tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match="No path was given; pass images or directories of images"):
        find_images([])


def test_predict_is_public():
    assert cocoop.predict is predict


def test_predict_loads_a_saved_prompt(images, tmp_path):
    method = CoCoOp(cocoop.load_backbone("lite"), ["cherry", "sea"], seed=1)
    method.save_pretrained(tmp_path)
    paths = [images / "sun" / "00.png", images / "sea" / "00.png"]
    expected = list(predict(method, paths, top_k=2))
    assert list(predict(tmp_path, paths, top_k=2)) == expected
    (other,) = predict(ModelSpec(source=str(tmp_path), classes=("lamp", "boat")), paths[:1])
    assert other.classes[0] in ("lamp", "boat")


def test_shortlist_limits_the_returned_classes(images, method):
    (prediction,) = predict(method, [images / "sun" / "00.png"], top_k=4, shortlist=2)
    assert len(prediction.classes) == 2
    assert sum(prediction.probabilities) == pytest.approx(1)


def test_top_classes_ranks_probabilities():
    probabilities, labels = top_classes(torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]), 2)
    assert labels[0].tolist() == [1, 2]
    assert labels[1, 0] == 0
    torch.testing.assert_close(probabilities[0], torch.tensor([0.0, 2.0, 1.0]).softmax(-1)[[1, 2]])
    assert top_classes(torch.zeros(1, 3), 9)[1].shape == (1, 3)
