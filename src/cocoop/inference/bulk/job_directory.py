"""The folder of a job: what it was begun with, and one Parquet part for each piece that is done.

_job.json           model, classes and numbers of labels; a job goes on with the same only
                    (readers of Parquet pass over names that begin so)
shard-*.parquet     labels of a shard
files-*.parquet     labels of some files

    path         string                                     whole path or address of the photo
    label        string                                     the most probable class; null if it could not be read
    probability  float32                                    of that class
    top_k        list<struct<label: string, probability: float32>>
    error        string                                     why it could not be read, else null

A part is written whole or not at all, and a piece that is done twice writes the same part: each photo has one row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoop.data.shards.source import get_filesystem, shard_errors
from cocoop.errors import CheckpointError, ConfigError
from cocoop.inference.bulk.chunks import as_text
from cocoop.inference.bulk.image_lists import is_local
from cocoop.inference.predictor import Prediction
from cocoop.storage.atomic import remove_temporary_files, write_atomic
from cocoop.storage.json_files import json_bytes, parse_json_object
from cocoop.storage.locks import try_lock

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["READERS", "Job"]

JOB = "_job.json"

_UNFINISHED = re.compile(r"\.(_job\.json|(?:files|shard)-[0-9a-f]{24}\.parquet)\.")
"""How the names of files begin that a killed process left; any other hidden file is the user's."""

READERS = 16
"""Files that are read at once: on a remote disk, each is mostly waited for."""


class Job:
    """The folder of a job.

    Args:
        output: on any file system of fsspec; made if it is missing.

    Raises:
        CheckpointError: if a file is in the way.
        ConfigError: if pyarrow, or a package that the file system needs, is not installed.
    """

    def __init__(self, output: str) -> None:
        self.output = output.rstrip("/")
        self._filesystem, self._path = get_filesystem(self.output)
        self._local = Path(self._path) if is_local(self._filesystem) else None
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError("--output needs the library pyarrow: pip install 'cocoop[shards]'") from error
        if self._local is not None and self._local.exists() and not self._local.is_dir():
            raise CheckpointError(f"'{output}' is a file; give another --output.")

    def __reduce__(self) -> tuple[type[Job], tuple[str]]:
        # A worker may run in another folder than the command.
        return Job, (self.output if self._local is None else str(self._local),)

    @contextmanager
    def try_lock(self) -> Iterator[None]:
        """Held against another job in the same folder, where the file system can.

        Raises:
            CheckpointError: if another process labels into it, or the disk refuses.
        """
        if self._local is None:
            yield
            return
        with try_lock(self._local / ".lock") as is_ours:
            if not is_ours:
                raise CheckpointError(f"Another process is labelling into '{self.output}'; wait for it.")
            yield

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Note what the job is begun with, or see that it goes on with the same; call it while the folder is held.

        Raises:
            CheckpointError: if the folder holds something else.
            ConfigError: if the job was begun with another model, other classes or another number of labels.
        """
        facts = json.loads(json.dumps(facts))
        before = self._read(JOB)
        if before is None:
            others = [name for name in self._names() if not name.startswith(".")]
            if others:
                raise CheckpointError(f"'{self.output}' is not empty and holds no job; give another --output.")
            self._write(JOB, json_bytes(facts, with_checksum=True))
            return
        known = parse_json_object(f"{self.output}/{JOB}", before.decode(errors="replace"))
        for name in facts:
            if known.get(name) != facts[name]:
                raise ConfigError(
                    f"The job in '{self.output}' was begun with another {name} ({_short(known.get(name))}, now "
                    f"{_short(facts[name])}); go on with the same, or give another --output."
                )
        if self._local is not None:
            remove_temporary_files(self._local, {match[1] for match in map(_UNFINISHED.match, self._names()) if match})

    def parts(self) -> list[str]:
        """Names of the parts that are there."""
        return sorted(name for name in self._names() if name.endswith(".parquet") and not name.startswith("."))

    def files_in(self, parts: Sequence[str]) -> set[str]:
        """Addresses of the photos that have labels in some parts.

        Raises:
            CheckpointError: naming a part that is damaged.
        """
        with ThreadPoolExecutor(READERS) as pool:
            return {path for paths in pool.map(self._paths, parts) for path in paths}

    def _paths(self, name: str) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self._filesystem.open(f"{self._path}/{name}", "rb") as file:
                table = pq.read_table(file, columns=["path"], page_checksum_verification=True)
                paths: list[str] = table["path"].to_pylist()
                return paths
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"'{self.output}/{name}' is damaged: {error}. Delete it; its photos are then labelled again."
            ) from error

    def write(self, name: str, predictions: Sequence[Prediction]) -> None:
        """Write a part.

        Raises:
            CheckpointError: if the disk refuses.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = pa.BufferOutputStream()
        pq.write_table(_table(predictions), buffer, compression="zstd", write_page_checksum=True)
        self._write(name, buffer.getvalue().to_pybytes())

    def _names(self) -> list[str]:
        with shard_errors(self.output):
            if not self._filesystem.isdir(self._path):
                return []
            self._filesystem.invalidate_cache()
            return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._filesystem.ls(self._path, detail=False)]

    def _read(self, name: str) -> bytes | None:
        with shard_errors(f"{self.output}/{name}"):
            path = f"{self._path}/{name}"
            content: bytes | None = self._filesystem.cat_file(path) if self._filesystem.exists(path) else None
            return content

    def _write(self, name: str, content: bytes) -> None:
        if self._local is not None:
            write_atomic(self._local / name, content)
            return
        with shard_errors(f"{self.output}/{name}"):
            # Of an object store: a put is whole or not at all.
            self._filesystem.pipe_file(f"{self._path}/{name}", content)


def _table(predictions: Sequence[Prediction]) -> pa.Table:
    import pyarrow as pa

    label = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("label", pa.string()),
            ("probability", pa.float32()),
            ("top_k", pa.list_(label)),
            ("error", pa.string()),
        ]
    )
    rows = [
        {
            "path": as_text(p.path),
            "label": p.classes[0] if p.classes else None,
            "probability": p.probabilities[0] if p.probabilities else None,
            "top_k": [{"label": c, "probability": q} for c, q in zip(p.classes, p.probabilities, strict=True)],
            "error": p.error if p.error is None else as_text(p.error),
        }
        for p in predictions
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
