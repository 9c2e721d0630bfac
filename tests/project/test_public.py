"""The public surface, and which room of the house may look into which (read from the source, nothing is run)."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from made_images import SOURCE, environment

import cocoop

PACKAGE = SOURCE / "cocoop"


def modules() -> dict[str, ast.Module]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


TREES = modules()


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST, *, inside_functions: bool) -> set[str]:
    """Full names of what a module imports: `from a.b import c` counts as a.b.c if that is a module, else as a.b."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in TREES else node.module for name in names}
        elif not for_type_checkers(node) and (
            inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ):
            found |= imports(node, inside_functions=inside_functions)
    return found


def test_all_names_are_there_and_come_from_where_the_table_says():
    assert sorted(cocoop.__all__) == sorted(cocoop._HOMES)
    for name, home in cocoop._HOMES.items():
        assert getattr(cocoop, name) is getattr(import_module(home), name), name
    assert set(cocoop.__all__) <= set(dir(cocoop))


def test_type_checkers_are_told_the_same_names():
    (block,) = [node for node in TREES["cocoop"].body if for_type_checkers(node)]
    told = {alias.asname or alias.name: node.module for node in block.body for alias in node.names}
    assert told == cocoop._HOMES


def test_every_module_exports_what_it_names():
    for name, tree in TREES.items():
        declared = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["__all__"]
        ]
        for exported in declared:
            module = import_module(name)
            assert all(hasattr(module, word) for word in exported), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cocoop' has no attribute 'Coop'"):
        _ = cocoop.Coop


def test_importing_the_package_and_the_command_line_loads_no_torch():
    code = "import sys, cocoop, cocoop.cli; print({'torch', 'torchvision', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["predict", "evaluate", "fit", "load_data"])
def test_functions_are_not_hidden_by_modules_of_their_name(name):
    # Importing a submodule puts it into the package's namespace, where it would win over the table.
    assert f"cocoop.{name}" not in TREES
    assert callable(getattr(cocoop, name))


def test_every_file_says_what_it_is_and_stays_readable():
    for file in Path(PACKAGE).rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file} has no docstring"
