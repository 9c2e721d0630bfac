"""Shared fixtures: a directory with photos, a tiny backbone with random weights, and real data sets."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import jaxtyping
import pytest
from made_images import make_images
from paths import SHARED

# Shapes and types in the signatures are checked while the tests run.
jaxtyping.install_import_hook("cocoop", "typechecking.check")

# Failed assertions in helpers show their values, too.
pytest.register_assert_rewrite("server_process")

import torch  # noqa: E402
from tiny_backbone import make_tiny_backbone  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real images, official splits and draws; tests that need them are skipped where they are missing."""
    if not SHARED.is_dir():
        pytest.skip("needs the directory of real images and official splits (set COCOOP_SHARED)")
    return SHARED


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A directory with `photos`: ten images in each of four classes. Test files may add to it in a fixture `home`."""
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=10)
    return directory


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_interrupts():
    """Handle Ctrl-C, which shells disable for background jobs and their children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """Limit threads to the two cores of CI."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="module")
def one_thread(few_threads):
    """Use one thread: for models this small, more threads are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_backbone():
    return make_tiny_backbone()
