"""A training that the system gives little memory: python memory_driver.py PHOTOS MEGABYTES.

Prints each warning, what is said where even the least is too much, and how far the prompt is from one that had enough
and from where it began.
"""

import dataclasses
import resource
import sys
import warnings
from pathlib import Path

import psutil
import torch

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.errors import about_memory
from cocoop.methods import CoOp
from cocoop.training.fit import fit
from conftest import make_tiny_backbone

CLASSES = 1000
"""Their prompts keep 220 MiB for the gradient."""


def train(data, allowed: int) -> CoOp:
    """Train where the process may take so many bytes more than it has."""
    backbone = make_tiny_backbone(width=192, layers=4)
    method = CoOp(backbone, data.classnames, seed=1)
    config = TrainConfig(
        epochs=1, batch_size=CLASSES, warmup_epochs=0, workers=0, cache_features=True, learning_rate=0.05
    )
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + allowed, most))
    try:
        fit(method, data, config)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return method


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = load_data(Path(sys.argv[1]))
    names = tuple(f"{7919 * number % 10007} and {number}" for number in range(CLASSES))
    others = tuple(dataclasses.replace(data.train[0], label=label) for label in range(len(names)))
    data = dataclasses.replace(data, classnames=names, train=others, val=(), test=())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tight = train(data, int(sys.argv[2]) << 20)
    told = [str(warning.message) for warning in told]
    try:
        train(data, 8 << 20)
    except (RuntimeError, MemoryError) as error:
        told.append(str(about_memory(error)))
    roomy = train(data, 2**40)
    difference = (tight.context - roomy.context).abs().max().item()
    moved = (tight.context - CoOp(tight.backbone, names, seed=1).context).abs().max().item()
    sys.stdout.write("\n".join([*told, str(difference), str(moved)]))
