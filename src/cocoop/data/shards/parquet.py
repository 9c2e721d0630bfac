"""Parquet shards: one image per row, with its bytes, its class and optionally a path and a split.

Columns are found by name and type. The image is a binary column or Hugging Face's struct<bytes, path>; the class is
text, or an integer with Hugging Face's list of class names in the metadata. The smallest unit to read is a row group.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cocoop.data.shards.source import MAX_IMAGE_BYTES, Shard, ShardEntry, image_split
from cocoop.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["clear_row_group_cache", "read_parquet_image", "scan_parquet"]

MAX_ROW_GROUP_BYTES = 2 << 30
"""Largest uncompressed size of a row group, which is held in memory while its images are read."""

_BATCH_ROWS = 16
"""Number of images in memory while a shard is streamed."""
_IMAGE_COLUMNS = ("image", "img", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
_CLASS_COLUMNS = ("classname", "class", "label", "cls")
_PATH_COLUMNS = ("path", "file_name", "filename", "__key__")


@dataclass(frozen=True)
class _Columns:
    """Columns of a shard, as dotted paths (`image.bytes`)."""

    image: str
    path: str | None
    classname: str | None
    split: str | None
    classnames: tuple[str, ...] | None
    """Names of the classes, if the column of classes has integers."""


def scan_parquet(
    shard: Shard, *, with_bytes: bool, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[ShardEntry, bytes]]:
    """Stream a Parquet file as `scan_shard` does, one row group after the other.

    Raises:
        ConfigError: if pyarrow is not installed.
        DataError: if the file is damaged or cut off, lacks columns, or has an image or row group of absurd size.
    """
    number = 0
    with _open_parquet(shard) as parquet:
        columns = _find_columns(parquet.schema_arrow, shard.url)
        needed = [name for name in (columns.path, columns.classname, columns.split) if name is not None]
        if with_bytes or not needed:
            needed.append(columns.image)
        for group in range(parquet.num_row_groups):
            _check_group_size(parquet, group, shard)
            row = 0
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=needed):
                for fields in batch.to_pylist():
                    origin = f"'{shard.url}', row {number + 1}"
                    path = _get(fields, columns.path) or ""
                    data = (_get(fields, columns.image) or b"") if with_bytes else b""
                    if len(data) > MAX_IMAGE_BYTES:
                        raise DataError(
                            f"{origin}: the image has {len(data):,} bytes; the limit is {MAX_IMAGE_BYTES:,}."
                        )
                    classname = _classname(_get(fields, columns.classname), columns.classnames, origin)
                    split = image_split(_get(fields, columns.split), shard.url, origin)
                    yield ShardEntry(f"{path}#{number:07}", classname, split, (group, row)), data
                    number, row = number + 1, row + 1
            if on_bytes is not None:
                on_bytes(shard.size * (group + 1) // parquet.num_row_groups)


# Neighbouring images, which are usually read one after the other, lie in the same row group.
@functools.lru_cache(maxsize=1)
def _read_row_group(url: str, group: int) -> pa.ChunkedArray:
    shard = Shard.at(url)
    with _open_parquet(shard) as parquet:
        _check_group_size(parquet, group, shard)
        image = _find_columns(parquet.schema_arrow, url).image
        column = parquet.read_row_group(group, columns=[image]).column(0)
        return column.combine_chunks().field("bytes") if "." in image else column


def read_parquet_image(shard: Shard, group: int, row: int) -> bytes:
    """Return the bytes of the image in a row of a row group; `b""` for an empty cell."""
    return _read_row_group(shard.url, group)[row].as_py() or b""


def clear_row_group_cache() -> None:
    """Drop the cached row group, because its shard may have changed."""
    _read_row_group.cache_clear()


@contextmanager
def _open_parquet(shard: Shard) -> Iterator[pq.ParquetFile]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            "Parquet shards need the package pyarrow. Install it: pip install 'cocoop[shards]'"
        ) from error
    with shard.filesystem.open(shard.path, "rb") as file, parquet.ParquetFile(file) as opened:
        yield opened


def _check_group_size(parquet: pq.ParquetFile, group: int, shard: Shard) -> None:
    size: int = parquet.metadata.row_group(group).total_byte_size
    if size > MAX_ROW_GROUP_BYTES:
        raise DataError(
            f"The shard '{shard.url}' has a row group of {size:,} bytes, which must fit into memory; the limit is"
            f" {MAX_ROW_GROUP_BYTES:,}. Write it with smaller ones, such as row_group_size=100."
        )


def _find_columns(schema: pa.Schema, url: str) -> _Columns:
    images = {field.name: path for field in schema if (path := _image_path(field))}
    candidates = [name for name in _IMAGE_COLUMNS if name in images] or list(images)
    if not candidates or (len(candidates) > 1 and candidates[0] not in _IMAGE_COLUMNS):
        raise DataError(
            f"The shard '{url}' has {len(candidates) or 'no'} columns that may hold images. Name a column of bytes, or"
            f" of struct<bytes, path>, 'image'. Its columns are {', '.join(map(repr, schema.names))}."
        )
    image = candidates[0]
    types = {field.name: field.type for field in schema}
    has_path = "." in images[image] and any(field.name == "path" for field in types[image])
    classname = next((name for name in _CLASS_COLUMNS if name in types), None)
    return _Columns(
        image=images[image],
        path=next((name for name in _PATH_COLUMNS if name in types), f"{image}.path" if has_path else None),
        classname=classname,
        split="split" if "split" in types else None,
        classnames=_huggingface_names(schema, classname),
    )


def _image_path(field: pa.Field) -> str | None:
    """Return the dotted path of the bytes in a column; None if it has none."""
    import pyarrow as pa

    if pa.types.is_struct(field.type):
        inner = next((part for part in field.type if part.name == "bytes"), None)
        return f"{field.name}.bytes" if inner is not None and _image_path(inner) else None
    return field.name if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type) else None


def _huggingface_names(schema: pa.Schema, column: str | None) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's datasets keep for a column of integers (`ClassLabel`)."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _get(fields: dict[str, Any], path: str | None) -> Any:
    """Return the value at a dotted path; None if there is none."""
    if path is None:
        return None
    column, _, inner = path.partition(".")
    value = fields[column]
    return value[inner] if inner and value is not None else value


def _classname(value: object, names: tuple[str, ...] | None, origin: str) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise DataError(f"{origin}: the class must be a string or an integer, not {value!r}.")
    if not isinstance(value, int) or names is None:
        return None if value is None else str(value).strip() or None
    if value == -1:
        # Hugging Face's label of unlabelled images.
        return None
    if not 0 <= value < len(names):
        raise DataError(f"{origin}: the class is {value}, but the shard has names for 0 to {len(names) - 1}.")
    return names[value]
