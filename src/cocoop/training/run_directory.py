"""The folder of a training run: what it was begun with, how it went, and where it stands.

training.json           what the run was begun with: method, data, settings
photos.json             SHA-256 of the bytes of every photo that was learned from
metrics.jsonl           one line an epoch
training.safetensors    learned tensors and momentum after the last whole epoch, in one file
config.json, prompt.safetensors     the method after the last whole epoch (see `cocoop.checkpoints.pretrained`)

Every file is written whole or not at all. The state is the one that counts: what else a crash leaves older or newer
than the state is brought in line with it when the run is resumed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cocoop.checkpoints.pretrained import CONFIG, LEARNED, write_learned, write_method
from cocoop.errors import CheckpointError, ConfigError
from cocoop.methods import Method
from cocoop.storage.atomic import remove_temporary_files
from cocoop.storage.json_files import read_json, read_json_lines, write_json, write_json_lines
from cocoop.storage.json_schema import NonNegativeInt, Schema, check_schema
from cocoop.storage.locks import try_lock
from cocoop.storage.tensor_files import read_tensors, write_tensors

__all__ = ["Run", "TrainingState", "check_run", "epochs_done", "open_run", "trained_image_hashes"]

TRAINING, METRICS, STATE, IMAGES = "training.json", "metrics.jsonl", "training.safetensors", "photos.json"
LOCK = ".lock"


@dataclass
class TrainingState:
    """What training needs to go on as if it had never stopped."""

    epoch: int
    """Whole epochs done."""
    learned: dict[str, Tensor]
    """Learned tensors by name."""
    momentum: dict[str, Tensor]
    """SGD's momentum by the same names; empty before the first step."""
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)
    """State of the fp16 gradient scaler; empty in other precisions."""


class Run:
    """A run folder that this process alone writes to; see `open_run`."""

    def __init__(self, directory: Path, description: Mapping[str, Any]) -> None:
        self.directory = directory
        self._description = description

    def load(self) -> tuple[TrainingState, list[dict[str, Any]]]:
        """The state after the last whole epoch, and the metrics of the epochs up to it.

        Raises:
            CheckpointError: if files are missing or damaged.
        """
        state = _read_state(self.directory / STATE)
        return state, _read_history(self.directory / METRICS, state.epoch)

    def begin(self, method: Method, state: TrainingState, images: Iterable[str]) -> None:
        """Write a run of no epochs.

        Args:
            method: what is trained.
            state: of no epochs.
            photos: hashes of the photos it learns from.

        Raises:
            CheckpointError: if the disk refuses.
        """
        write_json(self.directory / IMAGES, {"sha256": sorted(images)}, with_checksum=True)
        write_json_lines(self.directory / METRICS, [])
        write_tensors(self.directory / STATE, *_packed(state))
        # From here on the folder is a run, which needs the files above.
        write_json(self.directory / TRAINING, self._description, with_checksum=True)
        write_method(method, self.directory)

    def save(self, method: Method, state: TrainingState, history: list[dict[str, Any]]) -> None:
        """Write the checkpoint of an epoch; all that must agree in a resumed run is in one file.

        Raises:
            CheckpointError: if the disk refuses; the last good file stays.
        """
        # Metrics first: the state is what resuming believes, and it must find the epochs it counts.
        write_json_lines(self.directory / METRICS, history)
        write_tensors(self.directory / STATE, *_packed(state))
        write_learned(method, self.directory)


@contextmanager
def open_run(directory: Path, description: Mapping[str, Any], *, resume: bool) -> Iterator[tuple[Run, bool]]:
    """A run folder, held against other processes.

    A run without one whole epoch may be begun anew: there is nothing to lose.

    Args:
        folder: made if it is missing.
        description: what the run is begun with, plain JSON; a resumed run must have begun with the same.
        resume: go on with the run in that folder, if there is one.

    Yields:
        The run, and whether there is something to go on with.

    Raises:
        CheckpointError: as `check_run`; if another process trains in it; if the disk refuses.
        ConfigError: as `check_run`.
    """
    # Before a folder is made, and again once nobody else can train in it.
    check_run(directory, description, resume=resume)
    with try_lock(directory / LOCK) as is_ours:
        if not is_ours:
            raise CheckpointError(
                f"Another process is training in '{directory}'; wait for it, or choose another folder."
            )
        going_on = check_run(directory, description, resume=resume)
        remove_temporary_files(directory, (TRAINING, METRICS, STATE, IMAGES, CONFIG, LEARNED))
        yield Run(directory, description), going_on


def check_run(directory: Path, description: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether there is a run to go on with; nothing is changed.

    Args:
        folder: need not exist.
        description: what the run is begun with, plain JSON.
        resume: go on with the run in that folder, if there is one.

    Raises:
        CheckpointError: if the folder holds another run, or other files of the same names.
        ConfigError: if the run to go on with was begun with other settings or data.
    """
    done = epochs_done(directory)
    if done and not resume:
        raise CheckpointError(
            f"'{directory}' already holds a run of {done} epoch{'s' * (done > 1)}; go on with it by --resume, "
            "or choose another folder."
        )
    if done is None and (directory / CONFIG).exists():
        raise CheckpointError(f"'{directory}' holds a {CONFIG} that belongs to no run; choose another folder.")
    if done is None or not resume:
        return False
    # As JSON gives it back: tuples are lists there.
    _check_same(directory, read_json(directory / TRAINING), json.loads(json.dumps(description)))
    return True


def epochs_done(directory: Path) -> int | None:
    """Whole epochs of the run in a folder; None if it holds no run.

    Raises:
        CheckpointError: if there is a run whose state is missing or damaged.
    """
    return _read_state(directory / STATE).epoch if (directory / TRAINING).exists() else None


def trained_image_hashes(directory: Path) -> frozenset[str]:
    """Hashes of the photos that the run in a folder learns from; none where there is no telling.

    Raises:
        CheckpointError: if their file is damaged.
    """
    path = directory / IMAGES
    if not path.exists():
        return frozenset()
    content = read_json(path)
    check_schema(content, _Images, path)
    return frozenset(content["sha256"])


class _Images(Schema):
    sha256: list[str]


class _Facts(Schema):
    epoch: NonNegativeInt
    scaler: dict[str, Any]


def _packed(state: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"learned.{name}": tensor for name, tensor in state.learned.items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in state.momentum.items()}
    return tensors, {"epoch": state.epoch, "scaler": state.scaler}


def _read_state(path: Path) -> TrainingState:
    tensors, metadata = read_tensors(path)
    try:
        # Before there was a checksum, it was one text.
        facts = json.loads(metadata["training"]) if "training" in metadata else metadata
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is no state of a training: {error!r}.") from error
    check_schema(facts, _Facts, path)
    parts: dict[str, dict[str, Tensor]] = {"learned": {}, "momentum": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return TrainingState(facts["epoch"], parts["learned"], parts["momentum"], facts["scaler"])


def _read_history(path: Path, epochs: int) -> list[dict[str, Any]]:
    history = read_json_lines(path)
    if len(history) < epochs:
        raise CheckpointError(f"'{path}' is damaged: it has {len(history)} epochs, the checkpoint {epochs}.")
    # Metrics are written before the state, so a crash can leave them ahead of it, never behind.
    return history[:epochs]


def _check_same(directory: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = _flat(before), _flat(now)
    for key in dict.fromkeys([*new, *old]):
        if old.get(key) == new.get(key):
            continue
        name = key[-1]
        if name == "data_sha256":
            raise ConfigError(
                f"The run in '{directory}' was begun with other photos or classes of {now['data']!r}; "
                "resume with the same data, or choose another folder."
            )
        raise ConfigError(
            f"The run in '{directory}' was begun with --{name.replace('_', '-')} {old.get(key)!r}, now it is "
            f"{new.get(key)!r}; resume with the same settings, or choose another folder."
        )


def _flat(description: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """The entries of all sections; the last part of each key is its own name, which is that of the flag."""
    flat: dict[tuple[str, ...], Any] = {}
    for section, value in description.items():
        # Two sections may share a name: what a method is made of again, and what the user said.
        flat |= {(section, name): v for name, v in value.items()} if isinstance(value, dict) else {(section,): value}
    return flat
