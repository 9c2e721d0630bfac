"""The sdist and the wheel: what they hold, and that the wheel works in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from paths import ROOT

from cocoop.version import __version__

PYPI_FILE_LIMIT = 100 * 1024**2


def run(*command: str | Path, cwd: Path, timeout: int = 300) -> str:
    """Run a command without the development environment's variables and return what it prints."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Build both files as `make build` does."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT, cwd=directory)
    return directory


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    return dist / f"cocoop-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Install the wheel into a new environment and return the directory of its commands.

    Downloading the dependencies would take gigabytes and a network, so a .pth file lends those of the development
    environment. A path in a .pth file is added as it is: .pth files inside it, such as the one of the editable install
    that points to src/, are not read. It is written after the install, so pip sees an empty environment.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    paths = sysconfig.get_paths("venv", vars={"base": str(home), "platbase": str(home)})
    python = Path(paths["scripts"]) / Path(sys.executable).name
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=home)
    lent = Path(paths["purelib"]) / "dependencies.pth"
    lent.write_text("".join(f"{sysconfig.get_path(name)}\n" for name in ("purelib", "platlib")))
    return python.parent


def test_twine_accepts_the_sdist_and_the_wheel(dist):
    files = sorted(dist.iterdir())
    assert [file.name for file in files] == [f"cocoop-{__version__}-py3-none-any.whl", f"cocoop-{__version__}.tar.gz"]
    assert run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=dist).count("PASSED") == 2
    assert all(file.stat().st_size < PYPI_FILE_LIMIT for file in files)


def test_wheel_holds_the_package_and_nothing_else(wheel):
    source = {file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src/cocoop").rglob("*") if file.is_file()}
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in source if "__pycache__" not in name}
    assert "cocoop/py.typed" in names


def test_wheel_carries_its_licences_and_project_links(wheel):
    information = f"cocoop-{__version__}.dist-info"
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"{information}/METADATA").decode()
    licences = {f"{information}/licenses/{name}" for name in ("LICENSE", "NOTICE", "src/cocoop/backbones/lite/NOTICE")}
    assert licences <= names
    for line in ("Author: The cocoop developers", "License-Expression: MIT", "Classifier: Typing :: Typed"):
        assert line in metadata.splitlines()
    for label in ("Homepage", "Documentation", "Changelog", "Issues", "Source"):
        assert f"Project-URL: {label}, https://github.com/cocoop-learn/cocoop" in metadata


def test_sdist_holds_what_a_contributor_needs(dist):
    with tarfile.open(dist / f"cocoop-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "pyproject.toml", "requirements-dev.lock", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"}
    assert wanted <= names
    assert {"docs/index.md", "tests/conftest.py", "tools/audit.py", "benchmarks/README.md"} <= names


def test_installed_wheel_runs_without_the_source(installed, tmp_path):
    assert __version__ in run(installed / "cocoop", "--version", cwd=tmp_path)
    file = run(installed / "python", "-c", "import cocoop; print(cocoop.__file__)", cwd=tmp_path).strip()
    assert Path(file).is_relative_to(installed.parent)


@pytest.mark.slow
def test_demo_runs_from_the_installed_wheel(installed, tmp_path):
    run(installed / "cocoop", "demo", cwd=tmp_path, timeout=1800)
    assert (tmp_path / "demo/report.html").stat().st_size > 10_000
