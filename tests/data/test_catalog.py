"""The catalog of the papers' data sets: its entries, and the lists read from each layout."""

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import open_clip
import pytest
from catalog_trees import (
    SPLIT_FILE_TREES,
    make_aircraft,
    make_class_directories,
    make_food101,
    make_split_file_tree,
    make_sun397,
    touch,
)

from cocoop.data import Dataset, load_data
from cocoop.data.catalog.imagenet import class_directories, imagenet_classes
from cocoop.data.catalog.location import Location, data_root
from cocoop.data.catalog.read import read_catalog
from cocoop.data.catalog.table import CATALOG, catalog_entry, find_entry
from cocoop.errors import DataError
from cocoop.text.prompts import clean_name

WNIDS = [c.wnid for c in imagenet_classes()]


def paths(data: Dataset, split: str) -> list[str]:
    return [item.path for item in getattr(data, split)]


# ---- entries


def test_catalog_has_the_papers_data_sets_with_their_sizes() -> None:
    assert [(entry.title, entry.classes, entry.sizes) for entry in CATALOG.values()] == [
        ("ImageNet", 1000, (1_281_167, 0, 50_000)),
        ("Caltech101", 100, (4128, 1649, 2465)),
        ("OxfordPets", 37, (2944, 736, 3669)),
        ("StanfordCars", 196, (6509, 1635, 8041)),
        ("Flowers102", 102, (4093, 1633, 2463)),
        ("Food101", 101, (50_500, 20_200, 30_300)),
        ("FGVCAircraft", 100, (3334, 3333, 3333)),
        ("SUN397", 397, (15_880, 3970, 19_850)),
        ("DTD", 47, (2820, 1128, 1692)),
        ("EuroSAT", 10, (13_500, 5400, 8100)),
        ("UCF101", 101, (7639, 1898, 3783)),
        ("ImageNetV2", 1000, (0, 0, 10_000)),
        ("ImageNet-Sketch", 1000, (0, 0, 50_889)),
        ("ImageNet-A", 200, (0, 0, 7500)),
        ("ImageNet-R", 200, (0, 0, 30_000)),
    ]


def test_catalog_has_the_papers_templates() -> None:
    special = {
        "OxfordPets": "a photo of a {}, a type of pet.",
        "Flowers102": "a photo of a {}, a type of flower.",
        "FGVCAircraft": "a photo of a {}, a type of aircraft.",
        "DTD": "{} texture.",
        "EuroSAT": "a centered satellite photo of {}.",
        "Food101": "a photo of {}, a type of food.",
        "UCF101": "a photo of a person doing {}.",
    }
    for entry in CATALOG.values():
        assert entry.template == special.get(entry.title, "a photo of a {}."), entry.title


def test_entries_have_sources_for_lists_and_images() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert entry.licence
        assert entry.homepage.startswith("https://")
        assert entry.rule is not None or (
            entry.split_file is not None and entry.split_file.sha256 and entry.split_file.url
        )
        assert entry.instructions or entry.archives
        for archive in entry.archives:
            assert archive.url.startswith(("https://", "http://"))
            kind, _, digest = (archive.checksum or "").partition(":")
            assert (kind, len(digest)) in {("md5", 32), ("sha256", 64)} or archive.manual_name
            assert archive.file_name
    assert [name for name, entry in CATALOG.items() if entry.instructions] == ["imagenet", "stanford-cars", "ucf101"]


def test_split_files_have_the_published_checksums(shared: Path) -> None:
    lines = (shared / "splits" / "PUBLISHED_SHA256").read_text().splitlines()
    assert "ac9077ee4e422f768c9b9109551468605e33ec9a" in lines[0]
    published = dict(reversed(line.split()) for line in lines[1:])
    files = [entry.split_file for entry in CATALOG.values() if entry.split_file is not None]
    assert len(files) == 9
    for file in files:
        assert file.sha256 == published.get(f"splits/{file.name}")
        if file.url is not None:
            assert file.url == (
                "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/"
                f"ac9077ee4e422f768c9b9109551468605e33ec9a/splits/{file.name}"
            )


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("caltech101", "caltech101"),
        ("OxfordPets", "oxford-pets"),
        ("oxford_pets", "oxford-pets"),
        ("Oxford-IIIT Pet", "oxford-pets"),
        ("OxfordFlowers", "flowers102"),
        ("DescribableTextures", "dtd"),
        ("FGVCAircraft", "fgvc-aircraft"),
        ("ImageNetV2", "imagenetv2"),
        ("ImageNet-A", "imagenet-a"),
        ("imagenet_r", "imagenet-r"),
        ("ImageNetSketch", "imagenet-sketch"),
    ],
)
def test_catalog_entry_accepts_common_names(alias: str, name: str) -> None:
    assert catalog_entry(alias).name == name


def test_names_are_unique() -> None:
    for entry in CATALOG.values():
        assert [find_entry(word) for word in (entry.name, entry.title, *entry.aliases)] == [entry] * (
            2 + len(entry.aliases)
        )


def test_catalog_entry_suggests_close_names() -> None:
    with pytest.raises(
        DataError, match=r"no data set 'Caltech-100'\. Did you mean 'caltech101'\? Its data sets are: imagenet, cal"
    ):
        catalog_entry("Caltech-100")
    with pytest.raises(DataError, match=r"no data set 'xyz'\. Its data sets are: imagenet, caltech101"):
        catalog_entry("xyz")


# ---- ImageNet's classes

# Indices of the classes of ImageNet-A and ImageNet-R, from the evaluation code of their authors.
IN_A = """
6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113 124 125 130 132 143 144
150 151 207 234 235 254 277 283 287 291 295 298 301 306 307 308 309 310 311 313 314 315 317 319 323 324 326 327 330
334 335 336 347 361 363 372 378 386 397 400 401 402 404 407 411 416 417 420 425 428 430 437 438 445 456 457 461 462
470 472 483 486 488 492 496 514 516 528 530 539 542 543 549 552 557 561 562 569 572 573 575 579 589 606 607 609 614
626 627 640 641 642 643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765 768 773 774 776 779 780 786
792 797 802 803 804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879 880 888 890 897 900 907 913 924 932
933 934 937 943 945 947 951 954 956 957 959 971 972 980 981 984 986 987 988
"""
IN_R = """
1 2 4 6 8 9 11 13 22 23 26 29 31 39 47 63 71 76 79 84 90 94 96 97 99 100 105 107 113 122 125 130 132 144 145 147 148
150 151 155 160 161 162 163 171 172 178 187 195 199 203 207 208 219 231 232 234 235 242 245 247 250 251 254 259 260
263 265 267 269 276 277 281 288 289 291 292 293 296 299 301 308 309 310 311 314 315 319 323 327 330 334 335 337 338
340 341 344 347 353 355 361 362 365 366 367 368 372 388 390 393 397 401 407 413 414 425 428 430 435 437 441 447 448
457 462 463 469 470 471 472 476 483 487 515 546 555 558 570 579 583 587 593 594 596 609 613 617 621 629 637 657 658
701 717 724 763 768 774 776 779 780 787 805 812 815 820 824 833 847 852 866 875 883 889 895 907 928 931 932 933 934
936 937 943 945 947 948 949 951 953 954 957 963 965 967 980 981 983 988
"""


def test_imagenet_names_are_the_published_ones_except_for_two_duplicates() -> None:
    classes = imagenet_classes()
    assert [c.published_name for c in classes] == list(open_clip.IMAGENET_CLASSNAMES)
    assert sorted({c.wnid for c in classes}) == WNIDS
    assert len(WNIDS) == 1000
    renamed = [(label, c.published_name, c.name) for label, c in enumerate(classes) if c.name != c.published_name]
    assert renamed == [(744, "missile", "projectile"), (836, "sunglasses", "sunglass")]
    assert len({clean_name(c.name).lower() for c in classes}) == 1000


def test_imagenet_ids_and_names_equal_the_papers_file(shared: Path) -> None:
    lines = (shared / "splits" / "imagenet_classnames.txt").read_text().splitlines()
    assert [f"{c.wnid} {c.published_name}" for c in imagenet_classes()] == lines


def test_imagenet_subsets_equal_those_of_their_authors() -> None:
    assert [label for label, c in enumerate(imagenet_classes()) if c.in_a] == list(map(int, IN_A.split()))
    assert [label for label, c in enumerate(imagenet_classes()) if c.in_r] == list(map(int, IN_R.split()))
    # Of the classes with duplicate names, one is in ImageNet-R, with its published name.
    assert {c.wnid for c in imagenet_classes() if (c.in_a or c.in_r) and c.name != c.published_name} == set()


# ---- reading: lists from split files


@pytest.mark.parametrize("name", SPLIT_FILE_TREES)
def test_read_catalog_reads_split_files(tmp_path: Path, name: str) -> None:
    entry = make_split_file_tree(tmp_path, name)
    images, _, classes = SPLIT_FILE_TREES[name]
    location = Location.find(entry, tmp_path)
    listing = read_catalog(entry, location)
    assert location.images == tmp_path / images
    assert listing.classes == [title for _, title in classes]
    assert Counter(r.split for r in listing.rows) == {"train": 2, "val": 2, "test": 2}
    assert all((location.images / r.path).is_file() for r in listing.rows)


def test_read_catalog_ignores_whitespace_in_split_files(tmp_path: Path) -> None:
    entry = make_split_file_tree(tmp_path, "dtd")
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    before = read_catalog(entry, Location.find(entry, tmp_path))
    file.write_text(json.dumps(json.loads(file.read_text()), separators=(",", ":")))
    assert read_catalog(entry, Location.find(entry, tmp_path)) == before


@pytest.mark.parametrize("change", [lambda text: text.replace("0003", "0004"), lambda text: text[:-1]])
def test_read_catalog_refuses_other_split_files(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    entry = make_split_file_tree(tmp_path, "dtd")
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    file.write_text(change(file.read_text()))
    assert entry.split_file is not None
    message = (
        rf"DescribableTextures\.json' is not the published split_zhou_DescribableTextures\.json: its SHA-256 is"
        rf" [0-9a-f]{{64}} instead of {entry.split_file.sha256}\. Delete it .* give the path of the file as the data\."
    )
    with pytest.raises(DataError, match=message):
        read_catalog(entry, Location.find(entry, tmp_path))


def test_read_catalog_finds_split_files_in_the_given_directory(tmp_path: Path) -> None:
    entry = make_split_file_tree(tmp_path, "eurosat")
    lists = tmp_path / "lists"
    lists.mkdir()
    (tmp_path / "eurosat/split_zhou_EuroSAT.json").rename(lists / "split_zhou_EuroSAT.json")
    assert len(read_catalog(entry, Location.find(entry, tmp_path, splits=lists)).rows) == 6
    message = r"split file of EuroSAT is not in '.*eurosat'\. Download it with `cocoop data .* as `splits`\."
    with pytest.raises(DataError, match=message):
        read_catalog(entry, Location.find(entry, tmp_path))


def test_read_catalog_finds_torchvision_layouts(tmp_path: Path) -> None:
    entry = make_split_file_tree(tmp_path, "caltech101")
    (tmp_path / "caltech-101").rename(tmp_path / "caltech101")
    assert len(read_catalog(entry, Location.find(entry, tmp_path)).rows) == 6
    make_aircraft(tmp_path, "fgvc-aircraft-2013b/data")
    assert len(load_data("fgvc-aircraft", data_root=tmp_path).train) == 2


# ---- reading: lists by rule


def test_food101_without_a_split_file_is_split_as_documented(tmp_path: Path) -> None:
    make_food101(tmp_path)
    data = load_data("food101", data_root=tmp_path)
    assert (data.name, data.template) == ("food101", "a photo of {}, a type of food.")
    assert data.classnames == ("apple pie", "waffles")
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)
    order = [f"waffles/{n}.jpg" for n in range(100, 110)]
    random.Random(0).shuffle(order)
    assert {path for path in paths(data, "train") if path.startswith("w")} == set(order[:5])
    assert {path for path in paths(data, "val") if path.startswith("w")} == set(order[5:7])
    assert load_data("food101", data_root=tmp_path, seed=1).train != data.train


def test_food101_uses_its_split_file(tmp_path: Path) -> None:
    make_food101(tmp_path)
    lists = {
        "train": [["waffles/100.jpg", 0, "waffles"]],
        "val": [["apple_pie/101.jpg", 1, "apple_pie"]],
        "test": [["apple_pie/102.jpg", 1, "apple_pie"]],
    }
    touch(tmp_path, "food-101/split_zhou_Food101.json", content=json.dumps(lists))
    data = load_data("Food101", data_root=tmp_path)
    assert data.classnames == ("waffles", "apple pie")
    assert paths(data, "test") == ["apple_pie/102.jpg"]


def test_aircraft_uses_the_owners_lists(tmp_path: Path) -> None:
    make_aircraft(tmp_path)
    data = load_data("fgvc-aircraft", data_root=tmp_path)
    assert data.classnames == ("DC-10", "F/A-18", "707-320")
    assert [(item.path, item.label) for item in data.train] == [("0000001.jpg", 0), ("0000002.jpg", 1)]
    assert [(item.path, item.label) for item in (*data.val, *data.test)] == [("0000003.jpg", 2), ("0000004.jpg", 2)]
    data.check_files()
    touch(tmp_path, "fgvc_aircraft/images_variant_val.txt", content="0000003 707-320\n0000005 Concorde\n")
    with pytest.raises(
        DataError, match=r"images_variant_val\.txt, line 2: the class 'Concorde' is not in variants\.txt"
    ):
        load_data("fgvc-aircraft", data_root=tmp_path)
    (tmp_path / "fgvc_aircraft/variants.txt").unlink()
    with pytest.raises(
        DataError, match=r"list 'variants\.txt' of FGVCAircraft is neither in '.*fgvc_aircraft' nor beside"
    ):
        load_data("fgvc-aircraft", data_root=tmp_path)


@pytest.mark.parametrize("lists", ["sun397", "sun397/SUN397"])
def test_sun397_uses_the_owners_lists(tmp_path: Path, lists: str) -> None:
    make_sun397(tmp_path, lists)
    data = load_data("sun397", data_root=tmp_path)
    assert data.classnames == ("abbey", "indoor apse", "outdoor church")
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 9)
    assert paths(data, "test")[:3] == ["a/abbey/sun_e0.jpg", "a/abbey/sun_e1.jpg", "a/abbey/sun_e2.jpg"]
    order = [f"c/church/outdoor/sun_t{n}.jpg" for n in range(10)]
    random.Random(0).shuffle(order)
    assert {path for path in paths(data, "train") if path.startswith("c/")} == set(order[:8])
    assert {path for path in paths(data, "val") if path.startswith("c/")} == set(order[8:])
    assert not any("unlisted" in path for path in paths(data, "train") + paths(data, "val"))
    data.check_files()


# ---- reading: ImageNet and its variants


def test_imagenet_trains_on_train_and_tests_on_val(tmp_path: Path) -> None:
    make_class_directories(tmp_path, "imagenet/images/train", WNIDS, "{}_{}.JPEG")
    make_class_directories(tmp_path, "imagenet/images/val", WNIDS, "ILSVRC2012_val_0000000{1}.JPEG")
    data = load_data("imagenet", data_root=tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (1000, 0, 1000)
    assert data.classnames[:3] == ("tench", "goldfish", "great white shark")
    assert data.train[7].path == f"train/{WNIDS[7]}/{WNIDS[7]}_0.JPEG"
    assert data.test[-1].path == f"val/{WNIDS[-1]}/ILSVRC2012_val_00000000.JPEG"
    assert [item.label for item in data.test] == list(range(1000))
    data.check_files()
    assert len(data.few_shot(16, seed=1).base().train) == 500


def test_imagenet_may_have_val_only(tmp_path: Path) -> None:
    make_class_directories(tmp_path, "imagenet/val", WNIDS, "{}.JPEG")
    data = load_data("imagenet", data_root=tmp_path)
    assert (len(data.train), len(data.test)) == (0, 1000)
    with pytest.raises(DataError, match="'imagenet' has no training image"):
        data.check_trainable()
    (tmp_path / "imagenet/val").rename(tmp_path / "imagenet/other")
    with pytest.raises(
        DataError, match=r"imagenet' has neither a directory 'train' nor 'val'\. `cocoop data download imagenet"
    ):
        load_data("imagenet", data_root=tmp_path)


def test_imagenetv2_directories_are_named_by_label(tmp_path: Path) -> None:
    parent = "imagenetv2/imagenetv2-matched-frequency-format-val"
    make_class_directories(tmp_path, parent, [str(n) for n in range(1000)], "{}_{}.jpeg")
    data = load_data("imagenetv2", data_root=tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 1000)
    # Not sorted as strings, where 10 comes before 2.
    assert [(item.path, item.label) for item in data.test[2:11:8]] == [("2/2_0.jpeg", 2), ("10/10_0.jpeg", 10)]
    assert data.classnames[10] == "brambling"


def test_imagenet_sketch_has_all_classes(tmp_path: Path) -> None:
    make_class_directories(tmp_path, "imagenet-sketch/images", WNIDS, "sketch_{1}.JPEG", count=2)
    data = load_data("imagenet-sketch", data_root=tmp_path)
    assert len(data.test) == 2000
    assert data.classnames == tuple(clean_name(c.name) for c in imagenet_classes())


@pytest.mark.parametrize(
    ("name", "parent", "members", "first"),
    [
        ("imagenet-a", "imagenet-adversarial/imagenet-a", IN_A, ("stingray", "goldfinch", "junco")),
        ("imagenet-r", "imagenet-rendition/imagenet-r", IN_R, ("goldfish", "great white shark", "hammerhead shark")),
    ],
)
def test_imagenet_subsets_are_relabelled_in_imagenets_order(
    tmp_path: Path, name: str, parent: str, members: str, first: tuple[str, ...]
) -> None:
    wnids = [WNIDS[int(n)] for n in members.split()]
    make_class_directories(tmp_path, parent, wnids, "0.001_{}_{}.jpg")
    touch(tmp_path, f"{parent}/README.txt")
    data = load_data(name, data_root=tmp_path)
    assert data.classnames[:3] == first
    assert len(data.classnames) == 200
    assert [(item.label, item.path.split("/")[0]) for item in data.test] == list(enumerate(wnids))
    (tmp_path / parent / wnids[5] / f"0.001_{wnids[5]}_0.jpg").unlink()
    (tmp_path / parent / wnids[5]).rmdir()
    message = (
        rf"1 of its 200 class directories are not in '.*{parent}': '{wnids[5]}'\. `cocoop data verify {name}` lists"
    )
    with pytest.raises(DataError, match=message):
        load_data(name, data_root=tmp_path)


def test_imagenet_variants_share_its_class_names() -> None:
    names = dict(class_directories("imagenet"))
    assert dict(class_directories("imagenet-a")).items() <= names.items()
    assert dict(class_directories("imagenet-r")).items() <= names.items()
    assert [name for _, name in class_directories("imagenetv2")] == list(names.values())


# ---- names and places


def test_data_root_follows_argument_then_environment_then_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COCOOP_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert data_root() == tmp_path / ".cache" / "cocoop" / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/mine")
    assert data_root() == Path("/var/mine/cocoop/data")
    monkeypatch.setenv("COCOOP_DATA", "~/sets")
    assert data_root() == tmp_path / "sets"
    assert data_root("~/given") == tmp_path / "given"


def test_load_data_finds_data_sets_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_food101(tmp_path)
    monkeypatch.setenv("COCOOP_DATA", str(tmp_path))
    assert load_data("food-101").image_root == tmp_path / "food-101/images"


def test_load_data_prefers_an_existing_directory_to_the_catalog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, own = tmp_path / "sets", tmp_path / "own"
    make_food101(root)
    touch(own, "food101/ant/1.jpg", "food101/ant/2.jpg", "food101/bee/1.jpg", "food101/bee/2.jpg")
    monkeypatch.setenv("COCOOP_DATA", str(root))
    monkeypatch.chdir(own)
    mine = load_data("food101")
    assert (mine.classnames, mine.template) == (("ant", "bee"), None)
    assert load_data("food101", data_root=root).classnames == ("apple pie", "waffles")
    # In the data root, the data set's own directory is the data set, not an image directory.
    monkeypatch.chdir(root)
    assert load_data("food-101").classnames == ("apple pie", "waffles")


def test_load_data_finds_images_elsewhere(tmp_path: Path) -> None:
    make_food101(tmp_path / "far")
    data = load_data("food101", data_root=tmp_path, image_root=tmp_path / "far/food-101/images")
    data.check_files()
    with pytest.raises(DataError, match=r"`image_root` is '.*nowhere', which is not a directory\."):
        load_data("food101", image_root=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"`splits` is '.*nowhere', which is not a directory\."):
        load_data("food101", splits=tmp_path / "nowhere")


def test_load_data_renames_the_papers_classes(tmp_path: Path) -> None:
    make_food101(tmp_path)
    assert load_data("food101", data_root=tmp_path, renames={"apple pie": "pie"}).classnames == ("pie", "waffles")


def test_load_data_explains_how_to_get_a_missing_data_set(tmp_path: Path) -> None:
    message = (
        r"Caltech101 was not found: there is no '.*caltech-101/101_ObjectCategories'\. Download it with `cocoop data"
        r" download caltech101`, or pass the directory of your data sets as `data_root` or in COCOOP_DATA\."
    )
    with pytest.raises(DataError, match=message):
        load_data("Caltech101", data_root=tmp_path)
    with pytest.raises(DataError, match=r"There is no 'caltech'\. Use .* or the name of a data set of the papers"):
        load_data("caltech")


def test_template_stays_in_derived_data_sets(tmp_path: Path) -> None:
    make_sun397(tmp_path)
    data = load_data("sun397", data_root=tmp_path)
    assert dataclasses.replace(data, train=data.test).template == "a photo of a {}."
    assert data.few_shot(1, seed=1).template == "a photo of a {}."


# ---- the official lists


@pytest.mark.parametrize("name", [*SPLIT_FILE_TREES, "food101"])
def test_official_split_files_have_the_published_classes_and_sizes(shared: Path, tmp_path: Path, name: str) -> None:
    entry = CATALOG[name]
    assert entry.split_file is not None
    # Listing needs no image.
    (tmp_path / entry.image_directories[0]).mkdir(parents=True)
    data = load_data(name, data_root=tmp_path, splits=shared / "splits")
    assert len(data.classnames) == entry.classes
    assert (len(data.train), len(data.val), len(data.test)) == entry.sizes
    content = json.loads((shared / "splits" / entry.split_file.name).read_text())
    named = {label: title for items in content.values() for _, label, title in items}
    assert list(data.classnames) == [clean_name(named[label]) for label in range(entry.classes)]
    assert len({title.lower() for title in data.classnames}) == entry.classes


def test_official_split_files_have_the_papers_class_names(shared: Path, tmp_path: Path) -> None:
    def names(name: str) -> tuple[str, ...]:
        (tmp_path / CATALOG[name].image_directories[0]).mkdir(parents=True)
        return load_data(name, data_root=tmp_path, splits=shared / "splits").classnames

    assert names("eurosat") == (
        *("Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road", "Industrial Buildings"),
        *("Pasture Land", "Permanent Crop Land", "Residential Buildings", "River", "Sea or Lake"),
    )
    caltech = names("caltech101")
    assert {"airplane", "face", "leopard", "motorbike"} < set(caltech)
    assert not {"BACKGROUND Google", "Faces easy", "airplanes", "Faces"} & set(caltech)
    assert all(name[:4].isdigit() for name in names("stanford-cars"))
    assert all(name == name.lower() for name in names("oxford-pets"))
    assert {"Apply Eye Makeup", "Yo Yo"} < set(names("ucf101"))


def test_few_shot_sample_of_caltech101_equals_the_official_one(shared: Path) -> None:
    data = load_data("caltech101", data_root=shared / "data", splits=shared / "splits").few_shot(16, seed=1)
    data.check_files()
    official = json.loads((shared / "splits/fewshot/caltech101_16shot_seed1.json").read_text())
    for split in ("train", "val"):
        assert paths(data, split) == official[split]
