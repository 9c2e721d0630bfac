"""Records: one JSON file per run of an experiment, from which all tables and charts are made. No PyTorch.

A sweep is a directory of runs. Each run has its own directory, `runs/NAME/`, with `record.json` when it is finished or
`failure.json` when it failed, beside the files of its training. The tests of a record may have been measured at
different times: a sweep adds those that are missing.

A record holds

    format              1
    protocol            base-to-new, cross-dataset, domain, few-shot or together
    data                name of the training data set; for several domains, their names joined by +
    method              zero-shot, coop or cocoop
    seed, shots         null for zero-shot, which samples and trains nothing
    preset              paper, or cached: the same with images encoded once
    changes             {setting: value} that differ from the published ones, such as {"learning_rate": 0.02}
    backbone, precision
    settings            settings of the method: context, context_length, ...
    train               settings of the training: epochs, batch_size, learning_rate, ...; null for zero-shot
    classes             number of training classes (for zero-shot: number of classes that other methods train on)
    train_images        number of training images; 0 for zero-shot
    train_skipped       unreadable training images
    split_sha256        hash of the class names and image lists of the data set, not of the images
    key                 hash of everything that decides the trained prompt, images included
    backbone_sha256     hash of the weights of both towers and of everything else that decides a logit
    tests               {test: numbers}; base-to-new and together: base, new (and all); few-shot: test; cross-dataset
                        and domain: source, then the name of each target
    harmonic_mean       H of base and new accuracy in percent; null without these tests
    history             one entry per epoch: epoch, loss, accuracy, learning_rate, images, seconds
    seconds             {"training": ..., "evaluation": ...} of wall time, without encoding test images
    peak_memory_bytes   largest resident memory of the process during the run
    versions            versions of cocoop, python, torch, torchvision, open_clip_torch
    machine             processor, threads, device
    finished            time, ISO 8601, UTC

and the numbers of a test are

    data                name of the data set of its images
    split_sha256        hash of that data set
    template            template of the prompts for zero-shot; null for methods that learn a context
    key                 hash of everything that decides the measurement, images included
    classes             number of classes to choose from
    images, skipped     images measured, and unreadable images
    overlap             test images with the bytes of a training image; they are not measured
    accuracy, macro_f1  in percent
    ece                 expected calibration error in percent, 15 bins of equal width
    per_class           {class name: accuracy in percent}, for classes with images
    confusions          [[true class, predicted class, images], ...], most frequent first
    reliability         [[images, mean confidence, accuracy], ...] of the 15 bins, in percent; [0, 0, 0] for empty bins

A failure has the same protocol, data, method, seed, shots, preset, changes and backbone, and `reason` (one
line), `details` (a traceback; empty for an error that explains itself) and `failed` (time).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat

from cocoop.errors import CheckpointError
from cocoop.storage.json_files import read_json
from cocoop.storage.json_schema import Identifier, NonNegativeInt, Percent, Schema, check_schema

__all__ = ["FAILURE", "FORMAT", "RECORD", "RUNS", "Sweep", "read_record", "read_sweep"]

FORMAT = 1
RUNS, RECORD, FAILURE = "runs", "record.json", "failure.json"


class _Run(Schema):
    protocol: Identifier
    data: str
    method: Identifier
    preset: Identifier
    changes: dict[str, str | float | bool | None]
    backbone: str


class _Test(Schema):
    data: str
    classes: NonNegativeInt
    images: NonNegativeInt
    skipped: NonNegativeInt
    overlap: NonNegativeInt
    accuracy: Percent
    macro_f1: Percent
    ece: Percent
    per_class: dict[str, Percent]
    confusions: list[tuple[str, str, NonNegativeInt]]
    reliability: list[tuple[NonNegativeInt, Percent, Percent]]


class _Training(Schema):
    epochs: NonNegativeInt
    batch_size: NonNegativeInt
    learning_rate: float


class _Epoch(Schema):
    epoch: NonNegativeInt
    loss: float
    accuracy: Percent


class _Seconds(Schema):
    training: NonNegativeFloat
    evaluation: NonNegativeFloat


class _Versions(Schema, extra="allow"):
    __pydantic_extra__: dict[str, str] = Field(init=False)
    cocoop: str


class _Machine(Schema):
    processor: str
    threads: NonNegativeInt
    device: str


class _Record(_Run):
    precision: str
    settings: dict[str, Any]
    classes: NonNegativeInt
    train_images: NonNegativeInt
    split_sha256: str
    tests: dict[str, _Test]
    harmonic_mean: Percent | None
    history: list[_Epoch]
    seconds: _Seconds
    peak_memory_bytes: NonNegativeInt
    versions: _Versions
    machine: _Machine
    finished: str


class _TrainedRecord(_Record):
    seed: NonNegativeInt
    shots: NonNegativeInt
    train: _Training


class _ZeroShotRecord(_Record):
    seed: NonNegativeInt | None
    shots: NonNegativeInt | None
    train: _Training | None


class _Failure(_Run):
    seed: NonNegativeInt | None
    shots: NonNegativeInt | None
    reason: str
    details: str


@dataclass(frozen=True)
class Sweep:
    """The records of a sweep so far."""

    records: list[dict[str, Any]]
    """Records of finished runs, ordered by the name of the run directory."""
    failures: list[dict[str, Any]]
    """Failures of runs that have not succeeded since."""


def read_sweep(directory: Path) -> Sweep:
    """Read all records of a sweep.

    Args:
        directory: directory of the sweep.

    Raises:
        CheckpointError: if there is no sweep, or a record is damaged or of another format.
    """
    runs = directory / RUNS
    if not runs.is_dir():
        raise CheckpointError(
            f"There is no sweep in '{directory}'; give a directory written by `cocoop bench` or `cocoop.sweep`."
        )
    records, failures = [], []
    for run in sorted(entry for entry in runs.iterdir() if entry.is_dir()):
        if (run / RECORD).exists():
            records.append(read_record(run / RECORD))
        elif (run / FAILURE).exists():
            failures.append(read_record(run / FAILURE))
    return Sweep(records, failures)


def read_record(path: Path) -> dict[str, Any]:
    """Read a record or a failure.

    Raises:
        CheckpointError: if it is missing, damaged or of another format.
    """
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"'{path}' has record format {record.get('format')!r}, and this version of cocoop reads {FORMAT}; measure "
            "again in another directory, or use the version that wrote it."
        )
    schema = _ZeroShotRecord if record.get("method") == "zero-shot" else _TrainedRecord
    check_schema(record, _Failure if path.name == FAILURE else schema, path)
    return record
