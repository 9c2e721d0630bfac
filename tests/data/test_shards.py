"""Shards: the same data as an image directory, local or remote; named damage; bounded memory."""

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_images import cocoop, make_images

from cocoop import cli
from cocoop.config import TrainConfig
from cocoop.data import Dataset, epoch_order, image_batches, load_data, open_image, train_transform
from cocoop.data.dataset import SPLITS
from cocoop.data.images import hash_image
from cocoop.data.merge import merge
from cocoop.data.shards.scan import find_shards, read_shard, scan_shard
from cocoop.errors import CocoopWarning, DamageWarning, DataError
from cocoop.methods import CoCoOp
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split, find_training_images, hash_training_images
from cocoop.training.fit import fit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("own") / "cache"
    monkeypatch.setenv("COCOOP_CACHE", str(cache))
    return cache


@pytest.fixture
def memory():
    """A remote file system."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Four classes of ten images, without splits."""
    return make_images(tmp_path_factory.mktemp("folder") / "pets", per_class=10)


def tar_of(members, kind=tarfile.PAX_FORMAT):
    """Return the bytes of a tar file of (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def parquet_of(images, **options):
    """Return the bytes of a Parquet file of (path, class, content), as Hugging Face's `datasets` writes it."""
    names = sorted({classname for _, classname, _ in images})
    facts = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [{"bytes": content, "path": path} for path, _, content in images],
            "label": [names.index(classname) for _, classname, _ in images],
        }
    )
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(facts)}), file, row_group_size=3, **options)
    return file.getvalue()


def shuffled(directory):
    """Return (path, class, content) of the images of a directory in random order."""
    paths = sorted(directory.rglob("*.png"))
    random.Random(5).shuffle(paths)
    return [(path.relative_to(directory).as_posix(), path.parent.name, path.read_bytes()) for path in paths]


def pack(directory, target, kind):
    """Write two shards with the images of a directory and return a pattern of them."""
    images = shuffled(directory)
    for number, part in enumerate((images[:17], images[17:])):
        members = [
            member
            for path, classname, content in part
            for member in ((path, content), (str(Path(path).with_suffix(".cls")), classname.encode()))
        ]
        content = tar_of(members) if kind == "tar" else parquet_of(part)
        with fsspec.open(f"{target}/pets-{number:03}.{kind}", "wb", auto_mkdir=True) as file:
            file.write(content)
    return f"{target}/pets-{{000..001}}.{kind}"


packings = pytest.mark.parametrize(("kind", "remote"), [(k, r) for k in ("tar", "parquet") for r in (False, True)])


@pytest.fixture
def packed(directory, tmp_path, memory):
    """Return a function that packs the directory."""

    def make(kind, remote=False):
        return pack(directory, "memory://bucket/pets" if remote else tmp_path / "shards", kind)

    return make


def contents(data: Dataset, split):
    return [(data.classnames[item.label], data.path_of(item).read_bytes()) for item in data.split(split)]


@packings
def test_shards_equal_a_directory(directory, packed, kind, remote):
    plain, shards = load_data(directory), load_data(packed(kind, remote))
    assert shards.classnames == plain.classnames
    assert shards.name == plain.name == "pets"
    # Train and val are in the order of the directory, which few-shot sampling depends on; test in that of the shards.
    assert contents(shards, "train") == contents(plain, "train")
    assert contents(shards, "val") == contents(plain, "val")
    assert sorted(contents(shards, "test")) == sorted(contents(plain, "test"))
    assert [item.path.partition("::")[0] for item in shards.test] == sorted(
        item.path.partition("::")[0] for item in shards.test
    )
    for seed in (1, 2):
        drawn = shards.few_shot(3, seed)
        assert contents(drawn, "train") == contents(plain.few_shot(3, seed), "train")
        drawn.check_files()
    assert load_data(packed(kind, remote), seed=1).train != shards.train


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@packings
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_shards_equal_those_of_a_directory(directory, packed, tiny_backbone, kind, remote, workers):
    def batches(data):
        order = epoch_order(len(data.train), 5, seed=3, epoch=1)
        transform = train_transform(tiny_backbone.preprocessing)
        paths = [data.path_of(item) for item in data.train]
        return list(image_batches(paths, order, transform=transform, seed=3, epoch=1, workers=workers))

    plain = batches(load_data(directory))
    shards = batches(load_data(packed(kind, remote)))
    assert len(plain) == len(shards) == 4
    for one, other in zip(plain, shards, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
        assert not other.unreadable


@pytest.mark.parametrize("cached", [False, True])
def test_training_on_shards_equals_training_on_a_directory_bit_for_bit(
    directory, packed, tiny_backbone, tmp_path, cached
):
    def trained(source):
        data = load_data(source).few_shot(2, seed=1)
        method = CoCoOp(tiny_backbone, data.classnames, context="a photo of a", seed=3)
        cache = FeatureCache(tmp_path / "features", tiny_backbone)
        settings = TrainConfig(epochs=2, batch_size=4, workers=0, cache_features=cached, seed=5, warmup_epochs=0)
        fit(method, data, settings, cache=cache)
        return dict(method.learned())

    plain = trained(directory)
    for kind in ("tar", "parquet"):
        other = trained(packed(kind))
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[name], other[name]) for name in plain)
    # Cached features are found by content, in shards and files.
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == cached


@packings
def test_overlap_finds_training_images_by_content(directory, packed, tiny_backbone, kind, remote):
    plain = load_data(directory)
    shards = load_data(packed(kind, remote)).all_for_testing()
    tests = encode_split(tiny_backbone, shards, workers=0)
    twice = find_training_images(tests, hash_training_images(plain))
    assert len(twice) == len(plain.train) == 20
    assert {hash_image(shards.image_root / path) for path in twice} == hash_training_images(plain)


def test_unreadable_images_in_shards_are_skipped(tmp_path, tiny_backbone):
    good = make_images(tmp_path / "p", per_class=1)
    members = [(f"{path.parent.name}{n}{end}", path.read_bytes() if end == ".png" else path.parent.name.encode())
               for path in good.rglob("*.png") for n in (1, 2) for end in (".png", ".cls")]  # fmt: skip
    (tmp_path / "test-0.tar").write_bytes(tar_of([*members, ("x.png", b"no photo"), ("x.cls", b"leaf")]))
    data = load_data(tmp_path / "test-0.tar")
    tests = encode_split(tiny_backbone, data, workers=0, skip_unreadable=True)
    assert len(tests.paths) == 8
    assert [(unreadable.path, unreadable.reason) for unreadable in tests.unreadable] == [
        ("test-0.tar::x.png", "it is empty, damaged or not in a supported format")
    ]
    # So are images of a deleted shard.
    (tmp_path / "test-0.tar").unlink()
    with pytest.raises(DataError, match=r"Cannot read the image '.*test-0\.tar::.*': .*There is no shard"):
        open_image(data.path_of(data.test[0]))


def test_commands_accept_shards(directory, tmp_path, monkeypatch, capsys):
    for number, split in enumerate(("train", "test")):
        members = []
        for n, (_, classname, image) in enumerate(shuffled(directory)[number * 20 :][:20]):
            members += [(f"{n:03}.png", image), (f"{n:03}.json", json.dumps({"label": classname}).encode())]
        (tmp_path / f"{split}-000.tar").write_bytes(tar_of(members))
    pattern = "{train,test}-{000..000}.tar"
    options = ("--shots", "2", "--epochs", "1", "--compare", "none", "--output", "run")
    done = cocoop("train", pattern, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    cli.main(["eval", "run", "test-*.tar", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["images"] == 20
    cli.main(["eval", "run", "train-*.tar", "--all-images", "--format", "json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] == 12
    assert "Left out: 8 images that the prompt was trained on." in printed.err
    cli.main(["draw", pattern, "--shots", "2", "--format", "json"])
    drawn = json.loads(capsys.readouterr().out)["train"]
    assert len(drawn) == 8
    assert all(path.startswith("train-000.tar::") for path in drawn)


def test_load_data_accepts_an_address_as_a_path(packed, capsys):
    pattern = packed("tar", remote=True)
    cli.main(["draw", pattern, "--shots", "1"])
    assert capsys.readouterr().out.count("train\t") == 4
    assert load_data(Path(pattern)).fingerprint == load_data(pattern).fingerprint


def test_index_is_cached(packed, memory, own_cache, monkeypatch):
    source = packed("tar", remote=True)
    opened = []
    plain = type(memory)._open
    monkeypatch.setattr(
        type(memory), "_open", lambda self, path, *a, **k: opened.append(path) or plain(self, path, *a, **k)
    )
    progress = []
    first = load_data(source, on_progress=lambda *bytes_done: progress.append(bytes_done))
    assert opened == ["/bucket/pets/pets-000.tar", "/bucket/pets/pets-001.tar"]
    sizes = [memory.size(path) for path in opened]
    assert progress[-1] == (sum(sizes), sum(sizes))
    assert progress == sorted(progress)
    assert len(progress) > 40
    assert load_data(source) == first
    assert len(opened) == 2
    # A changed shard is indexed again, and so is a shard whose index is damaged.
    content = memory.cat_file("/bucket/pets/pets-001.tar")
    memory.pipe_file("/bucket/pets/pets-001.tar", content)
    opened.clear()
    assert load_data(source) == first
    assert opened == ["/bucket/pets/pets-001.tar"]
    kept = sorted((own_cache / "shards").iterdir())
    assert len(kept) == 3
    for number, file in enumerate(kept):
        whole = file.read_bytes()
        file.write_bytes([b"", whole[:-5], whole.replace(b".png", b".pnf")][number])
    with pytest.warns(DamageWarning) as caught:
        assert load_data(source) == first
    # One of the three belongs to the shard before its change.
    assert len(caught) == 2
    assert {str(w.message) for w in caught} <= {f"The index '{file}' is damaged; it is rebuilt." for file in kept}
    assert len(opened) == 3
    assert contents(load_data(source), "val") == contents(first, "val")


def test_index_works_without_a_writable_cache(packed, own_cache):
    own_cache.write_text("a file, not a folder")
    assert len(load_data(packed("tar")).train) == 20


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_indexing_keeps_no_image_in_memory(tmp_path, kind):
    images = [(f"{n}.png", f"class {n % 2}", random.Random(n).randbytes(6_000_000)) for n in range(8)]
    members = [m for n, (name, label, data) in enumerate(images) for m in ((name, data), (f"{n}.cls", label.encode()))]
    shard = tmp_path / f"big.{kind}"
    shard.write_bytes(tar_of(members) if kind == "tar" else parquet_of(images, use_dictionary=False))
    expected = [hashlib.sha256(data).hexdigest() for _, _, data in images]
    del images, members
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        data = load_data(shard)
        held = tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
        assert held < 5_000_000
        if kind == "tar":
            tracemalloc.reset_peak()
            digests = [hashlib.sha256(image.data).hexdigest() for image in read_shard(str(shard))]
            assert tracemalloc.get_traced_memory()[1] < 4 * 6_000_000
            assert digests == expected
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    found = {
        hashlib.sha256(data.path_of(item).read_bytes()).hexdigest() for split in SPLITS for item in data.split(split)
    }
    assert found == set(expected)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_positions_are_right_after_long_names(tmp_path, kind):
    long = "d/" * 30 + "x" * 90 if kind == tarfile.USTAR_FORMAT else "d/" * 150 + "ö" * 120
    members = [(f"{long}.png", b"first"), (f"{long}.cls", b"a"), ("short.jpg", b"2" * 512), ("short.txt", b"b\n"),
               ("empty.webp", b""), ("empty.json", b'{"class": "c", "split": "validation"}')]  # fmt: skip
    shard = tmp_path / "long.tar"
    shard.write_bytes(tar_of(members, kind))
    images = list(read_shard(str(shard)))
    assert [(image.path, image.data, image.classname, image.split) for image in images] == [
        (f"{shard}::{long}.png", b"first", "a", None),
        (f"{shard}::short.jpg", b"2" * 512, "b", None),
        (f"{shard}::empty.webp", b"", "c", "val"),
    ]
    whole = shard.read_bytes()
    for entry, data in scan_shard(str(shard), with_bytes=False):
        assert data == b""
        start, size = entry.position
        assert whole[start : start + size] == next(p.data for p in images if p.path.endswith(f"::{entry.member}"))


def test_read_shard_finds_classes_of_webdataset_and_parquet(tmp_path):
    members = [("d.x/1.jpg", b""), ("d.x/1.cls", b" 7\n"), ("d.x/1.json", b'{"caption": "a walk"}'), ("2.cls", b"cat"),
               ("2.JPG", b""), ("3.jpg", b""), ("3.json", b'{"label": 3, "classname": "dog"}'), ("3.txt", b"other"),
               ("4.jpg", b""), (".hidden.jpg", b""), ("notes.md", b""), ("5.cls", b"nothing")]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    assert [(p.path.partition("::")[2], p.classname) for p in read_shard(str(tmp_path / "a.tar"))] == [
        ("d.x/1.jpg", "7"), ("2.JPG", "cat"), ("3.jpg", "dog"), ("4.jpg", None),
    ]  # fmt: skip
    table = {"jpg": [b"1", None], "thumb": [b"", b""], "class": ["cat", " "], "split": ["train", "test"]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    assert list(read_shard(str(tmp_path / "b.parquet"))) == [
        (f"{tmp_path}/b.parquet::#0000000", b"1", "cat", "train"),
        (f"{tmp_path}/b.parquet::#0000001", b"", None, "test"),
    ]


def test_numeric_classes_are_sorted_by_number(tmp_path):
    members = [m for n in (10, 9, 2) for m in ((f"{n}.jpg", b""), (f"{n}.cls", str(n).encode()))]
    (tmp_path / "n.tar").write_bytes(tar_of(members))
    assert load_data(tmp_path / "n.tar").classnames == ("2", "9", "10")
    assert load_data(tmp_path / "n.tar", renames={"10": "hen"}).classnames == ("2", "9", "hen")


def labelled(name, label=b"cat"):
    return [(f"{name}.jpg", b"photo"), (f"{name}.cls", label)]


def test_splits_follow_the_names_of_shards(tmp_path):
    two = labelled("1") + labelled("2", b"dog")
    names = ("pets-train-0.tar", "pets-train-1.tar", "pets-validation.tar", "pets-test-00001-of-00002.tar")
    for name in names:
        (tmp_path / name).write_bytes(tar_of(two))
    data = load_data(tmp_path)
    assert [item.path for item in data.train] == [
        f"pets-train-{n}.tar::{m}.jpg" for m in (1, 2) for n in (0, 1)
    ]  # class by class, by name, then by shard
    assert (len(data.val), len(data.test)) == (2, 2)
    (tmp_path / "crash-test-cars.tar").write_bytes(tar_of(two))
    with pytest.raises(
        DataError, match=r"'crash-test-cars\.tar::1\.jpg' has no split, though others have one\. Name every"
    ):
        load_data(f"{tmp_path}/*.tar")
    # The directory may be named after the split too.
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "0.tar").write_bytes(tar_of(two))
    assert {image.split for image in read_shard(str(tmp_path / "val" / "0.tar"))} == {"val"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("memory://bucket/birds/{train,test}-{000..099}.tar", "birds"),
        ("memory://bucket/birds/train-*.parquet", "birds"),
        ("memory://bucket/x/birds-*.parquet", "birds"),
        ("memory://bucket/birds", "birds"),
        ("memory://birds/0.tar", "birds"),
    ],
)
def test_data_set_is_named_after_its_shards_or_their_directory(memory, source, name):
    images = tar_of(labelled("1") + labelled("2", b"dog"))
    rows = parquet_of([("1", "cat", b""), ("2", "dog", b"")])
    for path in ("bucket/birds/train-000.tar", "birds/0.tar"):
        memory.pipe(f"/{path}", images)
    for number in range(100):
        for split in ("train", "test"):
            memory.pipe(f"/bucket/birds/{split}-{number:03}.tar", images)
    for path in ("bucket/x/birds-0.parquet", "bucket/birds/train-1.parquet"):
        memory.pipe(f"/{path}", rows)
    assert load_data(source).name == name


def test_signed_addresses_do_not_change_the_data(memory):
    images = tar_of(labelled("1") + labelled("2", b"dog"))
    found = []
    for signature in ("secret", "another"):
        memory.pipe(f"/bucket/birds/train-000.tar?signature={signature}", images)
        found.append(load_data(f"memory://bucket/birds/train-000.tar?signature={signature}"))
        assert sorted(name for name, _ in contents(found[-1], "train")) == ["cat", "dog"]
        memory.rm(f"/bucket/birds/train-000.tar?signature={signature}")
    assert found[0] == found[1]
    assert found[0].fingerprint == found[1].fingerprint
    assert "signature" not in str([(data.name, str(data.image_root), data.train) for data in found])


def test_load_data_warns_about_ignored_files(tmp_path, directory):
    shutil.copytree(directory, tmp_path / "photos")
    (tmp_path / "photos" / "train-000.tar").write_bytes(tar_of(labelled("1")))
    with pytest.warns(CocoopWarning, match=r"photos' also holds 1 shards \(\.tar, \.parquet\), which are ignored\."):
        assert load_data(tmp_path / "photos").train == load_data(directory).train
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(tar_of(labelled("1") + labelled("2", b"dog")))
    (tmp_path / "shards" / "b.JPG").write_bytes(b"")
    with pytest.warns(CocoopWarning, match=r"shards' also holds 1 images outside of shards, which are ignored\."):
        assert len(load_data(tmp_path / "shards").classnames) == 2


def test_find_shards_accepts_directories_globs_and_ranges(tmp_path, memory, monkeypatch):
    for name in ("b-08.tar", "b-09.tar", "b-10.tar", "c.parquet", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
        memory.pipe(f"/x/{name}", b"")
    here = f"{tmp_path}/"
    assert find_shards(str(tmp_path)) == [here + name for name in ("b-08.tar", "b-09.tar", "b-10.tar", "c.parquet")]
    assert find_shards("memory://x/b-{09..10}.tar") == [
        "memory:///x/b-09.tar",
        "memory:///x/b-10.tar",
    ]
    assert find_shards(f"{here}{{b-*.tar,c.parquet,c.parquet}}") == find_shards(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert find_shards("b-08.tar") == [here + "b-08.tar"]
    assert find_shards("memory://x")[0] == "memory:///x/b-08.tar"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none-*.tar", "There is no shard at 'none-\\*.tar'. A shard is a WebDataset .tar or a .parquet file."),
        ("none-{00..01}.tar", "There is no shard '.*/none-00.tar'."),
        ("x-{9..1}.tar", r"'\{9..1\}' in 'x-\{9..1\}.tar' must count up, over at most 1,000,000 shards."),
        ("x-{0..9999999}.tar", "must count up"),
        ("photos.tar.gz", "'.*photos.tar.gz' is compressed, .* Decompress it, with `gunzip` for .gz, and use the .tar"),
        ("nosuch://x.tar", "'nosuch://x.tar' cannot be reached: Protocol not known: nosuch."),
        (
            "memory://x/photos.zip",
            "'memory:///x/photos.zip' is not a shard. A shard is a WebDataset .tar or a .parquet",
        ),
    ],
)
def test_load_data_refuses_other_sources(tmp_path, monkeypatch, memory, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        load_data(source)


def test_shards_refuse_an_image_root_and_merging(packed, tmp_path, directory):
    source = packed("tar")
    with pytest.raises(DataError, match=r"hold their images themselves\. Remove `image_root`"):
        load_data(source, image_root=tmp_path)
    with pytest.raises(DataError, match="'pets' is in shards, which cannot be merged; unpack it"):
        merge([load_data(directory), load_data(source)])


WHOLE = tar_of(labelled("a") + labelled("b", b"dog"))


@pytest.mark.parametrize("length", [0, 100, 512, 700, 1024, 1536, 2048, 2100, 2560, 3500, 4096])
def test_truncated_tar_files_are_refused(tmp_path, length):
    shard = tmp_path / "cut.tar"
    shard.write_bytes(WHOLE[:length])
    with pytest.raises(DataError, match=r"The shard '.*/cut\.tar' "):
        load_data(shard)
    with pytest.raises(DataError, match=r"The shard '.*/cut\.tar' "):
        list(read_shard(str(shard)))


def test_truncated_parquet_files_are_refused(tmp_path):
    whole = parquet_of([("1.png", "cat", b"1" * 1000), ("2.png", "dog", b"2" * 1000)])
    for length in (0, 3, 100, len(whole) - 8, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"The shard '.*/cut\.parquet' cannot be read"):
            load_data(tmp_path / "cut.parquet")


def altered(**changes):
    """Return a tar file with a member whose header is wrong."""
    info = tarfile.TarInfo("1.jpg")
    for name, value in changes.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(10240)


def endless_header():
    """Return a tar file with a name of 30 MB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 30_000_000
    return info.tobuf(tarfile.GNU_FORMAT) + b"a" * 30_000_256 + WHOLE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(WHOLE), "is compressed, so its images cannot be read one by one. Decompress it"),
        (WHOLE + WHOLE, "several tar files in one: there is data after its end at byte 4,096"),
        (WHOLE[:2048] + b"\xff" * 512 + WHOLE[2560:], "there is data after its end at byte 2,048"),
        (altered(size=10**15), r"is cut off: '1.jpg' should end at byte 1,000,000,000,000,512, the file ends at"),
        (altered(size=300 << 20) + bytes(300 << 20), "has 314,572,800 bytes of images with the key '1'; the limit is"),
        (altered(size=-512), "The shard '.*' "),
        (altered(type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'1.jpg' is a link to '/etc/passwd'"),
        (altered(type=tarfile.LNKTYPE, linkname="2.jpg"), "'1.jpg' is a link to '2.jpg'"),
        (altered(type=tarfile.CHRTYPE), "'1.jpg' is neither a plain file nor a directory"),
        (endless_header(), "it has an endless header"),
        (tar_of([("1.jpg", b""), ("1.cls", b"x" * 1_100_000)]), "its label '1.cls' has 1,100,000 bytes"),
        (tar_of([("1.jpg", b""), ("1.cls", b"\xff\xfe")]), "'.*', '1', .cls: its label is not UTF-8 text"),
        (tar_of([("1.jpg", b""), ("1.json", b"[1]")]), "'1': its .json must be an object like"),
        (tar_of([("1.jpg", b""), ("1.json", b"{")]), "'1': its .json is not valid JSON"),
        (tar_of([("1.jpg", b""), ("1.json", b"[" * 100_000)]), "'1': its .json is not valid JSON"),
        (tar_of([("1.jpg", b""), ("1.json", b'{"label": [1]}')]), "'label' in its .json must be a string or an int"),
        (tar_of([("1.jpg", b""), ("1.json", b'{"label": 1, "split": "odd"}')]), "'1': unknown split 'odd'. Use"),
        (tar_of([("cat/1.jpg", b"")]), "'.*x.tar::cat/1.jpg' has no class. Write shards as WebDataset does"),
        (tar_of(labelled("1") + labelled("1")), "The image 'x.tar::1.jpg' is listed twice"),
        (tar_of([("notes.md", b"")]), "hold no image"),
        (tar_of([]), "hold no image"),
    ],
)  # fmt: skip
def test_damaged_and_hostile_tar_files_are_refused(tmp_path, content, message):
    shard = tmp_path / "x.tar"
    shard.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(shard)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": ["a", "b"]}, r"has no columns that may hold images\. .* Its columns are 'label'\."),
        ({"x": [b"", b""], "y": [b"", b""]}, "has 2 columns that may hold images. Name a column of bytes"),
        ({"image": [b"1", b"2"]}, "x.parquet::#0000000' has no class. Give every row of the shard a value"),
        ({"image": [b"1", b"2"], "label": ["a", None]}, "x.parquet::#0000001' has no class"),
        ({"image": [b"1", b"2"], "label": [0.5, 1.5]}, "row 1: the class must be a string or an integer, not 0.5"),
        ({"image": [b"1", b"2"], "label": ["a", "b"], "split": ["train", "best"]}, "row 2: unknown split 'best'"),
        ({"image": [b"1", b"2"], "label": ["a", "b"], "split": ["train", None]}, "'x.parquet::#0000001' has no split"),
    ],
)
def test_incomplete_parquet_files_are_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "x.parquet")


def test_row_groups_are_read_once(packed, memory, monkeypatch):
    data = load_data(packed("parquet", remote=True)).all_for_testing()
    opened = []
    plain = type(memory)._open
    monkeypatch.setattr(type(memory), "_open", lambda self, *a, **k: opened.append(a) or plain(self, *a, **k))
    order = sorted(data.test, key=lambda item: (item.path.partition("::")[0], data.image_root.positions[item.path]))
    for item in order:
        data.path_of(item).read_bytes()
    # 17 and 23 images in groups of three.
    assert len(opened) == 6 + 8
