"""Training: the published update, frozen towers, non-finite losses, and too little memory."""

import hashlib
import json
import math
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from made_images import environment, make_images
from paths import DRIVER_PATH, SUPPORT
from PIL import Image
from tiny_backbone import make_tiny_backbone
from torch import nn

import cocoop
from cocoop.backbones.backbone import Backbone
from cocoop.config import TrainConfig
from cocoop.data import epoch_order, load_data
from cocoop.errors import ConfigError, DataError, MemoryWarning, TrainingError
from cocoop.methods import CoCoOp, CoOp, ZeroShot
from cocoop.training.features import encode_split
from cocoop.training.fit import fit

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = {"cocoop": CoCoOp, "coop": CoOp}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four classes with three training images each."""
    return load_data(make_images(tmp_path_factory.mktemp("photos"), per_class=6)).few_shot(3, seed=1)


def make(key, backbone, data, **settings):
    return METHODS[key](backbone, data.classnames, context="a photo of a", seed=3, **settings)


def learned(method):
    return {name: tensor.detach().clone() for name, tensor in method.learned().items()}


def settings(**changes):
    return TrainConfig(**({"epochs": 3, "batch_size": 4, "workers": 0, "cache_features": True, "seed": 5} | changes))


def by_hand(method, features, config):
    """Train with SGD as published, written out: weight decay, momentum without dampening, no Nesterov."""
    momentum = dict.fromkeys(method.learned())
    losses = []
    for epoch in range(1, config.epochs + 1):
        total = 0.0
        order = epoch_order(len(features.labels), config.batch_size, config.seed, epoch)
        for rows in order:
            loss = F.cross_entropy(method.logits(features.features[rows]), features.labels[rows])
            gradients = torch.autograd.grad(loss, list(method.learned().values()))
            with torch.no_grad():
                for (name, value), gradient in zip(method.learned().items(), gradients, strict=True):
                    step = gradient + config.weight_decay * value
                    momentum[name] = step if momentum[name] is None else config.momentum * momentum[name] + step
                    value -= config.learning_rate_at(epoch) * momentum[name]
            total += loss.item() * len(rows)
        losses.append(total / sum(map(len, order)))
    return losses


@pytest.mark.parametrize("key", METHODS)
def test_fit_matches_the_published_update(key, data, tiny_backbone):
    # A large learning rate and weight decay make a missing term visible.
    config = settings(learning_rate=0.1, weight_decay=0.2, warmup_learning_rate=0.05)
    ours, plain = make(key, tiny_backbone, data), make(key, tiny_backbone, data)
    start = learned(ours)
    result = fit(ours, data, config)
    losses = by_hand(plain, encode_split(tiny_backbone, data, "train", workers=0), config)
    for name, tensor in learned(plain).items():
        torch.testing.assert_close(ours.learned()[name], tensor, rtol=0, atol=1e-6, msg=name)
        assert (tensor - start[name]).abs().max() > 1e-3, f"{name} was not trained at all"
    assert [epoch["loss"] for epoch in result.history] == pytest.approx(losses, rel=1e-5)
    assert [epoch["learning_rate"] for epoch in result.history] == [config.learning_rate_at(k) for k in (1, 2, 3)]


@pytest.mark.parametrize(("batch_size", "images"), [(1, 12), (5, 10), (12, 12), (32, 12)])
def test_fit_drops_an_incomplete_last_batch_only_after_a_full_one(batch_size, images, data, tiny_backbone):
    steps = []
    config = settings(epochs=1, batch_size=batch_size)
    result = fit(make("coop", tiny_backbone, data), data, config, on_step=steps.append)
    assert result.history[0]["images"] == images
    assert len(steps) == max(1, 12 // batch_size)
    assert {step.images_in_epoch for step in steps} == {images}
    assert [step.images for step in steps] == [batch_size * (k + 1) for k in range(len(steps) - 1)] + [images]


def with_batch_norm():
    """A backbone whose image tower would change if it were used in train mode."""
    base = make_tiny_backbone()
    tower = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(48))
    tower.eval()(torch.zeros(1, 3, 32, 32))
    return Backbone(
        name="with batch norm",
        image_tower=tower,
        text_tower=base.text_tower,
        tokenizer=base.tokenizer,
        preprocessing=base.preprocessing,
        logit_scale=3.0,
    )


def digest(module):
    """Return a hash of all parameters and buffers, including running statistics."""
    content = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        content.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return content.hexdigest()


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("cached", [True, False])
def test_fit_changes_only_the_learned_tensors(key, cached, data):
    backbone = with_batch_norm()
    method = make(key, backbone, data)
    trainable = {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in method.learned().values()}
    before, start = digest(backbone), learned(method)
    fit(method, data, settings(epochs=2, cache_features=cached))
    assert digest(backbone) == before
    assert not any(module.training for module in method.modules())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    for name, tensor in learned(method).items():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, start[name]), name


def test_training_depends_on_the_seed_only(data, tiny_backbone):
    def after(seed, **changes):
        method = make("cocoop", tiny_backbone, data)
        fit(method, data, settings(seed=seed, cache_features=False, **changes))
        return method.context.detach()

    torch.manual_seed(7)
    first = after(0)
    torch.manual_seed(8)
    assert torch.equal(first, after(0)), "depends on the global generator"
    assert torch.equal(first, after(0, workers=1)), "depends on the number of workers"
    assert not torch.equal(first, after(1))


def test_images_are_augmented_unless_features_are_cached(data, tiny_backbone):
    augmented, cached = make("coop", tiny_backbone, data), make("coop", tiny_backbone, data)
    one = fit(augmented, data, settings(cache_features=False)).history
    other = fit(cached, data, settings()).history
    assert one[0]["loss"] != other[0]["loss"]


@pytest.mark.parametrize(
    ("precision", "bound"),
    # Activations have 8 bits in bf16 and 11 in fp16, so each of three layers adds a relative error of 2^-9 or 2^-12. A
    # cosine is off by at most three times that, and the logits, and so the loss, by exp(3) = 20 times more.
    [("bf16", 20 * 3 * 2**-9), ("fp16", 20 * 3 * 2**-12)],
)
@pytest.mark.parametrize("key", METHODS)
def test_half_precision_towers_train_fp32_parameters(key, precision, bound, data, tiny_backbone):
    half, full = make(key, make_tiny_backbone(precision=precision), data), make(key, tiny_backbone, data)
    start = learned(half)
    # One image per step: in a batch of all classes the gradients nearly cancel, and mostly rounding is left.
    config = settings(epochs=2, batch_size=1)
    coarse, exact = fit(half, data, config).history, fit(full, data, config).history
    assert half.backbone.text_tower.ln_final.weight.dtype != torch.float32
    assert 0 < abs(coarse[0]["loss"] - exact[0]["loss"]) < bound
    for name, tensor in half.learned().items():
        assert tensor.dtype == torch.float32
        moved, expected = tensor - start[name], full.learned()[name] - start[name]
        assert F.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.99, name


def test_warm_up_steps_are_not_lost_to_rounding(data):
    method = make("coop", make_tiny_backbone(precision="bf16"), data)
    start = learned(method)["context"]
    fit(method, data, settings(epochs=1, batch_size=12))
    moved = (method.context - start).abs()
    assert 0 < moved.max() < 2**-9 * start.abs().max()


class Fragile(nn.Module):
    """An image tower that divides by the brightness of an image: a black image has no finite feature."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        brightness = (images - images.amin()).flatten(1).amax(1) * (images.flatten(1).amax(1) > -1.9)
        return self.inner(images) / brightness.unsqueeze(1)


def fragile_backbone():
    base = make_tiny_backbone()
    return Backbone(
        name="fragile",
        image_tower=Fragile(base.image_tower),
        text_tower=base.text_tower,
        tokenizer=base.tokenizer,
        preprocessing=base.preprocessing,
        logit_scale=3.0,
    )


@pytest.mark.parametrize("cached", [True, False])
def test_non_finite_loss_names_the_image_and_changes_nothing(cached, tmp_path):
    images = make_images(tmp_path / "photos" / "train", per_class=2)
    Image.new("RGB", (40, 32)).save(images / "sea" / "01.png")
    data = load_data(tmp_path / "photos")
    method = make("cocoop", fragile_backbone(), data)
    start = learned(method)
    config = settings(batch_size=1, cache_features=cached)
    items = [data.train[row] for (row,) in epoch_order(8, 1, config.seed, 1)]
    step = 1 + [item.path for item in items].index("train/sea/01.png")
    message = f"The loss became nan in epoch 1, step {step}, with 'train/sea/01.png'. The prompt and the last"
    with pytest.raises(TrainingError, match=re.escape(message)):
        fit(method, data, config, run=tmp_path / "run")
    for name, tensor in learned(method).items():
        assert torch.equal(tensor, start[name]), name
    saved = cocoop.from_pretrained(tmp_path / "run", backbone=method.backbone)
    for name, tensor in learned(saved).items():
        assert torch.equal(tensor, start[name]), name


def test_diverging_run_keeps_its_last_completed_epoch(data, tiny_backbone, tmp_path):
    method = make("coop", tiny_backbone, data)
    # The warm-up epoch is harmless; the first step of the second epoch makes the context infinite.
    with pytest.raises(TrainingError, match=r"in epoch 2, step 2, with '.*\.png'.*Try a lower `learning_rate`"):
        fit(method, data, settings(learning_rate=1e38), run=tmp_path)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["epoch"] == 1
    reference = make("coop", tiny_backbone, data)
    fit(reference, data, settings(epochs=1))
    for found in (method, cocoop.from_pretrained(tmp_path, backbone=tiny_backbone)):
        assert torch.equal(found.context, reference.context)


class Overflowing:
    """An engine whose gradients overflow at one step."""

    num_processes = 1

    def __init__(self, step):
        self.left = step

    def backward(self, loss, **kwargs):
        self.left -= 1
        (loss * (math.inf if self.left == 0 else 1.0)).backward()


def test_non_finite_gradient_stops_before_the_update(data, tiny_backbone):
    method = make("coop", tiny_backbone, data)
    message = r"The gradient became (inf|nan) in epoch 2, step 1, with '.*', '.*', '.*', '.*'\. The prompt and the last"
    with pytest.raises(TrainingError, match=message):
        fit(method, data, settings(), engine=Overflowing(4))
    assert method.context.isfinite().all()


def test_fp16_skips_a_step_whose_gradient_overflows(data):
    method = make("coop", make_tiny_backbone(precision="fp16"), data)
    result = fit(method, data, settings(), engine=Overflowing(4))
    assert len(result.history) == 3
    assert method.context.isfinite().all()


class AlwaysOverflowing(Overflowing):
    """An engine whose gradients overflow at every step."""

    def backward(self, loss, **kwargs):
        (loss * math.inf).backward()


def test_fp16_raises_if_every_gradient_overflows(data):
    method = make("coop", make_tiny_backbone(precision="fp16"), data)
    start = learned(method)
    with pytest.raises(TrainingError, match=r'overflow in fp16 at every scale.*Use `precision="bf16"` or'):
        fit(method, data, settings(epochs=40), engine=AlwaysOverflowing(0))
    assert torch.equal(method.context, start["context"])


def test_fit_accepts_an_accelerator_as_engine(data, tiny_backbone):
    from accelerate import Accelerator

    plain, engined = make("cocoop", tiny_backbone, data), make("cocoop", tiny_backbone, data)
    fit(plain, data, settings())
    fit(engined, data, settings(), engine=Accelerator(cpu=True))
    for name, tensor in learned(plain).items():
        assert torch.equal(engined.learned()[name], tensor), name


def test_fit_refuses_an_engine_that_scales_gradients_itself(data, tiny_backbone):
    engine = Overflowing(0)
    engine.mixed_precision = "fp16"
    with pytest.raises(ConfigError, match="The engine has mixed_precision='fp16', which training does itself"):
        fit(make("coop", tiny_backbone, data), data, settings(), engine=engine)


def test_fit_refuses_methods_and_data_that_cannot_be_trained(data, tiny_backbone):
    with pytest.raises(ConfigError, match="zero-shot has nothing to train; use coop or cocoop"):
        fit(ZeroShot(tiny_backbone, data.classnames), data)
    with pytest.raises(DataError, match=r"has 2 classes \('cherry', ...\) and the data 4"):
        fit(CoOp(tiny_backbone, ["cherry", "leaf"]), data)
    with pytest.raises(ConfigError, match="`resume=True` needs a run directory"):
        fit(make("coop", tiny_backbone, data), data, resume=True)


@pytest.mark.parametrize("cached", [True, False])
def test_unreadable_images_are_skipped_and_reported(cached, tmp_path, tiny_backbone):
    images = make_images(tmp_path / "photos" / "train", per_class=3)
    (images / "leaf" / "00.png").write_bytes(b"not an image")
    data = load_data(tmp_path / "photos")
    method = make("coop", tiny_backbone, data)
    config = settings(epochs=1, batch_size=1, cache_features=cached)
    result = fit(method, data, config)
    assert result.history[0]["images"] == 11
    assert [(image.path, image.reason) for image in result.unreadable] == [
        ("train/leaf/00.png", "it is empty, damaged or not in a supported format")
    ]
    with pytest.raises(DataError, match=r"1 image could not be read \('train/leaf/00.png': it is empty"):
        fit(method, data, settings(epochs=1, cache_features=cached, skip_unreadable=False))


@pytest.mark.parametrize("cached", [True, False])
def test_fit_raises_if_no_image_is_readable(cached, tmp_path, tiny_backbone):
    images = make_images(tmp_path / "photos" / "train", per_class=2)
    for image in images.rglob("*.png"):
        image.write_bytes(b"")
    data = load_data(tmp_path / "photos")
    with pytest.raises((TrainingError, DataError), match=r"8 images could not be read \(.*; and 5 more\)"):
        fit(make("coop", tiny_backbone, data), data, settings(cache_features=cached))


class LowMemory:
    """An engine that runs out of memory a number of times."""

    num_processes = 1

    def __init__(self, failures):
        self.failures = failures

    def backward(self, loss, **kwargs):
        loss.backward()
        self.failures -= 1
        if self.failures >= 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize(("key", "failures"), [("coop", 1), ("cocoop", 3)])
def test_fit_uses_less_memory_after_an_out_of_memory_error(key, failures, data):
    plain, limited = make_tiny_backbone(), make_tiny_backbone()
    reference, method = make(key, plain, data), make(key, limited, data)
    fit(reference, data, settings())
    with pytest.warns(MemoryWarning) as caught:
        fit(method, data, settings(), engine=LowMemory(failures))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == failures
    assert messages[0].startswith("Memory ran out; training continues with a `memory_budget` of 0 MiB")
    assert all(text.endswith(", more slowly.") for text in messages)
    assert limited.text_tower.memory_budget is not None
    for name, tensor in learned(reference).items():
        torch.testing.assert_close(method.learned()[name], tensor, rtol=0, atol=1e-6)


def test_fit_raises_if_the_least_memory_does_not_suffice(data):
    backbone = make_tiny_backbone()
    method = make("cocoop", backbone, data)
    start = learned(method)
    with pytest.warns(MemoryWarning) as caught, pytest.raises(torch.OutOfMemoryError):
        fit(method, data, settings(), engine=LowMemory(1000))
    assert str(caught[-1].message).startswith("Memory ran out; training continues with")
    assert any("with fewer images at a time (1), more slowly." in str(warning.message) for warning in caught)
    assert len(caught) < 10
    for name, tensor in start.items():
        assert torch.equal(method.learned()[name], tensor)


def test_encode_image_uses_smaller_batches_after_an_out_of_memory_error(tiny_backbone):
    class Small(nn.Module):
        def forward(self, images):
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return tiny_backbone.image_tower(images)

    backbone = make_tiny_backbone()
    backbone.image_tower = Small()
    images = torch.randn(6, 3, backbone.preprocessing.size, backbone.preprocessing.size)
    with pytest.warns(MemoryWarning) as caught:  # noqa: PT031 - the second call must not warn again
        features = backbone.encode_image(images)
        backbone.encode_image(images)
    assert [str(warning.message).partition(". ")[0] for warning in caught] == [
        "Memory ran out; images are encoded 2 at a time from now on",
        "Memory ran out; images are encoded 1 at a time from now on",
    ]
    torch.testing.assert_close(features, tiny_backbone.encode_image(images))


def test_scorer_uses_smaller_batches_after_an_out_of_memory_error(data):
    backbone = make_tiny_backbone()
    method = make("cocoop", backbone, data)
    features = torch.randn(6, backbone.embed_dim)
    expected = method.scorer()(features)
    text_features = method.text_features

    def small(images):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return text_features(images)

    method.text_features = small
    with pytest.warns(MemoryWarning) as caught:  # noqa: PT031 - the second call must not warn again
        found = method.scorer()(features)
        method.scorer()(features)
    assert [str(warning.message).partition(". ")[0] for warning in caught] == [
        "Memory ran out; images are classified 3 at a time from now on",
        "Memory ran out; images are classified 1 at a time from now on",
    ]
    torch.testing.assert_close(found, expected)


def test_fit_gives_the_same_numbers_under_a_real_memory_limit(tmp_path):
    """The limit (RLIMIT_AS) is set in a process of its own."""
    images = make_images(tmp_path / "photos", per_class=4)
    # Freed memory is returned to the system at once, so that only memory in use counts.
    paths = environment(PYTHONPATH=DRIVER_PATH, MALLOC_MMAP_THRESHOLD_="65536")
    command = [sys.executable, SUPPORT / "memory_driver.py", images, "200"]
    done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    warning, error, difference, moved = done.stdout.splitlines()
    assert re.match(r"Memory ran out; training continues with a `memory_budget` of \d+ MiB", warning)
    assert error == 'Memory ran out; try a smaller `batch_size`, `precision="bf16"` or a smaller `backbone`.'
    assert float(difference) <= 1e-6 < float(moved)
