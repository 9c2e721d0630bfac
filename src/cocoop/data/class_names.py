"""Class names: cleaning and renaming, from their spelling in the source to the words in the prompt."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cocoop.data.readers.text_files import line_of, read_text
from cocoop.errors import DataError
from cocoop.text.prompts import clean_name

__all__ = ["clean_and_rename", "read_renames", "sort_by_name"]


def sort_by_name(raw_names: Sequence[str]) -> list[str]:
    """Return each raw name once, sorted by cleaned name: the label order of sources that define none.

    Renames are applied later, so that a new wording changes the prompts but not which classes are base and new.
    """
    return sorted(dict.fromkeys(raw_names), key=lambda raw: (clean_name(raw), raw))


def clean_and_rename(raw_names: Sequence[str], renames: Mapping[str, str]) -> list[str]:
    """Return the class names for the prompts.

    Args:
        raw_names: one name per class, as spelled in the source.
        renames: new names by raw or cleaned name; applied all at once, so two names can be swapped.

    Returns:
        One name per class, in the same order.

    Raises:
        DataError: if a name is empty, two classes get the same name, a rename matches no class, or two renames match
            one class.
    """
    # A rename with the exact raw name applies to that class only; the others match by cleaned name.
    exact = set(raw_names) & set(renames)
    by_clean_name: dict[str, list[str]] = {}
    for old in renames:
        if old not in exact:
            by_clean_name.setdefault(clean_name(old), []).append(old)
    matches: dict[str, str] = {}
    for raw in raw_names:
        found = [raw] if raw in exact else by_clean_name.get(clean_name(raw), [])
        if len(found) > 1:
            raise DataError(f"The class {raw!r} has several renames: {', '.join(map(repr, found))}. Keep one.")
        if found:
            matches[raw] = found[0]
    unmatched = sorted(set(renames) - set(matches.values()))
    if unmatched:
        classes = ", ".join(repr(raw) for raw in raw_names[:10]) + (", ..." if len(raw_names) > 10 else "")
        raise DataError(f"The rename of {unmatched[0]!r} matches no class. The classes are: {classes}")

    names = [clean_name(renames[matches[raw]] if raw in matches else raw) for raw in raw_names]
    first: dict[str, str] = {}
    for raw, name in zip(raw_names, names, strict=True):
        if not name:
            raise DataError(f"The class {raw!r} has an empty name after cleaning ('_' becomes a space).")
        other = first.setdefault(name.lower(), raw)
        if other != raw:
            raise DataError(
                f"The classes {other!r} and {raw!r} would both be called {name!r} ('_' counts as a space, and case is"
                " ignored). Merge them, or rename one."
            )
    return names


def read_renames(source: str | Path | Mapping[str, str] | None) -> dict[str, str]:
    """Read new class names.

    Args:
        source: a JSON file with an object `{"old": "new"}`, a CSV file with the columns old,new (a header `old,new` is
            optional), a mapping, or None for no renames.

    Raises:
        DataError: if the file is missing or malformed, or names a class twice.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source).expanduser()
    if path.suffix.lower() not in (".json", ".csv"):
        raise DataError(f'The renames file \'{path}\' must be .json with {{"old": "new"}}, or .csv with old,new.')
    text = read_text(path, "renames file")
    pairs = _json_pairs(path, text) if path.suffix.lower() == ".json" else _csv_pairs(path, text)
    renames: dict[str, str] = {}
    for old, new in pairs:
        if old in renames:
            raise DataError(f"The renames file '{path}' renames {old!r} twice. Keep one.")
        renames[old] = new
    return renames


def _json_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    class Pairs(list[tuple[str, object]]):
        """A JSON object as pairs, which keep duplicate keys."""

    try:
        content = json.loads(text, object_pairs_hook=Pairs)
    except (ValueError, RecursionError) as error:
        raise DataError(f"The renames file '{path}' is not valid JSON: {error}.") from error
    if not isinstance(content, Pairs) or not all(isinstance(new, str) for _, new in content):
        raise DataError(f'The renames file \'{path}\' must hold one JSON object of strings, like {{"old": "new"}}.')
    return [(old, str(new)) for old, new in content]


def _csv_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    pairs: list[tuple[str, str]] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells) or (not pairs and [cell.lower() for cell in cells] == ["old", "new"]):
                continue
            if len(cells) != 2:
                where = line_of(path, reader.line_num)
                raise DataError(f"{where}: {len(cells)} cells instead of old,new (quote a name that has commas).")
            pairs.append((cells[0], cells[1]))
    except csv.Error as error:
        raise DataError(f"{line_of(path, reader.line_num)}: not valid CSV: {error}.") from error
    return pairs
