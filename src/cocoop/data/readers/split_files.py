"""Reader of the CoOp code's split files: JSON with lists of [path, label, class name] for train, val and test."""

from __future__ import annotations

import json
from pathlib import Path

from cocoop.data.readers.rows import SPLIT_NAMES, Listing, Row, check_unique, normalize_path, parse_split
from cocoop.data.readers.text_files import read_text
from cocoop.errors import DataError

__all__ = ["read_split_file"]


def read_split_file(path: Path, image_root: Path) -> Listing:
    """Read a split file with its labels; no image is opened.

    Args:
        path: a JSON object with the lists `train`, `val` and `test`, each optional.
        image_root: directory that the paths start from.

    Raises:
        DataError: if the file is malformed, a label has two names or is skipped, an image is listed twice, or a path
            leaves the image root.
    """
    text = read_text(path, "split file")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"The split file '{path}' is not valid JSON: {error}. A file with one object per line must end in .jsonl."
        ) from error
    if not isinstance(content, dict) or not any(str(key).lower() in SPLIT_NAMES for key in content):
        kind = f"an object with the keys {sorted(content)[:5]}" if isinstance(content, dict) else "another JSON value"
        raise DataError(
            f"The split file '{path}' must be a JSON object with the lists 'train', 'val' and 'test'; it is {kind}."
        )

    rows: list[Row] = []
    name_of: dict[int, str] = {}
    for word, entries in content.items():
        split = parse_split(word, path.name)
        if not isinstance(entries, list):
            raise DataError(f"{path.name}: {word!r} must be a list of [path, label, class name].")
        for position, entry in enumerate(entries):
            origin = f"{path.name}, {word}[{position}]"
            image, label, name = _parse_entry(entry, origin)
            if name_of.setdefault(label, name) != name:
                raise DataError(f"{origin}: the label {label} is {name!r} here and {name_of[label]!r} before.")
            rows.append(
                Row(normalize_path(image, origin, image_root=image_root, allow_outside=False), name, split, origin)
            )
    if not rows:
        raise DataError(f"The split file '{path}' lists no image.")
    _check_labels(path, name_of)
    check_unique(rows)
    return Listing(rows, [name_of[label] for label in range(len(name_of))])


def _parse_entry(entry: object, origin: str) -> tuple[str, int, str]:
    match entry:
        # True and False are integers in Python.
        case [str(path), int(label), str(name)] if not isinstance(label, bool):
            return path, label, name
    raise DataError(f"{origin}: expected [path, label, class name] with an integer label, not {entry!r}.")


def _check_labels(path: Path, name_of: dict[int, str]) -> None:
    missing = sorted(set(range(len(name_of))) - set(name_of))
    if missing:
        raise DataError(
            f"The split file '{path}' has {len(name_of)} labels from {min(name_of)} to {max(name_of)}, but not"
            f" {missing[0]}. Labels must count 0, 1, 2, ... without a gap."
        )
    first: dict[str, int] = {}
    for label, name in name_of.items():
        if first.setdefault(name, label) != label:
            raise DataError(f"The split file '{path}' gives {name!r} two labels, {first[name]} and {label}.")
