"""Ctrl-C: deferred once, never lost, and only handled in the main thread."""

import os
import signal
import threading

import pytest
from made_images import make_images

from cocoop.config import TrainConfig
from cocoop.data import load_data
from cocoop.methods import CoOp
from cocoop.training.fit import fit
from cocoop.training.interrupts import defer_interrupts


@pytest.fixture(autouse=True)
def default_ctrl_c():
    """Handle Ctrl-C as in a terminal, even if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler was not restored"
    signal.signal(signal.SIGINT, before)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_first_ctrl_c_is_deferred_until_checked():
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_interrupts() as check_interrupt:  # noqa: PT012
        check_interrupt()
        press_ctrl_c()
        reached.append("the step went on")
        check_interrupt()
        reached.append("the next one began")
    assert reached == ["the step went on"]


def test_second_ctrl_c_interrupts_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_interrupts():  # noqa: PT012
        press_ctrl_c()
        reached.append("held")
        press_ctrl_c()
        reached.append("lost")
    assert reached == ["held"]


def test_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with defer_interrupts() as check_interrupt:
        press_ctrl_c()
        check_interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_do_not_handle_signals():
    handlers = []

    def work():
        with defer_interrupts() as check_interrupt:
            handlers.append(signal.getsignal(signal.SIGINT))
            check_interrupt()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_data(make_images(tmp_path_factory.mktemp("photos"), per_class=4)).few_shot(2, seed=1)


def train(data, backbone, run, **callbacks):
    method = CoOp(backbone, data.classnames, context="a photo of a")
    config = TrainConfig(epochs=2, batch_size=4, cache_features=True, workers=0)
    return fit(method, data, config, run=run, **callbacks)


def test_ctrl_c_while_encoding_stops_before_the_first_epoch(data, tiny_backbone, tmp_path):
    result = train(data, tiny_backbone, tmp_path / "run", on_encode=lambda done, total: press_ctrl_c())
    assert result.interrupted
    assert result.history == []


def test_ctrl_c_in_the_last_step_discards_its_epoch(data, tiny_backbone, tmp_path):
    def on_step(report):
        if (report.epoch, report.images) == (2, 8):
            press_ctrl_c()

    result = train(data, tiny_backbone, tmp_path / "run", on_step=on_step)
    # The step was taken, but its epoch was not saved, so a resumed run repeats it.
    assert result.interrupted
    assert [epoch["epoch"] for epoch in result.history] == [1]
