"""Ctrl-C between steps: held back once, never lost, and only where it is ours to hold."""

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
def usual_ctrl_c():
    """As in a terminal, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler was not given back"
    signal.signal(signal.SIGINT, before)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_first_ctrl_c_waits_until_it_is_asked_for():
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_interrupts() as heed:  # noqa: PT012 - where it strikes matters
        heed()
        press_ctrl_c()
        reached.append("the step went on")
        heed()
        reached.append("the next one began")
    assert reached == ["the step went on"]


def test_a_second_ctrl_c_strikes_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), defer_interrupts():  # noqa: PT012
        press_ctrl_c()
        reached.append("held")
        press_ctrl_c()
        reached.append("lost")
    assert reached == ["held"]


def test_who_ignores_ctrl_c_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with defer_interrupts() as heed:
        press_ctrl_c()
        heed()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_leave_signals_alone():
    seen = []

    def work():
        with defer_interrupts() as heed:
            seen.append(signal.getsignal(signal.SIGINT))
            heed()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_data(make_images(tmp_path_factory.mktemp("photos"), per_class=4)).few_shot(2, seed=1)


def train(data, backbone, run, **callbacks):
    method = CoOp(backbone, data.classnames, context="a photo of a")
    config = TrainConfig(epochs=2, batch_size=4, cache_features=True, workers=0)
    return fit(method, data, config, run=run, **callbacks)


def test_ctrl_c_while_images_are_encoded_stops_before_the_first_epoch(data, tiny_backbone, tmp_path):
    result = train(data, tiny_backbone, tmp_path / "run", on_encode=lambda done, total: press_ctrl_c())
    assert result.interrupted
    assert result.history == []


def test_ctrl_c_in_the_last_step_leaves_its_epoch_to_be_done_again(data, tiny_backbone, tmp_path):
    def on_step(report):
        if (report.epoch, report.images) == (2, 8):
            press_ctrl_c()

    result = train(data, tiny_backbone, tmp_path / "run", on_step=on_step)
    # The step was taken, but its epoch is not in the books: it is done again when the run is resumed.
    assert result.interrupted
    assert [epoch["epoch"] for epoch in result.history] == [1]
