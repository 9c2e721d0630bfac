"""Manifests: a CSV or JSONL file with a path, a class and, if wanted, a split a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from cocoop.data.class_names import in_name_order
from cocoop.data.dataset import Split
from cocoop.data.readers.rows import Listing, Row, check_unique, normal_path, split_called
from cocoop.data.readers.text_files import line_of, read_text
from cocoop.errors import DataError

__all__ = ["read_manifest"]


def read_manifest(path: Path, image_root: Path) -> Listing:
    """Read a manifest; photos are not opened.

    Args:
        path: `.csv` with a header that has the columns path, class and optionally split, or `.jsonl`
            (`.ndjson`) with an object a line with these keys. UTF-8. Other columns are passed over.
        image_root: the folder that relative paths start from.

    Raises:
        DataError: with the number of the line that is wrong.
    """
    text = read_text(path, "manifest")
    entries = _csv_entries(path, text) if path.suffix.lower() == ".csv" else _jsonl_entries(path, text)
    rows = [_row(fields, where, image_root) for where, fields in entries]
    if not rows:
        raise DataError(f"The manifest '{path}' lists no photo.")
    without = next((row for row in rows if row.split is None), None)
    if without is not None and any(row.split for row in rows):
        raise DataError(f"{without.where}: no split, though other lines have one. Give every line a split, or none.")
    check_unique(rows)
    return Listing(rows, in_name_order([row.raw_class for row in rows]))


def _row(fields: Mapping[str, str], where: str, image_root: Path) -> Row:
    if not fields["class"].strip():
        raise DataError(f"{where}: the class is empty.")
    split: Split | None = None
    if fields.get("split", "").strip():
        split = split_called(fields["split"], where)
    path = normal_path(fields["path"], where, image_root=image_root, may_leave=True)
    return Row(path, fields["class"].strip(), split, where)


def _csv_entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = line_of(path, reader.line_num)
            if not header:
                header = _header(cells, where)
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where}: {len(cells)} cells where the header has {len(header)}"
                    " (put a path or class with a comma in double quotes)."
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{line_of(path, reader.line_num)}: not valid CSV: {error}.") from error


def _header(cells: list[str], where: str) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    if "path" not in header or "class" not in header:
        raise DataError(
            f"{where}: the header must name the columns path,class (and split, if there are splits),"
            f" separated by commas; it is {','.join(cells)!r}."
        )
    for column in ("path", "class", "split"):
        if header.count(column) > 1:
            raise DataError(f"{where}: the header names the column {column!r} twice.")
    return header


def _jsonl_entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    # Not splitlines(): it would also break at separators that may stand inside of a JSON text.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = line_of(path, number)
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not valid JSON: {error}.") from error
        if not isinstance(entry, dict):
            raise DataError(
                f'{where}: expected an object like {{"path": "a.jpg", "class": "dog"}}, not {line.strip()[:60]!r}.'
            )
        for key in ("path", "class"):
            if key not in entry:
                raise DataError(f"{where}: the key {key!r} is missing; the keys are {', '.join(map(repr, entry))}.")
        fields = {key: entry[key] for key in ("path", "class", "split") if entry.get(key) is not None or key != "split"}
        for key, value in fields.items():
            if not isinstance(value, str):
                raise DataError(f"{where}: {key!r} must be a text in quotes, not {value!r}.")
        yield where, fields
