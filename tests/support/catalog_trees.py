"""Small directory trees in the layout of each of the papers' data sets: two classes, a few files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.table import CATALOG

# Directory of the images, split file, and for two classes the path of an image and the class name. Not taken from the
# catalog: these are the layouts in the CoOp code's documentation.
SPLIT_FILE_TREES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "caltech101": (
        "caltech-101/101_ObjectCategories",
        "caltech-101/split_zhou_Caltech101.json",
        [("Faces/image_{:04}.jpg", "face"), ("airplanes/image_{:04}.jpg", "airplane")],
    ),
    "oxford-pets": (
        "oxford_pets/images",
        "oxford_pets/split_zhou_OxfordPets.json",
        [("Abyssinian_{}.jpg", "abyssinian"), ("american_bulldog_{}.jpg", "american_bulldog")],
    ),
    "stanford-cars": (
        "stanford_cars",
        "stanford_cars/split_zhou_StanfordCars.json",
        [("cars_train/{:05}.jpg", "2012 Audi TTS Coupe"), ("cars_test/{:05}.jpg", "2007 Suzuki Aerio Sedan")],
    ),
    "flowers102": (
        "oxford_flowers/jpg",
        "oxford_flowers/split_zhou_OxfordFlowers.json",
        [("image_{:05}.jpg", "pink primrose"), ("image_1{:04}.jpg", "hard-leaved pocket orchid")],
    ),
    "dtd": (
        "dtd/images",
        "dtd/split_zhou_DescribableTextures.json",
        [("banded/banded_{:04}.jpg", "banded"), ("polka-dotted/polka-dotted_{:04}.jpg", "polka-dotted")],
    ),
    "eurosat": (
        "eurosat/2750",
        "eurosat/split_zhou_EuroSAT.json",
        [("AnnualCrop/AnnualCrop_{}.jpg", "Annual Crop Land"), ("SeaLake/SeaLake_{}.jpg", "Sea or Lake")],
    ),
    "ucf101": (
        "ucf101/UCF-101-midframes",
        "ucf101/split_zhou_UCF101.json",
        [
            ("Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c{:02}.jpg", "Apply_Eye_Makeup"),
            ("Yo_Yo/v_YoYo_g25_c{:02}.jpg", "Yo_Yo"),
        ],
    ),
}


def touch(root: Path, *paths: str, content: str = "x") -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def small_splits(name: str) -> dict[str, list[tuple[str, int, str]]]:
    """Return lists with one image a class and split."""
    _, _, classes = SPLIT_FILE_TREES[name]
    return {
        split: [(pattern.format(number), label, title) for label, (pattern, title) in enumerate(classes)]
        for number, split in enumerate(("train", "val", "test"), start=1)
    }


def small_entry(name: str) -> CatalogEntry:
    """Return the catalog's entry with the sizes and the checksum of the small lists."""
    entry = CATALOG[name]
    assert entry.split_file is not None
    sha256 = hashlib.sha256(json.dumps(small_splits(name), indent=4).encode()).hexdigest()
    return dataclasses.replace(
        entry, classes=2, sizes=(2, 2, 2), split_file=dataclasses.replace(entry.split_file, sha256=sha256)
    )


def make_split_file_tree(root: Path, name: str) -> CatalogEntry:
    """Make the tree of a data set with a split file and return its entry."""
    images, lists, _ = SPLIT_FILE_TREES[name]
    touch(root, lists, content=json.dumps(small_splits(name), indent=4))
    touch(root, *(f"{images}/{path}" for items in small_splits(name).values() for path, _, _ in items))
    return small_entry(name)


def make_food101(root: Path) -> None:
    touch(root, *(f"food-101/images/{c}/{n}.jpg" for c in ("apple_pie", "waffles") for n in range(100, 110)))
    touch(root, "food-101/meta/train.json", "food-101/license_agreement.txt")


def make_aircraft(root: Path, directory: str = "fgvc_aircraft") -> None:
    # Labels follow this list, which is not sorted.
    touch(root, f"{directory}/variants.txt", content="DC-10\nF/A-18\n707-320\n")
    lists = {"train": "0000001 DC-10\n0000002 F/A-18\n", "val": "0000003 707-320\n", "test": "0000004 707-320\n"}
    for split, lines in lists.items():
        touch(root, f"{directory}/images_variant_{split}.txt", content=lines)
    touch(root, *(f"{directory}/images/000000{n}.jpg" for n in range(1, 5)))


def make_sun397(root: Path, lists: str = "sun397") -> None:
    directories = ("a/abbey", "a/apse/indoor", "c/church/outdoor")
    training = [f"/{directory}/sun_t{n}.jpg" for directory in directories for n in range(10)]
    testing = [f"/{directory}/sun_e{n}.jpg" for directory in directories for n in range(3)]
    touch(root, f"{lists}/Training_01.txt", content="\n".join(training) + "\n")
    touch(root, f"{lists}/Testing_01.txt", content="\r\n".join(testing) + "\r\n")
    touch(root, *(f"sun397/SUN397{path}" for path in training + testing), "sun397/SUN397/a/abbey/sun_unlisted.jpg")


def make_class_directories(root: Path, parent: str, directories: list[str], image: str, count: int = 1) -> None:
    touch(
        root, *(f"{parent}/{directory}/{image.format(directory, n)}" for directory in directories for n in range(count))
    )
