"""The 15 data sets of the CoOp and CoCoOp papers, one row each, and how to find a row by its name.

Sources: sizes and templates are the papers' (CoOp, IJCV 2022, table of data sets; CoCoOp, CVPR 2022); addresses and
MD5 sums are torchvision's where it has the data set; SHA-256 sums of ImageNetV2 and ImageNet-Sketch are those of
TensorFlow Datasets, of the split files those of the pinned commit below.
"""

from __future__ import annotations

import difflib
import re
from types import MappingProxyType

from cocoop.data.catalog.entry import Archive, CatalogEntry, SplitFile
from cocoop.errors import DataError

__all__ = ["CATALOG", "catalog_entry", "find_entry"]

_SPLITS_COMMIT = "ac9077ee4e422f768c9b9109551468605e33ec9a"
_SPLITS_URL = f"https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/{_SPLITS_COMMIT}/splits/"

_IMAGE_OF_A = "a photo of a {}."


def _split(name: str, sha256: str) -> SplitFile:
    file = f"split_zhou_{name}.json"
    return SplitFile(name=file, sha256=sha256, url=_SPLITS_URL + file)


_ROWS = (
    CatalogEntry(
        name="imagenet",
        title="ImageNet",
        also=("ImageNet-1k", "ILSVRC2012"),
        template=_IMAGE_OF_A,
        classes=1000,
        sizes=(1_281_167, 0, 50_000),
        images=("imagenet/images", "imagenet"),
        rule="imagenet",
        by_hand=(
            "ImageNet is given to registered users only.\n"
            "1. Sign in at https://image-net.org/download.php, accept the terms, and get these files of ILSVRC2012:\n"
            "     ILSVRC2012_img_train.tar        138 GB  MD5 1d675b47d978889d74fa0da5fadfb00e\n"
            "     ILSVRC2012_img_val.tar          6.3 GB  MD5 29b22e2961454d5413ddabcf34fc5622\n"
            "     ILSVRC2012_devkit_t12.tar.gz    2.5 MB  MD5 fa75699e90414af021442c21a62c3abf\n"
            "2. Put them into {folder}/images\n"
            "3. Let torchvision check and unpack them into train/n01440764/... and val/n01440764/...:\n"
            "     python -c \"from torchvision.datasets import ImageNet as I; I('{folder}/images', 'train');"
            " I('{folder}/images', 'val')\"\n"
            "If you have ImageNet elsewhere, link its train and val folders into {folder}/images instead."
        ),
        licence="research and education, by agreement",
        source="https://image-net.org",
    ),
    CatalogEntry(
        name="caltech101",
        title="Caltech101",
        template=_IMAGE_OF_A,
        classes=100,
        sizes=(4128, 1649, 2465),
        images=("caltech-101/101_ObjectCategories", "caltech101/101_ObjectCategories"),
        split_file=_split("Caltech101", "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"),
        archives=(
            Archive(
                url="https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                checksum="md5:3138e1922a9193bfa496528edbbc45d0",
                inner="caltech-101/101_ObjectCategories.tar.gz",
                inside="101_ObjectCategories",
                to="101_ObjectCategories",
                gives=("101_ObjectCategories",),
            ),
        ),
        licence="CC BY 4.0",
        source="https://data.caltech.edu/records/mzrjq-6wc02",
    ),
    CatalogEntry(
        name="oxford-pets",
        title="OxfordPets",
        also=("pets", "Oxford-IIIT Pet"),
        template="a photo of a {}, a type of pet.",
        classes=37,
        sizes=(2944, 736, 3669),
        images=("oxford_pets/images", "oxford-iiit-pet/images"),
        split_file=_split("OxfordPets", "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e"),
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
                checksum="md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
                inside="images",
                to="images",
                gives=("images",),
            ),
        ),
        licence="CC BY-SA 4.0",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    ),
    CatalogEntry(
        name="stanford-cars",
        title="StanfordCars",
        also=("cars",),
        template=_IMAGE_OF_A,
        classes=196,
        sizes=(6509, 1635, 8041),
        images=("stanford_cars",),
        split_file=_split("StanfordCars", "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d"),
        by_hand=(
            "The owners' address (ai.stanford.edu/~jkrause/cars) answers no more.\n"
            "1. Get a copy: https://github.com/pytorch/vision/issues/7545 lists several, for example\n"
            "     https://www.kaggle.com/datasets/jessicali9530/stanford-cars-dataset\n"
            "2. Put the 8,144 training photos into {folder}/cars_train (00001.jpg to 08144.jpg)\n"
            "   and the 8,041 test photos into {folder}/cars_test (00001.jpg to 08041.jpg);\n"
            "   some copies nest them one folder deeper (cars_train/cars_train): move the inner folder up.\n"
            "Labels and devkit are not needed: the split file has the labels."
        ),
        licence="none stated",
        source="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    ),
    CatalogEntry(
        name="flowers102",
        title="Flowers102",
        also=("OxfordFlowers", "flowers"),
        template="a photo of a {}, a type of flower.",
        classes=102,
        sizes=(4093, 1633, 2463),
        images=("oxford_flowers/jpg", "flowers-102/jpg"),
        split_file=_split("OxfordFlowers", "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794"),
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
                checksum="md5:52808999861908f626f3c1f4e79d11fa",
                inside="jpg",
                to="jpg",
                gives=("jpg",),
            ),
        ),
        licence="none stated",
        source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ),
    CatalogEntry(
        name="food101",
        title="Food101",
        template="a photo of {}, a type of food.",
        classes=101,
        sizes=(50_500, 20_200, 30_300),
        images=("food-101/images",),
        split_file=SplitFile(name="split_zhou_Food101.json"),
        rule="divided",
        archives=(
            Archive(
                url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                checksum="md5:85eeb15f3717b99a5da872d97d918f87",
                inside="food-101",
                gives=("images",),
            ),
        ),
        licence="fair use in research only",
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    ),
    CatalogEntry(
        name="fgvc-aircraft",
        title="FGVCAircraft",
        also=("aircraft",),
        template="a photo of a {}, a type of aircraft.",
        classes=100,
        sizes=(3334, 3333, 3333),
        images=("fgvc_aircraft/images", "fgvc-aircraft-2013b/data/images"),
        rule="aircraft",
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                checksum="md5:d4acdd33327262359767eeaa97a4f732",
                inside="fgvc-aircraft-2013b/data",
                gives=("variants.txt", "images_variant_test.txt", "images"),
            ),
        ),
        licence="non-commercial research only",
        source="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ),
    CatalogEntry(
        name="sun397",
        title="SUN397",
        template=_IMAGE_OF_A,
        classes=397,
        sizes=(15_880, 3970, 19_850),
        images=("sun397/SUN397", "SUN397"),
        split_file=SplitFile(name="split_zhou_SUN397.json"),
        rule="sun397",
        archives=(
            Archive(
                url="http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                checksum="md5:8ca2778205c41d23104230ba66911c7a",
                inside="SUN397",
                to="SUN397",
                gives=("SUN397",),
            ),
            Archive(
                url="https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
                checksum="sha256:e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9",
                gives=("Training_01.txt",),
            ),
        ),
        licence="none stated",
        source="https://vision.princeton.edu/projects/2010/SUN/",
    ),
    CatalogEntry(
        name="dtd",
        title="DTD",
        also=("DescribableTextures",),
        template="{} texture.",
        classes=47,
        sizes=(2820, 1128, 1692),
        images=("dtd/images", "dtd/dtd/images"),
        split_file=_split("DescribableTextures", "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38"),
        archives=(
            Archive(
                url="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                checksum="md5:fff73e5086ae6bdbea199a49dfb8a4c1",
                inside="dtd",
                gives=("images",),
            ),
        ),
        licence="research only",
        source="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    ),
    CatalogEntry(
        name="eurosat",
        title="EuroSAT",
        template="a centered satellite photo of {}.",
        classes=10,
        sizes=(13_500, 5400, 8100),
        images=("eurosat/2750",),
        split_file=_split("EuroSAT", "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2"),
        archives=(
            Archive(
                url=(
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"
                ),
                checksum="md5:c8fa014336c82ac7804f0398fcb19387",
                inside="2750",
                to="2750",
                gives=("2750",),
            ),
        ),
        licence="MIT",
        source="https://github.com/phelber/eurosat",
    ),
    CatalogEntry(
        name="ucf101",
        title="UCF101",
        template="a photo of a person doing {}.",
        classes=101,
        sizes=(7639, 1898, 3783),
        images=("ucf101/UCF-101-midframes",),
        split_file=_split("UCF101", "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8"),
        archives=(
            Archive(
                url="https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view",
                checksum=None,
                by_hand="UCF-101-midframes.zip",
                inside="UCF-101-midframes",
                to="UCF-101-midframes",
                gives=("UCF-101-midframes",),
            ),
        ),
        by_hand=(
            "The papers use the middle frame of each video, which CoOp's authors share on a page for browsers.\n"
            "1. Open https://drive.google.com/file/d/10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view\n"
            "   and download UCF-101-midframes.zip.\n"
            "2. Put it into {downloads} and run this command again: it is unpacked safely and checked.\n"
            "   Or unpack it yourself into {folder}/UCF-101-midframes, with one folder a class (Apply_Eye_Makeup/...)."
        ),
        licence="none stated (videos of YouTube)",
        source="https://www.crcv.ucf.edu/data/UCF101.php",
    ),
    CatalogEntry(
        name="imagenetv2",
        title="ImageNetV2",
        template=_IMAGE_OF_A,
        classes=1000,
        sizes=(0, 0, 10_000),
        images=("imagenetv2/imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val"),
        rule="imagenetv2",
        archives=(
            Archive(
                url=(
                    "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
                    "imagenetv2-matched-frequency.tar.gz"
                ),
                checksum="sha256:f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
                inside="imagenetv2-matched-frequency-format-val",
                to="imagenetv2-matched-frequency-format-val",
                gives=("imagenetv2-matched-frequency-format-val",),
            ),
        ),
        licence="MIT (the collection)",
        source="https://github.com/modestyachts/ImageNetV2",
    ),
    CatalogEntry(
        name="imagenet-sketch",
        title="ImageNet-Sketch",
        template=_IMAGE_OF_A,
        classes=1000,
        sizes=(0, 0, 50_889),
        images=("imagenet-sketch/images", "imagenet-sketch/sketch"),
        rule="imagenet-sketch",
        archives=(
            Archive(
                url="https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",
                checksum="sha256:4d3ce6b82a7c48aabf14aeac105eb533e75707f152cc858f55bfc022031a72ed",
                inside="sketch",
                to="images",
                gives=("images",),
            ),
        ),
        licence="none stated",
        source="https://github.com/HaohanWang/ImageNet-Sketch",
    ),
    CatalogEntry(
        name="imagenet-a",
        title="ImageNet-A",
        also=("imagenet-adversarial",),
        template=_IMAGE_OF_A,
        classes=200,
        sizes=(0, 0, 7500),
        images=("imagenet-adversarial/imagenet-a", "imagenet-a"),
        rule="imagenet-a",
        archives=(
            Archive(
                url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
                checksum="md5:c3e55429088dc681f30d81f4726b6595",
                inside="imagenet-a",
                to="imagenet-a",
                gives=("imagenet-a",),
            ),
        ),
        licence="MIT (the collection)",
        source="https://github.com/hendrycks/natural-adv-examples",
    ),
    CatalogEntry(
        name="imagenet-r",
        title="ImageNet-R",
        also=("imagenet-rendition",),
        template=_IMAGE_OF_A,
        classes=200,
        sizes=(0, 0, 30_000),
        images=("imagenet-rendition/imagenet-r", "imagenet-r"),
        rule="imagenet-r",
        archives=(
            Archive(
                url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
                checksum="md5:a61312130a589d0ca1a8fca1f2bd3337",
                inside="imagenet-r",
                to="imagenet-r",
                gives=("imagenet-r",),
            ),
        ),
        licence="none stated",
        source="https://github.com/hendrycks/imagenet-r",
    ),
)

CATALOG = MappingProxyType({row.name: row for row in _ROWS})
"""All rows by name, in the order of the papers' tables."""


def find_entry(name: str) -> CatalogEntry | None:
    """The data set of that name, title or other name; capitals, `-`, `_` and spaces do not count."""
    return next((row for row in _ROWS if _plain(name) in map(_plain, (row.name, row.title, *row.also))), None)


def catalog_entry(name: str) -> CatalogEntry:
    """The data set of that name.

    Raises:
        DataError: if there is none, with the nearest names.
    """
    entry = find_entry(name)
    if entry is None:
        near = difflib.get_close_matches(_plain(name), list(CATALOG), n=2, cutoff=0.5)
        meant = f"did you mean {' or '.join(map(repr, near))}? Names" if near else "names"
        raise DataError(f"The catalog has no data set {name!r}; {meant} are: {', '.join(CATALOG)}.")
    return entry


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()
