"""Reader of manifests: CSV or JSONL files with the path, class and optionally split of one image per line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from cocoop.data.class_names import sort_by_name
from cocoop.data.readers.rows import Listing, Row, check_unique, normalize_path, parse_split
from cocoop.data.readers.text_files import line_of, read_text
from cocoop.errors import DataError

__all__ = ["read_manifest"]


def read_manifest(path: Path, image_root: Path) -> Listing:
    """Read a manifest; no image is opened.

    Args:
        path: `.csv` with a header that has the columns path, class and optionally split, or `.jsonl` (`.ndjson`) with
            one object per line with these keys. UTF-8. Other columns and keys are ignored.
        image_root: directory that relative paths start from.

    Raises:
        DataError: if a line is malformed, naming it, or if there are no images.
    """
    text = read_text(path, "manifest")
    lines = _csv_lines(path, text) if path.suffix.lower() == ".csv" else _jsonl_lines(path, text)
    rows = [_row(fields, origin, image_root) for origin, fields in lines]
    if not rows:
        raise DataError(f"The manifest '{path}' lists no image.")
    without = next((row for row in rows if row.split is None), None)
    if without is not None and any(row.split for row in rows):
        raise DataError(f"{without.origin}: no split, though other lines have one. Give every line a split, or none.")
    check_unique(rows)
    return Listing(rows, sort_by_name([row.raw_class for row in rows]))


def _row(fields: Mapping[str, str], origin: str, image_root: Path) -> Row:
    if not fields["class"].strip():
        raise DataError(f"{origin}: the class is empty.")
    split = parse_split(fields["split"], origin) if fields.get("split", "").strip() else None
    path = normalize_path(fields["path"], origin, image_root=image_root, allow_outside=True)
    return Row(path, fields["class"].strip(), split, origin)


def _csv_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            origin = line_of(path, reader.line_num)
            if not header:
                header = _csv_header(cells, origin)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{origin}: {len(cells)} cells, but the header has {len(header)}"
                    " (put a path or class with a comma in double quotes)."
                )
            yield origin, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{line_of(path, reader.line_num)}: not valid CSV: {error}.") from error


def _csv_header(cells: list[str], origin: str) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    if "path" not in header or "class" not in header:
        raise DataError(
            f"{origin}: the header must have the columns path,class (and split, if there are splits),"
            f" separated by commas; it is {','.join(cells)!r}."
        )
    for column in ("path", "class", "split"):
        if header.count(column) > 1:
            raise DataError(f"{origin}: the header has the column {column!r} twice.")
    return header


def _jsonl_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    # Not splitlines(), which also breaks at separators that a JSON string may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        origin = line_of(path, number)
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{origin}: not valid JSON: {error}.") from error
        if not isinstance(entry, dict):
            raise DataError(
                f'{origin}: expected an object like {{"path": "a.jpg", "class": "dog"}}, not {line.strip()[:60]!r}.'
            )
        for key in ("path", "class"):
            if key not in entry:
                raise DataError(f"{origin}: the key {key!r} is missing; the keys are {', '.join(map(repr, entry))}.")
        fields = {key: entry[key] for key in ("path", "class", "split") if entry.get(key) is not None or key != "split"}
        for key, value in fields.items():
            if not isinstance(value, str):
                raise DataError(f"{origin}: {key!r} must be a string, not {value!r}.")
        yield origin, fields
