"""Command line in real processes: help, version, mistakes and pipes; nothing here needs a model."""

import json
import os
import re
import subprocess
import sys

import pytest
from made_images import COLOURS, cocoop, environment, make_images

import cocoop as package
from cocoop.cli import console
from cocoop.errors import about_memory
from cocoop.training.fit import StepReport

COMMANDS = ("train", "predict", "eval", "serve", "explain", "import", "push", "draw", "data", "demo", "bench", "report")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("home") / "photos", per_class=10)


def one_line(done, code=1):
    """Return the only line on stderr of a command that failed."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cocoop: ")
    return line.removeprefix("cocoop: ")


def test_version():
    done = cocoop("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"cocoop {package.__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_overview_lists_every_command(arguments):
    done = cocoop(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"• {command} +[A-Z].*\.", done.stdout), command


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", ["train", "predict", "eval", "draw"])
def test_help_fits_the_terminal_and_shows_no_python(command, columns):
    done = cocoop(command, "--help", COLUMNS=columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= max(int(columns), 91), "the first sentence is never wrapped"
    for technical in ("None", "Path(", "factory", "dataclass", "(default: )"):
        assert technical not in done.stdout
    assert not re.search(r"--[a-z]+\.", done.stdout), "flags have no prefix of where they are kept"
    boxes = re.findall(r"╭─ (.*?) ─", done.stdout)
    assert boxes[:2] == ["positional arguments", "options"]


def test_help_of_train_shows_the_published_defaults():
    text = re.sub(r"[\s│]+", " ", cocoop("train", "--help").stdout)
    for flag, default in {
        "epochs INT": "10; coop 200",
        "batch-size INT": "1; coop 32",
        "learning-rate FLOAT": "0.002",
        "warmup-learning-rate FLOAT": "1e-5",
        "weight-decay FLOAT": "0.0005",
        "shots INT": "16",
    }.items():
        assert re.search(rf"--{flag} [^()]*\(default: {re.escape(default)}\)", text), flag


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("trian", "photos"),
            ("trian", "Available subcommands: train, predict, eval, serve, explain, import"),
        ),
        (("--colour",), ("--colour", "cocoop --help")),
        (("train",), ("Missing from cocoop train", "DATA", "cocoop train --help")),
        (("train", "photos", "--epoch", "3"), ("--epoch", "--epochs", "cocoop train --help")),
        (("train", "photos", "--method", "zero-shot"), ("'zero-shot'", "--method", "('cocoop', 'coop')")),
        (("predict", "run", "x.jpg", "--top-k", "two"), ("--top-k", "'two'")),
        (("draw", "photos", "--seed"), ("--seed",)),
    ],
)
def test_unknown_arguments_exit_with_2_and_a_hint(arguments, words):
    done = cocoop(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("draw", "nowhere"), "There is no 'nowhere'. Use an image directory"),
        (("draw", "photos", "--shots", "0"), "--shots is 0; it must be at least 1"),
        (("draw", "photos", "--seed", "-1"), "--seed is -1; it must be at least 0."),
        (("draw", "photos", "--renames", "nowhere.json"), "nowhere.json"),
        (("train", "nowhere"), "There is no 'nowhere'. Use an image directory"),
        (("train", "photos", "--epochs", "0"), "--epochs is 0; it must be at least 1."),
        (("train", "photos", "--position", "front"), "--position and --class-specific need --method coop"),
        (("train", "photos", "--context-length", "8"), '--context-length needs a random start: add --context "".'),
        (("train", "photos", "--method", "coop", "--class-specific"), "--class-specific needs a random start"),
        (("train", "photos", "--output", "photos"), "'photos' is not empty and holds no run; choose another --output."),
        (("train", "photos", "--output", "note.txt"), "'note.txt' is a file; choose another --output."),
        (("predict", "nowhere", "photos"), "There is no directory 'nowhere'; give one written by `cocoop train`."),
        (("predict", "photos", "photos"), "'photos' is not a saved prompt: it has no config.json."),
        (("predict", "photos", "absent.jpg"), "'absent.jpg' does not exist; pass images or directories of images."),
        (("predict", "photos"), "No path was given; pass images or directories of images."),
        (("predict", "photos", "photos", "--top-k", "0"), "--top-k is 0; it must be at least 1."),
        (("predict", "photos", "photos", "--classes", "cat,"), "--classes is 'cat,'; give at least two names"),
        (("eval", "nowhere", "photos"), "There is no directory 'nowhere'; give one written by `cocoop train`."),
    ],
)
def test_mistakes_are_explained_in_one_line(arguments, message, images):
    (images.parent / "note.txt").write_text("")
    assert message in one_line(cocoop(*arguments, cwd=images.parent))


def test_nothing_is_left_behind_by_a_mistake(images):
    before = sorted(images.parent.iterdir())
    one_line(cocoop("train", "photos", "--backbone", "ViT-B/61", "--output", "run", cwd=images.parent))
    assert sorted(images.parent.iterdir()) == before


def test_draw_prints_the_draw_without_opening_a_image(images, tmp_path):
    empty = tmp_path / "photos"
    for image in images.rglob("*.png"):
        copy = empty / image.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"")
    done = cocoop("draw", empty, "--shots", "2", "--seed", "3", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    drawn = json.loads(done.stdout)
    data = package.load_data(images).few_shot(2, seed=3)
    assert drawn == {"train": [item.path for item in data.train], "val": [item.path for item in data.val]}
    assert [path.split("/")[0] for path in drawn["train"]] == [name for name in sorted(COLOURS) for _ in range(2)]

    lines = [line.split("\t") for line in cocoop("draw", empty, "--shots", "2", "--seed", "3").stdout.splitlines()]
    assert [path for split, _, path in lines if split == "train"] == drawn["train"]
    assert {(name, path.split("/")[0]) for _, name, path in lines} == {(name, name) for name in COLOURS}


@pytest.mark.parametrize("seed", [1, 2])
def test_draw_is_the_official_draw_of_caltech101(seed, shared):
    done = cocoop(
        *("draw", shared / "splits" / "split_zhou_Caltech101.json", "--shots", "16", "--seed", seed),
        *("--image-root", shared / "data" / "caltech101", "--format", "json"),
    )
    assert done.returncode == 0, done.stderr
    (official,) = (shared / "splits" / "fewshot").glob(f"*altech101*seed*{seed}*.json")
    wanted = json.loads(official.read_text())
    assert json.loads(done.stdout) == {"train": wanted["train"], "val": wanted["val"]}


def test_names_that_are_no_text_or_look_like_markup_are_printed_as_they_are(tmp_path):
    make_images(tmp_path / "photos", per_class=4)
    (tmp_path / "photos" / "sun").rename(tmp_path / "photos" / "[bold] :cat: sun")
    odd = tmp_path / "photos" / "leaf" / os.fsdecode(b"caf\xe9\t.png")
    (tmp_path / "photos" / "leaf" / "00.png").rename(odd)
    done = cocoop("draw", tmp_path / "photos", "--format", "json")
    assert done.returncode == 0, done.stderr
    paths = json.loads(done.stdout)
    everything = paths["train"] + paths["val"]
    assert any(path.startswith("[bold] :cat: sun/") for path in everything)
    names = {os.fsencode(path.split("/")[1]) for path in everything}
    lines = cocoop("draw", tmp_path / "photos").stdout
    assert "\t[bold] :cat: sun\t[bold] :cat: sun/" in lines
    assert names >= {b"01.png"}


def piped(*arguments, cwd=None):
    """The first line of a command's output, taken by a reader that then closes the pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cocoop", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    line = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    return line, errors, process.wait(timeout=60)


def test_a_reader_that_has_seen_enough_is_no_error(images):
    line, errors, code = piped("draw", images)
    assert line.startswith(b"train\tcherry\tcherry/")
    assert (errors, code) == (b"", 0)


def test_a_reader_that_sees_nothing_is_no_error(images):
    # All output is still buffered when the command is done, and would be tried again when Python exits.
    process = subprocess.Popen(
        [sys.executable, "-m", "cocoop", "draw", str(images)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def test_full_disk_is_explained_in_one_line(images):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [sys.executable, "-m", "cocoop", "draw", images], stdout=full, stderr=subprocess.PIPE, env=environment()
        )
    assert (done.returncode, done.stderr) == (1, b"cocoop: No space left on device.\n")


def test_progress_is_printed_in_lines_where_stderr_is_a_file(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.image_progress("encoding images") as progress:
        progress(64, 200)
        progress(200, 200)
    with console.training_progress("cocoop") as (on_step, on_encode):
        on_encode(3, 8)
        on_step(StepReport(2, 4, 4, 8, 1.23456, 75.0, 12.3))
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 60.0)
    with console.image_progress("short work") as progress:
        progress(1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "encoding images: 32%  64/200 images",
        "encoding images: 100%  200/200 images",
        "cocoop: 37%  encoding 3/8 images",
        "cocoop: 37%  epoch 2/4  loss 1.235  acc 75.0%  12 images/s",
    ]


def test_time_left_ignores_the_work_of_an_interrupted_run(monkeypatch):
    now = iter([100.0, 110.0, 3710.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    remaining = console._RemainingTime()
    assert remaining.text(500, 1000) == ""
    assert remaining.text(510, 1000) == "  0:08:10 left"
    assert remaining.text(600, 1000) == "  4:00:40 left"
    assert remaining.text(1000, 1000) == ""


def test_memory_that_does_not_suffice_is_explained_and_other_errors_are_not_hidden():
    errors = {
        "DataLoader worker (pid 7) is killed by signal: Killed. ": "A process that decodes images died",
        "CUDA out of memory. Tried to allocate 2.00 GiB.": "Memory ran out; try a smaller `batch_size`",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory": "Memory ran out",
    }
    for text, explanation in errors.items():
        assert about_memory(RuntimeError(text)).startswith(explanation)
    assert about_memory(RuntimeError("shapes do not fit")) is None


def test_a_process_without_a_stdout_works(images):
    command = f'exec "{sys.executable}" -m cocoop draw "{images}" >&-'
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, env=environment())
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("world", ["1", "2"])
def test_only_commands_that_work_together_leave_the_word_to_the_first_process(world, tmp_path):
    # Schedulers number the processes of a job, and each may work on its own.
    ranked = {"RANK": "1", "WORLD_SIZE": world}
    done = cocoop("data", "list", "--data-root", tmp_path, **ranked)
    assert done.returncode == 0
    assert "caltech101" in done.stdout
    assert "Download one with" in done.stderr
