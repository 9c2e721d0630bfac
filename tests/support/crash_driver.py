"""Work that is killed at random moments, again and again: python crash_driver.py WORK FOLDER KILLS WORKERS.

Each attempt is a process, a fork of this one, which has imported PyTorch for all of them. Prints how many were killed.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.data.catalog.download import download
from cocoop.experiments import Grid, base_to_new, sweep
from cocoop.methods import METHODS
from cocoop.training.feature_cache import FeatureCache
from cocoop.training.features import encode_split
from cocoop.training.fit import fit
from conftest import make_tiny_backbone

CASES = [("cocoop", True), ("coop", False), ("cocoop", False), ("coop", True)]
"""Method, and whether photos are encoded once; runs take turns."""


def begin(work, *arguments) -> int:
    """The number of a process that does the work."""
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


def killed(processes: list[int], after: float) -> int:
    """Kill processes after some seconds; how many were still at work."""
    until = time.monotonic() + after
    codes = []
    for process in processes:
        # The time of all ends at once, but who is done before is not waited for.
        while not (ended := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() < until:
            time.sleep(0.002)
        if not ended[0]:
            for still_there in processes[len(codes) :]:
                os.kill(still_there, signal.SIGKILL)
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
    """Runs that end in HOME/NUMBER, and undisturbed ones in HOME/undisturbed-CASE; at least so many kills in all."""
    backbone = make_tiny_backbone()
    data = load_data(home / "photos").few_shot(3, seed=1)
    seconds = []
    for number, case in enumerate(CASES):
        started = time.monotonic()
        finish(begin(train, backbone, data, home / f"undisturbed-{number}", workers, *case))
        seconds.append(time.monotonic() - started)
    done = run = 0
    while done < kills:
        number = run % len(CASES)
        work = (train, backbone, data, home / str(run), workers, *CASES[number])
        # An epoch is what a kill costs: attempts are as long as some of them, or none would ever get on.
        while killed([begin(*work)], chance.uniform(0, 0.6) * seconds[number]):
            done += 1
        run += 1
    return done


def run_all(backbone, data, directory: Path) -> None:
    epochs = {"epochs": 8, "warmup_epochs": 0}
    plan = base_to_new(data, Grid(seeds=(1,), shots=(2,), preset="cached", changes=epochs))
    counts = sweep(directory, plan, backbone, workers=0)
    assert counts["failed"] == 0, counts


def sweeps(home: Path, kills: int, _workers: int, chance: random.Random) -> int:
    """Sweeps that end in HOME/NUMBER, and an undisturbed one in HOME/undisturbed; at least so many kills in all."""
    backbone = make_tiny_backbone()
    data = load_data(home / "photos")
    started = time.monotonic()
    finish(begin(run_all, backbone, data, home / "undisturbed"))
    seconds = time.monotonic() - started
    done = number = 0
    while done < kills:
        directory = home / str(number)
        number += 1
        # One at a time, or two that share the runs; some live long enough to finish one.
        while lost := killed(
            [begin(run_all, backbone, data, directory) for _ in range(chance.randint(1, 2))],
            chance.uniform(0, 1.5) * seconds,
        ):
            done += lost
    return done


def encode(backbone, data, cache: Path) -> None:
    encode_split(backbone, data, "train", batch_size=2, workers=0, cache=FeatureCache(cache, backbone))


def encodings(home: Path, kills: int, _workers: int, chance: random.Random) -> int:
    """Two processes at a time that fill HOME/cache; at least so many kills."""
    backbone = make_tiny_backbone()
    data = load_data(home / "photos")
    started = time.monotonic()
    finish(begin(encode, backbone, data, home / "elsewhere"))
    seconds = time.monotonic() - started
    done = 0
    while done < kills:
        both = [begin(encode, backbone, data, home / "cache") for _ in range(2)]
        if lost := killed(both, chance.uniform(0, 1) * seconds):
            done += lost
        else:
            # It is full: from the beginning.
            for shard in (home / "cache").rglob("*.safetensors"):
                shard.unlink()
    finish(begin(encode, backbone, data, home / "cache"))
    return done


def downloads(home: Path, kills: int, _workers: int, chance: random.Random) -> int:
    """A file from the address in HOME/address, until it is there; at least so many kills, over several files."""
    address, checksum = (home / "address").read_text().split()
    done = number = 0
    while done < kills:
        target = home / f"{number}.bin"
        while killed([begin(lambda: download(address, target, checksum=checksum))], chance.uniform(0, 0.3)):  # noqa: B023
            done += 1
        number += 1
    return done


if __name__ == "__main__":
    torch.set_num_threads(1)
    work, directory, kills, workers = sys.argv[1:]
    do = {"train": trainings, "sweep": sweeps, "encode": encodings, "download": downloads}[work]
    sys.stdout.write(f"{do(Path(directory), int(kills), int(workers), random.Random(1))}\n")
