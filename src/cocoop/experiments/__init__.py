"""The papers' experiments: which runs they are made of, with which settings, and how a sweep of them is done.

from cocoop.experiments import Grid, base_to_new, sweep

runs = base_to_new(cocoop.load_data("photos"), Grid(methods=["cocoop"], preset="cached"))
sweep(Path("bench"), runs, cocoop.load_backbone("lite"))
"""

from cocoop.experiments.plans import (
    Experiment,
    Grid,
    TestImages,
    base_to_new,
    cross_dataset,
    domain,
    few_shot,
    leave_one_out,
    together,
)
from cocoop.experiments.presets import Preset, Settings, method_defaults, settings_for
from cocoop.experiments.sweep import Outcome, Watch, sweep
from cocoop.experiments.trial import Trial, run_trial

__all__ = [
    "Experiment",
    "Grid",
    "Outcome",
    "Preset",
    "Settings",
    "TestImages",
    "Trial",
    "Watch",
    "base_to_new",
    "cross_dataset",
    "domain",
    "few_shot",
    "leave_one_out",
    "method_defaults",
    "run_trial",
    "settings_for",
    "sweep",
    "together",
]
