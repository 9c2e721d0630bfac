"""Several processes, started by the real launchers, give the results of one."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from made_images import cocoop, make_images
from paths import DRIVER_PATH, SUPPORT
from processes_driver import CASES, train, work
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_thread")

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": DRIVER_PATH}


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node")
ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes")


def launched(launcher, processes, *arguments, cwd=None):
    command = [sys.executable, "-m", *launcher, str(processes), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four classes of nine images; one training image and one test image are unreadable."""
    directory = make_images(tmp_path_factory.mktemp("photos") / "train", per_class=4)
    make_images(directory.parent / "test", per_class=5)
    (directory / "leaf" / "00.png").write_bytes(b"not an image")
    (directory.parent / "test" / "sun" / "03.png").write_bytes(b"not an image")
    return directory.parent


@pytest.fixture(scope="module")
def outcomes(images, tmp_path_factory):
    """Results of 1, 2 and 3 processes, and of a training that 2 started and 3 finished."""
    directory = tmp_path_factory.mktemp("outcomes")
    work(images, directory / "1", None, None)
    for count in (2, 3):
        launched(TORCHRUN, count, SUPPORT / "processes_driver.py", images, directory / str(count), directory / "run")
    return directory


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_like_one(case, count, outcomes):
    alone, together = (load_file(outcomes / str(n) / f"{case}.safetensors") for n in (1, count))
    one, several = (json.loads((outcomes / str(n) / f"{case}.json").read_text()) for n in (1, count))
    close = {"rtol": 0, "atol": 1e-5}
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, **close)
    torch.testing.assert_close(torch.tensor(several["history"]), torch.tensor(one["history"]), **close)
    assert several["unreadable"] == one["unreadable"] == ["train/leaf/00.png"]
    # Each of the 19 test images once, in order, and the unreadable one.
    *facts, confidences, skipped = several["test"]
    *facts_of_one, confidences_of_one, _ = one["test"]
    assert (facts, skipped) == (facts_of_one, 1)
    assert len(facts[0]) == len(set(facts[0])) == 19
    torch.testing.assert_close(torch.tensor(confidences), torch.tensor(confidences_of_one), **close)


def test_run_resumes_with_another_number_of_processes(outcomes, images):
    from cocoop.data import load_data

    data = load_data(images).few_shot(3, seed=1)
    undisturbed, result = train(data, None, "cocoop", {}, {"batch_size": 3, "epochs": 6}, False)
    resumed = load_file(outcomes / "run" / "prompt.safetensors")
    for name, tensor in undisturbed.learned().items():
        torch.testing.assert_close(resumed[name], tensor.detach(), rtol=0, atol=1e-5)
    # One process writes, so each epoch appears once.
    lines = [json.loads(line) for line in (outcomes / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    losses = torch.tensor([line["loss"] for line in lines])
    torch.testing.assert_close(losses, torch.tensor([e["loss"] for e in result.history]), rtol=0, atol=1e-5)


def test_command_line_works_in_two_processes(images, tmp_path):
    arguments = (
        "train",
        images,
        "--shots",
        3,
        "--epochs",
        2,
        "--cache-features",
        "--batch-size",
        2,
        "--skip-unreadable",
    )
    alone = cocoop(*arguments, "--output", "alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    together = launched(
        ACCELERATE, 2, "-m", "cocoop", *arguments, "--output", "together", "--class-parallel", cwd=tmp_path
    )
    # Only one process prints.
    assert together.stdout.count("cocoop on photos") == alone.stdout.count("cocoop on photos") == 1
    assert together.stderr.count("The run is in together.") == 1
    (one, several) = (json.loads((tmp_path / run / "base_to_new.json").read_text()) for run in ("alone", "together"))
    for mine, ours in zip(one["methods"], several["methods"], strict=True):
        assert [ours[which]["accuracy"] for which in ("base", "new")] == [mine[w]["accuracy"] for w in ("base", "new")]
        losses = [torch.tensor([epoch["loss"] for epoch in method["history"]]) for method in (mine, ours)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-4)
    measured = launched(
        TORCHRUN, 2, "-m", "cocoop", "eval", "together", images, "--skip-unreadable", "--format", "json", cwd=tmp_path
    )
    assert (
        json.loads(measured.stdout)["accuracy"]
        == json.loads((tmp_path / "together/results.json").read_text())["accuracy"]
    )


@pytest.mark.slow
def test_two_machines_need_no_shared_directory(images, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    nodes = []
    for rank in (0, 1):
        home = tmp_path / f"node-{rank}"
        home.mkdir()
        where = ["--nnodes", 2, "--node-rank", rank, "--nproc-per-node", 1, "--master-addr", "127.0.0.1"]
        command = [*where, "--master-port", port, "-m", "cocoop", "train", images, "--shots", 3, "--epochs", 2]
        command += ["--cache-features", "--skip-unreadable", "--compare", "none", "--output", "run"]
        command = [sys.executable, "-m", "torch.distributed.run", *map(str, command)]
        nodes.append(subprocess.Popen(command, cwd=home, env=ENVIRONMENT | {"COCOOP_CACHE": str(home / "cache")}))
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    assert not (tmp_path / "node-1" / "run").exists()
    lines = (tmp_path / "node-0" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
