"""Bulk labelling: the same labels as `predict`, each image once, whatever interrupted the job."""

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
from made_images import SOURCE, cocoop, environment
from PIL import Image
from tiny_models import save_open_clip

from cocoop.backbones import load_backbone
from cocoop.cli.predict import PredictCommand
from cocoop.data import ImageError, open_image
from cocoop.data.image_formats import MAX_BYTES, NOT_A_FILE
from cocoop.errors import CheckpointError, CocoopError, CocoopWarning, ConfigError, DataError
from cocoop.inference.bulk.chunks import CHUNK_FILES, find_sources
from cocoop.inference.bulk.engines import _RayWorker
from cocoop.inference.bulk.job import label_images, model_identity
from cocoop.inference.bulk.job_directory import JobDirectory
from cocoop.inference.predictor import ModelSpec, predict
from cocoop.methods import CoOp, ZeroShot

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(home):
    """A run on a tiny model, and photos, two of which are unreadable."""
    save_open_clip(home / "tiny", "vit")
    arguments = ("--backbone", f"local-dir:{home / 'tiny'}", "--shots", 2, "--epochs", 1, "--compare", "none")
    done = cocoop("train", "photos", *arguments, "--output", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    (home / "photos" / "leaf" / "05.png").write_bytes(b"no image")
    (home / "photos" / "sun" / "broken.jpg").write_bytes(b"")
    (home / "photos" / "sun" / ".hidden.png").write_bytes(b"ignored")
    (home / "photos" / "notes.txt").write_text("ignored")
    return home


@pytest.fixture
def model(home):
    return ModelSpec(source=str(home / "run"))


def rows(output):
    return pq.read_table(output).to_pylist()


def check_labels(labels, home, files):
    """Check that labels are those of `cocoop.predict`."""
    assert labels
    predictions = predict(home / "run", files, top_k=2, skip_unreadable=True)
    for row, prediction in zip(labels, predictions, strict=True):
        assert row["error"] == prediction.error
        if prediction.error is None:
            assert row["label"] == prediction.classes[0]
            assert tuple(label["label"] for label in row["top_k"]) == prediction.classes
            probabilities = [label["probability"] for label in row["top_k"]]
            assert probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
            assert row["probability"] == probabilities[0]
        else:
            assert (row["label"], row["probability"], row["top_k"]) == (None, None, [])


def test_directory_gets_the_labels_of_predict(home, model, tmp_path):
    progress = []
    done = label_images(
        model, [str(home / "photos")], str(tmp_path), top_k=2, on_progress=lambda *numbers: progress.append(numbers)
    )
    found = rows(tmp_path)
    assert (done.images, done.unreadable, progress) == (41, 2, [(1, 1)])
    assert len({row["path"] for row in found}) == len(found) == 41
    check_labels(found, home, [row["path"] for row in found])


def test_shards_get_the_labels_of_predict(home, model, tmp_path):
    images = sorted((home / "photos").glob("*/*.png"))
    images = [image for image in images if not image.name.startswith(".")]
    for number in range(3):
        with tarfile.open(tmp_path / f"part-{number}.tar", "w") as tar:
            for image in images[number::3]:
                tar.add(image, f"{image.parent.name}-{image.name}")
    # The last shard ends in the middle of its last image.
    last = tmp_path / "part-2.tar"
    last.write_bytes(last.read_bytes()[:-12_000])
    done = label_images(model, [str(tmp_path / "part-{0..2}.tar")], str(tmp_path / "out"), top_k=2)
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    assert done.images == len(found)
    for number in range(2):
        mine = images[number::3]
        labels = [found[f"{tmp_path}/part-{number}.tar::{image.parent.name}-{image.name}"] for image in mine]
        check_labels(labels, home, mine)
    assert "is cut off" in found[str(last)]["error"] or "cannot be read" in found[str(last)]["error"]


def test_shards_beside_images_are_ignored_with_a_warning(tmp_path):
    (tmp_path / "sea").mkdir()
    for name in ("1.png", "sea/2.jpg", "a.tar", "sea/b.parquet"):
        (tmp_path / name).touch()
    with pytest.warns(CocoopWarning) as caught:
        found = find_sources([str(tmp_path)])
    assert found == ((), (f"{tmp_path}/1.png", f"{tmp_path}/sea/2.jpg"))
    assert str(caught[0].message) == (
        f"'{tmp_path}' has images and 2 shards (.tar, .parquet), which are ignored; give them too to have the "
        "images in them labelled."
    )


def test_own_output_is_no_source(home, model, tmp_path):
    images = shutil.copytree(home / "photos" / "sea", tmp_path / "photos")
    for count in (10, 0):
        assert label_images(model, [str(images)], f"{tmp_path}/photos/../photos/labels/").images == count
    (images / "labels-of-another.parquet").touch()
    with pytest.warns(CocoopWarning, match="has images and 1 shards"):
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
    assert find_sources([f"{scheme}{root}/old.tar{ending}"]) == ((), (f"{scheme}{root}/old.tar/sea/1.png",))
    shard = f"{scheme}{root}/ds.parquet/part-0.snappy.parquet"
    assert find_sources([f"{scheme}{root}/ds.parquet{ending}"]) == ((shard,), ())


def test_remote_job_labels_new_images_only(home, model):
    memory = fsspec.filesystem("memory")
    for name in ("cherry", "sea"):
        for image in sorted((home / "photos" / name).iterdir()):
            memory.pipe_file(f"/all/{name}/{image.name}", image.read_bytes())
    assert label_images(model, ["memory://all"], "memory://labels").images == 20
    before = {name: memory.cat_file(name) for name in memory.find("/labels")}
    assert label_images(model, ["memory://all"], "memory://labels").images == 0
    for number in range(3):
        content = io.BytesIO()
        Image.new("RGB", (40, 40), (number * 80, 0, 0)).save(content, "PNG")
        memory.pipe_file(f"/all/new/{number}.png", content.getvalue())
    assert label_images(model, ["memory://all"], "memory://labels").images == 3
    parts = [name for name in memory.find("/labels") if name.endswith(".parquet")]
    paths = [row["path"] for name in parts for row in pq.read_table(memory.open(name)).to_pylist()]
    assert len(set(paths)) == len(paths) == 23
    assert all(memory.cat_file(name) == content for name, content in before.items())


def test_an_image_has_one_address_however_it_is_given(home, model, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    sources = ["photos/sun", "./photos", "photos/../photos/sea", f"file://{home}/photos"]
    assert label_images(model, sources, str(tmp_path)).images == 41
    monkeypatch.chdir(home / "photos")
    assert label_images(model, ["sun", str(home / "photos")], str(tmp_path)).images == 0
    assert {row["path"] for row in rows(tmp_path)} >= {f"{home}/photos/sun/00.png", f"{home}/photos/sea/09.png"}


def test_new_images_between_old_ones_are_labelled_once(model, tmp_path):
    old = make_many(tmp_path / "many", CHUNK_FILES + 50)
    assert label_images(model, [str(tmp_path / "many")], str(tmp_path / "out")).images == len(old)
    new = [tmp_path / "many" / "000" / f"{number:06}-new.jpg" for number in range(0, CHUNK_FILES + 40, 2)]
    for number, path in enumerate(new):
        Image.new("RGB", (32, 32), (0, number, 0)).save(path)
    # A job that labelled some of the new images knows them too.
    assert label_images(model, [str(path) for path in new[::3]], str(tmp_path / "out")).images == len(new[::3])
    rest = label_images(model, [str(tmp_path / "many")], str(tmp_path / "out"))
    assert rest.images == len(new) - len(new[::3])
    assert sorted(row["path"] for row in rows(tmp_path / "out")) == sorted([*old, *map(str, new)])


def test_parquet_can_list_images_or_hold_them(home, model, tmp_path):
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
    check_labels(found, home, images)
    label_images(model, [str(tmp_path / "held.parquet")], str(tmp_path / "more"), top_k=2)
    check_labels(rows(tmp_path / "more"), home, images)


def test_list_with_an_empty_row_is_refused(home, model, tmp_path):
    pq.write_table(pa.table({"file_name": ["a.jpg", None]}), tmp_path / "named.parquet")
    with pytest.raises(DataError, match=r"named.parquet', row 2: the file_name is None; it must be the path"):
        label_images(model, [str(tmp_path / "named.parquet")], str(tmp_path / "out"))


class Guarded(MemoryFileSystem):
    """A storage that can fail, as with expired credentials."""

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
            raise PermissionError("the credentials have expired")


def test_storage_failure_stops_the_job(model, tmp_path, monkeypatch):
    fsspec.register_implementation("guarded", Guarded)
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, "PNG")
    for number in range(CHUNK_FILES + 1):
        fsspec.filesystem("guarded").pipe_file(f"/all/{number:03}.png", content.getvalue())
    monkeypatch.setattr(Guarded, "refused", (".png",))
    message = (
        rf"Could not read any of {CHUNK_FILES} files from 'guarded:///all/000.png' to 'guarded:///all/255.png' "
        r"\(it cannot be read: the credentials have expired\)\. .* start the job again to resume\."
    )
    with pytest.raises(DataError, match=message):
        label_images(model, ["guarded://all"], str(tmp_path))
    assert output_files(tmp_path) == []
    monkeypatch.setattr(Guarded, "refused", ("007.png",))
    done = label_images(model, ["guarded://all"], str(tmp_path))
    assert (done.images, done.unreadable) == (CHUNK_FILES + 1, 1)
    (unreadable,) = [row for row in rows(tmp_path) if row["error"]]
    assert (unreadable["path"], unreadable["error"]) == (
        "guarded:///all/007.png",
        "it cannot be read: the credentials have expired",
    )


def tar_of(images):
    """Return the content of a shard."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for image in images:
            tar.add(image, f"{image.parent.name}-{image.name}")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["tar", "parquet", "png"])
def test_storage_failure_of_a_small_chunk_stops_the_job(kind, home, model, tmp_path, monkeypatch):
    images = [home / "photos" / "sea" / f"{number:02}.png" for number in range(3)]
    held = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [image.read_bytes() for image in images]}), held)
    contents = {"tar": tar_of(images), "parquet": held.getvalue().to_pybytes(), "png": images[0].read_bytes()}
    fsspec.register_implementation("guarded", Guarded)
    address = f"guarded://few/a.{kind}"
    fsspec.filesystem("guarded").pipe_file(f"/few/a.{kind}", contents[kind])
    monkeypatch.setattr(Guarded, "refused", (kind,))
    message = r"^Could not read any of the (shard|file) '.*' \(it cannot be read: the credentials have expired\)\."
    with pytest.raises(DataError, match=message):
        label_images(model, [address], str(tmp_path))
    assert output_files(tmp_path) == []
    monkeypatch.setattr(Guarded, "refused", ())
    done = label_images(model, [address], str(tmp_path))
    assert (done.images, done.unreadable) == (1 if kind == "png" else 3, 0)


@pytest.mark.parametrize("name", ["absent.tar", "damaged.tar", "damaged.parquet", "cut.parquet"])
def test_damaged_or_missing_shard_is_a_row_with_the_reason(name, home, model, tmp_path):
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


def test_pipes_devices_and_huge_files_are_not_read(home, model, tmp_path):
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
    assert [row["error"] for row in rows(tmp_path / "more")] == [NOT_A_FILE] * 2
    # The reasons are those of `open_image`.
    for name, reason in found.items():
        with pytest.raises(ImageError) as error:
            open_image(str(directory / name))
        assert reason == error.value.reason


def test_missing_pyarrow_is_reported_with_install_command(home, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"needs the library pyarrow: pip install 'cocoop\[shards\]'"):
        label_images(model, [str(home / "photos")], str(tmp_path))


def test_job_refuses_other_settings(home, model, tmp_path):
    label_images(model, [str(home / "photos" / "sun")], str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"was started with another top_k \(1, now 2\); use the same or choose another `output`"
    ):
        label_images(model, [str(home / "photos" / "sun")], str(tmp_path), top_k=2)
    other = ModelSpec(source=model.source, classes=("cherry", "sea"))
    with pytest.raises(ConfigError, match="was started with another classes"):
        label_images(other, [str(home / "photos" / "sun")], str(tmp_path))
    assert len(rows(tmp_path)) == 11


@pytest.mark.parametrize(
    ("sources", "output", "error", "message"),
    [
        (["nowhere"], "out", DataError, "There is no 'nowhere'; give images, directories of images or shards"),
        (["tiny"], "out", DataError, "There are no images in 'tiny' or below, and no shards in it"),
        (["photos"], "photos/notes.txt", CheckpointError, "'photos/notes.txt' is a file; choose another `output`"),
        (["photos"], "photos", CheckpointError, "'photos' is not empty and holds no job; choose another `output`"),
        (["s3://bucket/photos"], "out", ConfigError, "'s3://bucket/photos' cannot be reached: Install s3fs"),
    ],
)
def test_unusable_sources_and_outputs_are_reported(sources, output, error, message, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(error, match=message):
        label_images(ModelSpec(source="run"), sources, output)
    assert not (home / "out").exists() or not rows(home / "out")


def test_ray_needs_an_output(home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(CocoopError, match="add --output DIR"):
        PredictCommand(source="run", images=("photos",), engine="ray").run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "out", "format": "csv"}, "--format csv cannot be combined with --output, which writes Parquet"),
        ({"output": "out", "format": "table"}, "--format table cannot be combined with --output"),
        ({"output": "out", "runtime": "onnx", "device": "cuda"}, "`device` is 'cuda', but ONNX models run on the CPU"),
        ({"output": "out", "ray_workers": 4}, '`ray_workers` needs `engine="ray"`; add it'),
        ({"output": "out", "engine": "ray", "ray_workers": 0}, "`ray_workers` is 0"),
        ({"output": "out", "workers": -1}, "`workers` is -1"),
    ],
)
def test_options_without_effect_are_refused(arguments, message, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match=message):
        PredictCommand(source="run", images=("photos",), **arguments).run()
    assert not (home / "out").exists()


class Concurrent(MemoryFileSystem):
    """A storage that counts concurrent reads; the first ones wait until the expected number has started."""

    protocol = "concurrent"
    store: dict = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs = [""]  # noqa: RUF012
    lock = threading.Lock()
    reading = most = 0
    expected_reached = threading.Event()
    expected = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("concurrent://"))

    def cat_file(self, path, start=None, end=None, **more):
        with Concurrent.lock:
            Concurrent.reading += 1
            Concurrent.most = max(Concurrent.most, Concurrent.reading)
            if Concurrent.reading == Concurrent.expected:
                Concurrent.expected_reached.set()
        Concurrent.expected_reached.wait(timeout=20)
        content = super().cat_file(path, start, end, **more)
        with Concurrent.lock:
            Concurrent.reading -= 1
        return content


@pytest.mark.parametrize(("workers", "threads"), [(0, 16), (3, 3)])
def test_remote_images_are_read_by_many_threads(workers, threads, home, model, tmp_path, monkeypatch):
    fsspec.register_implementation("concurrent", Concurrent)
    monkeypatch.setattr(Concurrent, "most", 0)
    monkeypatch.setattr(Concurrent, "expected", threads)
    monkeypatch.setattr(Concurrent, "expected_reached", threading.Event())
    content = (home / "photos" / "sea" / "00.png").read_bytes()
    for number in range(48):
        fsspec.filesystem("concurrent").pipe_file(f"/all/{number:02}.png", content)
    assert label_images(model, ["concurrent://all"], str(tmp_path), workers=workers).images == 48
    assert Concurrent.most == threads


def test_shards_need_an_output(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(ConfigError, match=r"^'.*/a\.tar' is a shard; add --output DIR to label the images in it\.$"):
        PredictCommand(source="run", images=(str(tmp_path / "a.tar"),)).run()


def test_remote_images_need_an_output():
    with pytest.raises(ConfigError, match=r"'s3://bucket/photos' is not on this machine; add --output DIR"):
        PredictCommand(source="run", images=("s3://bucket/photos",)).run()


def make_many(directory: Path, count: int) -> list[str]:
    """Write small images in directories of a thousand; one in a hundred is unreadable."""
    paths = []
    for number in range(count):
        path = directory / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 100 == 99:
            path.write_bytes(b"no image")
        else:
            Image.new("RGB", (48, 32), (number % 256, number // 256, 90)).save(path)
        paths.append(str(path))
    return paths


def start(home, *arguments):
    command = [sys.executable, "-m", "cocoop", "predict", "run", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=home, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def output_files(output):
    return list(output.glob("*.parquet"))


def wait_for(condition, process, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


def kill_a_worker(driver):
    """Kill an actor that has a model."""
    actors = [p for p in psutil.Process(driver.pid).children(recursive=True) if p.name().startswith("ray::MapWorker")]
    assert len(actors) == 2
    actors[0].kill()


def check_each_once(output, paths):
    found = rows(output)
    assert sorted(row["path"] for row in found) == sorted(paths)
    assert sum(row["error"] is not None for row in found) == len(paths) // 100


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_ray_job_survives_killed_workers_and_a_killed_driver(count, home, tmp_path):
    paths = make_many(tmp_path / "many", count)
    output = tmp_path / "labels"
    arguments = (tmp_path / "many", "--output", output, "--engine", "ray")
    driver = start(home, *arguments)
    wait_for(lambda: len(output_files(output)) >= 1, driver)
    kill_a_worker(driver)
    wait_for(lambda: len(output_files(output)) >= 3, driver)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    for process in family:
        process.kill()
    driver.wait()
    driver.stderr.close()
    before = {part.name: part.stat().st_mtime_ns for part in output_files(output)}
    assert 3 <= len(before) < -(-count // 256)

    again = start(home, *arguments)
    wait_for(lambda: len(output_files(output)) > len(before), again)
    kill_a_worker(again)
    _, log = again.communicate(timeout=900)
    assert again.returncode == 0, log
    assert f"Output files of earlier runs: {len(before)}." in log
    check_each_once(output, paths)
    # Finished chunks were not labelled again.
    assert all((output / name).stat().st_mtime_ns == changed for name, changed in before.items())


@pytest.fixture
def cluster(tmp_path_factory):
    """A Ray cluster that was started in another directory, as on another machine; yields its environment."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--head", "--block"]
    # Ray needs short paths for its sockets.
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
def test_ray_workers_resolve_relative_paths(home, cluster):
    done = cocoop("predict", "run", "photos", "--output", "far", "--top-k", 2, "--engine", "ray", cwd=home, **cluster)
    assert done.returncode == 0, done.stderr
    assert "41 images in" in done.stderr
    assert "2 unreadable" in done.stderr
    found = rows(home / "far")
    assert len(found) == 41
    check_labels(found, home, [row["path"] for row in found])
    # Without RAY_ADDRESS, the command starts its own cluster instead of joining this one.
    done = cocoop("predict", "run", "photos", "--output", "near", "--top-k", 2, "--engine", "ray", cwd=home)
    assert done.returncode == 0, done.stderr
    assert rows(home / "near") == found


def file_system_environment(directory, scheme, on_read):
    """Return environment variables for processes with a file system that runs a statement before each read."""
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
    ("on_read", "message"),
    [
        pytest.param(
            "raise MemoryError('3 GiB')",
            "cocoop: Memory ran out; ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "return 'no bytes'",
            "cocoop: A worker failed: TypeError: a bytes-like object is required, not 'str' (",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "raise KeyboardInterrupt", "cocoop: Ray failed: ray.exceptions.TaskCancelledError", marks=pytest.mark.slow
        ),
    ],
)
def test_errors_of_ray_workers_are_reported(on_read, message, home, tmp_path):
    variables = file_system_environment(tmp_path / "path", "failing", on_read)
    arguments = ("--output", tmp_path / "labels", "--engine", "ray")
    done = cocoop("predict", "run", f"failing://{home}/photos", *arguments, cwd=home, **variables)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Labels written so far are kept; start the job again to resume." in done.stderr
    assert "ray::" not in done.stderr
    assert output_files(tmp_path / "labels") == []


@pytest.mark.slow
def test_chunk_that_kills_its_workers_is_reported_and_others_are_labelled(home, tmp_path):
    paths = make_many(tmp_path / "many", 4 * CHUNK_FILES)
    variables = file_system_environment(
        tmp_path / "path", "deadly", f"if path.endswith('{CHUNK_FILES:06}.jpg'): os.abort()"
    )
    output = tmp_path / "labels"
    done = cocoop(
        *("predict", "run", f"deadly://{tmp_path}/many", "--output", output, "--engine", "ray"),
        cwd=home,
        **variables,
    )
    assert done.returncode == 1
    first, last = paths[CHUNK_FILES], paths[2 * CHUNK_FILES - 1]
    message = f"cocoop: 4 workers died on {CHUNK_FILES} files from 'deadly://{first}' to 'deadly://{last}': "
    assert message in done.stderr
    labelled = {row["path"] for row in rows(output)}
    assert labelled == {f"deadly://{path}" for path in (*paths[:CHUNK_FILES], *paths[2 * CHUNK_FILES :])}


def test_local_job_resumes_after_a_kill(home, tmp_path):
    paths = make_many(tmp_path / "many", 1_000)
    output = tmp_path / "labels"
    process = start(home, tmp_path / "many", "--output", output)
    wait_for(lambda: len(output_files(output)) >= 1, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(output_files(output)) < 4
    done = start(home, tmp_path / "many", "--output", output)
    _, log = done.communicate(timeout=300)
    assert done.returncode == 0, log
    check_each_once(output, paths)


def test_ctrl_c_keeps_labels_and_says_how_to_resume(home, tmp_path):
    make_many(tmp_path / "many", 2_000)
    process = start(home, tmp_path / "many", "--output", tmp_path / "labels")
    wait_for(lambda: len(output_files(tmp_path / "labels")) >= 1, process)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=100)
    assert process.returncode == 130
    assert (
        f"Interrupted. {tmp_path / 'labels'} keeps the labels written so far; run the same command again to resume."
        in log
    )
    assert len(rows(tmp_path / "labels")) == 256 * len(output_files(tmp_path / "labels")) < 2_000


def test_directory_in_use_is_refused(home, model, tmp_path):
    message = f"Another process is labelling into '{tmp_path}'; wait for it"
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(CheckpointError, match=message):
        label_images(model, [str(home / "photos")], str(tmp_path))


def test_job_file_records_the_settings(home, model, tmp_path):
    label_images(model, [str(home / "photos" / "sun")], str(tmp_path), top_k=3)
    job = json.loads((tmp_path / "_job.json").read_text())
    assert (job["format"], job["top_k"], job["shortlist"]) == (2, 3, None)
    assert job["classes"] == ["cherry", "leaf", "sea", "sun"]
    assert (job["model"]["method"], len(job["model"]["sha256"])) == ("cocoop", 64)


def test_model_identity_depends_on_settings(home):
    backbone = load_backbone(f"local-dir:{home / 'tiny'}")
    names = ["cherry", "sea"]
    zero_shot = [ZeroShot(backbone, names, templates=[text]) for text in ("a photo of a {}.", "a drawing of a {}.")]
    contexts = [CoOp(backbone, names, context_length=4, position=position, seed=0) for position in ("end", "middle")]
    # Their learned tensors are equal.
    torch.testing.assert_close(contexts[0].learned(), contexts[1].learned(), rtol=0, atol=0)
    hashes = [model_identity(method)["sha256"] for method in (*zero_shot, *contexts)]
    assert len(set(hashes)) == 4
    assert model_identity(ZeroShot(backbone, names, templates=["a photo of a {}."]))["sha256"] == hashes[0]


def test_resume_removes_only_its_own_temporary_files(home, model, tmp_path):
    label_images(model, [str(home / "photos" / "sun")], str(tmp_path))
    (part,) = output_files(tmp_path)
    unfinished = [f".{part.name}.abc123", "._job.json.x_y", f".shard-{'0' * 24}.parquet.tmp"]
    users = [".notes.txt", ".notes", ".files-1.parquet.bak", "._job.json", ".env.local", ".files.parquet.x"]
    for name in (*unfinished, *users):
        (tmp_path / name).write_text("some")
    assert label_images(model, [str(home / "photos" / "sun")], str(tmp_path)).images == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*users, part.name, "_job.json", ".lock"}


def test_lock_is_released_after_a_refused_job(home, model, tmp_path):
    with JobDirectory(str(tmp_path)).lock(), pytest.raises(CheckpointError, match="Another process is labelling into"):
        label_images(model, [str(home / "photos")], str(tmp_path))
    with filelock.FileLock(tmp_path / ".lock", timeout=0):
        pass


def test_exported_prompt_uses_the_threads_of_its_worker(tmp_path, home):
    done = cocoop("export", "run", "--output", tmp_path / "onnx", cwd=home)
    assert done.returncode == 0, done.stderr
    model = ModelSpec(source=str(tmp_path / "onnx"), runtime="onnx")
    # The first session starts an unrelated thread.
    sessions = [model.load(threads=1)]
    before = psutil.Process().num_threads()
    worker = _RayWorker(model, JobDirectory(str(tmp_path / "labels")), None, {})
    assert worker._label is not None
    assert psutil.Process().num_threads() == before
    # The calling thread is the fourth.
    sessions.append(model.load(threads=4))
    assert psutil.Process().num_threads() == before + 3
