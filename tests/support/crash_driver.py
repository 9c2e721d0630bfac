"""Kill work at random moments, repeatedly: python crash_driver.py WORK DIRECTORY KILLS WORKERS.

Each attempt is a fork of this process, so that PyTorch is imported only once. Prints the number of killed attempts.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from tiny_backbone import make_tiny_backbone

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.data.catalog.download import download
from cocoop.experiments.plans import Grid, base_to_new
from cocoop.experiments.sweep import sweep
from cocoop.methods import METHODS
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split
from cocoop.training.fit import fit

CASES = [("cocoop", True), ("coop", False), ("cocoop", False), ("coop", True)]
"""Method and `cache_features` of each run, in turn."""


def start(work, *arguments) -> int:
    """Start a process that does the work, and return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def kill_after(processes: list[int], seconds: float) -> int:
    """Kill processes after some seconds, and return the number of those that were still running."""
    until = time.monotonic() + seconds
    codes = []
    for process in processes:
        while not (ended := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() < until:
            time.sleep(0.002)
        if not ended[0]:
            for running in processes[len(codes) :]:
                os.kill(running, signal.SIGKILL)
            ended = os.waitpid(process, 0)
        codes.append(os.waitstatus_to_exitcode(ended[1]))
    assert set(codes) <= {0, -signal.SIGKILL}, codes
    return sum(code != 0 for code in codes)


def finish(process: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def train(backbone, data, run: Path, workers: int, key: str, cached: bool) -> None:
    method = METHODS[key](backbone, data.classnames, context="a photo of a", seed=3)
    config = TrainConfig(epochs=8, batch_size=4, cache_features=cached, workers=workers, seed=2, learning_rate=0.05)
    fit(method, data, config, run=run, resume=True)


def trainings(home: Path, kills: int, workers: int, chance: random.Random) -> int:
    """Train in HOME/NUMBER with at least this many kills, and in HOME/undisturbed-CASE with none."""
    backbone = make_tiny_backbone()
    data = load_data(home / "photos").few_shot(3, seed=1)
    seconds = []
    for number, case in enumerate(CASES):
        started = time.monotonic()
        finish(start(train, backbone, data, home / f"undisturbed-{number}", workers, *case))
        seconds.append(time.monotonic() - started)
    done = run = 0
    while done < kills:
        number = run % len(CASES)
        work = (train, backbone, data, home / str(run), workers, *CASES[number])
        # A kill loses one epoch, so an attempt must last several epochs on average to make progress.
        while kill_after([start(*work)], chance.uniform(0, 0.6) * seconds[number]):
            done += 1
        run += 1
    return done


def run_all(backbone, data, directory: Path) -> None:
    epochs = {"epochs": 8, "warmup_epochs": 0}
    plan = base_to_new(data, Grid(seeds=(1,), shots=(2,), preset="cached", changes=epochs))
    counts = sweep(directory, plan, backbone, workers=0)
    assert counts["failed"] == 0, counts


def sweeps(home: Path, kills: int, _workers: int, chance: random.Random) -> int:
    """Sweep in HOME/NUMBER with at least this many kills, and in HOME/undisturbed with none."""
    backbone = make_tiny_backbone()
    data = load_data(home / "photos")
    started = time.monotonic()
    finish(start(run_all, backbone, data, home / "undisturbed"))
    seconds = time.monotonic() - started
    done = number = 0
    while done < kills:
        directory = home / str(number)
        number += 1
        # One process, or two that share the runs; some live long enough to finish a run.
        while lost := kill_after(
            [start(run_all, backbone, data, directory) for _ in range(chance.randint(1, 2))],
            chance.uniform(0, 1.5) * seconds,
        ):
            done += lost
    return done


def encode(backbone, data, cache: Path) -> None:
    encode_split(backbone, data, "train", batch_size=2, workers=0, cache=FeatureCache(cache, backbone))


def encodings(home: Path, kills: int, _workers: int, chance: random.Random) -> int:
    """Fill HOME/cache with two processes at a time and at least this many kills."""
    backbone = make_tiny_backbone()
    data = load_data(home / "photos")
    started = time.monotonic()
    finish(start(encode, backbone, data, home / "elsewhere"))
    seconds = time.monotonic() - started
    done = 0
    while done < kills:
        both = [start(encode, backbone, data, home / "cache") for _ in range(2)]
        if lost := kill_after(both, chance.uniform(0, 1) * seconds):
            done += lost
        else:
            # The cache is complete: start again.
            for shard in (home / "cache").rglob("*.safetensors"):
                shard.unlink()
    finish(start(encode, backbone, data, home / "cache"))
    return done


def downloads(home: Path, kills: int, _workers: int, chance: random.Random) -> int:
    """Download the file at the address in HOME/address several times, with at least this many kills."""
    address, checksum = (home / "address").read_text().split()
    done = number = 0
    while done < kills:
        target = home / f"{number}.bin"
        while kill_after([start(lambda: download(address, target, checksum=checksum))], chance.uniform(0, 0.3)):  # noqa: B023
            done += 1
        number += 1
    return done


if __name__ == "__main__":
    torch.set_num_threads(1)
    work, directory, kills, workers = sys.argv[1:]
    do = {"train": trainings, "sweep": sweeps, "encode": encodings, "download": downloads}[work]
    sys.stdout.write(f"{do(Path(directory), int(kills), int(workers), random.Random(1))}\n")
