"""Download and check of the papers' data sets from a local server, by the library and by `cocoop data`."""

import dataclasses
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from catalog_trees import (
    SPLIT_FILE_TREES,
    make_aircraft,
    make_class_directories,
    make_food101,
    make_split_file_tree,
    make_sun397,
    small_entry,
    small_splits,
    touch,
)
from local_server import WebServer, serve

from cocoop.cli import main
from cocoop.data.catalog.download import ByteProgress
from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.fetch import fetch
from cocoop.data.catalog.imagenet import imagenet_classes
from cocoop.data.catalog.location import Location
from cocoop.data.catalog.table import CATALOG
from cocoop.data.catalog.verify import verify
from cocoop.errors import DataError

WNIDS = [c.wnid for c in imagenet_classes()]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as server:
        yield server


def tar_of(directory: Path, mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
        for path in sorted(directory.iterdir()):
            tar.add(path, path.name)
    return content.getvalue()


def zip_of(directory: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(directory.rglob("*")):
            archive.write(path, path.relative_to(directory))
    return content.getvalue()


def served(web: WebServer, entry: CatalogEntry, *contents: bytes) -> CatalogEntry:
    """Return the entry with the addresses and checksums of these archives on the local server."""
    archives = []
    for archive, content in zip(entry.archives, contents, strict=True):
        url = web.put(f"/{archive.file_name}", content)
        archives.append(dataclasses.replace(archive, url=url, checksum=f"md5:{hashlib.md5(content).hexdigest()}"))
    split_file = entry.split_file
    if split_file is not None and split_file.url is not None:
        content = json.dumps(small_splits(entry.name), indent=4).encode()
        split_file = dataclasses.replace(split_file, url=web.put(f"/{split_file.name}", content))
    return dataclasses.replace(entry, archives=tuple(archives), split_file=split_file)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def listed_images(name: str) -> list[str]:
    return [path for items in small_splits(name).values() for path, _, _ in items]


# ---- fetching


def caltech(web: WebServer, source: Path) -> CatalogEntry:
    """Caltech101 as its owners pack it: an archive in an archive, beside annotations."""
    inner = source / "inner"
    touch(inner, *(f"101_ObjectCategories/{path}" for path in listed_images("caltech101")))
    touch(inner, "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg")
    outer = source / "outer" / "caltech-101"
    outer.mkdir(parents=True)
    (outer / "101_ObjectCategories.tar.gz").write_bytes(tar_of(inner))
    (outer / "Annotations.tar").write_bytes(b"not needed")
    return served(web, small_entry("caltech101"), zip_of(source / "outer"))


def test_fetch_unpacks_an_archive_in_an_archive(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    stages: list[str] = []

    def on_stage(what: str):  # type: ignore[no-untyped-def]
        stages.append(what)
        return lambda done, total: None

    fetch(entry, Location.find(entry, root), on_stage=on_stage)
    assert stages == [
        "downloading split_zhou_Caltech101.json",
        "downloading caltech-101.zip",
        "unpacking caltech-101.zip",
    ]
    images = [f"101_ObjectCategories/{path}" for path in listed_images("caltech101")]
    assert tree(root) == sorted(
        [
            "caltech-101/split_zhou_Caltech101.json",
            "caltech-101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg",
            *(f"caltech-101/{path}" for path in images),
        ]
    )
    assert verify(entry, Location.find(entry, root)).complete
    # Nothing is downloaded twice.
    before = len(web.requests)
    fetch(entry, Location.find(entry, root))
    assert len(web.requests) == before


def test_fetch_puts_images_where_split_files_look_for_them(web: WebServer, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "sets"

    def packed(name: str, *parts: str) -> Path:
        directory = source / name
        for part in parts:
            touch(directory, part)
        return directory

    images = {name: listed_images(name) for name in SPLIT_FILE_TREES}
    contents: dict[str, tuple[bytes, ...]] = {
        "oxford-pets": (tar_of(packed("pets", *(f"images/{p}" for p in images["oxford-pets"]), "images/x.mat")),),
        "flowers102": (tar_of(packed("flowers", *(f"jpg/{p}" for p in images["flowers102"]))),),
        "dtd": (tar_of(packed("dtd", *(f"dtd/images/{p}" for p in images["dtd"]), "dtd/labels/train1.txt")),),
        "eurosat": (zip_of(packed("eurosat", *(f"2750/{p}" for p in images["eurosat"]))),),
    }
    for name, archives in contents.items():
        entry = served(web, small_entry(name), *archives)
        fetch(entry, Location.find(entry, root))
        result = verify(entry, Location.find(entry, root))
        assert result.problems == (), name
        assert Location.find(entry, root).images == root / SPLIT_FILE_TREES[name][0]
    assert not list((root / "downloads").iterdir())


def test_fetch_of_data_sets_with_the_owners_lists(web: WebServer, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "sets"
    make_aircraft(source / "aircraft", "fgvc-aircraft-2013b/data")
    touch(source / "aircraft", "fgvc-aircraft-2013b/README.html")
    aircraft = served(web, CATALOG["fgvc-aircraft"], tar_of(source / "aircraft"))
    fetch(aircraft, Location.find(aircraft, root))
    assert "README.html" not in "".join(tree(root / "fgvc_aircraft"))

    make_sun397(source / "sun")
    lists = source / "lists"
    lists.mkdir()
    for file in (source / "sun/sun397").glob("*.txt"):
        file.rename(lists / file.name)
    sun = served(web, CATALOG["sun397"], tar_of(source / "sun/sun397"), zip_of(lists))
    fetch(sun, Location.find(sun, root))

    make_food101(source / "food")
    food = served(web, CATALOG["food101"], tar_of(source / "food"))
    fetch(food, Location.find(food, root))
    assert (root / "food-101/license_agreement.txt").is_file()

    for entry, sizes, classes in ((aircraft, (2, 1, 1), 3), (sun, (24, 6, 9), 3), (food, (10, 4, 6), 2)):
        result = verify(dataclasses.replace(entry, sizes=sizes, classes=classes), Location.find(entry, root))
        assert (result.problems, result.sizes) == ((), sizes)


def test_fetch_of_imagenet_variants(web: WebServer, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "sets"
    make_class_directories(source / "s", "sketch", WNIDS, "sketch_{1}.JPEG")
    v2 = "imagenetv2-matched-frequency-format-val"
    make_class_directories(source / "v2", v2, [str(n) for n in range(1000)], "{}_{}.jpeg")
    some = [c.wnid for c in imagenet_classes() if c.in_a]
    make_class_directories(source / "a", "imagenet-a", some, "0.1_{}_{}.jpg")
    sketch = served(web, CATALOG["imagenet-sketch"], zip_of(source / "s"))
    matched = served(web, CATALOG["imagenetv2"], tar_of(source / "v2", "w"))
    natural = served(web, CATALOG["imagenet-a"], tar_of(source / "a", "w"))
    for entry, count in ((sketch, 1000), (matched, 1000), (natural, 200)):
        fetch(entry, Location.find(entry, root))
        result = verify(dataclasses.replace(entry, sizes=(0, 0, count)), Location.find(entry, root))
        assert (result.problems, result.classes) == ((), count)


def test_fetch_continues_after_an_interruption(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    page = web.pages["/caltech-101.zip"]
    page.cuts = [100, *[0] * 9]
    with pytest.raises(DataError, match=r"download of 'caltech-101\.zip' from .* stopped after 100 bytes"):
        fetch(entry, Location.find(entry, root), pause=0.0)
    assert tree(root / "downloads") == ["caltech-101.zip.part"]
    page.cuts = []
    fetch(entry, Location.find(entry, root), keep_archives=True)
    assert web.ranges[-1] == "bytes=100-"
    assert tree(root / "downloads") == ["caltech-101.zip"]
    assert verify(entry, Location.find(entry, root)).complete
    assert not list((root / "caltech-101").glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_fetch_starts_over_after_a_killed_unpacking(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    location = Location.find(entry, root)
    (root / "downloads").mkdir(parents=True)
    file = root / "downloads" / "caltech-101.zip"
    file.write_bytes(web.pages["/caltech-101.zip"].content)
    code = (
        "import os, sys; from pathlib import Path; from cocoop.data.catalog.archives import unpack;"
        "unpack(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=lambda *_: os.kill(os.getpid(), 9))"
    )
    unfinished = root / "caltech-101" / ".unpacking" / "archive"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.run([sys.executable, "-c", code, str(file), str(unfinished)], env=environment)
    assert process.returncode == -signal.SIGKILL
    assert unfinished.is_dir()
    assert not verify(entry, location).complete
    fetch(entry, location)
    assert verify(entry, location).complete
    assert not unfinished.exists()


def test_fetch_refuses_a_second_process(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    location = Location.find(entry, root)

    def fetch_again(_stage: str) -> ByteProgress:
        with pytest.raises(
            DataError, match=r"^Another process is downloading to '.*/caltech-101'\. Wait until it has finished\.$"
        ):
            fetch(entry, location)
        return lambda _done, _total: None

    fetch(entry, location, on_stage=fetch_again)
    assert verify(entry, location).complete


def test_fetch_uses_an_archive_that_was_downloaded_by_hand(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "caltech-101.zip").write_bytes(web.pages.pop("/caltech-101.zip").content)
    fetch(entry, Location.find(entry, root))
    assert verify(entry, Location.find(entry, root)).complete
    assert web.paths == ["/split_zhou_Caltech101.json"]


def test_fetch_refuses_an_archive_with_other_content(web: WebServer, tmp_path: Path) -> None:
    touch(tmp_path / "source", "something/else.jpg")
    entry, root = served(web, small_entry("dtd"), tar_of(tmp_path / "source")), tmp_path / "sets"
    with pytest.raises(DataError, match=r"dtd-r1\.0\.1\.tar\.gz' does not contain 'dtd'\. Delete it and download it"):
        fetch(entry, Location.find(entry, root))
    assert tree(root / "dtd") == ["split_zhou_DescribableTextures.json"]
    assert [path.name for path in (root / "dtd").iterdir()] == ["split_zhou_DescribableTextures.json"]


def test_fetch_does_not_overwrite_images(web: WebServer, tmp_path: Path) -> None:
    make_aircraft(tmp_path / "source", "fgvc-aircraft-2013b/data")
    entry, root = served(web, CATALOG["fgvc-aircraft"], tar_of(tmp_path / "source")), tmp_path / "sets"
    touch(root, "fgvc_aircraft/images/0000001.jpg", content="mine")
    message = (
        r"fgvc_aircraft/images' exists, but other files of 'fgvc-aircraft-2013b\.tar\.gz' are missing\. Move it away"
    )
    with pytest.raises(DataError, match=message):
        fetch(entry, Location.find(entry, root))
    assert (root / "fgvc_aircraft/images/0000001.jpg").read_text() == "mine"
    (root / "fgvc_aircraft/images").rename(tmp_path / "mine")
    # Files of a fetch that was interrupted between two moves are replaced.
    touch(root, "fgvc_aircraft/variants.txt", content="another")
    fetch(entry, Location.find(entry, root))
    result = verify(dataclasses.replace(entry, sizes=(2, 1, 1), classes=3), Location.find(entry, root))
    assert result.problems == ()


def test_fetch_leaves_directories_beside_the_images_alone(web: WebServer, tmp_path: Path) -> None:
    touch(tmp_path / "source", *(f"dtd/images/{path}" for path in listed_images("dtd")), "dtd/labels/train1.txt")
    entry, root = served(web, small_entry("dtd"), tar_of(tmp_path / "source")), tmp_path / "sets"
    touch(root, "dtd/labels/mine.txt")
    fetch(entry, Location.find(entry, root))
    assert verify(entry, Location.find(entry, root)).complete
    assert tree(root / "dtd/labels") == ["mine.txt"]


def test_fetch_accepts_images_in_another_layout(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    touch(root, *(f"caltech101/101_ObjectCategories/{path}" for path in listed_images("caltech101")))
    fetch(entry, Location.find(entry, root))
    assert web.paths == ["/split_zhou_Caltech101.json"]
    assert verify(entry, Location.find(entry, root)).complete


def test_fetch_checks_the_split_file_first(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    touch(tmp_path, "lists/split_zhou_Caltech101.json", content='{"train": [], "val": [], "test": []}')
    with pytest.raises(DataError, match=r"is not the published split_zhou_Caltech101\.json"):
        fetch(entry, Location.find(entry, root, splits=tmp_path / "lists"))
    web.put("/split_zhou_Caltech101.json", b"{}")
    with pytest.raises(DataError, match=r"'split_zhou_Caltech101\.json' is not the published file .*: its SHA256"):
        fetch(entry, Location.find(entry, root))
    assert web.paths == ["/split_zhou_Caltech101.json"]
    assert not root.exists() or tree(root) == []


def test_fetch_unpacks_ucf101_after_a_download_by_hand(web: WebServer, tmp_path: Path) -> None:
    root, source = tmp_path / "sets", tmp_path / "source"
    touch(source, *(f"UCF-101-midframes/{path}" for path in listed_images("ucf101")))
    entry = small_entry("ucf101")
    assert entry.split_file is not None
    url = web.put("/list", json.dumps(small_splits("ucf101"), indent=4).encode())
    entry = dataclasses.replace(entry, split_file=dataclasses.replace(entry.split_file, url=url))
    fetch(entry, Location.find(entry, root))
    text = verify(entry, Location.find(entry, root)).instructions
    assert f"Put it into {root / 'downloads'} and run this command again" in text
    assert "https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view" in text
    assert verify(entry, Location.find(entry, root)).problems[0].startswith("UCF101 was not found")
    (root / "downloads").mkdir()
    (root / "downloads/UCF-101-midframes.zip").write_bytes(zip_of(source))
    fetch(entry, Location.find(entry, root))
    assert verify(entry, Location.find(entry, root)).complete
    # Archives that were downloaded by hand are kept.
    assert tree(root / "downloads") == ["UCF-101-midframes.zip"]


def test_instructions_name_the_directories_of_this_machine(tmp_path: Path) -> None:
    def instructions(name: str) -> str:
        return verify(CATALOG[name], Location.find(CATALOG[name], tmp_path)).instructions

    text = instructions("imagenet")
    assert text.count(f"{tmp_path}/imagenet/images") == 4
    assert "https://image-net.org/download.php" in text
    assert "29b22e2961454d5413ddabcf34fc5622" in text
    assert "{" not in text
    assert f"{tmp_path}/stanford_cars/cars_train (00001.jpg to 08144.jpg)" in instructions("stanford-cars")
    assert instructions("dtd") == ""


# ---- verify


@pytest.mark.parametrize("name", SPLIT_FILE_TREES)
def test_verify_finds_missing_and_empty_images(tmp_path: Path, name: str) -> None:
    entry = make_split_file_tree(tmp_path, name)
    location = Location.find(entry, tmp_path)
    whole = verify(entry, location)
    assert (whole.problems, whole.missing, whole.sizes, whole.classes) == ((), (), (2, 2, 2), 2)
    absent, empty = small_splits(name)["train"][0][0], small_splits(name)["test"][1][0]
    (location.images / absent).unlink()
    (location.images / empty).write_bytes(b"")
    result = verify(entry, location)
    assert not result.complete
    assert result.problems == ("2 images are missing.",)
    assert set(result.missing) == {absent, empty}


def test_verify_compares_counts_with_the_published_ones(tmp_path: Path) -> None:
    make_food101(tmp_path)
    result = verify(CATALOG["food101"], Location.find(CATALOG["food101"], tmp_path))
    assert result.problems == (
        "There are 2 classes; Food101 has 101.",
        "There are 10 images in train; Food101 has 50,500.",
        "There are 4 images in val; Food101 has 20,200.",
        "There are 6 images in test; Food101 has 30,300.",
    )


def test_verify_lists_missing_class_directories(tmp_path: Path) -> None:
    entry = CATALOG["imagenet"]
    make_class_directories(tmp_path, "imagenet/images/val", WNIDS[2:], "{}.JPEG")
    result = verify(entry, Location.find(entry, tmp_path))
    assert result.problems == ("3 directories are missing.",)
    assert result.missing == ("train/", f"val/{WNIDS[0]}/", f"val/{WNIDS[1]}/")


def test_verify_reports_a_missing_data_set_as_a_problem(tmp_path: Path) -> None:
    result = verify(CATALOG["imagenet-a"], Location.find(CATALOG["imagenet-a"], tmp_path))
    assert result.problems[0].startswith("ImageNet-A was not found: there is no")


# ---- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["data", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_list_shows_available_data_sets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_food101(tmp_path)
    code, out, _ = run(capsys, "list", "--data-root", str(tmp_path))
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert code == 0
    assert set(CATALOG) < set(lines)
    assert "50,500 / 20,200 / 30,300  yes" in lines["food101"]
    assert "by hand" in lines["imagenet"]
    assert "4,128 / 1,649 / 2,465  no" in lines["caltech101"]

    _, out, _ = run(capsys, "list", "--data-root", str(tmp_path), "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert [*rows] == [*CATALOG]
    assert rows["food101"]["available"] is True
    assert rows["dtd"]["available"] is False
    assert rows["dtd"]["template"] == "{} texture."
    assert rows["dtd"]["directory"] == str(tmp_path / "dtd")
    assert rows["sun397"]["archives"][0]["checksum"] == "md5:8ca2778205c41d23104230ba66911c7a"


def test_where_prints_paths_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCOOP_DATA", str(tmp_path / "sets"))
    assert run(capsys, "where")[:2] == (0, f"{tmp_path / 'sets'}\n")
    assert run(capsys, "where", "OxfordPets", "--data-root", str(tmp_path))[:2] == (
        0,
        f"{tmp_path / 'oxford_pets' / 'images'}\n",
    )
    code, out, err = run(capsys, "where", "oxfordpet")
    assert (code, out) == (1, "")
    assert "no data set 'oxfordpet'. Did you mean 'oxfordpets'" in err.replace("oxford-pets", "oxfordpets")


def test_verify_command_lists_missing_files_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a = [c.wnid for c in imagenet_classes() if c.in_a]
    make_class_directories(tmp_path, "imagenet-adversarial/imagenet-a", a[30:], "{}.jpg")
    code, out, err = run(capsys, "verify", "imagenet-a", "--data-root", str(tmp_path))
    assert code == 1
    assert out.splitlines() == [f"missing: {wnid}/" for wnid in a[:20]]
    assert "... and 10 more; `cocoop data verify imagenet-a --all-missing` lists all." in err
    assert (
        f"cocoop: ImageNet-A in '{tmp_path}/imagenet-adversarial/imagenet-a' is incomplete: 30 directories are" in err
    )
    _, out, _ = run(capsys, "verify", "imagenet-a", "--all-missing", "--data-root", str(tmp_path))
    assert len(out.splitlines()) == 30


def test_verify_command_reports_each_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "verify", "dtd", "sun397", "--data-root", str(tmp_path))
    assert code == 1
    assert "DTD in" in err
    assert "SUN397 in" in err
    assert run(capsys, "verify", "nothing")[0] == 1
    code, _, err = run(capsys, "verify", "dtd", "--splits", str(tmp_path / "nowhere"))
    assert code == 1
    assert f"--splits is '{tmp_path / 'nowhere'}', which is not a directory." in err


def test_commands_report_a_complete_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: Path) -> None:
    lists = json.loads((shared / "splits/split_zhou_DescribableTextures.json").read_text())
    touch(tmp_path, *(f"dtd/images/{path}" for items in lists.values() for path, _, _ in items))
    arguments = ("dtd", "--data-root", str(tmp_path), "--splits", str(shared / "splits"))
    line = f"DTD is complete: 47 classes, 2,820 train, 1,128 val, 1,692 test images, in {tmp_path}/dtd/images\n"
    assert run(capsys, "verify", *arguments)[:2] == (0, line)
    # Everything is in place: no request is sent.
    assert run(capsys, "download", *arguments)[:2] == (0, line)


def test_verify_command_finds_the_missing_images_of_caltech101(
    capsys: pytest.CaptureFixture[str], shared: Path
) -> None:
    arguments = ("--data-root", str(shared / "data"), "--splits", str(shared / "splits"), "--all-missing")
    code, out, _ = run(capsys, "verify", "caltech101", *arguments)
    images = shared / "data/caltech101/101_ObjectCategories"
    here = {str(path.relative_to(images)) for path in images.glob("*/*.jpg")}
    lists = json.loads((shared / "splits/split_zhou_Caltech101.json").read_text())
    absent = {path for items in lists.values() for path, _, _ in items} - here
    assert code == 1
    assert {line.removeprefix("missing: ") for line in out.splitlines()} == absent
    assert not absent & {path for path, _, _ in lists["test"]}


def test_download_command_prints_steps_to_do_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "download", "imagenet", "--data-root", str(tmp_path))
    assert code == 1
    assert "1. Sign in at https://image-net.org/download.php" in out
    assert f"2. Put them into {tmp_path}/imagenet/images\n" in out
    assert "The images of ImageNet must be downloaded by hand, as explained above. Then check them with" in err
    code, _, err = run(capsys, "download")
    assert (code, err.split(":")[1].strip()) == (1, "Name a data set")


def test_download_command_reports_an_unreachable_server_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    code, out, err = run(capsys, "download", "dtd", "--data-root", str(tmp_path))
    assert (code, out) == (1, "")
    line = err.splitlines()[-1]
    assert line.startswith(
        "cocoop: 'split_zhou_DescribableTextures.json' cannot be downloaded from raw.githubusercontent.com:"
    )
    assert line.endswith(f"save it as '{tmp_path}/dtd/split_zhou_DescribableTextures.json' and try again.")


def test_catalog_does_not_import_pytorch() -> None:
    code = "import sys, cocoop.cli.data, cocoop.data; print({'torch', 'open_clip', 'numpy'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "set()\n"


def test_draw_command_equals_the_official_sample(capsys: pytest.CaptureFixture[str], shared: Path) -> None:
    places = ("--data-root", str(shared / "data"), "--splits", str(shared / "splits"))
    main(["draw", "caltech101", *places, "--shots", "16", "--seed", "2", "--format", "json"])
    official = json.loads((shared / "splits/fewshot/caltech101_16shot_seed2.json").read_text())
    assert json.loads(capsys.readouterr().out) == official


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_download_command_can_be_interrupted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **{name: value for name, value in os.environ.items() if name.lower() != "no_proxy"},
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "https_proxy": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "cocoop", "data", "download", "dtd", "--data-root", str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        with process.stderr as err:
            lines = [err.readline(), err.readline()]
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            lines += err.readlines()
            connection.close()
        assert process.wait() == 130
    assert lines[1:] == [
        "Downloading split_zhou_DescribableTextures.json ...\n",
        "cocoop: Stopped. Run the same command to continue.\n",
    ]
