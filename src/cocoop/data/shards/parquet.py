"""Parquet shards: a photo a row, with its bytes, its class and, if wanted, a path and a split.

Columns are found by name and type: the photo is a column of bytes, or Hugging Face's struct<bytes, path>; the class is
text, or a whole number with Hugging Face's list of names in the file's metadata. A row group is the smallest part that
can be read.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocoop.data.shards.source import MAX_IMAGE, Entry, Shard, split_of
from cocoop.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["close_parquet_files", "read_parquet_image", "scan_parquet"]

MAX_ROW_GROUP = 2 << 30
"""Bytes of a row group, unpacked; one is held in memory while photos are read from it."""

_ROWS = 16
"""Photos that are held at once while a shard is streamed."""
_IMAGE_COLUMNS = ("image", "img", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
_CLASS_COLUMNS = ("classname", "class", "label", "cls")
_PATH_COLUMNS = ("path", "file_name", "filename", "__key__")


@dataclass(frozen=True)
class _Columns:
    """Where a shard keeps what."""

    image: str
    """Dotted path of the photos' bytes."""
    name: str | None
    """Dotted path of the photos' names."""
    classname: str | None
    """Column of the classes."""
    split: str | None
    """Column of the splits."""
    classnames: tuple[str, ...] | None
    """Names of the classes that are numbers, where the shard has them."""


def scan_parquet(
    shard: Shard, *, with_bytes: bool, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[Entry, bytes]]:
    """Stream a Parquet file, row group by row group.

    Args:
        shard: the file.
        with_bytes: whether the photos' bytes are wanted; else their column is not read, and they come as `b""`.
        on_bytes: called with about the position in the file, after each row group.

    Yields:
        The photos in their order.

    Raises:
        ConfigError: if pyarrow is not installed.
        DataError: if it is damaged or cut off, columns are missing, or a photo or row group is absurdly large.
    """
    number = 0
    with _opened(shard) as parquet:
        columns = _columns(parquet.schema_arrow, shard.url)
        wanted = [name for name in (columns.name, columns.classname, columns.split) if name is not None]
        if with_bytes or not wanted:
            wanted.append(columns.image)
        for group in range(parquet.num_row_groups):
            _check_group(parquet, group, shard)
            row = 0
            for batch in parquet.iter_batches(_ROWS, row_groups=[group], columns=wanted):
                for fields in batch.to_pylist():
                    where = f"'{shard.url}', row {number + 1}"
                    name = _at(fields, columns.name) or ""
                    data = (_at(fields, columns.image) or b"") if with_bytes else b""
                    if len(data) > MAX_IMAGE:
                        raise DataError(f"{where}: a photo of {len(data):,} bytes; {MAX_IMAGE:,} are allowed.")
                    classname = _classname(_at(fields, columns.classname), columns.classnames, where)
                    split = split_of(_at(fields, columns.split), shard.url, where)
                    yield Entry(f"{name}#{number:07}", classname, split, (group, row)), data
                    number, row = number + 1, row + 1
            if on_bytes is not None:
                on_bytes(shard.size * (group + 1) // parquet.num_row_groups)


@functools.lru_cache(maxsize=1)
def _image_column(url: str, group: int) -> pa.ChunkedArray:
    """The photos of a row group; the last one stays in memory, for the next photo is often in it too."""
    shard = Shard.at(url)
    with _opened(shard) as parquet:
        _check_group(parquet, group, shard)
        image = _columns(parquet.schema_arrow, url).image
        column = parquet.read_row_group(group, columns=[image]).column(0)
        return column.combine_chunks().field("bytes") if "." in image else column


def read_parquet_image(shard: Shard, group: int, row: int) -> bytes:
    """The bytes of one photo, empty if the cell is.

    Args:
        shard: the file.
        group: number of its row group.
        row: number of the photo in it.
    """
    return _image_column(shard.url, group)[row].as_py() or b""


def close_parquet_files() -> None:
    """Let go of the row group in memory, for its shard may have changed."""
    _image_column.cache_clear()


@contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet shards need the library pyarrow, which is not installed: pip install 'cocoop[shards]'"
        ) from error
    with shard.filesystem.open(shard.path, "rb") as file, parquet.ParquetFile(file) as opened:
        yield opened


def _check_group(parquet: pq.ParquetFile, group: int, shard: Shard) -> None:
    """Check that a row group can be held in memory.

    Raises:
        DataError: if it is too large.
    """
    size: int = parquet.metadata.row_group(group).total_byte_size
    if size > MAX_ROW_GROUP:
        raise DataError(
            f"The shard '{shard.url}' has a row group of {size:,} bytes, of which each is held in memory as a whole;"
            f" {MAX_ROW_GROUP:,} are allowed. Write it with smaller ones, such as row_group_size=100."
        )


def _columns(schema: pa.Schema, url: str) -> _Columns:
    """Find the columns.

    Raises:
        DataError: if none, or more than one, may be the photo's.
    """
    images = {field.name: path for field in schema if (path := _image_path(field))}
    known = [name for name in _IMAGE_COLUMNS if name in images] or list(images)
    if not known or (len(known) > 1 and known[0] not in _IMAGE_COLUMNS):
        raise DataError(
            f"The shard '{url}' has {len(known) or 'no'} columns that may hold photos; name one of bytes, or of"
            f" struct<bytes, path>, 'image'. Its columns are {', '.join(map(repr, schema.names))}."
        )
    image = known[0]
    types = {field.name: field.type for field in schema}
    beside = "." in images[image] and any(field.name == "path" for field in types[image])
    return _Columns(
        image=images[image],
        name=next((name for name in _PATH_COLUMNS if name in types), f"{image}.path" if beside else None),
        classname=(label := next((name for name in _CLASS_COLUMNS if name in types), None)),
        split="split" if "split" in types else None,
        classnames=_names_in_metadata(schema, label),
    )


def _image_path(field: pa.Field) -> str | None:
    """Dotted path of the bytes that a column holds, if it holds any."""
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        inner = next((part for part in field.type if part.name == "bytes"), None)
        return f"{field.name}.bytes" if inner is not None and _image_path(inner) else None
    return field.name if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) else None


def _names_in_metadata(schema: pa.Schema, column: str | None) -> tuple[str, ...] | None:
    """What Hugging Face's data sets write beside a column of whole numbers (`ClassLabel`)."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _at(fields: dict[str, Any], path: str | None) -> Any:
    """The value at a dotted path; None where there is none."""
    if path is None:
        return None
    column, _, inner = path.partition(".")
    value = fields[column]
    return value[inner] if inner and value is not None else value


def _classname(value: object, names: tuple[str, ...] | None, where: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise DataError(f"{where}: the class must be a text or a whole number, not {value!r}.")
    if not isinstance(value, int) or names is None:
        return None if value is None else str(value).strip() or None
    if value == -1:
        # Hugging Face's mark for photos whose class is not told.
        return None
    if not 0 <= value < len(names):
        raise DataError(f"{where}: the class is {value}, and the shard has names for 0 to {len(names) - 1}.")
    return names[value]
