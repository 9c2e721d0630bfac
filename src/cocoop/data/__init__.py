"""Data sets: items and splits, few-shot sampling, and images as tensors. Nothing here knows a model.

data = load_data("photos").few_shot(16, seed=1).base()
data.check_trainable()
data.check_files()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cocoop.data.catalog.datasets import DatasetStatus, download_dataset, list_datasets, verify_dataset
from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.location import data_root
from cocoop.data.catalog.verify import Verification
from cocoop.data.dataset import Dataset, Item, Split
from cocoop.data.few_shot import ClassSubset, sample_few_shot
from cocoop.data.readers.load_data import load_data
from cocoop.text.prompts import clean_name

if TYPE_CHECKING:
    from cocoop.data.images import ImageError, Transform, open_image, test_transform, train_transform
    from cocoop.data.loader import Batch, ImageDataset, UnreadableImage, epoch_order, image_batches, plain_order

# Names that need PyTorch are imported on first use; listing images, few-shot sampling and the catalog do not need it.
_HOMES = {
    "UnreadableImage": "cocoop.data.loader",
    "Batch": "cocoop.data.loader",
    "ImageDataset": "cocoop.data.loader",
    "ImageError": "cocoop.data.images",
    "Transform": "cocoop.data.images",
    "epoch_order": "cocoop.data.loader",
    "open_image": "cocoop.data.images",
    "image_batches": "cocoop.data.loader",
    "plain_order": "cocoop.data.loader",
    "test_transform": "cocoop.data.images",
    "train_transform": "cocoop.data.images",
}

__all__ = [
    "Batch",
    "CatalogEntry",
    "ClassSubset",
    "Dataset",
    "DatasetStatus",
    "ImageDataset",
    "ImageError",
    "Item",
    "Split",
    "Transform",
    "UnreadableImage",
    "Verification",
    "clean_name",
    "data_root",
    "download_dataset",
    "epoch_order",
    "image_batches",
    "list_datasets",
    "load_data",
    "open_image",
    "plain_order",
    "sample_few_shot",
    "test_transform",
    "train_transform",
    "verify_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cocoop.data' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
