"""Data: items and splits, the few-shot draw, photos as tensors. Knows nothing of models.

data = load_data("photos").few_shot(16, seed=1).base()
data.check_trainable()
data.check_files()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cocoop.data.catalog import CatalogEntry, Place, data_root
from cocoop.data.catalog_fetch import fetch, instructions
from cocoop.data.catalog_table import catalog_entry
from cocoop.data.catalog_verify import Verification, verify
from cocoop.data.dataset import Dataset, Item, Split
from cocoop.data.draw import Which, draw_few_shot
from cocoop.data.names import clean_name
from cocoop.data.readers import load_data

if TYPE_CHECKING:
    from cocoop.data.images import PhotoError, Transform, open_photo, test_transform, train_transform
    from cocoop.data.loading import BadPhoto, Batch, PhotoDataset, epoch_order, photo_batches, plain_order

# What needs PyTorch is imported when it is first asked for: listing photos, drawing and the catalog do not.
_HOMES = {
    "BadPhoto": "cocoop.data.loading",
    "Batch": "cocoop.data.loading",
    "PhotoDataset": "cocoop.data.loading",
    "PhotoError": "cocoop.data.images",
    "Transform": "cocoop.data.images",
    "epoch_order": "cocoop.data.loading",
    "open_photo": "cocoop.data.images",
    "photo_batches": "cocoop.data.loading",
    "plain_order": "cocoop.data.loading",
    "test_transform": "cocoop.data.images",
    "train_transform": "cocoop.data.images",
}

__all__ = [
    "BadPhoto",
    "Batch",
    "CatalogEntry",
    "Dataset",
    "Item",
    "PhotoDataset",
    "PhotoError",
    "Place",
    "Split",
    "Transform",
    "Verification",
    "Which",
    "catalog_entry",
    "clean_name",
    "data_root",
    "draw_few_shot",
    "epoch_order",
    "fetch",
    "instructions",
    "load_data",
    "open_photo",
    "photo_batches",
    "plain_order",
    "test_transform",
    "train_transform",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cocoop.data' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
