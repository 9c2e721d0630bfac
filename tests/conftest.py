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

import torch  # noqa: E402
from torch import nn  # noqa: E402


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


def make_tiny_backbone(activation="quick_gelu", *, width=32, layers=3, heads=4, embed_dim=48, seed=0, precision="fp32"):
    """Return a backbone with CLIP's vocabulary and random weights, large enough that gradients matter."""
    from cocoop.backbones.backbone import Backbone
    from cocoop.backbones.tokenizers import clip_tokenizer
    from cocoop.config import Preprocessing
    from cocoop.text.tower import TextTower, TextTowerConfig

    generator = torch.Generator().manual_seed(seed)
    config = TextTowerConfig(
        vocab_size=49408,
        context_length=77,
        width=width,
        heads=heads,
        layers=layers,
        mlp_width=4 * width,
        embed_dim=embed_dim,
        activation=activation,
    )
    tower = TextTower(config)
    for name, parameter in tower.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = ".ln_" in f".{name}"
        parameter.data = (1.0 if is_norm and name.endswith("weight") else 0.0) + noise * (0.1 if is_norm else 0.15)
    image_tower = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, embed_dim))
    for parameter in image_tower.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return Backbone(
        name="tiny",
        image_tower=image_tower,
        text_tower=tower,
        tokenizer=clip_tokenizer(),
        preprocessing=Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        logit_scale=3.0,
        precision=precision,
    )


@pytest.fixture(scope="session")
def tiny_backbone():
    return make_tiny_backbone()
