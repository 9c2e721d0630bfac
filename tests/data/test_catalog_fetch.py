"""Getting and checking the papers' data sets: from a server on this machine, by the library and by `cocoop data`."""

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
    grow_aircraft,
    grow_class_directories,
    grow_food101,
    grow_split_file_tree,
    grow_sun397,
    put,
    small,
    split_of,
)
from web_server import WebServer, serve

from cocoop.cli import main
from cocoop.data.catalog.download import ByteProgress
from cocoop.data.catalog.entry import CatalogEntry, Place
from cocoop.data.catalog.fetch import fetch, instructions
from cocoop.data.catalog.imagenet import imagenet_classes
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
    """The row with this server's addresses and these archives' checksums in place of the owners'."""
    archives = []
    for archive, content in zip(entry.archives, contents, strict=True):
        url = web.put(f"/{archive.file_name}", content)
        archives.append(dataclasses.replace(archive, url=url, checksum=f"md5:{hashlib.md5(content).hexdigest()}"))
    split_file = entry.split_file
    if split_file is not None and split_file.url is not None:
        content = json.dumps(split_of(entry.name), indent=4).encode()
        split_file = dataclasses.replace(split_file, url=web.put(f"/{split_file.name}", content))
    return dataclasses.replace(entry, archives=tuple(archives), split_file=split_file)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def listed_images(name: str) -> list[str]:
    return [path for items in split_of(name).values() for path, _, _ in items]


# ---- fetching


def caltech(web: WebServer, source: Path) -> CatalogEntry:
    """Caltech101 as its owners pack it: an archive in an archive, beside annotations that nobody needs."""
    inner = source / "inner"
    put(inner, *(f"101_ObjectCategories/{path}" for path in listed_images("caltech101")))
    put(inner, "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg")
    outer = source / "outer" / "caltech-101"
    outer.mkdir(parents=True)
    (outer / "101_ObjectCategories.tar.gz").write_bytes(tar_of(inner))
    (outer / "Annotations.tar").write_bytes(b"not needed")
    return served(web, small("caltech101"), zip_of(source / "outer"))


def test_caltech101_comes_out_of_its_archive_in_an_archive(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    stages: list[str] = []

    def on_stage(what: str):  # type: ignore[no-untyped-def]
        stages.append(what)
        return lambda done, total: None

    fetch(entry, Place.of(entry, root), on_stage=on_stage)
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
    assert verify(entry, Place.of(entry, root)).complete
    # Nothing is fetched twice.
    before = len(web.requests)
    fetch(entry, Place.of(entry, root))
    assert len(web.requests) == before


def test_what_a_row_says_fits_how_the_owners_pack(web: WebServer, tmp_path: Path) -> None:
    """Archives with the owners' inner folders end where the lists look for the photos."""
    source, root = tmp_path / "source", tmp_path / "sets"

    def packed(name: str, *parts: str) -> Path:
        directory = source / name
        for part in parts:
            put(directory, part)
        return directory

    images = {name: listed_images(name) for name in SPLIT_FILE_TREES}
    contents: dict[str, tuple[bytes, ...]] = {
        "oxford-pets": (tar_of(packed("pets", *(f"images/{p}" for p in images["oxford-pets"]), "images/x.mat")),),
        "flowers102": (tar_of(packed("flowers", *(f"jpg/{p}" for p in images["flowers102"]))),),
        "dtd": (tar_of(packed("dtd", *(f"dtd/images/{p}" for p in images["dtd"]), "dtd/labels/train1.txt")),),
        "eurosat": (zip_of(packed("eurosat", *(f"2750/{p}" for p in images["eurosat"]))),),
    }
    for name, archives in contents.items():
        entry = served(web, small(name), *archives)
        fetch(entry, Place.of(entry, root))
        result = verify(entry, Place.of(entry, root))
        assert result.problems == (), name
        assert Place.of(entry, root).images == root / SPLIT_FILE_TREES[name][0]
    assert not list((root / "downloads").iterdir())


def test_data_sets_with_the_owners_lists(web: WebServer, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "sets"
    grow_aircraft(source / "aircraft", "fgvc-aircraft-2013b/data")
    put(source / "aircraft", "fgvc-aircraft-2013b/README.html")
    aircraft = served(web, CATALOG["fgvc-aircraft"], tar_of(source / "aircraft"))
    fetch(aircraft, Place.of(aircraft, root))
    assert "README.html" not in "".join(tree(root / "fgvc_aircraft"))

    grow_sun397(source / "sun")
    lists = source / "lists"
    lists.mkdir()
    for file in (source / "sun/sun397").glob("*.txt"):
        file.rename(lists / file.name)
    sun = served(web, CATALOG["sun397"], tar_of(source / "sun/sun397"), zip_of(lists))
    fetch(sun, Place.of(sun, root))

    grow_food101(source / "food")
    food = served(web, CATALOG["food101"], tar_of(source / "food"))
    fetch(food, Place.of(food, root))
    assert (root / "food-101/license_agreement.txt").is_file()

    for entry, sizes, classes in ((aircraft, (2, 1, 1), 3), (sun, (24, 6, 9), 3), (food, (10, 4, 6), 2)):
        result = verify(dataclasses.replace(entry, sizes=sizes, classes=classes), Place.of(entry, root))
        assert (result.problems, result.sizes) == ((), sizes)


def test_imagenets_variants(web: WebServer, tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "sets"
    grow_class_directories(source / "s", "sketch", WNIDS, "sketch_{1}.JPEG")
    v2 = "imagenetv2-matched-frequency-format-val"
    grow_class_directories(source / "v2", v2, [str(n) for n in range(1000)], "{}_{}.jpeg")
    some = [c.wnid for c in imagenet_classes() if c.in_a]
    grow_class_directories(source / "a", "imagenet-a", some, "0.1_{}_{}.jpg")
    sketch = served(web, CATALOG["imagenet-sketch"], zip_of(source / "s"))
    matched = served(web, CATALOG["imagenetv2"], tar_of(source / "v2", "w"))
    natural = served(web, CATALOG["imagenet-a"], tar_of(source / "a", "w"))
    for entry, count in ((sketch, 1000), (matched, 1000), (natural, 200)):
        fetch(entry, Place.of(entry, root))
        result = verify(dataclasses.replace(entry, sizes=(0, 0, count)), Place.of(entry, root))
        assert (result.problems, result.classes) == ((), count)


def test_an_interrupted_fetch_goes_on(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    page = web.pages["/caltech-101.zip"]
    page.cuts = [100, *[0] * 9]
    with pytest.raises(DataError, match=r"download of 'caltech-101\.zip' from .* stopped after 100 bytes"):
        fetch(entry, Place.of(entry, root), pause=0.0)
    assert tree(root / "downloads") == ["caltech-101.zip.part", "caltech-101.zip.part.version"]
    page.cuts = []
    fetch(entry, Place.of(entry, root), keep_archives=True)
    assert web.requests[-1][1] == "bytes=100-"
    assert tree(root / "downloads") == ["caltech-101.zip"]
    assert verify(entry, Place.of(entry, root)).complete
    assert not list((root / "caltech-101").glob(".*"))


def test_two_do_not_get_the_same_at_once(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    place = Place.of(entry, root)

    def another(_stage: str) -> ByteProgress:
        with pytest.raises(DataError, match=r"^Another process is getting '.*/caltech-101'; wait for it\.$"):
            fetch(entry, place)
        return lambda _done, _total: None

    fetch(entry, place, on_stage=another)
    assert verify(entry, place).complete


def test_an_archive_that_a_person_put_there_is_used(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    (root / "downloads").mkdir(parents=True)
    (root / "downloads" / "caltech-101.zip").write_bytes(web.pages.pop("/caltech-101.zip").content)
    fetch(entry, Place.of(entry, root))
    assert verify(entry, Place.of(entry, root)).complete
    assert [path for path, _, _ in web.requests] == ["/split_zhou_Caltech101.json"]


def test_an_archive_that_is_not_what_it_should_be_changes_nothing(web: WebServer, tmp_path: Path) -> None:
    put(tmp_path / "source", "something/else.jpg")
    entry, root = served(web, small("dtd"), tar_of(tmp_path / "source")), tmp_path / "sets"
    with pytest.raises(DataError, match=r"dtd-r1\.0\.1\.tar\.gz' has no 'dtd' in it\. Remove it and get it again"):
        fetch(entry, Place.of(entry, root))
    assert tree(root / "dtd") == ["split_zhou_DescribableTextures.json"]
    assert [path.name for path in (root / "dtd").iterdir()] == ["split_zhou_DescribableTextures.json"]


def test_what_is_there_is_not_overwritten(web: WebServer, tmp_path: Path) -> None:
    grow_aircraft(tmp_path / "source", "fgvc-aircraft-2013b/data")
    entry, root = served(web, CATALOG["fgvc-aircraft"], tar_of(tmp_path / "source")), tmp_path / "sets"
    put(root, "fgvc_aircraft/images/0000001.jpg", content="mine")
    message = (
        r"fgvc_aircraft/images' is there already, but not all that comes with it in 'fgvc-aircraft-2013b\.tar\.gz'"
    )
    with pytest.raises(DataError, match=message):
        fetch(entry, Place.of(entry, root))
    assert (root / "fgvc_aircraft/images/0000001.jpg").read_text() == "mine"
    (root / "fgvc_aircraft/images").rename(tmp_path / "mine")
    # What a fetch that was stopped between two moves has put there is gone on from.
    put(root, "fgvc_aircraft/variants.txt", content="another")
    fetch(entry, Place.of(entry, root))
    result = verify(dataclasses.replace(entry, sizes=(2, 1, 1), classes=3), Place.of(entry, root))
    assert result.problems == ()


def test_directories_beside_the_images_stay_as_they_are(web: WebServer, tmp_path: Path) -> None:
    put(tmp_path / "source", *(f"dtd/images/{path}" for path in listed_images("dtd")), "dtd/labels/train1.txt")
    entry, root = served(web, small("dtd"), tar_of(tmp_path / "source")), tmp_path / "sets"
    put(root, "dtd/labels/mine.txt")
    fetch(entry, Place.of(entry, root))
    assert verify(entry, Place.of(entry, root)).complete
    assert tree(root / "dtd/labels") == ["mine.txt"]


def test_images_in_another_layout_are_not_fetched_again(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    put(root, *(f"caltech101/101_ObjectCategories/{path}" for path in listed_images("caltech101")))
    fetch(entry, Place.of(entry, root))
    assert [path for path, _, _ in web.requests] == ["/split_zhou_Caltech101.json"]
    assert verify(entry, Place.of(entry, root)).complete


def test_another_split_file_is_refused_before_any_image_is_fetched(web: WebServer, tmp_path: Path) -> None:
    entry, root = caltech(web, tmp_path / "source"), tmp_path / "sets"
    put(tmp_path, "lists/split_zhou_Caltech101.json", content='{"train": [], "val": [], "test": []}')
    with pytest.raises(DataError, match=r"is not the published split_zhou_Caltech101\.json"):
        fetch(entry, Place.of(entry, root, splits=tmp_path / "lists"))
    web.put("/split_zhou_Caltech101.json", b"{}")
    with pytest.raises(DataError, match=r"'split_zhou_Caltech101\.json' is not the published file: its SHA-256"):
        fetch(entry, Place.of(entry, root))
    assert [path for path, _, _ in web.requests] == ["/split_zhou_Caltech101.json"]
    assert not root.exists() or tree(root) == []


def test_middle_frames_are_fetched_by_hand_and_unpacked_by_us(web: WebServer, tmp_path: Path) -> None:
    root, source = tmp_path / "sets", tmp_path / "source"
    put(source, *(f"UCF-101-midframes/{path}" for path in listed_images("ucf101")))
    entry = small("ucf101")
    assert entry.split_file is not None
    url = web.put("/list", json.dumps(split_of("ucf101"), indent=4).encode())
    entry = dataclasses.replace(entry, split_file=dataclasses.replace(entry.split_file, url=url))
    fetch(entry, Place.of(entry, root))
    text = instructions(entry, Place.of(entry, root))
    assert f"Put it into {root / 'downloads'} and run this command again" in text
    assert "https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view" in text
    assert verify(entry, Place.of(entry, root)).problems[0].startswith("UCF101 is not here")
    (root / "downloads").mkdir()
    (root / "downloads/UCF-101-midframes.zip").write_bytes(zip_of(source))
    fetch(entry, Place.of(entry, root))
    assert verify(entry, Place.of(entry, root)).complete
    # Whoever fetched it by hand would not like to fetch it again.
    assert tree(root / "downloads") == ["UCF-101-midframes.zip"]


def test_instructions_name_the_directories_of_this_machine(tmp_path: Path) -> None:
    place = Place.of(CATALOG["imagenet"], tmp_path)
    text = instructions(CATALOG["imagenet"], place)
    assert text.count(f"{tmp_path}/imagenet/images") == 4
    assert "https://image-net.org/download.php" in text
    assert "29b22e2961454d5413ddabcf34fc5622" in text
    assert "{" not in text
    cars = instructions(CATALOG["stanford-cars"], Place.of(CATALOG["stanford-cars"], tmp_path))
    assert f"{tmp_path}/stanford_cars/cars_train (00001.jpg to 08144.jpg)" in cars
    assert instructions(CATALOG["dtd"], Place.of(CATALOG["dtd"], tmp_path)) == ""


# ---- checking


@pytest.mark.parametrize("name", SPLIT_FILE_TREES)
def test_absent_and_empty_images_are_missing(tmp_path: Path, name: str) -> None:
    entry = grow_split_file_tree(tmp_path, name)
    place = Place.of(entry, tmp_path)
    whole = verify(entry, place)
    assert (whole.problems, whole.missing, whole.sizes, whole.classes) == ((), (), (2, 2, 2), 2)
    absent, empty = split_of(name)["train"][0][0], split_of(name)["test"][1][0]
    (place.images / absent).unlink()
    (place.images / empty).write_bytes(b"")
    result = verify(entry, place)
    assert not result.complete
    assert result.problems == ("2 photos are missing.",)
    assert set(result.missing) == {absent, empty}


def test_counts_are_held_against_the_published_ones(tmp_path: Path) -> None:
    grow_food101(tmp_path)
    result = verify(CATALOG["food101"], Place.of(CATALOG["food101"], tmp_path))
    assert result.problems == (
        "There are 2 classes; Food101 has 101.",
        "There are 10 photos of train; Food101 has 50,500.",
        "There are 4 photos of val; Food101 has 20,200.",
        "There are 6 photos of test; Food101 has 30,300.",
    )


def test_all_missing_class_directories_are_listed(tmp_path: Path) -> None:
    entry = CATALOG["imagenet"]
    grow_class_directories(tmp_path, "imagenet/images/val", WNIDS[2:], "{}.JPEG")
    result = verify(entry, Place.of(entry, tmp_path))
    assert result.problems == ("3 folders are missing.",)
    assert result.missing == ("train/", f"val/{WNIDS[0]}/", f"val/{WNIDS[1]}/")


def test_a_data_set_that_is_not_here_is_a_problem_not_an_error(tmp_path: Path) -> None:
    result = verify(CATALOG["imagenet-a"], Place.of(CATALOG["imagenet-a"], tmp_path))
    assert result.problems[0].startswith("ImageNet-A is not here: there is no")


# ---- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["data", *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_list_shows_what_is_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    grow_food101(tmp_path)
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
    assert rows["food101"]["here"] is True
    assert rows["dtd"]["here"] is False
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
    assert "no data set 'oxfordpet'; did you mean 'oxfordpets'" in err.replace("oxford-pets", "oxfordpets")


def test_verify_lists_what_is_missing_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    a = [c.wnid for c in imagenet_classes() if c.in_a]
    grow_class_directories(tmp_path, "imagenet-adversarial/imagenet-a", a[30:], "{}.jpg")
    code, out, err = run(capsys, "verify", "imagenet-a", "--data-root", str(tmp_path))
    assert code == 1
    assert out.splitlines() == [f"missing: {wnid}/" for wnid in a[:20]]
    assert "... and 10 more; `cocoop data verify imagenet-a --all-missing` lists all." in err
    assert f"cocoop: ImageNet-A in '{tmp_path}/imagenet-adversarial/imagenet-a' is incomplete: 30 folders are" in err
    _, out, _ = run(capsys, "verify", "imagenet-a", "--all-missing", "--data-root", str(tmp_path))
    assert len(out.splitlines()) == 30


def test_verify_of_several_tells_of_each(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "verify", "dtd", "sun397", "--data-root", str(tmp_path))
    assert code == 1
    assert "DTD in" in err
    assert "SUN397 in" in err
    assert run(capsys, "verify", "nothing")[0] == 1
    code, _, err = run(capsys, "verify", "dtd", "--splits", str(tmp_path / "nowhere"))
    assert code == 1
    assert f"--splits is '{tmp_path / 'nowhere'}', which is not a folder." in err


def test_verify_and_download_of_a_complete_data_set(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: Path
) -> None:
    lists = json.loads((shared / "splits/split_zhou_DescribableTextures.json").read_text())
    put(tmp_path, *(f"dtd/images/{path}" for items in lists.values() for path, _, _ in items))
    arguments = ("dtd", "--data-root", str(tmp_path), "--splits", str(shared / "splits"))
    line = f"DTD is complete: 47 classes, 2,820 train, 1,128 val, 1,692 test photos, in {tmp_path}/dtd/images\n"
    assert run(capsys, "verify", *arguments)[:2] == (0, line)
    # Everything is in place: no server is asked.
    assert run(capsys, "download", *arguments)[:2] == (0, line)


def test_verify_knows_which_real_images_are_here(capsys: pytest.CaptureFixture[str], shared: Path) -> None:
    arguments = ("--data-root", str(shared / "data"), "--splits", str(shared / "splits"), "--all-missing")
    code, out, _ = run(capsys, "verify", "caltech101", *arguments)
    images = shared / "data/caltech101/101_ObjectCategories"
    here = {str(path.relative_to(images)) for path in images.glob("*/*.jpg")}
    lists = json.loads((shared / "splits/split_zhou_Caltech101.json").read_text())
    absent = {path for items in lists.values() for path, _, _ in items} - here
    assert code == 1
    assert {line.removeprefix("missing: ") for line in out.splitlines()} == absent
    assert not absent & {path for path, _, _ in lists["test"]}


def test_download_explains_what_must_be_done_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "download", "imagenet", "--data-root", str(tmp_path))
    assert code == 1
    assert "1. Sign in at https://image-net.org/download.php" in out
    assert f"2. Put them into {tmp_path}/imagenet/images\n" in out
    assert "The photos of ImageNet must be fetched by hand, as above; then check them with" in err
    code, _, err = run(capsys, "download")
    assert (code, err.split(":")[1].strip()) == (1, "Name a data set")


def test_a_server_that_cannot_be_reached_is_one_line(
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
        "cocoop: 'split_zhou_DescribableTextures.json' cannot be fetched from raw.githubusercontent.com:"
    )
    assert line.endswith(f"put it at '{tmp_path}/dtd/split_zhou_DescribableTextures.json' and run the command again.")


def test_the_catalog_needs_no_pytorch() -> None:
    code = "import sys, cocoop.cli.data, cocoop.data; print({'torch', 'open_clip', 'numpy'} & {*sys.modules})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "set()\n"


def test_draw_by_name(capsys: pytest.CaptureFixture[str], shared: Path) -> None:
    places = ("--data-root", str(shared / "data"), "--splits", str(shared / "splits"))
    main(["draw", "caltech101", *places, "--shots", "16", "--seed", "2", "--format", "json"])
    official = json.loads((shared / "splits/fewshot/caltech101_16shot_seed2.json").read_text())
    assert json.loads(capsys.readouterr().out) == official


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            **{name: value for name, value in os.environ.items() if name.lower() != "no_proxy"},
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # A server that takes the call and says nothing.
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
        "cocoop: Stopped. The same command goes on from here.\n",
    ]
