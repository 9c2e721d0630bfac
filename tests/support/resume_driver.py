"""Train in separate processes, some of which stop themselves in the middle of an epoch.

python resume_driver.py IMAGES DIRECTORY: writes the runs DIRECTORY/CASE/undisturbed and DIRECTORY/CASE/stopped of each
case, and their exit codes to DIRECTORY/CASE/codes.json. Each run is a fork of this process, so that PyTorch is imported
only once.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from tiny_backbone import make_tiny_backbone

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.methods import METHODS
from cocoop.training.fit import fit

CASES = {
    "cocoop-augmented-SIGINT": ("cocoop", False, signal.SIGINT),
    "cocoop-cached-SIGKILL": ("cocoop", True, signal.SIGKILL),
    "coop-augmented-SIGKILL": ("coop", False, signal.SIGKILL),
    "coop-cached-SIGINT": ("coop", True, signal.SIGINT),
}
STOP_AT = (3, 2)
"""Epoch and step after which a run is stopped."""


def train(backbone, images: Path, run: Path, key: str, cached: bool, stop: signal.Signals | None) -> int:
    """Train for four epochs of three steps; return an exit code like that of the command line."""
    data = load_data(images).few_shot(3, seed=1)
    method = METHODS[key](backbone, data.classnames, context="a photo of a", seed=3)
    config = TrainConfig(epochs=4, batch_size=4, cache_features=cached, workers=1, seed=2, learning_rate=0.05)

    def on_step(report):
        if stop and (report.epoch, report.images // 4) == STOP_AT:
            os.kill(os.getpid(), stop)

    return 130 if fit(method, data, config, run=run, resume=True, on_step=on_step).interrupted else 0


def in_a_process(*arguments) -> int:
    """Run `train` in a fork; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        code = train(*arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # Shells start background jobs with Ctrl-C ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    images, directory = map(Path, sys.argv[1:])
    backbone = make_tiny_backbone()
    for case, (key, cached, how) in CASES.items():
        stopped = directory / case / "stopped"
        codes = {
            "undisturbed": in_a_process(backbone, images, directory / case / "undisturbed", key, cached, None),
            "stopped": in_a_process(backbone, images, stopped, key, cached, how),
            "metrics_when_stopped": (stopped / "metrics.jsonl").read_text(),
            "resumed": in_a_process(backbone, images, stopped, key, cached, None),
        }
        (directory / case / "codes.json").write_text(json.dumps(codes))
