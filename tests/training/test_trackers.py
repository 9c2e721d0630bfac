"""Metrics in trackers: TensorBoard's files are read back, and any tracker of accelerate can be used."""

import json
import sys

import pytest
from accelerate.tracking import GeneralTracker
from made_images import make_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cocoop.cli import main
from cocoop.errors import ConfigError
from cocoop.training.trackers import epoch_metrics, open_trackers

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = "train photos --shots 2 --method coop --cache-features --feature-cache cache --compare none --output run"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        main([*TRAIN.split(), "--epochs", "3", "--track", "tensorboard"])
    return directory


def test_tensorboard_has_every_epoch_and_the_evaluation(home):
    events = EventAccumulator(str(home / "run" / "logs" / "cocoop")).Reload()
    scalars = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    history = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    results = json.loads((home / "run" / "results.json").read_text())
    expected = {
        f"train/{name}": [(entry["epoch"], pytest.approx(entry[name], rel=1e-6)) for entry in history]
        for name in ("loss", "accuracy", "learning_rate")
    }
    for name in ("accuracy", "macro_f1"):
        expected[f"test/{name}"] = [(3, pytest.approx(results[name], rel=1e-6))]
    assert len(history) == 3
    assert scalars == expected


def test_tensorboard_has_the_settings_of_the_run(home):
    (settings,) = (home / "run" / "logs" / "cocoop").glob("*/hparams.yml")
    lines = settings.read_text().splitlines()
    for line in ("method: coop", "backbone: lite", "data: photos", "epochs: 3", "shots: 2", "learning_rate: 0.002"):
        assert line in lines


def test_nothing_is_tracked_by_default(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    main([*TRAIN.split()[:-1], str(tmp_path / "run"), "--epochs", "1"])
    assert not (tmp_path / "run" / "logs").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_missing_tracker_is_reported_before_any_work(name, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as stop:
        main([*TRAIN.split()[:-1], "other", "--track", name])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    needed = f"cocoop: --track {name} needs the package {name}, which is not installed: pip install {name}\n"
    assert (out, err) == ("", needed)
    assert not (home / "other").exists()


class Notebook(GeneralTracker):
    """A custom tracker."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.settings, self.rows, self.finished = {}, [], False

    @property
    def tracker(self):
        return self.rows

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.rows.append((step, values))

    def finish(self):
        self.finished = True


def test_custom_tracker_is_used_and_closed(tmp_path):
    notebook = Notebook()
    settings = {"epochs": 2, "backbone": "lite", "context": None, "classes": ("a", "b"), "cache_features": True}
    entry = {"epoch": 1, "loss": 0.5, "accuracy": 75.0, "learning_rate": 1e-5, "images": 8, "seconds": 1.0}

    def train():
        with open_trackers([notebook], tmp_path, settings) as log:
            log(epoch_metrics(entry), 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert notebook.settings == {"epochs": 2, "backbone": "lite", "cache_features": True}
    assert notebook.rows == [(1, {"train/loss": 0.5, "train/accuracy": 75.0, "train/learning_rate": 1e-5})]
    assert notebook.finished
    assert list(tmp_path.iterdir()) == []


def test_tracker_that_cannot_be_started_is_explained(tmp_path):
    class LoggedOut(Notebook):
        def start(self):
            raise RuntimeError("no API key\nconfigured")

    with pytest.raises(ConfigError, match=r"^Cannot start the tracker notebook: no API key configured$"):
        open_trackers([LoggedOut()], tmp_path, {}).__enter__()
