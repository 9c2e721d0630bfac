"""Settings: defaults, the learning-rate schedule, and messages for values out of range."""

import math
import subprocess
import sys

import pytest
from made_images import environment

from cocoop.config import TrainConfig
from cocoop.errors import ConfigError


def test_defaults_are_those_of_cocoop():
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (10, 1, 0.002)
    assert (config.warmup_epochs, config.warmup_learning_rate) == (1, 1e-5)
    assert (config.momentum, config.weight_decay) == (0.9, 5e-4)
    assert not config.cache_features


def test_schedule_of_ten_epochs_is_as_published():
    config = TrainConfig(epochs=10)
    published = [1e-5, 2.0e-3, 1.951e-3, 1.809e-3, 1.588e-3, 1.309e-3, 1.0e-3, 6.910e-4, 4.122e-4, 1.910e-4]
    for epoch, rate in enumerate(published, 1):
        assert float(f"{config.learning_rate_at(epoch):.3e}") == rate


def test_schedule_of_fifty_epochs_is_as_published():
    config = TrainConfig(epochs=50)
    assert config.learning_rate_at(1) == 1e-5
    assert config.learning_rate_at(2) == 2e-3
    assert f"{config.learning_rate_at(3):.6e}" == "1.998027e-03"
    assert f"{config.learning_rate_at(50):.3e}" == "7.885e-06"


def test_warmup_delays_the_cosine():
    without = TrainConfig(epochs=4, warmup_epochs=0)
    assert [without.learning_rate_at(k) for k in (1, 3)] == [0.002, pytest.approx(0.001)]
    longer = TrainConfig(epochs=4, warmup_epochs=3)
    assert [longer.learning_rate_at(k) for k in (1, 2, 3, 4)] == [1e-5, 1e-5, 1e-5, 0.002]


@pytest.mark.parametrize("epoch", [0, 11])
def test_an_epoch_out_of_range_is_refused(epoch):
    with pytest.raises(ConfigError, match=f"There is no epoch {epoch}; this training has the epochs 1 to 10"):
        TrainConfig(epochs=10).learning_rate_at(epoch)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "`epochs` is 0; it must be at least 1"),
        ("epochs", True, "`epochs` is True; it must be an integer"),
        ("warmup_epochs", -1, "`warmup_epochs` is -1; it must be at least 0"),
        ("workers", -2, "`workers` is -2; it must be at least 0"),
        ("learning_rate", 0.0, "`learning_rate` is 0.0; it must be a positive number"),
        ("learning_rate", math.nan, "`learning_rate` is nan; it must be a positive number"),
        ("warmup_learning_rate", math.inf, "`warmup_learning_rate` is inf; it must be a positive number"),
        ("momentum", 1.0, r"`momentum` is 1.0; it must be in \[0, 1\)"),
        ("weight_decay", -0.1, "`weight_decay` is -0.1; it must be 0 or more"),
        ("seed", -1, "`seed` is -1; it must be at least 0"),
        ("seed", 2**63, r"`seed` is 9223372036854775808; it must be below 2\*\*63"),
    ],
)
def test_a_value_out_of_range_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("epochs=2.5", "`epochs` is 2.5; it must be an integer."),
        ("batch_size='8'", "`batch_size` is '8'; it must be an integer."),
        ("momentum='x'", "`momentum` is 'x'; it must be in [0, 1)."),
    ],
)
def test_a_value_of_another_type_is_refused(given, message):
    # In another process, because the type checker of the tests would raise first.
    code = f"from cocoop.config import TrainConfig\ntry: TrainConfig({given})\nexcept Exception as e: print(repr(e))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(ConfigError(message))


def test_seed_zero_is_valid():
    assert TrainConfig(seed=0).seed == 0
