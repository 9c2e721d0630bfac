"""The checker of shapes and types that tests run under, see conftest.py."""

from beartype import BeartypeConf, beartype

__all__ = ["check"]

# As mypy does (PEP 484): where a float is asked for, an int will do.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
