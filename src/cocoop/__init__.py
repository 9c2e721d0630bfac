"""cocoop: conditional prompt learning (CoCoOp), CoOp and zero-shot CLIP for your own photos.

import cocoop

backbone = cocoop.load_backbone("lite")
data = cocoop.load_data("photos").few_shot(16, seed=1)
method = cocoop.CoCoOp(backbone, data.classnames)
cocoop.fit(method, data, cocoop.TrainConfig(epochs=10))
print(cocoop.evaluate(method, data).accuracy)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cocoop.backbones import load_backbone
    from cocoop.backbones.backbone import Backbone
    from cocoop.checkpoint import from_pretrained, save_pretrained
    from cocoop.classifier import Classifier
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
    from cocoop.evaluation import Evaluation, evaluate, harmonic_mean
    from cocoop.features import Features, encode_split
    from cocoop.methods import METHODS, CoCoOp, CoOp, Method, ZeroShot
    from cocoop.prediction import Prediction, predict
    from cocoop.protocols import Grid, base_to_new, cross_dataset, domain, few_shot, leave_one_out, sweep, together
    from cocoop.train import TrainResult, fit
    from cocoop.version import __version__

# Where each public name lives. They are imported when they are first asked for: PyTorch and open_clip take seconds,
# which a command that only lists files, explains itself or refuses a flag must not cost.
_HOMES = {
    "Backbone": "cocoop.backbones.backbone",
    "BackboneError": "cocoop.errors",
    "CheckpointError": "cocoop.errors",
    "Classifier": "cocoop.classifier",
    "CoCoOp": "cocoop.methods",
    "CoOp": "cocoop.methods",
    "CocoopError": "cocoop.errors",
    "ConfigError": "cocoop.errors",
    "DataError": "cocoop.errors",
    "Dataset": "cocoop.data",
    "Evaluation": "cocoop.evaluation",
    "Features": "cocoop.features",
    "Grid": "cocoop.protocols",
    "Item": "cocoop.data",
    "METHODS": "cocoop.methods",
    "Method": "cocoop.methods",
    "Prediction": "cocoop.prediction",
    "Preprocessing": "cocoop.config",
    "PromptError": "cocoop.errors",
    "TrainConfig": "cocoop.config",
    "TrainResult": "cocoop.train",
    "TrainingError": "cocoop.errors",
    "ZeroShot": "cocoop.methods",
    "__version__": "cocoop.version",
    "base_to_new": "cocoop.protocols",
    "cross_dataset": "cocoop.protocols",
    "domain": "cocoop.protocols",
    "encode_split": "cocoop.features",
    "evaluate": "cocoop.evaluation",
    "few_shot": "cocoop.protocols",
    "fit": "cocoop.train",
    "from_pretrained": "cocoop.checkpoint",
    "harmonic_mean": "cocoop.evaluation",
    "leave_one_out": "cocoop.protocols",
    "load_backbone": "cocoop.backbones",
    "load_data": "cocoop.data",
    "predict": "cocoop.prediction",
    "save_pretrained": "cocoop.checkpoint",
    "sweep": "cocoop.protocols",
    "together": "cocoop.protocols",
}

__all__ = [
    "METHODS",
    "Backbone",
    "BackboneError",
    "CheckpointError",
    "Classifier",
    "CoCoOp",
    "CoOp",
    "CocoopError",
    "ConfigError",
    "DataError",
    "Dataset",
    "Evaluation",
    "Features",
    "Grid",
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
    "cross_dataset",
    "domain",
    "encode_split",
    "evaluate",
    "few_shot",
    "fit",
    "from_pretrained",
    "harmonic_mean",
    "leave_one_out",
    "load_backbone",
    "load_data",
    "predict",
    "save_pretrained",
    "sweep",
    "together",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cocoop' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
