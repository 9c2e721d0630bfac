"""What an experiment leaves behind: one JSON record a run, from which all tables and plots are made. No PyTorch.

A sweep is a folder of runs; each run has a folder of its own, `runs/NAME/`, with `record.json` when it is done, or
`failure.json` when it has failed, beside what training leaves there. Its tests may have been measured at several times:
a sweep adds to a record what is missing.

A record holds

    format              1
    protocol            base-to-new, cross-dataset, domain, few-shot or together
    data                name of the data set that was trained on; for several domains, their names with + between
    method              zero-shot, coop or cocoop
    seed, shots         null for zero-shot, which draws and learns nothing
    preset              paper, or cached: the same from photos encoded once
    changes             {setting: value} that differ from the published ones, as {"learning_rate": 0.02}
    backbone, precision
    settings            of the method: context, context_length, ...
    train               of the training: epochs, batch_size, learning_rate, ...; null for zero-shot
    classes             number of classes that were learned (for zero-shot: that would have been)
    train_photos        number of training photos; 0 for zero-shot
    train_skipped       training photos that could not be read
    split_sha256        of class names and lists of the data set that was drawn from; not of the photos' bytes
    key                 of all that decides what was learned, the photos' bytes included
    backbone_sha256     of the weights of both towers and all else that decides a logit
    tests               {test: numbers}; base-to-new and together: base, new (and all); few-shot: test; cross-dataset
                        and domain: source, then the name of each target
    harmonic_mean       H of base and new in percent; null where there are none
    history             one entry an epoch: epoch, loss, accuracy, learning_rate, photos, seconds
    seconds             {"training": ..., "evaluation": ...} of wall time; encoding test photos not included
    peak_memory_bytes   largest resident memory of the process during the run
    versions            of cocoop, python, torch, torchvision, open_clip_torch
    machine             processor, threads, device
    finished            time of day, ISO 8601, UTC

and the numbers of a test are

    data                name of the data set of its photos
    split_sha256        of that data set
    template            of the prompts, for zero-shot; null for what learns its context
    key                 of all that decides what was measured, the photos' bytes included
    classes             number of classes to choose among
    photos, skipped     measured, and unreadable
    overlap             test photos that were also trained on, by their content; they are not measured
    accuracy, macro_f1  in percent
    ece                 expected calibration error in percent, 15 bins of equal width
    per_class           {class name: accuracy in percent}, classes with photos only
    confusions          [[true name, named, photos], ...] of the mistakes, most frequent first
    reliability         [[photos, mean confidence, accuracy], ...] of the 15 bins, in percent; [0, 0, 0] for empty ones

A failure holds protocol, data, method, seed, shots, preset, changes and backbone as a record does, and `reason` (one
line), `details` (a traceback, empty for an explained error) and `failed` (time of day).
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


class _Measured(_Run):
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


class _Learned(_Measured):
    seed: NonNegativeInt
    shots: NonNegativeInt
    train: _Training


class _NotLearned(_Measured):
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
    """What a sweep folder holds so far."""

    records: list[dict[str, Any]]
    """Of the runs that are done, by the names of their folders."""
    failures: list[dict[str, Any]]
    """Of the runs that failed and are not done."""


def read_sweep(directory: Path) -> Sweep:
    """Read all records of a sweep.

    Args:
        folder: as `cocoop bench` writes it.

    Raises:
        CheckpointError: if it is no sweep, or a record is damaged or of another version.
    """
    runs = directory / RUNS
    if not runs.is_dir():
        raise CheckpointError(f"There is no sweep at '{directory}'; give a folder written by `cocoop bench`.")
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
        CheckpointError: if it is missing, damaged or of another version.
    """
    record = read_json(path)
    if record.get("format") != FORMAT:
        raise CheckpointError(
            f"'{path}' is a record of format {record.get('format')!r}, and this cocoop reads {FORMAT}; "
            "measure again in another folder, or use the cocoop that wrote it."
        )
    form = _NotLearned if record.get("method") == "zero-shot" else _Learned
    check_schema(record, _Failure if path.name == FAILURE else form, path)
    return record
