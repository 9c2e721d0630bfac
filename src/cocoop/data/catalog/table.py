"""The catalog: entries of `catalog.toml` by name, alias or title."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.errors import DataError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CATALOG", "catalog_entry", "find_entry"]


def _read_catalog_file() -> Mapping[str, CatalogEntry]:
    text = resources.files(__package__).joinpath("catalog.toml").read_text(encoding="utf-8")
    return MappingProxyType({name: CatalogEntry(name=name, **fields) for name, fields in tomllib.loads(text).items()})


CATALOG = _read_catalog_file()
"""All entries by name, in the order of the papers' tables."""


def find_entry(name: str) -> CatalogEntry | None:
    """Find a data set by name, title or alias, ignoring case, `-`, `_` and spaces."""
    key = _normalize(name)
    entries = CATALOG.values()
    return next((e for e in entries if key in map(_normalize, (e.name, e.title, *e.aliases))), None)


def catalog_entry(name: str) -> CatalogEntry:
    """Return a data set by name, title or alias, or raise an error with the closest names."""
    entry = find_entry(name)
    if entry is None:
        close = difflib.get_close_matches(_normalize(name), list(CATALOG), n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise DataError(f"The catalog has no data set {name!r}.{hint} Its data sets are: {', '.join(CATALOG)}.")
    return entry


def _normalize(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()
