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
    from cocoop.checkpoints.pretrained import from_pretrained, save_pretrained
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
    from cocoop.evaluation.evaluate import Evaluation, evaluate, harmonic_mean
    from cocoop.experiments import Grid, base_to_new, cross_dataset, domain, few_shot, leave_one_out, sweep, together
    from cocoop.inference.classifier import Classifier
    from cocoop.inference.predictor import Prediction, predict
    from cocoop.methods import METHODS, CoCoOp, CoOp, Method, ZeroShot
    from cocoop.training.features import Features, encode_split
    from cocoop.training.fit import TrainResult, fit
    from cocoop.version import __version__

# Where each public name lives. They are imported when they are first asked for: PyTorch and open_clip take seconds,
# which a command that only lists files, explains itself or refuses a flag must not cost.
_HOMES = {
    "Backbone": "cocoop.backbones.backbone",
    "BackboneError": "cocoop.errors",
    "CheckpointError": "cocoop.errors",
    "Classifier": "cocoop.inference.classifier",
    "CoCoOp": "cocoop.methods",
    "CoOp": "cocoop.methods",
    "CocoopError": "cocoop.errors",
    "ConfigError": "cocoop.errors",
    "DataError": "cocoop.errors",
    "Dataset": "cocoop.data",
    "Evaluation": "cocoop.evaluation.evaluate",
    "Features": "cocoop.training.features",
    "Grid": "cocoop.experiments",
    "Item": "cocoop.data",
    "METHODS": "cocoop.methods",
    "Method": "cocoop.methods",
    "Prediction": "cocoop.inference.predictor",
    "Preprocessing": "cocoop.config",
    "PromptError": "cocoop.errors",
    "TrainConfig": "cocoop.config",
    "TrainResult": "cocoop.training.fit",
    "TrainingError": "cocoop.errors",
    "ZeroShot": "cocoop.methods",
    "__version__": "cocoop.version",
    "base_to_new": "cocoop.experiments",
    "cross_dataset": "cocoop.experiments",
    "domain": "cocoop.experiments",
    "encode_split": "cocoop.training.features",
    "evaluate": "cocoop.evaluation.evaluate",
    "few_shot": "cocoop.experiments",
    "fit": "cocoop.training.fit",
    "from_pretrained": "cocoop.checkpoints.pretrained",
    "harmonic_mean": "cocoop.evaluation.evaluate",
    "leave_one_out": "cocoop.experiments",
    "load_backbone": "cocoop.backbones",
    "load_data": "cocoop.data",
    "predict": "cocoop.inference.predictor",
    "save_pretrained": "cocoop.checkpoints.pretrained",
    "sweep": "cocoop.experiments",
    "together": "cocoop.experiments",
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
