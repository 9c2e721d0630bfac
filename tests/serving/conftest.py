"""A saved prompt beside the photos of the shared fixture."""

import pytest
import torch
from server_process import NAMES

import cocoop


@pytest.fixture(scope="module")
def home(home):
    """A directory with `photos`, a `run` whose Meta-Net matters, and a file that no request may read."""
    method = cocoop.CoCoOp(cocoop.load_backbone("lite"), NAMES, seed=1)
    with torch.no_grad():
        method.meta_net.linear2.weight *= 4
    method.save_pretrained(home / "run")
    (home / "secret.txt").write_text("the-secret-of-the-disk")
    return home


@pytest.fixture
def image(home):
    return home / "photos/sea/00.png"
