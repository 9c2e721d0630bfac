"""The study's settings, the folder, the choice of samples and the sentences."""

from __future__ import annotations

import pytest

from cocoop.demo.choice import choose_samples
from cocoop.demo.home import Home
from cocoop.demo.study import Study
from cocoop.demo.words import findings, meanings
from cocoop.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, "`seeds` is (); it must be one or more different numbers."),
        ({"seeds": (2, 1, 2)}, "`seeds` is (2, 1, 2); it must be one or more different numbers."),
        ({"seeds": (-3,)}, "--seed is -3; "),
        ({"shots": 0}, "`shots` is 0; it must be from 1 to 24."),
        ({"shots": 25}, "`shots` is 25; it must be from 1 to 24."),
        ({"test_pictures": 0}, "`test_pictures` is 0; it must be from 1 to 20."),
        ({"test_pictures": 21}, "`test_pictures` is 21; it must be from 1 to 20."),
        ({"epochs": 0}, "--epochs is 0; "),
    ],
)
def test_study_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError) as error:
        Study(**settings)
    assert str(error.value).startswith(message)


def test_methods_are_trained_as_published_but_on_cached_features():
    coop, cocoop = (Study().config(method, 2) for method in ("coop", "cocoop"))
    assert (coop.epochs, coop.batch_size, cocoop.epochs, cocoop.batch_size) == (200, 32, 10, 1)
    assert all((c.seed, c.cache_features, c.learning_rate) == (2, True, 0.002) for c in (coop, cocoop))
    assert Study(epochs=3).config("coop", 1).epochs == 3


@pytest.mark.parametrize(("shots", "pool"), [(1, 2), (3, 5), (16, 24), (20, 24)])
def test_study_samples_shots_from_a_larger_pool(shots, pool):
    assert Study(shots=shots).training_pool == pool


def test_the_directory_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(DataError) as error:
        Home(tmp_path).claim()
    assert str(error.value) == (
        f"'{tmp_path}' holds 'report.html', which is not from an earlier demonstration, so nothing was written; "
        "give another folder with --output."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_directory_is_claimed_once_and_known_again(tmp_path):
    home = Home(tmp_path / "new" / "demo")
    home.claim()
    (home.directory / "notes.txt").write_text("mine")
    home.claim()
    assert sorted(path.name for path in home.directory.iterdir()) == ["README.txt", "notes.txt"]
    with pytest.raises(DataError, match=r"notes\.txt' is a file; give a folder with --output\.$"):
        Home(home.directory / "notes.txt").claim()


def test_samples_show_every_pattern_of_right_and_wrong_on_different_classes():
    truth = {"1": "a", "2": "a", "3": "a", "4": "b", "5": "b", "6": "c"}
    named = {
        "one": {"1": "a", "2": "a", "3": "a", "4": "b", "5": "x", "6": "x"},
        "two": {"1": "a", "2": "a", "3": "x", "4": "b", "5": "b", "6": "x"},
    }
    # Both right: 1, 2, 4; only one: 3; only two: 5; none: 6.
    assert choose_samples(truth, named, 5) == ["1", "3", "5", "6", "4"]
    assert choose_samples(truth, named, 2) == ["1", "3"]
    assert sorted(choose_samples(truth, named, 99)) == ["1", "2", "3", "4", "5", "6"]


def record(method, seed, base, new):
    h = 2 * base * new / (base + new)
    return {"method": method, "seed": seed, "base": {"accuracy": base}, "new": {"accuracy": new}, "harmonic_mean": h}


def results(coop_new, cocoop_new):
    records = [record("zero-shot", seed, 50.0, 60.0) for seed in (1, 2)]
    records += [record("coop", seed, 90.0, new) for seed, new in enumerate(coop_new, 1)]
    records += [record("cocoop", seed, 85.0, new) for seed, new in enumerate(cocoop_new, 1)]
    classes = {"base": ["a", "b", "c", "kite"], "new": ["e", "f", "g", "h", "i"]}
    return {"records": records, "classes": classes, "shots": 16}


def test_sentences_follow_the_numbers():
    said = findings(results(coop_new=(51.0, 53.0), cocoop_new=(60.0, 66.0)))
    assert said[:4] == [
        "Zero-shot CLIP, which has learned nothing here, names 50% of the base pictures and 60% of the new ones right. "
        "Guessing would give 25% and 20%.",
        "With 16 labelled pictures a class, on base classes CoOp reaches 90% and CoCoOp reaches 85%.",
        "On new classes, against zero-shot, CoOp loses 8.0 points and CoCoOp gains 3.0 points.",
        "CoCoOp has the highest H, 72.3.",
    ]
    assert "keeps new classes better than CoOp; so does this run." in said[4]


@pytest.mark.parametrize(
    ("coop_new", "cocoop_new", "verdict"),
    [
        ((61.0, 61.0), (52.0, 53.0), "this run does not."),
        ((52.0, 58.0), (53.0, 54.0), "here the difference is within the spread of the seeds."),
        ((60.0,), (61.0,), "so does this run."),
    ],
)
def test_the_comparison_with_the_paper_follows_the_numbers_too(coop_new, cocoop_new, verdict):
    assert f"than CoOp; {verdict}" in findings(results(coop_new, cocoop_new))[-1]


def test_h_is_explained_with_this_runs_numbers():
    times = "\N{MULTIPLICATION SIGN}"
    explained = meanings(results((51.0,), (60.0,)))
    assert explained["H"].endswith(f"2 {times} 50.0 {times} 60.0 / (50.0 + 60.0) = 54.5.")
    assert "here a, b, c, kite." in explained["Base classes"]
    assert "here e, f, g, h, i." in explained["New classes"]
