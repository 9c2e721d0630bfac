"""Docstrings begin with a verb or a noun, and messages of the library name no command-line flags."""

import ast
import re

from paths import SOURCE

PACKAGE = SOURCE / "cocoop"
TREES = {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text("utf-8")) for file in PACKAGE.rglob("*.py")}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def test_docstrings_begin_with_a_verb_or_a_noun():
    docstrings = [
        (file, docstring)
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node))
    ]
    assert len(docstrings) > 500
    wrong = r"(What|Whether|Where|Who|How|Of|That|And|Which|If|When|Why)\b"
    assert [(file, text.splitlines()[0]) for file, text in docstrings if re.match(wrong, text)] == []


def test_every_file_has_a_docstring():
    assert [file for file, tree in TREES.items() if not ast.get_docstring(tree)] == []


PAGES = ("report/charts.py", "report/demo_page.py")
"""Files with CSS variables, and with commands to type."""


def test_library_messages_name_no_flags():
    texts = [
        (file, node.value)
        for file, tree in TREES.items()
        if not file.startswith("cli/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert len(texts) > 1000
    flag = r"(?<![\w(-])--[a-z]"
    assert [(file, text) for file, text in texts if re.search(flag, text) and file not in PAGES] == []
