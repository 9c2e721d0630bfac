"""The run directory: the settings of a training, its metrics, and the state to resume from.

training.json           method, data and settings of the run
images.json             SHA-256 of every training image
metrics.jsonl           one line per epoch
training.safetensors    learned tensors and momentum after the last completed epoch
config.json, prompt.safetensors     the method after the last completed epoch, as `from_pretrained` reads it

Every file is written atomically. On resume, training.safetensors decides: files that a crash left newer or older are
brought in line with it.
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
from cocoop.storage.tensor_files import read_metadata, read_tensors, write_tensors

__all__ = ["RunDirectory", "TrainingState", "check_run", "epochs_done", "open_run", "trained_image_hashes"]

TRAINING, METRICS, STATE, IMAGES = "training.json", "metrics.jsonl", "training.safetensors", "images.json"
LOCK = ".lock"


@dataclass
class TrainingState:
    """Everything needed to continue a training as if it had never stopped."""

    epoch: int
    """Number of completed epochs."""
    learned: dict[str, Tensor]
    """Learned tensors by name."""
    momentum: dict[str, Tensor]
    """Momentum of SGD by the same names; empty before the first step."""
    scaler: dict[str, Any] = dataclasses.field(default_factory=dict)
    """State of the fp16 gradient scaler; empty in other precisions."""


class RunDirectory:
    """A run directory that only this process writes to; see `open_run`."""

    def __init__(self, path: Path, description: Mapping[str, Any]) -> None:
        self.path = path
        self._description = description

    def load(self) -> tuple[TrainingState, list[dict[str, Any]]]:
        """Read the state after the last completed epoch, and the metrics up to it.

        Raises:
            CheckpointError: if files are missing or damaged.
        """
        tensors, metadata = read_tensors(self.path / STATE)
        state_metadata = _state_metadata(metadata, self.path / STATE)
        groups: dict[str, dict[str, Tensor]] = {"learned": {}, "momentum": {}}
        for key, tensor in tensors.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = tensor
        epoch = state_metadata["epoch"]
        state = TrainingState(epoch, groups["learned"], groups["momentum"], state_metadata["scaler"])
        history = read_json_lines(self.path / METRICS)
        if len(history) < epoch:
            raise CheckpointError(
                f"'{self.path / METRICS}' is damaged: it has {len(history)} epochs, but the checkpoint has {epoch}."
            )
        # Metrics are written before the state, so a crash may leave them one epoch ahead.
        return state, history[:epoch]

    def begin(self, method: Method, state: TrainingState, image_hashes: Iterable[str]) -> None:
        """Write the files of a run before its first epoch.

        Args:
            method: the method to be trained.
            state: the state of epoch 0.
            image_hashes: SHA-256 of the training images.

        Raises:
            CheckpointError: if a file cannot be written.
        """
        write_json(self.path / IMAGES, {"sha256": sorted(image_hashes)}, with_checksum=True)
        write_json_lines(self.path / METRICS, [])
        self._write_state(state)
        # Written last, because a directory with this file counts as a run, and a run needs the other files.
        write_json(self.path / TRAINING, self._description, with_checksum=True)
        write_method(method, self.path)

    def save(self, method: Method, state: TrainingState, history: list[dict[str, Any]]) -> None:
        """Write the checkpoint of an epoch.

        Raises:
            CheckpointError: if a file cannot be written; the old one stays.
        """
        # Metrics first: resuming follows the state, and needs the metrics of all its epochs.
        write_json_lines(self.path / METRICS, history)
        self._write_state(state)
        write_learned(method, self.path)

    def _write_state(self, state: TrainingState) -> None:
        tensors = {f"learned.{name}": tensor for name, tensor in state.learned.items()}
        tensors |= {f"momentum.{name}": tensor for name, tensor in state.momentum.items()}
        write_tensors(self.path / STATE, tensors, {"epoch": state.epoch, "scaler": state.scaler})


@contextmanager
def open_run(path: Path, description: Mapping[str, Any], *, resume: bool) -> Iterator[tuple[RunDirectory, bool]]:
    """Lock a run directory; a run without a completed epoch may restart without `resume`, since nothing is lost.

    Args:
        path: created if missing.
        description: settings of the run, plain JSON; a resumed run must have the same.
        resume: continue the run in the directory, if there is one.

    Yields:
        The directory, and True if there is a run to continue.

    Raises:
        CheckpointError: as `check_run`; if another process trains in the directory; if it cannot be written.
        ConfigError: as `check_run`.
    """
    # Check before the directory is created, and again under the lock, when no other process can change it.
    check_run(path, description, resume=resume)
    with try_lock(path / LOCK) as acquired:
        if not acquired:
            raise CheckpointError(f"Another process is training in '{path}'; wait for it, or use another directory.")
        continues = check_run(path, description, resume=resume)
        remove_temporary_files(path, (TRAINING, METRICS, STATE, IMAGES, CONFIG, LEARNED))
        yield RunDirectory(path, description), continues


def check_run(path: Path, description: Mapping[str, Any], *, resume: bool) -> bool:
    """Check that a directory can be trained in; return True if it holds a run to continue.

    Args:
        path: the directory; may be missing.
        description: settings of the run, plain JSON.
        resume: continue the run in the directory, if there is one.

    Raises:
        CheckpointError: if the directory holds completed epochs and `resume` is False, or a saved method without a run.
        ConfigError: if the run to continue has other settings or data.
    """
    done = epochs_done(path)
    if done and not resume:
        raise CheckpointError(
            f"'{path}' already holds a run of {done} epoch{'s' * (done > 1)}; pass `resume=True` to continue it, or "
            "use another directory."
        )
    if done is None and (path / CONFIG).exists():
        raise CheckpointError(f"'{path}' holds a saved method that belongs to no run; use another directory.")
    if done is None or not resume:
        return False
    # In JSON, tuples become lists.
    _check_same(path, read_json(path / TRAINING), json.loads(json.dumps(description)))
    return True


def epochs_done(path: Path) -> int | None:
    """Return the number of completed epochs of a run, or None if the directory holds no run.

    Only the header of the state file is read; `RunDirectory.load` verifies its tensors.

    Raises:
        CheckpointError: if the state file is missing or its header is damaged.
    """
    if not (path / TRAINING).exists():
        return None
    epoch: int = _state_metadata(read_metadata(path / STATE), path / STATE)["epoch"]
    return epoch


def trained_image_hashes(path: Path) -> frozenset[str]:
    """Return the hashes of the training images of a run; empty if the directory holds no run.

    Raises:
        CheckpointError: if the file is damaged.
    """
    # Runs of earlier versions have the same content under another name.
    for file in (path / IMAGES, path / "photos.json"):
        if file.exists():
            content = read_json(file)
            check_schema(content, _Images, file)
            return frozenset(content["sha256"])
    return frozenset()


class _Images(Schema):
    sha256: list[str]


class _StateMetadata(Schema):
    epoch: NonNegativeInt
    scaler: dict[str, Any]


def _state_metadata(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    check_schema(metadata, _StateMetadata, path)
    return metadata


def _check_same(path: Path, old_sections: dict[str, Any], new_sections: dict[str, Any]) -> None:
    old, new = _flatten(old_sections), _flatten(new_sections)
    for key in dict.fromkeys([*new, *old]):
        if old.get(key) == new.get(key):
            continue
        name = key[-1]
        if name == "data_sha256":
            raise ConfigError(
                f"The run in '{path}' was started with other images or classes of {new_sections['data']!r}; resume "
                "with the same data, or use another directory."
            )
        raise ConfigError(
            f"The run in '{path}' was started with `{name}={_as_python(old.get(key))}`, but now it is "
            f"{_as_python(new.get(key))}; resume with the same settings, or use another directory."
        )


def _flatten(sections: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return the entries of all sections by section and name, because two sections may use the same name."""
    flat: dict[tuple[str, ...], Any] = {}
    for section, value in sections.items():
        flat |= {(section, name): v for name, v in value.items()} if isinstance(value, dict) else {(section,): value}
    return flat


def _as_python(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
