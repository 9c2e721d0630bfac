"""The directory of a labelling job.

_job.json           model, classes and number of labels; a job resumes only with the same ones
                    (readers of Parquet ignore names with a leading underscore)
shard-*.parquet     labels of a shard
files-*.parquet     labels of some files

    path         string                                     absolute path or address of the image
    label        string                                     most probable class; null if the image is unreadable
    probability  float32                                    probability of that class
    top_k        list<struct<label: string, probability: float32>>
    error        string                                     reason why the image is unreadable, else null

Output files are written atomically, and a chunk that is done twice writes the same file, so each image has one row.
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
from cocoop.inference.bulk.chunks import printable
from cocoop.inference.bulk.image_lists import is_local
from cocoop.inference.predictor import Prediction
from cocoop.storage.atomic import remove_temporary_files, write_atomic
from cocoop.storage.json_files import json_bytes, parse_json_object
from cocoop.storage.locks import try_lock

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["READER_THREADS", "JobDirectory"]

JOB = "_job.json"

_TEMPORARY = re.compile(r"\.(_job\.json|(?:files|shard)-[0-9a-f]{24}\.parquet)\.")
"""Start of the names of our temporary files; any other hidden file belongs to the user."""

READER_THREADS = 16
"""Number of files to read in parallel from remote storage, where most of the time is latency."""


class JobDirectory:
    """The directory of a labelling job.

    Args:
        output: path or URL on any file system of fsspec; created if missing.

    Raises:
        CheckpointError: if the path is a file.
        ConfigError: if pyarrow, or a package for the file system, is not installed.
    """

    def __init__(self, output: str) -> None:
        self.output = output.rstrip("/")
        self._filesystem, self._path = get_filesystem(self.output)
        self._local = Path(self._path) if is_local(self._filesystem) else None
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ConfigError("Bulk labelling needs the library pyarrow: pip install 'cocoop[shards]'") from error
        if self._local is not None and self._local.exists() and not self._local.is_dir():
            raise CheckpointError(f"'{output}' is a file; choose another `output`.")

    def __reduce__(self) -> tuple[type[JobDirectory], tuple[str]]:
        # The working directory of a worker may differ.
        return JobDirectory, (self.output if self._local is None else str(self._local),)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock a local directory against other jobs; remote file systems have no locks.

        Raises:
            CheckpointError: if another process holds the lock, or it cannot be created.
        """
        if self._local is None:
            yield
            return
        with try_lock(self._local / ".lock") as acquired:
            if not acquired:
                raise CheckpointError(f"Another process is labelling into '{self.output}'; wait for it.")
            yield

    def start(self, settings: Mapping[str, Any]) -> None:
        """Record the settings of a new job, or check those of a resumed one; the directory must be locked.

        Raises:
            CheckpointError: if the directory holds something else.
            ConfigError: if the job was started with other settings.
        """
        settings = json.loads(json.dumps(settings))
        before = self._read(JOB)
        if before is None:
            if any(not name.startswith(".") for name in self._names()):
                raise CheckpointError(f"'{self.output}' is not empty and holds no job; choose another `output`.")
            self._write(JOB, json_bytes(settings, with_checksum=True))
            return
        recorded = parse_json_object(f"{self.output}/{JOB}", before.decode(errors="replace"))
        for name, value in settings.items():
            if recorded.get(name) != value:
                raise ConfigError(
                    f"The job in '{self.output}' was started with another {name} ({_shorten(recorded.get(name))}, now "
                    f"{_shorten(value)}); use the same or choose another `output`."
                )
        if self._local is not None:
            matches = map(_TEMPORARY.match, self._names())
            remove_temporary_files(self._local, {match[1] for match in matches if match})

    def output_files(self) -> list[str]:
        """Return the names of the output files that exist."""
        return sorted(name for name in self._names() if name.endswith(".parquet") and not name.startswith("."))

    def labelled_in(self, output_files: Sequence[str]) -> set[str]:
        """Return the addresses of the images in some output files.

        Raises:
            CheckpointError: naming a damaged file.
        """
        with ThreadPoolExecutor(READER_THREADS) as pool:
            return {path for paths in pool.map(self._paths, output_files) for path in paths}

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
                f"'{self.output}/{name}' is damaged: {error}. Delete it; its images are then labelled again."
            ) from error

    def write(self, name: str, predictions: Sequence[Prediction]) -> None:
        """Write an output file.

        Raises:
            CheckpointError: if it cannot be written.
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
            # Object stores write atomically.
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
            "path": printable(p.path),
            "label": p.classes[0] if p.classes else None,
            "probability": p.probabilities[0] if p.probabilities else None,
            "top_k": [{"label": c, "probability": q} for c, q in zip(p.classes, p.probabilities, strict=True)],
            "error": p.error if p.error is None else printable(p.error),
        }
        for p in predictions
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
