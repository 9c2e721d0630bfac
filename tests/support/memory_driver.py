"""Train with little memory: python memory_driver.py IMAGES MEGABYTES.

Prints each warning, the error if memory does not suffice at all, and the distances between the prompt and one trained
with enough memory, and between the prompt and its initial value.
"""

import dataclasses
import resource
import sys
import warnings
from pathlib import Path

import psutil
import torch
from tiny_backbone import make_tiny_backbone

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.errors import about_memory
from cocoop.methods import CoOp
from cocoop.training.fit import fit

CLASSES = 1000
"""Number of classes; their prompts keep 220 MiB for the backward pass."""


def train(data, limit: int) -> CoOp:
    """Train with a limit on the memory that the process may allocate in addition, in bytes."""
    backbone = make_tiny_backbone(width=192, layers=4)
    method = CoOp(backbone, data.classnames, seed=1)
    config = TrainConfig(
        epochs=1, batch_size=CLASSES, warmup_epochs=0, workers=0, cache_features=True, learning_rate=0.05
    )
    maximum = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + limit, maximum))
    try:
        fit(method, data, config)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (maximum, maximum))
    return method


if __name__ == "__main__":
    torch.set_num_threads(1)
    data = load_data(Path(sys.argv[1]))
    names = tuple(f"{7919 * number % 10007} and {number}" for number in range(CLASSES))
    others = tuple(dataclasses.replace(data.train[0], label=label) for label in range(len(names)))
    data = dataclasses.replace(data, classnames=names, train=others, val=(), test=())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        limited = train(data, int(sys.argv[2]) << 20)
    lines = [str(warning.message) for warning in caught]
    try:
        train(data, 8 << 20)
    except (RuntimeError, MemoryError) as error:
        lines.append(str(about_memory(error)))
    unlimited = train(data, 2**40)
    difference = (limited.context - unlimited.context).abs().max().item()
    moved = (limited.context - CoOp(limited.backbone, names, seed=1).context).abs().max().item()
    sys.stdout.write("\n".join([*lines, str(difference), str(moved)]))
