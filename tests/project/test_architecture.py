"""Imports between packages go one way, from the command line down to storage."""

from __future__ import annotations

import ast
import sys

import pytest
from paths import SOURCE

PACKAGE = SOURCE / "cocoop"

LAYERS = (
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"sklearn"},
    {"serving"},
    {"report"},
    {"inference"},
    {"experiments"},
    {"evaluation"},
    {"training"},
    {"checkpoints"},
    {"methods"},
    {"backbones"},
    {"data"},
    {"text"},
    {"storage"},
    {"config"},
    {"errors"},
    {"version"},
)
"""Packages and loose modules of `cocoop`, from top to bottom; each may import from those below it."""

ALLOWED_UP = {("methods/base.py", "checkpoints")}
"""`Method.save_pretrained`, `push_to_hub` and `from_pretrained`, which users of Hugging Face expect on the class."""

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = {str(file.relative_to(PACKAGE)): ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")}


def part(file: str) -> str:
    """Return the package or loose module that a file belongs to."""
    return file.split("/")[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(tree: ast.AST, *, at_import: bool = False) -> set[str]:
    """Return the modules that a file imports anywhere, or only those that run when it is imported."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif at_import and (is_type_checking(node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        else:
            found |= imported(node, at_import=at_import)
    return found


def parts_imported(file: str) -> set[str]:
    """Return the parts of `cocoop` that a file imports."""
    names = {tuple(name.split(".")) for name in imported(FILES[file])}
    found = {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "cocoop"}
    return {name if name in LEVEL else "__init__" for name in found}


def test_every_part_has_a_layer():
    assert {part(file) for file in FILES} == set(LEVEL)
    assert len([name for name in LEVEL if (PACKAGE / name).is_dir()]) == 13
    assert {file for file in FILES if "/" not in file} == {
        "__init__.py",
        "__main__.py",
        "config.py",
        "errors.py",
        "sklearn.py",
        "version.py",
    }


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_imports_go_down(name):
    files = [file for file in FILES if part(file) == name]
    assert files
    for file in files:
        for other in parts_imported(file) - {name}:
            assert LEVEL[other] > LEVEL[name] or (file, other) in ALLOWED_UP, f"{file} imports cocoop.{other}"


def test_no_two_files_share_a_name():
    names: dict[str, list[str]] = {}
    for file in FILES:
        names.setdefault(file.rpartition("/")[2], []).append(file)
    shared = {name: files for name, files in names.items() if len(files) > 1}
    assert shared.keys() <= {"__init__.py", "base.py"}, shared


def test_no_module_imports_itself_through_others():
    modules = {"cocoop." + file.removesuffix(".py").replace("/", "."): file for file in FILES}
    modules = {name.removesuffix(".__init__"): file for name, file in modules.items()}
    waiting = {}
    for name, file in modules.items():
        found = imported(FILES[file], at_import=True)
        # `from a.b import c` needs the module a.b.c if there is one, else a.b.
        needed = {other if other in modules else other.rpartition(".")[0] for other in found}
        waiting[name] = {other for other in needed if other in modules and other != name}
    while ready := [name for name, needed in waiting.items() if not needed]:
        for name in ready:
            del waiting[name]
        for needed in waiting.values():
            needed.difference_update(ready)
    assert not waiting, f"these import each other in a circle: {sorted(waiting)}"


@pytest.mark.parametrize("name", ["errors", "config", "version"])
def test_foundations_need_only_the_standard_library(name):
    roots = {other.split(".")[0] for other in imported(FILES[f"{name}.py"])}
    assert roots <= sys.stdlib_module_names | {"cocoop"}


def test_reports_need_no_torch():
    for file in FILES:
        if part(file) == "report":
            roots = {other.split(".")[0] for other in imported(FILES[file])}
            assert not roots & {"torch", "torchvision", "open_clip", "transformers"}, file
