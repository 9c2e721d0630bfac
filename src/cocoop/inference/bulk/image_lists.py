"""Parquet files that list images by path instead of holding them."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any

from cocoop.data.shards.source import get_filesystem
from cocoop.errors import DataError

__all__ = ["entry_type", "is_local", "read_image_list"]

_COLUMNS = ("path", "file_name", "filename")


def read_image_list(url: str) -> list[str] | None:
    """Return the addresses of the images that a Parquet file lists.

    Args:
        url: the Parquet file; relative paths in it start from its directory.

    Returns:
        None if the file contains images itself, or cannot be read; the reader of shards reports unreadable files.

    Raises:
        ConfigError: if a package for its file system is not installed.
        DataError: naming a row without a path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = get_filesystem(url)
    if entry_type(filesystem, path) not in ("file", None):
        return None
    try:
        with filesystem.open(path, "rb") as file, pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            if any(pa.types.is_struct(t) or pa.types.is_binary(t) or pa.types.is_large_binary(t) for t in schema.types):
                return None
            column = next((name for name in _COLUMNS if name in schema.names), None)
            if column is None:
                return None
            paths = parquet.read([column])[column].to_pylist()
    # Each file system has its own errors.
    except Exception:
        return None
    for row, name in enumerate(paths, 1):
        if not isinstance(name, str) or not name:
            raise DataError(f"'{url}', row {row}: the {column} is {name!r}; it must be the path of an image.")
    directory = url.rpartition("/")[0]
    if is_local(filesystem):
        return [name if "://" in name else os.path.abspath(Path(directory, name)) for name in paths]  # noqa: PTH100
    return [name if "://" in name or name.startswith("/") else f"{directory}/{name}" for name in paths]


def is_local(filesystem: Any) -> bool:
    """Return True for the local file system of fsspec."""
    return "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)


def entry_type(filesystem: Any, path: str) -> str | None:
    """Return `file`, `directory` or another type, such as that of a pipe; None if it cannot be determined."""
    try:
        # `isdir` would download the file from a web server.
        return str(filesystem.info(path)["type"])
    # A pattern has no type; readers report other errors.
    except Exception:
        return None
