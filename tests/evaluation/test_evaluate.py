"""Metrics by hand, selection of classes, and images that cannot be evaluated."""

import pytest
import torch
from made_images import make_images

from cocoop.data import load_data
from cocoop.errors import DataError
from cocoop.evaluation.evaluate import evaluate
from cocoop.evaluation.metrics import Evaluation, harmonic_mean
from cocoop.methods import CoOp
from cocoop.training.features import encode_split


def test_metrics_match_their_definitions():
    e = Evaluation(
        classnames=("a", "b", "c", "d"),
        labels=(0, 0, 0, 1, 1, 2),
        predicted=(0, 0, 1, 1, 3, 2),
        confidences=(1.0, 0.9, 0.9, 0.5, 0.5, 0.2),
        paths=tuple("uvwxyz"),
    )
    assert e.accuracy == pytest.approx(100 * 4 / 6)
    assert e.per_class == {"a": pytest.approx(200 / 3), "b": 50.0, "c": 100.0}
    # F1 = 2 TP / (2 TP + FP + FN) of a, b and c; d has no image, so it does not count.
    assert e.macro_f1 == pytest.approx(100 * (4 / 5 + 2 / 4 + 1) / 3)
    assert e.confusions == [("a", "b", 1), ("b", "d", 1)]
    # 15 bins: 0.2 is the upper edge of the third, 0.5 is in the eighth, 0.9 in the fourteenth.
    filled = {place: numbers for place, numbers in enumerate(e.reliability) if numbers[0]}
    assert filled == {2: (1, 20, 100), 7: (2, 50, 50), 13: (2, 90, 50), 14: (1, 100, 100)}
    assert e.ece == pytest.approx((1 * 80 + 2 * 0 + 2 * 40 + 1 * 0) / 6)


@pytest.mark.parametrize(("base", "new", "h"), [(82.69, 63.22, 71.66), (80.47, 71.69, 75.83), (50, 0, 0), (0, 0, 0)])
def test_harmonic_mean_matches_the_papers(base, new, h):
    # Averages of CoOp and CoCoOp over eleven data sets: CoCoOp paper, table 1 (a).
    assert round(harmonic_mean(base, new), 2) == h


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = make_images(tmp_path_factory.mktemp("photos"), per_class=10)
    for name in ("leaf", "sun"):
        for image in (images / name).iterdir():
            if image.stem in ("03", "04", "05", "06"):
                image.write_bytes(b"not an image")
    return load_data(images)


@pytest.mark.parametrize("which", ["base", "new", "all"])
def test_features_select_the_same_images_as_the_data_set(which, data, tiny_backbone):
    whole = encode_split(tiny_backbone, data, workers=0, skip_unreadable=True)
    half = encode_split(tiny_backbone, data.select(which), workers=0, skip_unreadable=True)
    chosen = whole.select(which)
    torch.testing.assert_close(chosen.features, half.features)
    assert chosen.labels.tolist() == half.labels.tolist()
    assert (chosen.classnames, chosen.paths) == (half.classnames, half.paths)
    assert chosen.hashes == half.hashes
    assert [image.path for image in chosen.unreadable] == [image.path for image in half.unreadable]
    assert chosen.unreadable_labels == half.unreadable_labels
    assert len(whole.unreadable) > 0


def test_skipped_images_are_counted(data, tiny_backbone):
    method = CoOp(tiny_backbone, data.classnames, context="a photo of a")
    result = evaluate(method, data, workers=0, skip_unreadable=True)
    unreadable = [item for item in data.test if (data.image_root / item.path).read_bytes() == b"not an image"]
    assert result.skipped == len(unreadable) > 0
    assert len(result.labels) == len(data.test) - result.skipped
    assert not {item.path for item in unreadable} & set(result.paths)
    with pytest.raises(
        DataError, match=r"could not be read \(.*\)\. Fix or delete them, or skip them with `skip_unreadable=True`"
    ):
        evaluate(method, data, workers=0)


def test_evaluate_refuses_other_classes_and_no_images(data, tiny_backbone):
    method = CoOp(tiny_backbone, ["cherry", "leaf"], context="a photo of a")
    with pytest.raises(DataError, match=r"has 2 classes .* and the data 4 .*; call method.set_classes\(data"):
        evaluate(method, data)
    tests = encode_split(tiny_backbone, data, workers=0, skip_unreadable=True)
    nothing = type(tests)(tests.features[:0], tests.labels[:0], ("cherry", "leaf"), ())
    with pytest.raises(DataError, match="There are no images to evaluate on; mark some as 'test'"):
        evaluate(method, nothing)
