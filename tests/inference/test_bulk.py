"""Labelling into files: what one command prints, each photo once, whatever stopped it."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import filelock
import fsspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from made_images import SOURCE, cocoop, environment, make_images
from PIL import Image
from tiny_models import save_open_clip

from cocoop.backbones import load_backbone
from cocoop.cli.predict import PredictCommand
from cocoop.data import ImageError, open_image
from cocoop.data.image_formats import MAX_BYTES
from cocoop.errors import CheckpointError, CocoopError, CocoopWarning, ConfigError, DataError
from cocoop.inference.bulk.chunks import FILES, find
from cocoop.inference.bulk.engines import _Worker
from cocoop.inference.bulk.job import label_images, model_facts
from cocoop.inference.bulk.job_directory import Job
from cocoop.inference.predictor import Model, predict
from cocoop.methods import CoOp, ZeroShot

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on a tiny model, and photos, two of which cannot be read."""
    home = tmp_path_factory.mktemp("home")
    save_open_clip(home / "tiny", "vit")
    make_images(home / "photos", per_class=12)
    arguments = ("--backbone", f"local-dir:{home / 'tiny'}", "--shots", 2, "--epochs", 1, "--compare", "none")
    done = cocoop("train", "photos", *arguments, "--output", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    (home / "photos" / "leaf" / "05.png").write_bytes(b"no photo")
    (home / "photos" / "sun" / "broken.jpg").write_bytes(b"")
    (home / "photos" / "sun" / ".hidden.png").write_bytes(b"not meant")
    (home / "photos" / "notes.txt").write_text("not meant")
    return home


@pytest.fixture
def model(home):
    return Model(source=str(home / "run"))


def rows(output):
    return pq.read_table(output).to_pylist()


def same(labels, home, files):
    """Whether labels are those that `cocoop.predict` gives for files."""
    wanted = predict(Model(source=str(home / "run")).load(), files, top_k=2, skip_unreadable=True)
    for row, prediction in zip(labels, wanted, strict=True):
        assert row["error"] == prediction.error
        if prediction.error is None:
            assert row["label"] == prediction.classes[0]
            assert tuple(label["label"] for label in row["top_k"]) == prediction.classes
            probabilities = [label["probability"] for label in row["top_k"]]
            assert probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
            assert row["probability"] == probabilities[0]
        else:
            assert (row["label"], row["probability"], row["top_k"]) == (None, None, [])


def test_a_directory_gets_the_labels_that_predict_gives(home, model, tmp_path):
    seen = []
    done = label_images(
        model, [str(home / "photos")], str(tmp_path), top_k=2, on_progress=lambda *numbers: seen.append(numbers)
    )
    found = rows(tmp_path)
    assert (done.images, done.unreadable, seen) == (49, 2, [(1, 1)])
    assert len({row["path"] for row in found}) == len(found) == 49
    same(found, home, [row["path"] for row in found])


def test_shards_get_the_same_labels(home, model, tmp_path):
    images = sorted((home / "photos").glob("*/*.png"))
    images = [image for image in images if not image.name.startswith(".")]
    for number in range(3):
        with tarfile.open(tmp_path / f"part-{number}.tar", "w") as tar:
            for image in images[number::3]:
                tar.add(image, f"{image.parent.name}-{image.name}")
    # The last one was cut off in its last photo.
    last = tmp_path / "part-2.tar"
    last.write_bytes(last.read_bytes()[:-12_000])
    done = label_images(model, [str(tmp_path / "part-{0..2}.tar")], str(tmp_path / "out"), top_k=2)
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert done.images == len(found)
    for number in range(2):
        mine = images[number::3]
        labels = [found[f"{tmp_path}/part-{number}.tar::{image.parent.name}-{image.name}"] for image in mine]
        same(labels, home, mine)
    assert "is cut off" in found[str(last)]["error"] or "cannot be read" in found[str(last)]["error"]


def test_shards_beside_images_are_passed_over_and_it_is_said(tmp_path):
    (tmp_path / "sea").mkdir()
    for name in ("1.png", "sea/2.jpg", "a.tar", "sea/b.parquet"):
        (tmp_path / name).touch()
    with pytest.warns(CocoopWarning) as told:
        found = find([str(tmp_path)])
    assert found == ((), (f"{tmp_path}/1.png", f"{tmp_path}/sea/2.jpg"))
    assert str(told[0].message) == (
        f"'{tmp_path}' has photos and 2 shards (.tar, .parquet), which are passed over; name them too to have the "
        "photos in them labelled."
    )


def test_labels_of_the_job_itself_are_not_missed(home, model, tmp_path):
    images = shutil.copytree(home / "photos" / "sea", tmp_path / "photos")
    for count in (12, 0):
        assert label_images(model, [str(images)], f"{tmp_path}/photos/../photos/labels/").images == count
    (images / "labels-of-another.parquet").touch()
    with pytest.warns(CocoopWarning, match="has photos and 1 shards"):
        label_images(model, [str(images)], str(images / "labels"))


@pytest.mark.parametrize("ending", ["", "/"])
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_directories_named_like_shards_are_directories(scheme, ending, home, tmp_path):
    filesystem, root = fsspec.url_to_fs(f"{scheme}{tmp_path}")
    content = (home / "photos" / "sea" / "00.png").read_bytes()
    for name in ("old.tar/sea/1.png", "ds.parquet/part-0.snappy.parquet", "ds.parquet/more/below.parquet"):
        filesystem.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{root}/{name}", content)
    filesystem.touch(f"{root}/ds.parquet/_SUCCESS")
    assert find([f"{scheme}{root}/old.tar{ending}"]) == ((), (f"{scheme}{root}/old.tar/sea/1.png",))
    shard = f"{scheme}{root}/ds.parquet/part-0.snappy.parquet"
    assert find([f"{scheme}{root}/ds.parquet{ending}"]) == ((shard,), ())


def test_any_file_system_will_do_and_new_images_alone_are_labelled(home, model):
    memory = fsspec.filesystem("memory")
    for name in ("cherry", "sea"):
        for image in sorted((home / "photos" / name).iterdir()):
            memory.pipe_file(f"/all/{name}/{image.name}", image.read_bytes())
    assert label_images(model, ["memory://all"], "memory://labels").images == 24
    before = {name: memory.cat_file(name) for name in memory.find("/labels")}
    assert label_images(model, ["memory://all"], "memory://labels").images == 0
    for number in range(3):
        content = io.BytesIO()
        Image.new("RGB", (40, 40), (number * 80, 0, 0)).save(content, "PNG")
        memory.pipe_file(f"/all/new/{number}.png", content.getvalue())
    assert label_images(model, ["memory://all"], "memory://labels").images == 3
    parts = [name for name in memory.find("/labels") if name.endswith(".parquet")]
    paths = [row["path"] for name in parts for row in pq.read_table(memory.open(name)).to_pylist()]
    assert len(set(paths)) == len(paths) == 27
    assert all(memory.cat_file(name) == content for name, content in before.items())


def test_a_image_is_the_same_however_it_is_given(home, model, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    sources = ["photos/sun", "./photos", "photos/../photos/sea", f"file://{home}/photos"]
    assert label_images(model, sources, str(tmp_path)).images == 49
    monkeypatch.chdir(home / "photos")
    assert label_images(model, ["sun", str(home / "photos")], str(tmp_path)).images == 0
    assert {row["path"] for row in rows(tmp_path)} >= {f"{home}/photos/sun/00.png", f"{home}/photos/sea/11.png"}


def test_new_images_between_the_old_ones_are_labelled_alone(model, tmp_path):
    old = make_many(tmp_path / "many", FILES + 50)
    assert label_images(model, [str(tmp_path / "many")], str(tmp_path / "out")).images == len(old)
    new = [tmp_path / "many" / "000" / f"{number:06}-new.jpg" for number in range(0, FILES + 40, 2)]
    for number, path in enumerate(new):
        Image.new("RGB", (32, 32), (0, number, 0)).save(path)
    # Stopped after the first of the new pieces, it knows what is done, too.
    assert label_images(model, [str(path) for path in new[::3]], str(tmp_path / "out")).images == len(new[::3])
    rest = label_images(model, [str(tmp_path / "many")], str(tmp_path / "out"))
    assert rest.images == len(new) - len(new[::3])
    assert sorted(row["path"] for row in rows(tmp_path / "out")) == sorted([*old, *map(str, new)])


def test_parquet_may_name_images_or_hold_them(home, model, tmp_path):
    images = [home / "photos" / "sun" / f"{number:02}.png" for number in range(3)]
    named = [str(images[0]), os.path.relpath(images[1], tmp_path), f"file://{images[2]}", "absent.jpg"]
    pq.write_table(pa.table({"path": named, "id": range(4)}), tmp_path / "named.parquet")
    held = {"path": ["a", "b", "c"], "image": [image.read_bytes() for image in images]}
    pq.write_table(pa.table(held), tmp_path / "held.parquet")
    done = label_images(model, [str(tmp_path / "named.parquet")], str(tmp_path / "out"), top_k=2)
    assert (done.images, done.unreadable) == (4, 1)
    *found, absent = rows(tmp_path / "out")
    assert absent["path"] == str(tmp_path / "absent.jpg")
    assert absent["error"] == "there is no such file"
    same(found, home, images)
    label_images(model, [str(tmp_path / "held.parquet")], str(tmp_path / "more"), top_k=2)
    same(rows(tmp_path / "more"), home, images)


def test_a_row_that_names_nothing_is_said(home, model, tmp_path):
    pq.write_table(pa.table({"file_name": ["a.jpg", None]}), tmp_path / "named.parquet")
    with pytest.raises(DataError, match=r"named.parquet', row 2: the file_name is None; it must be the path"):
        label_images(model, [str(tmp_path / "named.parquet")], str(tmp_path / "out"))


class Guarded(MemoryFileSystem):
    """A storage that may refuse, as one does whose password has expired."""

    protocol = "guarded"
    store: dict = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs = [""]  # noqa: RUF012
    refused = ()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("guarded://"))

    def cat_file(self, path, start=None, end=None, **more):
        self.check(path)
        return super().cat_file(path, start, end, **more)

    def _open(self, path, *arguments, **options):
        self.check(path)
        return super()._open(path, *arguments, **options)

    def check(self, path):
        if path.endswith(self.refused):
            raise PermissionError("the password has expired")


def test_storage_that_refuses_everything_is_no_fault_of_the_images(model, tmp_path, monkeypatch):
    fsspec.register_implementation("guarded", Guarded)
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, "PNG")
    for number in range(FILES + 1):
        fsspec.filesystem("guarded").pipe_file(f"/all/{number:03}.png", content.getvalue())
    monkeypatch.setattr(Guarded, "refused", (".png",))
    wanted = (
        rf"None of {FILES} files from 'guarded:///all/000.png' to 'guarded:///all/255.png' can be had "
        r"\(it cannot be read: the password has expired\). .* the same command goes on"
    )
    with pytest.raises(DataError, match=wanted):
        label_images(model, ["guarded://all"], str(tmp_path))
    assert parts(tmp_path) == []
    monkeypatch.setattr(Guarded, "refused", ("007.png",))
    done = label_images(model, ["guarded://all"], str(tmp_path))
    assert (done.images, done.unreadable) == (FILES + 1, 1)
    (unreadable,) = [row for row in rows(tmp_path) if row["error"]]
    assert (unreadable["path"], unreadable["error"]) == (
        "guarded:///all/007.png",
        "it cannot be read: the password has expired",
    )


def tar_of(images):
    """The content of a shard."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for image in images:
            tar.add(image, f"{image.parent.name}-{image.name}")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["tar", "parquet", "png"])
def test_storage_that_refuses_a_shard_or_a_few_images_ends_the_job(kind, home, model, tmp_path, monkeypatch):
    images = [home / "photos" / "sea" / f"{number:02}.png" for number in range(3)]
    held = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [image.read_bytes() for image in images]}), held)
    contents = {"tar": tar_of(images), "parquet": held.getvalue().to_pybytes(), "png": images[0].read_bytes()}
    fsspec.register_implementation("guarded", Guarded)
    address = f"guarded://few/a.{kind}"
    fsspec.filesystem("guarded").pipe_file(f"/few/a.{kind}", contents[kind])
    monkeypatch.setattr(Guarded, "refused", (kind,))
    wanted = r"^None of the (shard|file) .*can be had \(it cannot be read: the password has expired\)\."
    with pytest.raises(DataError, match=wanted):
        label_images(model, [address], str(tmp_path))
    assert parts(tmp_path) == []
    monkeypatch.setattr(Guarded, "refused", ())
    done = label_images(model, [address], str(tmp_path))
    assert (done.images, done.unreadable) == (1 if kind == "png" else 3, 0)


@pytest.mark.parametrize("name", ["absent.tar", "damaged.tar", "damaged.parquet", "cut.parquet"])
def test_a_shard_that_is_damaged_or_missing_is_a_row_with_the_reason(name, home, model, tmp_path):
    image = home / "photos" / "sea" / "00.png"
    (tmp_path / "damaged.tar").write_bytes(b"no tar" * 1_000)
    (tmp_path / "damaged.parquet").write_bytes(b"no parquet" * 1_000)
    pq.write_table(pa.table({"image": [image.read_bytes()] * 9}), tmp_path / "cut.parquet", compression="zstd")
    content = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:4] + bytes(60) + content[64:])
    assert label_images(model, [str(tmp_path / name)], str(tmp_path / "out")).unreadable == 1
    (row,) = rows(tmp_path / "out")
    assert row["path"] == str(tmp_path / name)
    assert name in row["error"]


def test_pipes_devices_and_giants_are_not_read(home, model, tmp_path):
    directory = tmp_path / "photos"
    directory.mkdir()
    shutil.copy(home / "photos" / "sea" / "00.png", directory / "good.png")
    os.mkfifo(directory / "pipe.jpg")
    (directory / "device.jpg").symlink_to("/dev/zero")
    (directory / "link.jpg").symlink_to("pipe.jpg")
    with (directory / "giant.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    label_images(model, [str(directory)], str(tmp_path / "out"))
    found = {Path(row["path"]).name: row["error"] for row in rows(tmp_path / "out")}
    assert found.pop("good.png") is None
    assert sorted(found) == ["device.jpg", "giant.jpg", "link.jpg", "pipe.jpg"]
    shards = [tmp_path / "pipe.tar", tmp_path / "pipe.parquet"]
    for shard in shards:
        os.mkfifo(shard)
    label_images(model, list(map(str, shards)), str(tmp_path / "more"))
    assert [row["error"] for row in rows(tmp_path / "more")] == ["it is no plain file"] * 2
    # The same words as where photos are read for anything else.
    for name, error in found.items():
        with pytest.raises(ImageError) as told:
            open_image(str(directory / name))
        assert error == told.value.reason


def test_without_pyarrow_it_is_said_how_to_get_it(home, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"--output needs the library pyarrow: pip install 'cocoop\[shards\]'"):
        label_images(model, [str(home / "photos")], str(tmp_path))


def test_another_job_is_not_mixed_in(home, model, tmp_path):
    label_images(model, [str(home / "photos" / "sun")], str(tmp_path))
    with pytest.raises(ConfigError, match=r"was begun with another top_k \(1, now 2\); go on with the same"):
        label_images(model, [str(home / "photos" / "sun")], str(tmp_path), top_k=2)
    other = Model(source=model.source, classes=("cherry", "sea"))
    with pytest.raises(ConfigError, match="was begun with another classes"):
        label_images(other, [str(home / "photos" / "sun")], str(tmp_path))
    assert len(rows(tmp_path)) == 13


@pytest.mark.parametrize(
    ("sources", "output", "error", "message"),
    [
        (["nowhere"], "out", DataError, "There is no 'nowhere'; give photos, folders of photos or shards"),
        (["tiny"], "out", DataError, "There are no photos in 'tiny' or below, and no shards in it"),
        (["photos"], "photos/notes.txt", CheckpointError, "'photos/notes.txt' is a file; give another --output"),
        (["photos"], "photos", CheckpointError, "'photos' is not empty and holds no job; give another --output"),
        (["s3://bucket/photos"], "out", ConfigError, "'s3://bucket/photos' cannot be reached: Install s3fs"),
    ],
)
def test_what_is_wrong_is_said(sources, output, error, message, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(error, match=message):
        label_images(Model(source="run"), sources, output)
    assert not (home / "out").exists() or not rows(home / "out")


def test_ray_without_an_output_is_refused(home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(CocoopError, match="--engine ray writes files; say where with --output"):
        PredictCommand(source="run", images=("photos",), engine="ray").run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "out", "format": "csv"}, "--format csv is for what is printed, and --output writes Parquet"),
        ({"output": "out", "format": "table"}, "--format table is for what is printed"),
        ({"output": "out", "runtime": "onnx", "device": "cuda"}, "--device is 'cuda', but onnx computes on the CPU"),
        ({"output": "out", "ray_workers": 4}, "--ray-workers needs --engine ray; add it"),
        ({"output": "out", "engine": "ray", "ray_workers": 0}, "--ray-workers is 0"),
        ({"output": "out", "workers": -1}, "--workers is -1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(arguments, message, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match=message):
        PredictCommand(source="run", images=("photos",), **arguments).run()
    assert not (home / "out").exists()


class Slow(MemoryFileSystem):
    """A storage that notes how many read at once."""

    protocol = "slow"
    store: dict = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs = [""]  # noqa: RUF012
    reading = most = 0
    lock = threading.Lock()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("slow://"))

    def cat_file(self, path, start=None, end=None, **more):
        with Slow.lock:
            Slow.reading += 1
            Slow.most = max(Slow.most, Slow.reading)
        time.sleep(0.05)
        with Slow.lock:
            Slow.reading -= 1
        return super().cat_file(path, start, end, **more)


@pytest.mark.parametrize(("threads", "most"), [(0, 16), (3, 3)])
def test_what_is_elsewhere_is_read_by_many(threads, most, home, model, tmp_path, monkeypatch):
    fsspec.register_implementation("slow", Slow)
    monkeypatch.setattr(Slow, "most", 0)
    content = (home / "photos" / "sea" / "00.png").read_bytes()
    for number in range(48):
        fsspec.filesystem("slow").pipe_file(f"/all/{number:02}.png", content)
    assert label_images(model, ["slow://all"], str(tmp_path), threads=threads).images == 48
    # A busy machine may not start all of them.
    assert most - 2 <= Slow.most <= most


def test_shards_need_an_output(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(
        ConfigError, match=r"^'.*/a\.tar' is a shard; the photos in it are labelled with --output DIR\.$"
    ):
        PredictCommand(source="run", images=(str(tmp_path / "a.tar"),)).run()


def test_images_elsewhere_need_an_output():
    with pytest.raises(ConfigError, match=r"'s3://bucket/photos' is not on this machine; .* with --output"):
        PredictCommand(source="run", images=("s3://bucket/photos",)).run()


def make_many(directory: Path, count: int) -> list[str]:
    """Small photos, in folders of a thousand; one in a hundred cannot be read."""
    paths = []
    for number in range(count):
        path = directory / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 99:
            path.write_bytes(b"no photo")
        else:
            Image.new("RGB", (48, 32), (number % 256, number // 256, 90)).save(path)
        paths.append(str(path))
    return paths


def start(home, *arguments):
    command = [sys.executable, "-m", "cocoop", "predict", "run", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=home, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def parts(output):
    return list(output.glob("*.parquet"))


def wait_for(condition, process, seconds=300):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit, "it takes too long"
        time.sleep(0.02)


def kill_a_worker(driver):
    """Kill an actor that holds a model."""
    actors = [p for p in psutil.Process(driver.pid).children(recursive=True) if p.name().startswith("ray::MapWorker")]
    assert len(actors) == 2
    actors[0].kill()


def check_each_once(output, paths):
    found = rows(output)
    assert sorted(row["path"] for row in found) == sorted(paths)
    assert sum(row["error"] is not None for row in found) == len(paths) // 100


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_killed_worker_and_a_killed_driver_lose_nothing_on_ray(count, home, tmp_path):
    paths = make_many(tmp_path / "many", count)
    output = tmp_path / "labels"
    arguments = (tmp_path / "many", "--output", output, "--engine", "ray")
    driver = start(home, *arguments)
    wait_for(lambda: len(parts(output)) >= 1, driver)
    kill_a_worker(driver)
    wait_for(lambda: len(parts(output)) >= 3, driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    for process in family:
        process.kill()
    driver.wait()
    driver.stderr.close()
    before = {part.name: part.stat().st_mtime_ns for part in parts(output)}
    assert 3 <= len(before) < -(-count // 256)

    again = start(home, *arguments)
    wait_for(lambda: len(parts(output)) > len(before), again)
    kill_a_worker(again)
    _, said = again.communicate(timeout=900)
    assert again.returncode == 0, said
    assert f"Parts that were there before: {len(before)}." in said
    check_each_once(output, paths)
    # What was done is not done again.
    assert all((output / name).stat().st_mtime_ns == changed for name, changed in before.items())


@pytest.fixture
def cluster(tmp_path_factory):
    """A Ray cluster that was started from another folder, as those on other machines are; its environment."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    # The paths of its sockets must be short.
    with TemporaryDirectory(prefix="ray") as temporary, (elsewhere / "log").open("w") as log:
        options = ["--port", str(port), "--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", temporary]
        head = subprocess.Popen(
            [*ray, *options],
            cwd=elsewhere,
            env=environment(**variables),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        wait_for(lambda: "Ray runtime started" in (elsewhere / "log").read_text(), head)
        family = psutil.Process(head.pid).children(recursive=True)
        yield variables | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        for process in (*family, head):
            process.kill()
        psutil.wait_procs(family)
        head.wait()


@pytest.mark.slow
def test_workers_elsewhere_read_and_write_what_the_command_means(home, cluster):
    done = cocoop("predict", "run", "photos", "--output", "far", "--top-k", 2, "--engine", "ray", cwd=home, **cluster)
    assert done.returncode == 0, done.stderr
    assert "49 photos in" in done.stderr
    assert "2 unreadable" in done.stderr
    found = rows(home / "far")
    assert len(found) == 49
    same(found, home, [row["path"] for row in found])
    # A cluster that runs here is not joined unasked, and does not stand in the way.
    done = cocoop("predict", "run", "photos", "--output", "near", "--top-k", 2, "--engine", "ray", cwd=home)
    assert done.returncode == 0, done.stderr
    assert rows(home / "near") == found


def with_files(directory, scheme, on_read):
    """A file system like the local one that does something before it reads; variables of processes that know it."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(
        f"import fsspec\nfsspec.register_implementation('{scheme}', 'made_files.Made')\n"
    )
    (directory / "made_files.py").write_text(
        "import os\n"
        "from fsspec.implementations.local import LocalFileSystem\n"
        "class Made(LocalFileSystem):\n"
        f"    protocol = '{scheme}'\n"
        "    @classmethod\n"
        "    def _strip_protocol(cls, path):\n"
        f"        return super()._strip_protocol(path.removeprefix('{scheme}://'))\n"
        "    def unstrip_protocol(self, name):\n"
        f"        return f'{scheme}://{{name}}'\n"
        "    def cat_file(self, path, **options):\n"
        f"        {on_read}\n"
        "        return super().cat_file(path, **options)\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(directory), str(SOURCE)])}


@pytest.mark.parametrize(
    ("on_read", "wanted"),
    [
        pytest.param(
            "raise MemoryError('3 GiB')",
            "cocoop: Memory ran out; try a smaller --batch-size, ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "return 'no bytes'",
            "cocoop: A worker failed: TypeError: a bytes-like object is required, not 'str' (",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "raise KeyboardInterrupt", "cocoop: Ray gave up: ray.exceptions.TaskCancelledError", marks=pytest.mark.slow
        ),
    ],
)
def test_what_fails_in_a_worker_is_told(on_read, wanted, home, tmp_path):
    variables = with_files(tmp_path / "path", "failing", on_read)
    arguments = ("--output", tmp_path / "labels", "--engine", "ray")
    done = cocoop("predict", "run", f"failing://{home}/photos", *arguments, cwd=home, **variables)
    assert done.returncode == 1
    assert wanted in done.stderr
    assert "What is labelled stays; the same command goes on." in done.stderr
    assert "ray::" not in done.stderr
    assert parts(tmp_path / "labels") == []


@pytest.mark.slow
def test_a_image_that_kills_its_workers_is_named_and_the_others_are_labelled(home, tmp_path):
    paths = make_many(tmp_path / "many", 4 * FILES)
    variables = with_files(tmp_path / "path", "deadly", f"if path.endswith('{FILES:06}.jpg'): os.abort()")
    output = tmp_path / "labels"
    done = cocoop(
        *("predict", "run", f"deadly://{tmp_path}/many", "--output", output, "--engine", "ray"),
        cwd=home,
        **variables,
    )
    assert done.returncode == 1
    first, last = paths[FILES], paths[2 * FILES - 1]
    wanted = f"cocoop: 4 workers died over {FILES} files from 'deadly://{first}' to 'deadly://{last}': "
    assert wanted in done.stderr
    labelled = {row["path"] for row in rows(output)}
    assert labelled == {f"deadly://{path}" for path in (*paths[:FILES], *paths[2 * FILES :])}


def test_one_process_gives_the_same_and_goes_on_after_a_kill(home, tmp_path):
    paths = make_many(tmp_path / "many", 1_000)
    output = tmp_path / "labels"
    process = start(home, tmp_path / "many", "--output", output)
    wait_for(lambda: len(parts(output)) >= 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(parts(output)) < 4
    done = start(home, tmp_path / "many", "--output", output)
    _, said = done.communicate(timeout=300)
    assert done.returncode == 0, said
    check_each_once(output, paths)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(home, tmp_path):
    make_many(tmp_path / "many", 2_000)
    process = start(home, tmp_path / "many", "--output", tmp_path / "labels")
    wait_for(lambda: len(parts(tmp_path / "labels")) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert f"Stopped. {tmp_path / 'labels'} keeps what is labelled; the same command goes on." in said
    assert len(rows(tmp_path / "labels")) == 256 * len(parts(tmp_path / "labels")) < 2_000


def test_a_directory_in_use_is_left_alone(home, model, tmp_path):
    wanted = f"Another process is labelling into '{tmp_path}'; wait for it"
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(CheckpointError, match=wanted):
        label_images(model, [str(home / "photos")], str(tmp_path))


def test_the_job_says_what_it_was_begun_with(home, model, tmp_path):
    label_images(model, [str(home / "photos" / "sun")], str(tmp_path), top_k=3)
    job = json.loads((tmp_path / "_job.json").read_text())
    assert (job["format"], job["top_k"], job["shortlist"]) == (2, 3, None)
    assert job["classes"] == ["cherry", "leaf", "sea", "sun"]
    assert (job["model"]["method"], len(job["model"]["sha256"])) == ("cocoop", 64)


def test_settings_tell_models_apart(home):
    backbone = load_backbone(f"local-dir:{home / 'tiny'}")
    names = ["cherry", "sea"]
    zero_shot = [ZeroShot(backbone, names, templates=[text]) for text in ("a photo of a {}.", "a drawing of a {}.")]
    contexts = [CoOp(backbone, names, context_length=4, position=position, seed=0) for position in ("end", "middle")]
    # What they learned is the same, so that it cannot tell them apart.
    torch.testing.assert_close(contexts[0].learned(), contexts[1].learned(), rtol=0, atol=0)
    hashes = [model_facts(method)["sha256"] for method in (*zero_shot, *contexts)]
    assert len(set(hashes)) == 4
    assert model_facts(ZeroShot(backbone, names, templates=["a photo of a {}."]))["sha256"] == hashes[0]


def test_of_hidden_files_only_those_of_a_killed_job_are_removed(home, model, tmp_path):
    label_images(model, [str(home / "photos" / "sun")], str(tmp_path))
    (part,) = parts(tmp_path)
    unfinished = [f".{part.name}.abc123", "._job.json.x_y", f".shard-{'0' * 24}.parquet.tmp"]
    users = [".notes.txt", ".notes", ".files-1.parquet.bak", "._job.json", ".env.local", ".files.parquet.x"]
    for name in (*unfinished, *users):
        (tmp_path / name).write_text("some")
    assert label_images(model, [str(home / "photos" / "sun")], str(tmp_path)).images == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*users, part.name, "_job.json", ".lock"}


def test_a_job_lets_go_of_its_directory_once_and_surely(home, model, tmp_path):
    holding = Job(str(tmp_path)).held()
    with holding, pytest.raises(CheckpointError, match="Another process is labelling into"):
        label_images(model, [str(home / "photos")], str(tmp_path))
    with filelock.FileLock(tmp_path / ".lock", timeout=0):
        pass


def test_an_exported_prompt_takes_the_threads_of_its_worker(tmp_path, home):
    done = cocoop("export", "run", "--output", tmp_path / "onnx", cwd=home)
    assert done.returncode == 0, done.stderr
    model = Model(source=str(tmp_path / "onnx"), runtime="onnx")
    # The first one starts a thread that has nothing to do with it.
    kept = [model.load(threads=1)]
    before = psutil.Process().num_threads()
    worker = _Worker(model, Job(str(tmp_path / "labels")), None, {})
    assert worker._label is not None
    assert psutil.Process().num_threads() == before
    # The caller is the fourth.
    kept.append(model.load(threads=4))
    assert psutil.Process().num_threads() == before + 3
