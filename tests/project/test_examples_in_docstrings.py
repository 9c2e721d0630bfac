"""The examples in the docstrings of the most used names run as they are."""

import inspect
import re
import textwrap

import pytest

import cocoop

NAMES = [
    "load_backbone",
    "load_data",
    "CoCoOp",
    "CoOp",
    "ZeroShot",
    "fit",
    "evaluate",
    "Classifier",
    "from_pretrained",
    "sweep",
]

pytestmark = pytest.mark.usefixtures("one_thread")


def example_of(name):
    """Return the indented block below `Example:` in a docstring."""
    match = re.search(
        r"^Example:\n((?: {4}.*\n|\n)+)", inspect.getdoc(getattr(cocoop, name)) + "\n", flags=re.MULTILINE
    )
    assert match, f"cocoop.{name} has no example"
    return re.sub(r"^```.*\n", "", textwrap.dedent(match[1]), flags=re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, home, monkeypatch):
    code = example_of(name)
    assert code.startswith("import cocoop\n"), "an example can be pasted into a Python session"
    monkeypatch.chdir(home)
    monkeypatch.setenv("COCOOP_CACHE", str(home / "cache"))
    exec(compile(code, f"<example of cocoop.{name}>", "exec"), {})
