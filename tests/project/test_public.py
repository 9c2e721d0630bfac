"""The public names of the package, and the modules behind them."""

import ast
import subprocess
import sys
from importlib import import_module

import pytest
from made_images import SOURCE, environment

import cocoop

PACKAGE = SOURCE / "cocoop"


def module_name(file):
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(file): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(PACKAGE.rglob("*.py"))}
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))


def public_names():
    """Return the module of each name in `__init__.pyi`."""
    return {alias.asname: f"cocoop.{node.module}" for node in STUB.body for alias in node.names}


def test_the_stub_holds_only_reexports():
    assert STUB.body
    for node in STUB.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.level == 1
        assert all(alias.asname == alias.name for alias in node.names)


def test_all_lists_the_names_of_the_stub():
    assert sorted(cocoop.__all__) == sorted(public_names())
    assert set(cocoop.__all__) <= set(dir(cocoop))


def test_public_names_are_those_of_their_modules():
    names = public_names()
    assert names
    for name, home in names.items():
        assert getattr(cocoop, name) is getattr(import_module(home), name), name


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_every_module_defines_the_names_in_its_all():
    checked = 0
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["__all__"]:
                module = import_module(name)
                assert all(hasattr(module, word) for word in ast.literal_eval(node.value)), name
                checked += 1
    assert checked > 50


def test_every_module_has_a_docstring():
    assert TREES
    for name, tree in TREES.items():
        assert ast.get_docstring(tree), f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No cocoop attribute Coop"):
        _ = cocoop.Coop


def test_importing_the_package_and_the_command_line_loads_no_torch():
    code = "import sys, cocoop, cocoop.cli; print({'torch', 'torchvision', 'open_clip'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["predict", "evaluate", "fit", "load_data", "sweep"])
def test_no_module_hides_a_function(name):
    # Importing a submodule sets an attribute of the package, which would replace the function of that name.
    assert f"cocoop.{name}" not in TREES
    assert callable(getattr(cocoop, name))
