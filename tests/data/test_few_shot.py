"""Few-shot sampling and base/new halves against the official lists and a plain restatement."""

import inspect
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
from paths import SHARED

from cocoop.data import Item, load_data, sample_few_shot
from cocoop.data.few_shot import chosen_labels, sample_per_class
from cocoop.errors import DataError

SPLIT = SHARED / "splits" / "split_zhou_Caltech101.json"
needs_splits = pytest.mark.skipif(
    not SPLIT.is_file(),
    reason=f"the official split files are not under {SHARED}; set COCOOP_SHARED to their directory",
)


def made_up(counts: dict[int, int], prefix: str) -> list[Item]:
    """Return items of several classes in random order, which differs from the label order."""
    items = [Item(f"{prefix}/{label}_{n}.jpg", label) for label, count in counts.items() for n in range(count)]
    random.Random(99).shuffle(items)
    return items


def plain_draw(train: list[Item], val: list[Item], shots: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Sample as specified, with Python's global generator as in the reference."""
    random.seed(seed)
    results = []
    for items, count in ((train, shots), (val, min(shots, 4))):
        groups = defaultdict(list)
        for item in items:
            groups[item.label].append(item)
        result = []
        for group in groups.values():
            if len(group) >= count:
                result.extend(random.sample(group, count))
            else:
                result.extend(group)
        results.append(result)
    return results[0], results[1]


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 12345])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
def test_sample_matches_the_plain_restatement(shots: int, seed: int) -> None:
    # Class 3 is smaller than most samples; class 1 has exactly 8 images; class 4 has one.
    train = made_up({3: 3, 0: 40, 2: 17, 1: 8, 4: 1}, "train")
    val = made_up({2: 9, 1: 2, 0: 4, 4: 1}, "val")
    assert sample_few_shot(train, val, shots, seed) == plain_draw(train, val, shots, seed)


def test_small_class_keeps_its_order_and_does_not_advance_the_generator() -> None:
    items = [Item("b", 0), Item("a", 0), Item("c", 0)]
    generator = random.Random(5)
    before = generator.getstate()
    assert sample_per_class(items, 4, generator) == items
    assert generator.getstate() == before
    sample_per_class(items, 3, generator)
    assert generator.getstate() != before, "a class with exactly as many images as shots is shuffled, as in the papers"


def test_validation_sample_continues_the_generator_of_the_training_sample() -> None:
    val = made_up({0: 30, 1: 30}, "val")
    _, alone = sample_few_shot([], val, 16, 1)
    _, after = sample_few_shot(made_up({0: 30, 1: 30}, "train"), val, 16, 1)
    assert len(alone) == len(after) == 8
    assert alone != after


def test_invalid_shots_and_seeds_are_refused() -> None:
    with pytest.raises(DataError, match="`shots` is 0; it must be at least 1"):
        sample_few_shot([], [], 0, 1)
    with pytest.raises(DataError, match="`seed` is -1; it must be at least 0"):
        sample_few_shot([], [], 1, -1)


@needs_splits
@pytest.mark.parametrize("seed", [1, 2])
def test_sample_matches_official_lists_of_caltech101(seed: int) -> None:
    official = json.loads((SHARED / "splits" / "fewshot" / f"caltech101_16shot_seed{seed}.json").read_text())
    full = load_data(SPLIT)
    drawn = full.few_shot(16, seed)
    assert [item.path for item in drawn.train] == official["train"]
    assert [item.path for item in drawn.val] == official["val"]
    assert drawn.test == full.test


@needs_splits
def test_caltech101_classes_and_halves() -> None:
    full = load_data(SPLIT)
    assert (len(full.train), len(full.val), len(full.test)) == (4128, 1649, 2465)
    assert len(full.classnames) == 100
    assert full.classnames[:4] == ("face", "leopard", "motorbike", "accordion")
    base, new = full.base(), full.new()
    assert base.classnames + new.classnames == full.classnames
    assert len(base.classnames) == len(new.classnames) == 50
    assert {item.label for item in new.test} == set(range(50))
    assert len(base.test) + len(new.test) == 2465
    # Sizes of the base and new test sets on which the published numbers stand.
    assert (len(base.test), len(new.test)) == (1549, 916)


@needs_splits
@pytest.mark.parametrize("path", sorted((SHARED / "splits").glob("split_zhou_*.json")), ids=lambda path: path.stem)
def test_every_official_split_file_loads(path: Path) -> None:
    data = load_data(path)
    data.check_trainable()
    assert not any("_" in name for name in data.classnames)
    counts = dict.fromkeys(range(len(data.classnames)), 0)
    for item in data.few_shot(16, 1).train:
        counts[item.label] += 1
    assert set(counts.values()) == {16}


@pytest.mark.parametrize(
    ("count", "base", "new"), [(4, [0, 1], [2, 3]), (5, [0, 1, 2], [3, 4]), (7, [0, 1, 2, 3], [4, 5, 6])]
)
def test_base_is_the_first_half_rounded_up(count: int, base: list[int], new: list[int]) -> None:
    assert list(chosen_labels(count, "base")) == base
    assert list(chosen_labels(count, "new")) == new
    assert list(chosen_labels(count, "all")) == base + new


def test_chosen_labels_refuses_invalid_subsets() -> None:
    with pytest.raises(DataError, match=r"need at least 4 classes, two in each half; there are 3\. Use 'all'"):
        chosen_labels(3, "new")
    with pytest.raises(DataError, match=r"'old' is not a subset of classes; use 'base', 'new' or 'all'"):
        # Unwrapped, because the tests check types at run time.
        inspect.unwrap(chosen_labels)(10, "old")
