"""Data: items and splits, the few-shot draw, photos as tensors. Knows nothing of models.

data = load_data("photos").few_shot(16, seed=1).base()
data.check_trainable()
data.check_files()
"""

from cocoop.data.catalog import CatalogEntry, Place, data_root
from cocoop.data.catalog_fetch import fetch, instructions
from cocoop.data.catalog_table import catalog_entry
from cocoop.data.catalog_verify import Verification, verify
from cocoop.data.dataset import Dataset, Item, Split
from cocoop.data.draw import Which, draw_few_shot
from cocoop.data.images import PhotoError, Transform, open_photo, test_transform, train_transform
from cocoop.data.loading import BadPhoto, Batch, PhotoDataset, epoch_order, photo_batches, plain_order
from cocoop.data.names import clean_name
from cocoop.data.readers import load_data

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
