"""Data sets: validation, selection, and missing images."""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from cocoop import data
from cocoop.data import Dataset, Item
from cocoop.errors import DataError

NAMES = ("ant", "bee", "cat", "dog", "eel")


def five_classes(root: Path = Path("photos")) -> Dataset:
    def items(split: str, count: int) -> tuple[Item, ...]:
        return tuple(Item(f"{split}/{name}/{n}.jpg", label) for label, name in enumerate(NAMES) for n in range(count))

    return Dataset(NAMES, items("train", 6), items("val", 5), items("test", 2), root, "five")


def test_exported_names_exist_and_are_sorted() -> None:
    assert list(data.__all__) == sorted(data.__all__)
    assert all(hasattr(data, name) for name in data.__all__)


def test_few_shot_samples_train_and_val_and_keeps_test() -> None:
    full = five_classes()
    drawn = full.few_shot(5, seed=3)
    assert [sum(item.label == label for item in drawn.train) for label in range(5)] == [5] * 5
    assert [sum(item.label == label for item in drawn.val) for label in range(5)] == [4] * 5
    assert set(drawn.train) < set(full.train)
    assert drawn.test == full.test
    assert drawn == full.few_shot(5, seed=3)
    assert drawn != full.few_shot(5, seed=4)
    assert full == five_classes(), "sampling must not change the full data set"


def test_base_and_new_are_relabelled_and_disjoint() -> None:
    full = five_classes()
    base, new = full.base(), full.new()
    assert base.classnames == ("ant", "bee", "cat")
    assert new.classnames == ("dog", "eel")
    assert [item.label for item in new.test] == [0, 0, 1, 1]
    assert [item.path for item in new.test] == [item.path for item in full.test if item.label >= 3]
    for half in (base, new):
        for item in half.train + half.val + half.test:
            assert f"/{half.classnames[item.label]}/" in item.path
    assert full.select("all") == full


def test_sampling_before_selecting_differs_from_sampling_after() -> None:
    full = five_classes()
    assert full.few_shot(2, 1).new().train != full.new().few_shot(2, 1).train


def test_dataset_validates_its_classes() -> None:
    full = five_classes()
    with pytest.raises(DataError, match=r"'five' has only one class, 'ant'; a classifier needs at least two"):
        replace(full, classnames=("ant",))
    with pytest.raises(DataError, match=r"'five' has no class; a classifier needs at least two"):
        replace(full, classnames=())
    with pytest.raises(DataError, match=r"several classes of the same name: 'ant', 'Ant'\. Merge them"):
        replace(full, classnames=("ant", "Ant", "cat", "dog", "eel"))
    with pytest.raises(DataError, match=r"has the label 4, but its 4 classes have the labels 0 to 3"):
        replace(full, classnames=NAMES[:4])
    with pytest.raises(DataError, match=r"has no image of 'fox', 'gnu'\. Add images"):
        replace(full, classnames=(*NAMES, "fox", "gnu"))


def test_check_trainable_names_classes_without_training_images() -> None:
    full = five_classes()
    full.check_trainable()
    some = replace(full, train=tuple(item for item in full.train if item.label in (0, 2, 3)))
    with pytest.raises(DataError, match=r"2 of the 5 classes of 'five' have no training image: 'bee', 'eel'"):
        some.check_trainable()
    with pytest.raises(DataError, match=r"'five' has no training image\. Mark some as 'train'"):
        replace(full, train=()).check_trainable()


def test_check_files_counts_missing_images_of_the_run(tmp_path: Path) -> None:
    full = five_classes(tmp_path)
    for item in full.test:
        image = full.path_of(item)
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"never opened")
    full.check_files(["test"])
    with pytest.raises(DataError) as caught:
        full.few_shot(1, 1).check_files(["train", "test"])
    message = str(caught.value)
    assert message.startswith("5 of the 15 images of 'five' that this run needs are not in")
    assert "'train/ant/" in message
    assert str(tmp_path) in message
    with pytest.raises(DataError, match=r"30 of the 30 images .* and 25 more\."):
        full.check_files(["train"])
    (tmp_path / "train/ant/0.jpg").mkdir(parents=True)
    with pytest.raises(DataError, match=r"^30 of the 30"):
        full.check_files(["train"])
    with pytest.raises(DataError, match=r"'trial' is not a split; use 'train', 'val' or 'test'"):
        # Unwrapped, because the tests check types at run time.
        inspect.unwrap(Dataset.split)(full, "trial")


def test_fingerprint_depends_on_items_but_not_on_the_root() -> None:
    full = five_classes()
    assert full.fingerprint == five_classes(Path("elsewhere")).fingerprint
    others = [full.few_shot(1, 1), full.base(), replace(full, val=full.test, test=full.val)]
    others.append(replace(full, classnames=("ants", *NAMES[1:])))
    assert len({full.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert len(full.fingerprint) == 64


def test_path_of_joins_relative_and_keeps_absolute_paths(tmp_path: Path) -> None:
    full = five_classes(tmp_path)
    assert full.path_of(Item("a/b.jpg", 0)) == tmp_path / "a" / "b.jpg"
    elsewhere = tmp_path.parent / "x.jpg"
    assert full.path_of(Item(elsewhere.as_posix(), 0)) == elsewhere
