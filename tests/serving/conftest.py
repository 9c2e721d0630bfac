"""A saved prompt with images, served for all tests of a file."""

import pytest
import torch
from made_images import make_images
from server_process import NAMES

import cocoop


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A directory with `photos`, a `run` whose Meta-Net matters, and a file that no request may read."""
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=10)
    method = cocoop.CoCoOp(cocoop.load_backbone("lite"), NAMES, seed=1)
    with torch.no_grad():
        method.meta_net.linear2.weight *= 4
    method.save_pretrained(directory / "run")
    (directory / "secret.txt").write_text("the-secret-of-the-disk")
    return directory


@pytest.fixture(scope="session")
def image(home):
    return home / "photos/sea/00.png"
