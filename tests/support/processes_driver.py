"""Train and evaluate in one process or several, for `test_processes.py`.

torchrun --nproc-per-node N processes_driver.py IMAGES OUT [RUN]: writes the losses, learned tensors and metrics of each
case to OUT. In RUN, a training is started and interrupted in one process; if it exists already, it is resumed.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_backbone import make_tiny_backbone

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.evaluation.evaluate import evaluate
from cocoop.methods import METHODS
from cocoop.training.distributed import Processes, launched_engine
from cocoop.training.fit import fit

CASES = {
    "coop, images": ("coop", {}, {"batch_size": 5, "workers": 1}, False),
    "cocoop, fewer images than processes": ("cocoop", {}, {"batch_size": 2, "cache_features": True}, False),
    "cocoop, classes": ("cocoop", {}, {"batch_size": 1, "cache_features": True}, True),
    "cocoop, classes, augmented": ("cocoop", {}, {"batch_size": 3}, True),
    "coop, class-specific classes": (
        "coop",
        {"context": None, "context_length": 4, "class_specific": True},
        {"batch_size": 4, "cache_features": True},
        True,
    ),
}
"""Method, its settings, the training configuration, and `class_parallel`."""


def train(data, engine, method, settings, training, class_parallel, **options):
    settings = {"context": "a photo of a", "seed": 3} | settings
    learner = METHODS[method](make_tiny_backbone(), data.classnames, **settings)
    config = TrainConfig(**({"epochs": 3, "workers": 0, "seed": 2, "learning_rate": 0.05} | training))
    result = fit(learner, data, config, engine=engine, class_parallel=class_parallel, **options)
    return learner, result


def work(images: Path, out: Path, run: Path | None, engine) -> None:
    """Run all cases; the first process writes the results."""
    processes = Processes(engine)
    data = load_data(images).few_shot(3, seed=1)
    out.mkdir(parents=True, exist_ok=True)
    for name, case in CASES.items():
        learner, result = train(data, engine, *case)
        measured = evaluate(learner, data, workers=0, skip_unreadable=True, batch_size=4, engine=engine)
        gathered = processes.gather((result, measured, {n: t.detach() for n, t in learner.learned().items()}))
        for other, other_measured, tensors in gathered:
            assert [e["loss"] for e in other.history] == [e["loss"] for e in result.history]
            assert (other_measured, other.unreadable) == (measured, result.unreadable)
            assert all(torch.equal(tensors[n], t) for n, t in learner.learned().items())
        if processes.is_first:
            save_file({n: t.detach().contiguous() for n, t in learner.learned().items()}, out / f"{name}.safetensors")
            results = {
                "history": [[e["loss"], e["accuracy"], e["images"]] for e in result.history],
                "unreadable": [image.path for image in result.unreadable],
                "test": [measured.paths, measured.labels, measured.predicted, measured.confidences, measured.skipped],
            }
            (out / f"{name}.json").write_text(json.dumps(results))
    if run is not None:
        interrupt_or_resume(data, run, engine, processes)


def interrupt_or_resume(data, run, engine, processes):
    """Train for six epochs: interrupt the last process in the third epoch, or resume an interrupted run."""
    # Checked before any process can create the directory.
    exists = processes.gather(run.exists())[0]

    def on_step(report):
        if not exists and report.epoch == 3 and processes.index == processes.count - 1:
            os.kill(os.getpid(), signal.SIGINT)

    case = ("cocoop", {}, {"batch_size": 3, "epochs": 6}, False)
    _, result = train(data, engine, *case, run=run, resume=True, on_step=on_step)
    assert result.interrupted is not exists
    assert [e["epoch"] for e in result.history] == [1, 2] if not exists else [1, 2, 3, 4, 5, 6]


if __name__ == "__main__":
    torch.set_num_threads(1)
    images, out, *rest = map(Path, sys.argv[1:])
    work(images, out, rest[0] if rest else None, launched_engine("cpu"))
