"""The page of the demo: the page of its sweep, with its images, a few terms and next steps."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from cocoop.errors import CheckpointError
from cocoop.experiments.records import RUNS, read_sweep
from cocoop.report import blocks, check_report_extra
from cocoop.report.page import Section
from cocoop.report.sweep_page import sweep_page
from cocoop.report.thumbnails import thumbnail
from cocoop.storage.atomic import write_atomic

__all__ = ["write_demo_page"]

TERMS = {
    "Zero-shot CLIP": (
        "CLIP compares an image with one sentence per class, such as “a photo of a kite.”, and picks the class whose "
        "sentence is closest. It needs no training images."
    ),
    "CoOp": (
        "Learns the words around the class name as vectors, the same for all images. They fit the classes that they "
        "were trained on, and can fit other classes worse than plain words do."
    ),
    "CoCoOp": (
        "Learns these vectors and the Meta-Net, a small network that shifts them for each image, so that the prompt "
        "depends less on the classes that it was trained on."
    ),
    "Base and new classes": (
        "Prompts are trained on images of the base classes. Images of the new classes are never seen in training; the "
        "learned vectors are put around the new class names."
    ),
    "H": "The harmonic mean of base and new accuracy, 2 · base · new / (base + new). It is high only if both are.",
    "Seed": (
        "A number that decides which training images are sampled, the initial values and the order of the images. The "
        "standard deviation over seeds, after ±, shows how much of a difference is chance."
    ),
}


def write_demo_page(demo: str | Path, images: str | Path) -> Path:
    """Write report.html into the directory of a demo.

    Args:
        demo: directory that `run_demo` wrote.
        images: directory of its images.

    Returns:
        Path of the page.

    Raises:
        CheckpointError: if no run has finished.
        DataError: if an image cannot be read.
        ConfigError: if the extra `report` is not installed.
    """
    check_report_extra()
    demo, images = Path(demo), Path(images)
    sweep = read_sweep(demo)
    if not sweep.records:
        raise CheckpointError(f"No run in '{demo}' has finished yet.")
    tests = sweep.records[0]["tests"]
    classes = {half: list(tests[half]["per_class"]) for half in ("base", "new")}
    page = sweep_page(
        sweep,
        "never",
        kicker="cocoop demo",
        title=f"{len(classes['base'])} classes trained, {len(classes['new'])} never seen",
        lead=(
            "A vision-language model can be adapted to a task by learning its prompt from a few images. What does that "
            "do to classes that it was not trained on? Measured here, on drawn images, for three methods."
        ),
        before=[Section(title="Images and terms", body=_images(images, classes))],
        after=[Section(title="Next steps", body=_next_steps(demo, images, classes["new"]))],
    )
    path = demo / "report.html"
    write_atomic(path, page.encode())
    return path


def _images(images: Path, classes: dict[str, list[str]]) -> Markup:
    parts = []
    for half, names in classes.items():
        gallery = [
            blocks.Image(thumbnail(_class_images(images, name)[0], edge=150), f"Drawing: {name}", name)
            for name in names
        ]
        parts += [Markup("<h3>{} classes</h3>").format(half.capitalize()), blocks.gallery(gallery)]
    return Markup("\n").join([*parts, Markup("<h3>Terms</h3>"), blocks.terms(TERMS)])


def _class_images(images: Path, name: str) -> list[Path]:
    return sorted((images / "test" / name.replace(" ", "_")).iterdir())


def _next_steps(demo: Path, images: Path, new_classes: Sequence[str]) -> Markup:
    run = str(min((demo / RUNS).glob("*cocoop-*"), default=demo))
    image = str(_class_images(images, new_classes[-1])[0])
    return blocks.commands(
        [
            blocks.Command(
                "Use a trained prompt with classes that it has never seen:",
                shlex.join(["cocoop", "predict", run, image, "--classes", ", ".join(new_classes)]),
            ),
            blocks.Command(
                "Train on photos of your own, in a folder with one folder per class. This compares zero-shot CLIP, "
                "CoOp and CoCoOp from base to new classes:",
                "cocoop train PHOTOS --cache-features",
            ),
            blocks.Command(
                "Use OpenAI's CLIP, as in the papers (it is downloaded once, and a GPU helps):",
                "cocoop train PHOTOS --backbone ViT-B/16",
            ),
            blocks.Command("See all commands:", "cocoop --help"),
        ]
    )
