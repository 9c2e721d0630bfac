"""Batches: the same whatever the workers, the order and the place of a resume; unreadable photos reported."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cocoop.config import Preprocessing
from cocoop.data import (
    Batch,
    Dataset,
    ImageDataset,
    ImageError,
    Item,
    epoch_order,
    image_batches,
    plain_order,
    train_transform,
)
from cocoop.data import test_transform as eval_transform

SMALL = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

with_workers = pytest.mark.parametrize(
    "workers",
    [
        0,
        pytest.param(
            2,
            # Newer Pythons warn of fork beside threads, PyTorch of more workers than cores.
            marks=[
                pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
                pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
            ],
        ),
    ],
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten photos of noise in two classes."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    items = []
    for n in range(10):
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / f"{n}.png")
        items.append(Item(f"{n}.png", n % 2))
    return Dataset(("cat", "dog"), tuple(items), (), (), root, "noise")


def load(data: Dataset, batches: list[list[int]], **options: int) -> list[Batch]:
    return list(image_batches(data, data.train, batches, transform=train_transform(SMALL), **options))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)
        assert list(a.unreadable) == list(b.unreadable)


# ---- order


def test_every_image_comes_once_an_epoch() -> None:
    batches = epoch_order(12, 4, seed=1, epoch=1)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert sorted(index for batch in batches for index in batch) == list(range(12))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4]), (3, 4, [3]), (4, 4, [4]), (5, 1, [1] * 5), (1, 1, [1]), (9, 4, [4, 4]), (0, 4, [])],
)
def test_last_incomplete_batch_is_dropped_if_there_is_a_full_one(count: int, batch_size: int, sizes: list[int]) -> None:
    batches = epoch_order(count, batch_size, seed=0, epoch=1)
    assert [len(batch) for batch in batches] == sizes
    indices = [index for batch in batches for index in batch]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(count))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    order = epoch_order(50, 1, seed=3, epoch=2)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    assert epoch_order(50, 1, seed=3, epoch=2) == order
    torch.set_rng_state(state)
    # (3, 2) and (2, 3) too: a mere sum of the two would give them the same order.
    others = [epoch_order(50, 1, seed=seed, epoch=epoch) for seed, epoch in ((3, 3), (2, 2), (2, 3), (0, 2), (1, 4))]
    assert all(other != order for other in others)
    epoch_order(5, 1, seed=2**63 - 1, epoch=10)


def test_plain_order_keeps_everything_in_order() -> None:
    assert plain_order(5, 2) == [[0, 1], [2, 3], [4]]
    assert plain_order(0, 2) == []


# ---- batches


@with_workers
def test_batches_have_the_images_that_were_asked_for(images: Dataset, workers: int) -> None:
    transform = eval_transform(SMALL)
    loader = image_batches(images, images.train, [[3, 0, 7], [9]], transform=transform, workers=workers)
    assert len(loader) == 2
    first, second = loader
    assert isinstance(first, Batch)
    assert first.indices.tolist() == [3, 0, 7]
    assert first.labels.tolist() == [1, 0, 1]
    assert first.labels.dtype == first.indices.dtype == torch.int64
    assert (first.size, second.size) == (3, 1)
    assert first.unreadable == ()
    for position, index in enumerate([3, 0, 7]):
        with Image.open(images.image_root / f"{index}.png") as image:
            assert torch.equal(first.images[position], transform(image))


@with_workers
def test_augmentation_does_not_depend_on_workers_order_or_batches(images: Dataset, workers: int) -> None:
    whole = load(images, [list(range(10))], seed=1, epoch=4)[0]
    batches = epoch_order(10, 3, seed=1, epoch=4)
    for batch in load(images, batches, seed=1, epoch=4, workers=workers):
        assert torch.equal(batch.images, whole.images[batch.indices])


@with_workers
def test_a_resumed_epoch_goes_on_as_if_never_stopped(images: Dataset, workers: int) -> None:
    batches = epoch_order(10, 2, seed=5, epoch=3)
    whole = load(images, batches, seed=5, epoch=3)
    assert_same(load(images, batches[2:], seed=5, epoch=3, workers=workers), whole[2:])


def test_augmentation_depends_on_seed_epoch_and_image(images: Dataset) -> None:
    def images(**options: int) -> torch.Tensor:
        return load(images, [[0, 1]], **options)[0].images

    reference = images(seed=1, epoch=2)
    assert torch.equal(reference, images(seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1), (12, 2)):
        assert not torch.equal(reference, images(seed=seed, epoch=epoch))
    # The same photo at two places in the list is cropped in two ways.
    twice = ImageDataset(images, [images.train[0]] * 2, transform=train_transform(SMALL), seed=1, epoch=1)
    assert not torch.equal(twice[0].image, twice[1].image)


def test_loading_leaves_the_global_generator_alone(images: Dataset) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(images, [[0, 1], [2, 3]], seed=1, epoch=1)
    assert torch.equal(torch.rand(3), expected)


@with_workers
def test_unreadable_images_are_left_out_and_reported(images: Dataset, tmp_path: Path, workers: int) -> None:
    for item in images.train:
        (tmp_path / item.path).write_bytes(images.path_of(item).read_bytes())
    (tmp_path / "1.png").write_text("no image")
    (tmp_path / "4.png").unlink()
    broken = Dataset(images.classnames, images.train, (), (), tmp_path, "broken")
    mixed, lost, fine = load(broken, [[0, 1, 2], [4, 1], [5, 6]], seed=1, epoch=1, workers=workers)
    assert mixed.indices.tolist() == [0, 2]
    assert mixed.labels.tolist() == [0, 0]
    assert mixed.images.shape == (2, 3, 16, 16)
    assert list(mixed.unreadable) == [("1.png", "it is empty, damaged or no image")]
    assert lost.size == 0
    assert lost.images.shape == (0, 3, 0, 0)
    assert list(lost.unreadable) == [
        ("4.png", "there is no such file"),
        ("1.png", "it is empty, damaged or no image"),
    ]
    assert fine.size == 2
    # The others are what they would have been without the bad ones.
    assert torch.equal(mixed.images, load(images, [[0, 2]], seed=1, epoch=1)[0].images)


def test_no_batches_and_more_workers_than_batches(images: Dataset) -> None:
    assert load(images, [], workers=2) == []
    loader = image_batches(images, images.train, [[0]], transform=eval_transform(SMALL), workers=8)
    assert loader.num_workers == 1


def test_what_travels_to_workers_can_be_pickled(images: Dataset) -> None:
    # Workers that are not forked (macOS, Windows) get everything by pickle.
    before = ImageDataset(images, images.train, transform=train_transform(SMALL), seed=1, epoch=1)
    after = pickle.loads(pickle.dumps(before))
    assert torch.equal(after[3].image, before[3].image)
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "it is green")))
    assert str(error) == "The photo 'a.jpg' cannot be used: it is green."


LOOP = """
import sys
from pathlib import Path
from cocoop.config import Preprocessing
from cocoop.data import Dataset, Item, photo_batches, test_transform

def main():
    root = Path(sys.argv[1])
    items = tuple(Item(f"{n}.png", n % 2) for n in range(10))
    data = Dataset(("cat", "dog"), items, (), (), root, "noise")
    transform = test_transform(Preprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3))
    try:
        batches = [[n % 10] for n in range(10**6)]
        for batch in photo_batches(data, items, batches, transform=transform, workers=2):
            print("running", flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent to a process group")
def test_ctrl_c_prints_no_traceback_of_a_worker(images: Dataset, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    # A group of its own, so that the signal reaches the script and its workers, as Ctrl-C in a terminal does.
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(images.image_root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert out.endswith("stopped\n")
    assert err == ""
    assert process.returncode == 0
