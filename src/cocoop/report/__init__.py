"""Reports: tables, charts and pages made from records, without models or tensors."""

from importlib.util import find_spec

from cocoop.errors import ConfigError

__all__ = ["check_report_extra"]


def check_report_extra() -> None:
    """Check that the libraries of the extra `report` are installed.

    Raises:
        ConfigError: naming those that are missing.
    """
    missing = [name for name in ("matplotlib", "pandas") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"Reports need {' and '.join(missing)}: pip install 'cocoop[report]'")
