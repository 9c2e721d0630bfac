"""The files for contributors agree with each other and with the project."""

import re

import pytest
import yaml
from paths import ROOT

from cocoop.version import __version__

REPOSITORY = "https://github.com/cocoop-learn/cocoop"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
FILES = [
    *ROOT.glob("*.md"),
    *(ROOT / ".github").rglob("*.*"),
    *(ROOT / name for name in (".pre-commit-config.yaml", "CITATION.cff", "pyproject.toml")),
]


def test_citation_and_changelog_name_the_current_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}] - {citation['date-released']}\n" in changelog
    assert f"[{__version__}]: {REPOSITORY}/releases/tag/v{__version__}\n" in changelog


def test_ci_runs_every_supported_python():
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    assert yaml.safe_load(WORKFLOW)["jobs"]["tests"]["strategy"]["matrix"]["python-version"] == supported
    assert f'requires-python = ">={supported[0]}"' in PROJECT


def test_ci_runs_files_that_exist():
    named = re.findall(r"\btests/[\w/]+(?:\.py)?", WORKFLOW)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_make_targets_exist(file):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = re.findall(r"(?:`|^|run: |entry: )make((?: [\w=.-]+)+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    named = {word for command in commands for word in command.split() if "=" not in word}
    assert named - targets == set()


@pytest.mark.parametrize("file", sorted(ROOT.glob("*.md")), ids=lambda file: file.name)
def test_relative_links_lead_to_files(file):
    links = re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_project_has_one_address():
    addresses = {url for file in FILES for url in re.findall(r"https://github\.com/[\w-]+/cocoop\b", file.read_text())}
    assert addresses - {"https://github.com/YOUR-NAME/cocoop"} == {REPOSITORY}
