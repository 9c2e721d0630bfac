"""The demonstration's page on made results: class names that are markup, one seed only, pictures that are gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import Page
from PIL import Image

from cocoop.demo.page import demo_page
from cocoop.errors import DataError

NASTY = """<img src="http://evil.example/x.png"/> & "Co" 'Op' $1"""
CLASSES = {"base": [NASTY, "kite"], "new": ["moon", "<i>snow</i>man"]}


def made_results():
    """Results of one seed, two test pictures a class; zero-shot is wrong on each second picture."""
    truth = {
        f"test/{half}{i}/{k}.png": name for half in CLASSES for i, name in enumerate(CLASSES[half]) for k in (0, 1)
    }
    records = []
    for method in ("zero-shot", "coop", "cocoop"):
        record = {"method": method, "seed": 1, "config": None, "history": [], "predictions": {}}
        for half, names in CLASSES.items():
            named = {path: name for path, name in truth.items() if path.startswith(f"test/{half}")}
            if method == "zero-shot":
                named |= {path: names[0] for path in named if path.endswith("1.png")}
            right = [named[path] == truth[path] for path in named]
            per_class = {n: 100.0 * sum(named[p] == n for p in named if truth[p] == n) / 2 for n in names}
            record[half] = {"accuracy": 100 * sum(right) / len(right), "per_class": per_class}
            record["predictions"][half] = named
        record["harmonic_mean"] = record["base"]["accuracy"]
        if method != "zero-shot":
            record["history"] = [{"epoch": e, "loss": 1.0 / e, "accuracy": 50.0, "images": 4} for e in (1, 2)]
            record["config"] = {"epochs": 2, "batch_size": 1, "learning_rate": 0.002, "momentum": 0.9}
            record["config"] |= {"weight_decay": 0.0005, "warmup_epochs": 1, "warmup_learning_rate": 1e-5}
        records.append(record)
    return {
        "date": "2020-01-02",
        "backbone": "lite",
        "seeds": [1],
        "shots": 1,
        "test_pictures": 2,
        "classes": CLASSES,
        "pictures": {"train": 8, "test": 8},
        "fingerprint": "f" * 64,
        "processes": 1,
        "seconds": 12.3,
        "versions": {"cocoop": "0", "torch": "1.2.3"},
        "run": "runs/cocoop-seed1",
        "truth": truth,
        "records": records,
    }


@pytest.fixture
def pictures(tmp_path):
    for path in made_results()["truth"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), "orange").save(tmp_path / path)
    return tmp_path


def test_class_names_that_are_markup_stay_text(pictures):
    page = Page(demo_page(made_results(), pictures, Path("demo")))
    assert page.fetched() == []
    assert page.broken_links() == []
    assert page.words().count(NASTY) >= 4
    assert [row[0] for row in page.tables()[1] if len(row) == 4] == ["class", *CLASSES["base"], *CLASSES["new"]]
    # The key squares of the changes and the bars are the only <i>.
    assert all(element.get("style") for element in page.all("i"))
    assert f"Drawing: {NASTY}" in [image.get("alt") for image in page.all("img")]


def test_one_seed_is_shown_without_deviations(pictures):
    page = Page(demo_page(made_results(), pictures, Path("demo")))
    assert page.tables()[0] == [
        ["method", "base", "new", "H"],
        ["zero-shot CLIP", "75.0", "75.0", "75.0"],
        ["CoOp", "100.0", "100.0", "100.0"],
        ["CoCoOp", "100.0", "100.0", "100.0"],
    ]
    words = page.words()
    assert "±" not in page.words(page.all("table")[0])
    assert "With 1 labelled picture a class, on base classes CoOp reaches 100% and CoCoOp reaches 100%." in words
    assert "Guessing would give 50%." in words


def test_commands_can_be_pasted_whatever_the_names(pictures):
    page = Page(demo_page(made_results(), pictures, Path("my demo")))
    commands = [page.words(code) for code in page.all("code")]
    assert commands[0] == "cocoop predict 'my demo/runs/cocoop-seed1' 'my demo/pictures/test/kite'"
    assert commands[1].endswith("--classes 'moon, <i>snow</i>man'")


def test_a_picture_that_is_gone_is_named(pictures):
    (pictures / "test" / "new0" / "0.png").unlink()
    with pytest.raises(DataError, match=r"new0/0\.png' cannot be shown in the report: "):
        demo_page(made_results(), pictures, Path("demo"))
