"""Batches are the same for any number of workers, any order and after a resume; unreadable images are reported."""

import hashlib
import os
import pickle
import signal
import subprocess
import sys
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
    UnreadableImage,
    epoch_order,
    image_batches,
    plain_order,
    train_transform,
)
from cocoop.data import test_transform as eval_transform
from cocoop.data.loader import CachedImage

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
    """Ten images of noise in two classes."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    items = []
    for n in range(10):
        Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / f"{n}.png")
        items.append(Item(f"{n}.png", n % 2))
    return Dataset(("cat", "dog"), tuple(items), (), (), root, "noise")


def paths_of(data: Dataset) -> list[Path]:
    return [data.path_of(item) for item in data.train]


def load(data: Dataset, batches: list[list[int]], **options: int) -> list[Batch]:
    return list(image_batches(paths_of(data), batches, transform=train_transform(SMALL), **options))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert a.hashes == b.hashes
        assert torch.equal(a.indices, b.indices)
        assert a.unreadable == b.unreadable


# ---- order


def test_epoch_order_has_every_image_once() -> None:
    batches = epoch_order(12, 4, seed=1, epoch=1)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert sorted(index for batch in batches for index in batch) == list(range(12))


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4]), (3, 4, [3]), (4, 4, [4]), (5, 1, [1] * 5), (1, 1, [1]), (9, 4, [4, 4]), (0, 4, [])],
)
def test_epoch_order_drops_an_incomplete_last_batch_after_a_full_one(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    batches = epoch_order(count, batch_size, seed=0, epoch=1)
    assert [len(batch) for batch in batches] == sizes
    indices = [index for batch in batches for index in batch]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(count))


def test_epoch_order_depends_only_on_seed_and_epoch() -> None:
    order = epoch_order(50, 1, seed=3, epoch=2)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    assert epoch_order(50, 1, seed=3, epoch=2) == order
    torch.set_rng_state(state)
    # (3, 2) and (2, 3) too: a mere sum of the two would give them the same order.
    others = [epoch_order(50, 1, seed=seed, epoch=epoch) for seed, epoch in ((3, 3), (2, 2), (2, 3), (0, 2), (1, 4))]
    assert all(other != order for other in others)
    epoch_order(5, 1, seed=2**63 - 1, epoch=10)


def test_plain_order_keeps_all_indices_in_order() -> None:
    assert plain_order(5, 2) == [[0, 1], [2, 3], [4]]
    assert plain_order(0, 2) == []


# ---- batches


@with_workers
def test_batches_hold_the_requested_images_and_their_hashes(images: Dataset, workers: int) -> None:
    transform = eval_transform(SMALL)
    loader = image_batches(paths_of(images), [[3, 0, 7], [9]], transform=transform, workers=workers)
    assert len(loader) == 2
    first, second = loader
    assert isinstance(first, Batch)
    assert first.indices.tolist() == [3, 0, 7]
    assert first.indices.dtype == torch.int64
    assert (first.size, second.size) == (3, 1)
    assert first.unreadable == first.cached == ()
    for position, index in enumerate([3, 0, 7]):
        path = images.image_root / f"{index}.png"
        assert first.hashes[position] == hashlib.sha256(path.read_bytes()).hexdigest()
        with Image.open(path) as image:
            assert torch.equal(first.images[position], transform(image))


@with_workers
def test_known_images_are_hashed_but_not_decoded(
    images: Dataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths_of(images)]
    (batch,) = load(images, [[0, 1, 2]], cached=frozenset([hashes[1]]), workers=workers)
    assert batch.cached == (CachedImage(1, hashes[1]),)
    assert batch.indices.tolist() == [0, 2]
    if not workers:
        monkeypatch.setattr("cocoop.data.loader.open_image", None)
    (batch,) = load(images, [[0, 1, 2]], cached=frozenset(hashes), workers=workers)
    assert (batch.size, batch.images.shape) == (0, (0, 3, 0, 0))
    assert batch.cached == tuple(CachedImage(i, hashes[i]) for i in range(3))


def test_each_image_file_is_read_once(images: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    assert load(images, [[0, 1], [2]])
    assert read == paths_of(images)[:3]


@with_workers
def test_augmentation_is_the_same_for_any_workers_order_and_batches(images: Dataset, workers: int) -> None:
    whole = load(images, [list(range(10))], seed=1, epoch=4)[0]
    batches = epoch_order(10, 3, seed=1, epoch=4)
    for batch in load(images, batches, seed=1, epoch=4, workers=workers):
        assert torch.equal(batch.images, whole.images[batch.indices])


@with_workers
def test_resumed_epoch_continues_with_the_same_batches(images: Dataset, workers: int) -> None:
    batches = epoch_order(10, 2, seed=5, epoch=3)
    whole = load(images, batches, seed=5, epoch=3)
    assert_same(load(images, batches[2:], seed=5, epoch=3, workers=workers), whole[2:])


def test_augmentation_depends_on_seed_epoch_and_index(images: Dataset) -> None:
    def augmented(**options: int) -> torch.Tensor:
        return load(images, [[0, 1]], **options)[0].images

    reference = augmented(seed=1, epoch=2)
    assert torch.equal(reference, augmented(seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1), (12, 2)):
        assert not torch.equal(reference, augmented(seed=seed, epoch=epoch))
    # The same image at two indices is cropped differently.
    twice = ImageDataset([paths_of(images)[0]] * 2, transform=train_transform(SMALL), seed=1, epoch=1)
    assert not torch.equal(twice[0].image, twice[1].image)


def test_loading_does_not_advance_the_global_generator(images: Dataset) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(images, [[0, 1], [2, 3]], seed=1, epoch=1)
    assert torch.equal(torch.rand(3), expected)


@with_workers
def test_unreadable_images_are_reported_and_skipped(images: Dataset, tmp_path: Path, workers: int) -> None:
    for item in images.train:
        (tmp_path / item.path).write_bytes(images.path_of(item).read_bytes())
    (tmp_path / "1.png").write_text("no image")
    (tmp_path / "4.png").unlink()
    broken = Dataset(images.classnames, images.train, (), (), tmp_path, "broken")
    mixed, lost, fine = load(broken, [[0, 1, 2], [4, 1], [5, 6]], seed=1, epoch=1, workers=workers)
    assert mixed.indices.tolist() == [0, 2]
    assert mixed.images.shape == (2, 3, 16, 16)
    unsupported = "it is empty, damaged or not in a supported format"
    digest = hashlib.sha256(b"no image").hexdigest()
    assert mixed.unreadable == (UnreadableImage(str(tmp_path / "1.png"), unsupported, 1, digest),)
    assert lost.size == 0
    assert lost.images.shape == (0, 3, 0, 0)
    assert [(image.position, image.reason, image.sha256) for image in lost.unreadable] == [
        (4, "there is no such file", None),
        (1, unsupported, digest),
    ]
    assert fine.size == 2
    # The unreadable image does not change the others.
    assert torch.equal(mixed.images, load(images, [[0, 2]], seed=1, epoch=1)[0].images)


def test_loader_has_at_most_one_worker_per_batch(images: Dataset) -> None:
    assert load(images, [], workers=2) == []
    loader = image_batches(paths_of(images), [[0]], transform=eval_transform(SMALL), workers=8)
    assert loader.num_workers == 1


def test_image_dataset_and_errors_can_be_pickled(images: Dataset) -> None:
    # Workers that are not forked (macOS, Windows) get everything by pickle.
    before = ImageDataset(paths_of(images), transform=train_transform(SMALL), seed=1, epoch=1)
    after = pickle.loads(pickle.dumps(before))
    assert torch.equal(after[3].image, before[3].image)
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "it is green")))
    assert str(error) == "Cannot read the image 'a.jpg': it is green."


LOOP = """
import sys
from pathlib import Path
from cocoop.config import Preprocessing
from cocoop.data import image_batches, test_transform

def main():
    root = Path(sys.argv[1])
    paths = [root / f"{n}.png" for n in range(10)]
    transform = test_transform(Preprocessing(size=16, mean=(0.5,) * 3, std=(0.5,) * 3))
    try:
        batches = [[n % 10] for n in range(10**6)]
        for batch in image_batches(paths, batches, transform=transform, workers=2):
            print("running", flush=True)
    except KeyboardInterrupt:
        print("stopped", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent to a process group")
def test_ctrl_c_prints_no_traceback_from_workers(images: Dataset, tmp_path: Path) -> None:
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
        # The workers have started once a few batches have arrived.
        assert [process.stdout.readline() for _ in range(20)] == ["running\n"] * 20
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert out.endswith("stopped\n")
    assert err == ""
    assert process.returncode == 0
