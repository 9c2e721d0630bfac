"""cocoop: conditional prompt learning (CoCoOp), CoOp and zero-shot CLIP for your own photos.

import cocoop

backbone = cocoop.load_backbone("lite")
data = cocoop.load_data("photos").few_shot(16, seed=1)
method = cocoop.CoCoOp(backbone, data.classnames)
cocoop.fit(method, data, cocoop.TrainConfig(epochs=10))
print(cocoop.evaluate(method, data).accuracy)
"""

from cocoop.backbones import load_backbone
from cocoop.backbones.backbone import Backbone
from cocoop.checkpoint import from_pretrained, save_pretrained
from cocoop.config import Preprocessing, TrainConfig
from cocoop.data import Dataset, Item, load_data
from cocoop.errors import (
    BackboneError,
    CheckpointError,
    CocoopError,
    ConfigError,
    DataError,
    PromptError,
    TrainingError,
)
from cocoop.evaluate import Evaluation, evaluate, harmonic_mean
from cocoop.features import Features, encode_split
from cocoop.methods import METHODS, CoCoOp, CoOp, Method, ZeroShot
from cocoop.predict import Prediction, predict
from cocoop.protocols import base_to_new
from cocoop.train import TrainResult, fit

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Backbone",
    "BackboneError",
    "CheckpointError",
    "CoCoOp",
    "CoOp",
    "CocoopError",
    "ConfigError",
    "DataError",
    "Dataset",
    "Evaluation",
    "Features",
    "Item",
    "Method",
    "Prediction",
    "Preprocessing",
    "PromptError",
    "TrainConfig",
    "TrainResult",
    "TrainingError",
    "ZeroShot",
    "__version__",
    "base_to_new",
    "encode_split",
    "evaluate",
    "fit",
    "from_pretrained",
    "harmonic_mean",
    "load_backbone",
    "load_data",
    "predict",
    "save_pretrained",
]
