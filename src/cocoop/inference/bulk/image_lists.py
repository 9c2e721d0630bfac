"""Parquet files that name photos (a column of paths) and hold none."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any

from cocoop.data.shards.source import get_filesystem
from cocoop.errors import DataError

__all__ = ["is_local", "read_image_list", "type_of"]

_COLUMNS = ("path", "file_name", "filename")


def read_image_list(url: str) -> list[str] | None:
    """Addresses of the photos that a Parquet file names.

    Args:
        url: of the file; relative paths in it start from its folder.

    Returns:
        None if it holds photos itself, or cannot be read, which is left to who reads shards.

    Raises:
        ConfigError: if a package that its file system needs is not installed.
        DataError: naming a row without a path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = get_filesystem(url)
    if type_of(filesystem, path) not in ("file", None):
        return None
    try:
        with filesystem.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if any(pa.types.is_struct(t) or pa.types.is_binary(t) or pa.types.is_large_binary(t) for t in schema.types):
                return None
            column = next((name for name in _COLUMNS if name in schema.names), None)
            if column is None:
                return None
            named = parquet.read([column])[column].to_pylist()
    # Each file system has errors of its own.
    except Exception:
        return None
    for row, name in enumerate(named, 1):
        if not isinstance(name, str) or not name:
            raise DataError(f"'{url}', row {row}: the {column} is {name!r}; it must be the path of a photo.")
    directory = url.rpartition("/")[0]
    if is_local(filesystem):
        return [name if "://" in name else os.path.abspath(Path(directory, name)) for name in named]  # noqa: PTH100
    return [name if "://" in name or name.startswith("/") else f"{directory}/{name}" for name in named]


def is_local(filesystem: Any) -> bool:
    """Whether a file system of fsspec is this machine's own."""
    return "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)


def type_of(filesystem: Any, path: str) -> str | None:
    """`file`, `directory`, another word for what is neither, such as a pipe; None if there is no telling."""
    try:
        # Not `isdir`: on a web server, that fetches the file.
        return str(filesystem.info(path)["type"])
    # There may be none, as of a pattern; and what else is wrong, its reader says.
    except Exception:
        return None
