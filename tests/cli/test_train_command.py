"""`cocoop train`, `predict` and `eval` in real processes, on the bundled backbone."""

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from made_images import COLOURS, cocoop, environment, make_images

import cocoop as package
from cocoop.cli import main
from cocoop.data import load_data
from cocoop.training.features import encode_split
from cocoop.training.run_directory import trained_image_hashes

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ("--shots", "2", "--epochs", "2", "--cache-features", "--seed", "3")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with `photos`, and a run trained on them by the shortest command."""
    directory = tmp_path_factory.mktemp("home")
    make_images(directory / "photos", per_class=10)
    done = cocoop("train", "photos", *SHORT, cwd=directory)
    assert done.returncode == 0, done.stderr
    (directory / "train.out").write_text(done.stdout)
    (directory / "train.err").write_text(done.stderr)
    return directory


RUN = "runs/photos-cocoop-2shot-seed3"


@pytest.fixture
def here(capsys, monkeypatch):
    """Run the command line in this process, which has imported PyTorch: exit code, stdout, stderr."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COCOOP_CACHE", str(cwd / "cache"))
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_shortest_command_writes_a_run_with_results_and_a_comparison(home):
    run = home / RUN
    data = load_data(home / "photos").few_shot(2, seed=3)
    method = package.from_pretrained(run)
    results = json.loads((run / "results.json").read_text())
    measured = package.evaluate(method, encode_split(method.backbone, data, workers=0))
    assert results["accuracy"] == measured.accuracy
    assert results["per_class"] == measured.per_class
    about = {"method": "cocoop", "data": "photos", "backbone": "lite", "precision": "fp32", "seed": 3, "shots": 2}
    assert about.items() <= results.items()
    assert (results["classes"], results["images"]) == ("all", len(data.test))

    compared = json.loads((run / "base_to_new.json").read_text())
    assert [entry["method"] for entry in compared["methods"]] == ["zero-shot", "coop", "cocoop"]
    zero_shot = package.ZeroShot(method.backbone, data.base().classnames)
    for half in ("base", "new"):
        tests = encode_split(method.backbone, data.select(half), workers=0)
        zero_shot.set_classes(tests.classnames)
        assert compared["methods"][0][half]["accuracy"] == package.evaluate(zero_shot, tests).accuracy
    trained = package.from_pretrained(run / "compare-cached" / "cocoop", backbone=method.backbone)
    assert trained.classnames == data.base().classnames
    history = compared["methods"][1]["history"]
    assert len(history) == 200, "CoOp of the comparison is trained as published"
    assert history[-1]["learning_rate"] == package.TrainConfig(epochs=200).learning_rate_at(200)


def test_results_go_to_stdout_and_notes_to_stderr(home):
    out, err = ((home / name).read_text() for name in ("train.out", "train.err"))
    assert "cocoop on photos" in out
    assert "Base to new classes: photos" in out
    for row in ("zero-shot CLIP", "CoOp", "CoCoOp"):
        assert f"│ {row} " in out
    assert "photos: 8 images of 4 classes; backbone lite" in err
    assert f"The run is in {RUN}. Predict with: cocoop predict {RUN} PHOTOS..." in err
    assert "cocoop: 2 epochs in" in err
    assert "Traceback" not in err + out


def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing(home, here):
    code, out, err = here("train", "photos", *SHORT, cwd=home)
    assert code == 1
    assert err == (f"cocoop: '{RUN}' holds a run of 2 epochs; continue it with --resume, or choose another --output.\n")
    prompt = (home / RUN / "prompt.safetensors").read_bytes()
    metrics = (home / RUN / "metrics.jsonl").read_bytes()
    code, out, err = here("train", "photos", *SHORT, "--resume", cwd=home)
    assert code == 0, err
    assert out == (home / "train.out").read_text()
    assert (home / RUN / "prompt.safetensors").read_bytes() == prompt
    assert (home / RUN / "metrics.jsonl").read_bytes() == metrics


def test_resume_refuses_other_settings_before_any_work(home, here):
    code, _, err = here("train", "photos", *SHORT, "--resume", "--batch-size", "2", cwd=home)
    assert code == 1
    assert err == (
        f"cocoop: The run in '{RUN}' was started with --batch-size 1, but now it is 2; resume with the same "
        "settings, or use another directory.\n"
    )


def test_predictions_agree_between_formats_and_with_the_library(home):
    images = ["photos/sun/00.png", "photos/sea"]
    by_format = {
        name: cocoop("predict", RUN, *images, "--top-k", "2", "--format", name, cwd=home)
        for name in ("csv", "jsonl", "table")
    }
    assert all((done.returncode, done.stderr) == (0, "") for done in by_format.values()), by_format
    rows = [json.loads(line) for line in by_format["jsonl"].stdout.splitlines()]
    assert [row["path"] for row in rows] == ["photos/sun/00.png", *(f"photos/sea/{n:02}.png" for n in range(10))]

    method = package.from_pretrained(home / RUN)
    own = list(package.predict(method, [home / row["path"] for row in rows], top_k=2))
    for row, prediction in zip(rows, own, strict=True):
        assert [best["class"] for best in row["predictions"]] == list(prediction.classes)
        assert [best["probability"] for best in row["predictions"]] == pytest.approx(prediction.probabilities, abs=2e-6)

    table = list(csv.DictReader(io.StringIO(by_format["csv"].stdout)))
    flat = [
        (row["path"], str(rank), best["class"], f"{best['probability']:.6f}", "")
        for row in rows
        for rank, best in enumerate(row["predictions"], 1)
    ]
    assert [tuple(line.values()) for line in table] == flat

    cells = [[cell.strip() for cell in line.split("│")] for line in by_format["table"].stdout.splitlines()[2:]]
    shown = [
        ["" if rank else row["path"], best["class"], f"{best['probability']:.3f}"]
        for row in rows
        for rank, best in enumerate(row["predictions"])
    ]
    assert cells == shown


def test_any_class_names_can_be_given_and_are_printed_unchanged(home):
    names = "[red] fruit,  :cat: , blue 'water', a name that is much longer than a terminal of eighty columns is wide"
    asked = ("predict", RUN, "photos/sun/00.png", "--classes", names, "--top-k", "9")
    done = cocoop(*asked, "--format", "jsonl", cwd=home)
    assert done.returncode == 0, done.stderr
    found = {best["class"] for best in json.loads(done.stdout)["predictions"]}
    assert found == {name.strip() for name in names.split(",")}
    table = cocoop(*asked, cwd=home).stdout
    for name in found:
        assert f" {name} " in table


def all_of(terminal):
    """What is shown in a terminal until the last process that has it open ends."""
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:
        # How Linux says that the other side is closed.
        pass
    return shown.decode()


def test_progress_bars_stay_out_of_stdout(home):
    terminal, stderr = os.openpty()
    with (home / "found.jsonl").open("w") as found:
        process = subprocess.Popen(
            [sys.executable, "-m", "cocoop", "predict", RUN, "photos", "--format", "jsonl", "--batch-size", "4"],
            cwd=home,
            env=environment(TERM="xterm"),
            stdout=found,
            stderr=stderr,
        )
    os.close(stderr)
    shown = all_of(terminal)
    os.close(terminal)
    assert process.wait(timeout=60) == 0, shown
    lines = (home / "found.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 40
    assert "classifying" in shown
    assert "40/40 images" in shown
    assert "predictions" not in shown


def test_unreadable_images_fail_or_are_listed(home):
    (home / "bad.jpg").write_bytes(b"no photo")
    done = cocoop("predict", RUN, "bad.jpg", "photos/sun/00.png", cwd=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "cocoop: 1 image could not be read ('bad.jpg': it is empty, damaged or not in a supported format). Remove them "
        "from the list or pass --skip-unreadable.\n"
    )
    done = cocoop("predict", RUN, "bad.jpg", "photos/sun/00.png", "--skip-unreadable", "--format", "csv", cwd=home)
    assert done.returncode == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["path"], row["error"]) for row in rows] == [
        ("bad.jpg", "it is empty, damaged or not in a supported format"),
        ("photos/sun/00.png", ""),
    ]


def test_eval_uses_the_classes_of_the_data(home, here):
    more = make_images(home / "more" / "test", per_class=2, classes=("sea", "sun"), seed=9)
    (more / "sea").rename(more / "deep_sea")
    code, out, err = here("eval", RUN, "more", "--format", "json", cwd=home)
    assert (code, err) == (0, "Chosen among the 2 classes of more, without 3 trained ones.\n")
    found = json.loads(out)
    method = package.from_pretrained(home / RUN)
    method.set_classes(["deep sea", "sun"])
    wanted = package.evaluate(method, load_data(home / "more"))
    assert found["accuracy"] == wanted.accuracy
    assert found["per_class"] == wanted.per_class
    assert (found["method"], found["data"], found["classes_not_trained_on"]) == ("cocoop", "more", 1)
    _, table_out, table_err = here("eval", RUN, "more", cwd=home)
    assert table_err == f"{err}1 of the 2 classes were not trained on.\n"
    cells = [cell.strip() for cell in table_out.splitlines()[4].strip("│").split("│")]
    assert cells == ["all classes", "2", "4", "0", f"{wanted.accuracy:.1f}", f"{wanted.macro_f1:.1f}"]


def test_a_prompt_of_base_classes_is_not_trained_again_for_the_comparison(home, here):
    code, _, err = here("train", "photos", *SHORT, "--classes", "base", "--output", "base", cwd=home)
    assert code == 0, err
    assert not (home / "base" / "compare-cached" / "cocoop").exists()
    compared = json.loads((home / "base" / "base_to_new.json").read_text())
    method = compared["methods"][2]
    assert [epoch["loss"] for epoch in method["history"]] == [
        json.loads(line)["loss"] for line in (home / "base" / "metrics.jsonl").read_text().splitlines()
    ]
    assert method["base"]["accuracy"] == json.loads((home / "base" / "results.json").read_text())["accuracy"]


def test_an_augmented_comparison_opens_images_in_each_epoch(home, here):
    options = ("--method", "coop", "--compare", "augmented", "--output", "augmented")
    code, _, err = here("train", "photos", *SHORT, *options, cwd=home)
    assert code == 0, err
    started_with = {
        directory: json.loads((home / "augmented" / directory / "training.json").read_text())["train"]
        for directory in (".", "compare-augmented/coop")
    }
    assert [run["cache_features"] for run in started_with.values()] == [True, False]
    assert [run["epochs"] for run in started_with.values()] == [2, 2], "given settings apply to the method's own rows"


def test_two_classes_are_trained_without_a_comparison(tmp_path, here):
    make_images(tmp_path / "two", per_class=4, classes=("sea", "sun"))
    code, _, err = here("train", "two", *SHORT, "--epochs", "1", "--output", "run", cwd=tmp_path)
    assert code == 0, err
    assert "No comparison from base to new classes: it needs at least 4 classes, and there are 2." in err
    assert (
        "All 1 epochs are warm-up at a learning rate of 1e-05, which changes little; with --warmup-epochs 0, training"
        in err
    )
    assert not (tmp_path / "run" / "base_to_new.json").exists()


def test_the_comparison_needs_test_images_of_both_halves(tmp_path, here):
    make_images(tmp_path / "photos" / "train", per_class=2)
    make_images(tmp_path / "photos" / "test", per_class=2, classes=("cherry", "leaf"), seed=1)
    code, out, err = here("train", "photos", *SHORT, "--epochs", "1", "--output", "run", cwd=tmp_path)
    assert code == 0, err
    assert "No comparison from base to new classes: it needs test images of both." in err
    assert "│ all classes │       4 │      4 │       0 │" in out


def test_an_unreadable_test_image_fails_before_training(tmp_path, here):
    make_images(tmp_path / "photos", per_class=4)
    for image in (tmp_path / "photos" / "sun").iterdir():
        image.write_bytes(b"no photo")
    code, _, err = here("train", "photos", *SHORT, "--output", "run", cwd=tmp_path)
    assert code == 1
    assert "image could not be read ('sun/" in err.splitlines()[-1]
    assert "or skip them with --skip-unreadable." in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_predicts_and_resumes(home, tmp_path):
    run = tmp_path / "run"
    arguments = ("train", "photos", "--shots", "2", "--epochs", "500", "--compare", "none", "--output", run)
    process = subprocess.Popen(
        [sys.executable, "-m", "cocoop", *map(str, arguments)],
        cwd=home,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may ignore Ctrl-C itself, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    done = len(metrics.read_text().splitlines())
    assert 1 <= done < 500
    last = err.splitlines()[-1]
    assert last == (
        f"cocoop: Interrupted. {run} keeps the prompt after {done} epoch{'s' * (done > 1)}, ready for predictions; "
        "the same call with --resume continues the training."
    )
    assert "Traceback" not in err
    found = cocoop("predict", run, "photos/sun/00.png", "--format", "jsonl", cwd=home)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["predictions"][0]["class"] in COLOURS


def test_coop_trains_class_specific_contexts(home, tmp_path, here):
    options = ("--method", "coop", "--context", "", "--context-length", "3", "--class-specific", "--position", "front")
    code, _, err = here("train", "photos", *SHORT, *options, "--output", tmp_path / "run", cwd=home)
    assert code == 0, err
    assert "No comparison from base to new classes: class-specific contexts exist only" in err
    method = package.from_pretrained(tmp_path / "run")
    assert method.settings() == {"context_length": 3, "class_specific": True, "position": "front"}
    assert method.context.shape == (4, 3, method.backbone.text_tower.config.width)
    assert torch.isfinite(method.context).all()


def test_training_images_are_left_out_of_tests(home, tmp_path):
    data = load_data(home / "photos").few_shot(2, seed=3)
    learned = {hashlib.sha256(data.path_of(item).read_bytes()).hexdigest() for item in data.train}
    assert trained_image_hashes(home / RUN) == learned
    done = cocoop("eval", RUN, "photos", "--all-images", "--format", "json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "Left out: 8 images that the prompt was trained on." in done.stderr
    assert json.loads(done.stdout)["images"] == 40 - len(learned) == 32
    # One of them among the test photos, under another name; training itself says so.
    mine = shutil.copytree(home / "photos", tmp_path / "photos")
    copy = next(item for item in data.test if item.label == data.train[0].label)
    shutil.copy(data.path_of(data.train[0]), mine / copy.path)
    done = cocoop("train", "photos", *SHORT, "--compare", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Left out of the test: 1 images with the same bytes as training images." in done.stderr
    results = json.loads((tmp_path / RUN / "results.json").read_text())
    assert results["images"] == len(data.test) - 1


def test_eval_refuses_data_with_only_training_images(home, tmp_path):
    data = load_data(home / "photos").few_shot(2, seed=3)
    for item in data.train:
        (tmp_path / "old" / item.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data.path_of(item), tmp_path / "old" / item.path)
    done = cocoop("eval", home / RUN, "old", "--all-images", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "cocoop: All 8 test images were trained on; test on other images."
