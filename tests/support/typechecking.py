"""Checker of shapes and types while tests run; see conftest.py."""

from beartype import BeartypeConf, beartype

__all__ = ["check"]

# Accept an int for a float, like mypy (PEP 484).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
