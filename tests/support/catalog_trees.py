"""Made-up trees in the real layout of each of the papers' data sets: two classes, a handful of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.table import CATALOG

# Folder of the photos below the data root, file of the lists beside it, and for two classes a photo's path and name.
# Written out, not taken from the table: these are the layouts that the CoOp code documents.
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


def put(root: Path, *paths: str, content: str = "x") -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def split_of(name: str) -> dict[str, list[tuple[str, int, str]]]:
    """Lists with one photo a class and split."""
    _, _, classes = SPLIT_FILE_TREES[name]
    return {
        split: [(pattern.format(number), label, title) for label, (pattern, title) in enumerate(classes)]
        for number, split in enumerate(("train", "val", "test"), start=1)
    }


def small(name: str) -> CatalogEntry:
    """The row of the table with the size and the checksum of the made-up lists in place of the published ones."""
    entry = CATALOG[name]
    assert entry.split_file is not None
    sha256 = hashlib.sha256(json.dumps(split_of(name), indent=4).encode()).hexdigest()
    return dataclasses.replace(
        entry, classes=2, sizes=(2, 2, 2), split_file=dataclasses.replace(entry.split_file, sha256=sha256)
    )


def grow_split_file_tree(root: Path, name: str) -> CatalogEntry:
    """Make the tree of a data set with a split file; returns the row that fits it."""
    images, lists, _ = SPLIT_FILE_TREES[name]
    put(root, lists, content=json.dumps(split_of(name), indent=4))
    put(root, *(f"{images}/{path}" for items in split_of(name).values() for path, _, _ in items))
    return small(name)


def grow_food101(root: Path) -> None:
    put(root, *(f"food-101/images/{c}/{n}.jpg" for c in ("apple_pie", "waffles") for n in range(100, 110)))
    put(root, "food-101/meta/train.json", "food-101/license_agreement.txt")


def grow_aircraft(root: Path, directory: str = "fgvc_aircraft") -> None:
    # Not in alphabetical order: the labels follow the list.
    put(root, f"{directory}/variants.txt", content="DC-10\nF/A-18\n707-320\n")
    lists = {"train": "0000001 DC-10\n0000002 F/A-18\n", "val": "0000003 707-320\n", "test": "0000004 707-320\n"}
    for split, lines in lists.items():
        put(root, f"{directory}/images_variant_{split}.txt", content=lines)
    put(root, *(f"{directory}/images/000000{n}.jpg" for n in range(1, 5)))


def grow_sun397(root: Path, lists: str = "sun397") -> None:
    directories = ("a/abbey", "a/apse/indoor", "c/church/outdoor")
    training = [f"/{directory}/sun_t{n}.jpg" for directory in directories for n in range(10)]
    testing = [f"/{directory}/sun_e{n}.jpg" for directory in directories for n in range(3)]
    put(root, f"{lists}/Training_01.txt", content="\n".join(training) + "\n")
    put(root, f"{lists}/Testing_01.txt", content="\r\n".join(testing) + "\r\n")
    put(root, *(f"sun397/SUN397{path}" for path in training + testing), "sun397/SUN397/a/abbey/sun_unlisted.jpg")


def grow_class_directories(root: Path, place: str, directories: list[str], image: str, count: int = 1) -> None:
    put(root, *(f"{place}/{directory}/{image.format(directory, n)}" for directory in directories for n in range(count)))
