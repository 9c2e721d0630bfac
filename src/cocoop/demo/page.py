"""The demonstration's page: what was done, what came out, and what to do next, for someone who is new to all this.

It is made from the results (see `cocoop.demo.study`) and the drawn pictures alone; every number in it comes from there.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from cocoop.demo.choice import choose_samples
from cocoop.demo.words import findings, meanings
from cocoop.report import blocks, charts
from cocoop.report.page import Section, page
from cocoop.report.tables import COLUMNS, METHOD_NAMES, base_to_new_caption, base_to_new_values, summary
from cocoop.report.thumbnails import picture_source

__all__ = ["demo_page"]

Results = Mapping[str, Any]

SAMPLES = 8
"""Sample pictures of base classes, and as many of new ones."""

ABOUT = {
    "zero-shot": "Compares a picture with “a photo of a …” for each class. Learns nothing.",
    "coop": "Learns the words around the class name; they are the same for every picture.",
    "cocoop": "Learns these words too, and a small network that shifts them for each picture.",
}


def demo_page(results: Results, pictures: Path, directory: Path) -> str:
    """The page.

    Args:
        results: what `results.json` holds.
        pictures: the folder that the paths in the results start from.
        folder: the demonstration's folder, as it is named in commands.

    Raises:
        DataError: if a picture that is to be shown cannot be read.
    """
    base, new = results["classes"]["base"], results["classes"]["new"]
    sections = [
        Section(
            title="The result",
            lead=(
                "Pictures named right, in %: of the base classes, which were learned; of the new ones, which training "
                "never saw; and H, the harmonic mean of the two, which is high only if both are."
            ),
            body=_result(results),
        ),
        Section(title="What was done", body=_story(results, pictures)),
        Section(
            title="Class by class",
            lead="Which classes gained, and which paid for it? Means over the seeds.",
            body=_changes(results),
        ),
        Section(
            title="Picture by picture",
            lead=(
                f"Test pictures, and what each method takes them for (seed {results['seeds'][0]}). They are chosen to "
                "show agreement and disagreement, right and wrong; they are not a fair sample."
            ),
            body=_samples(results, pictures),
        ),
        Section(
            title="How training went",
            lead="One line a seed. The pictures are the training pictures of the base classes.",
            body=_curves(results),
        ),
        Section(title="Settings and versions", body=_settings(results)),
        Section(title="Your own photos", body=_next(results, directory)),
    ]
    return page(
        title=f"{len(base)} classes learned, {len(new)} never seen",
        kicker="cocoop demo",
        lead=(
            "A vision-language model can be adapted to a task by learning its prompt from a few pictures. What does "
            "that do to classes it did not learn from? Measured here, on drawn pictures, for three methods."
        ),
        sections=sections,
        footer=f"Made by cocoop {results['versions']['cocoop']} on {results['date']}. Nothing on this page is fetched.",
    )


def _name(method: str) -> str:
    return METHOD_NAMES.get(method, method)


def _result(results: Results) -> Markup:
    values = base_to_new_values(results["records"])
    rows = [[_name(method), *(summary(columns[c]) for c in COLUMNS)] for method, columns in values.items()]
    means = [[fmean(columns[c]) for c in COLUMNS] for columns in values.values()]
    best = {i + 1: max(range(len(means)), key=lambda row: means[row][i]) for i in range(len(COLUMNS))}
    shown = ", ".join(
        f"{_name(method)}: " + ", ".join(f"{c} {fmean(columns[c]):.1f}" for c in COLUMNS)
        for method, columns in values.items()
    )
    scores = [
        blocks.Score(_name(method), ABOUT[method], {c: f"{fmean(columns[c]):.1f}" for c in COLUMNS})
        for method, columns in values.items()
    ]
    chart = charts.bars(
        {
            _name(method): {f"{c} classes" if c != "H" else c: columns[c] for c in COLUMNS}
            for method, columns in values.items()
        },
        title="Accuracy on base and new classes",
        description=f"Bars: {shown}.",
    )
    caption = "Bars are means over the seeds; the thin lines reach one standard deviation up and down."
    return Markup("\n").join(
        [
            blocks.scoreboard(scores),
            blocks.side_by_side([blocks.findings(findings(results)), blocks.chart(chart, caption)]),
            blocks.table(["method", *COLUMNS], rows, caption=base_to_new_caption(results["records"]), best=best),
        ]
    )


def _story(results: Results, pictures: Path) -> Markup:
    counts, classes = results["pictures"], results["classes"]
    class_count = sum(len(names) for names in classes.values())
    first = {half: {results["truth"][path]: path for path in reversed(_paths(results, half))} for half in classes}
    images = {
        half: [
            blocks.Image(picture_source(pictures / first[half][name], edge=150), f"Drawing: {name}", name)
            for name in classes[half]
        ]
        for half in classes
    }
    return Markup("\n").join(
        [
            blocks.prose(
                f"There are {counts['train'] + counts['test']:,} drawn pictures of {class_count} "
                f"classes. Half of the classes, in alphabetical order, became base classes: from {results['shots']} "
                "labelled pictures of each, prompts were learned. The other half, the new classes, was put away until "
                f"the end. Then every method named the classes of {results['test_pictures']} test pictures of each "
                "class, none of which any method had learned from: base pictures among the base classes, new pictures "
                "among the new ones. All of it was repeated with each seed, which draws other training pictures."
            ),
            Markup("<h3>Base classes</h3>"),
            blocks.gallery(images["base"]),
            Markup("<h3>New classes</h3>"),
            blocks.gallery(images["new"]),
            Markup("<h3>The words</h3>"),
            blocks.terms(meanings(results)),
        ]
    )


def _paths(results: Results, half: str) -> list[str]:
    return list(results["records"][0]["predictions"][half])


def _changes(results: Results) -> Markup:
    per_class = {
        method: {half: _mean_per_class(results, method, half) for half in ("base", "new")}
        for method in base_to_new_values(results["records"])
    }
    before, *others = per_class
    groups = {
        f"{half} classes": [
            blocks.ChangeRow(name, value, [per_class[method][half][name] - value for method in others])
            for name, value in per_class[before][half].items()
        ]
        for half in ("base", "new")
    }
    return blocks.change_table(groups, [_name(method) for method in others], before=_name(before))


def _mean_per_class(results: Results, method: str, half: str) -> dict[str, float]:
    tables = [record[half]["per_class"] for record in results["records"] if record["method"] == method]
    return {name: fmean(table[name] for table in tables) for name in tables[0]}


def _samples(results: Results, pictures: Path) -> Markup:
    seed = results["seeds"][0]
    said = {r["method"]: r["predictions"] for r in results["records"] if r["seed"] == seed}
    parts: list[Markup] = []
    for half in ("base", "new"):
        truth = {path: results["truth"][path] for path in _paths(results, half)}
        named = {method: predictions[half] for method, predictions in said.items()}
        cards = []
        for path in choose_samples(truth, named, SAMPLES):
            guesses = [blocks.Guess(_short(m), named[m][path], named[m][path] == truth[path]) for m in named]
            image = blocks.Image(picture_source(pictures / path), f"Drawing: {truth[path]}")
            cards.append(blocks.Sample(image, truth[path], guesses))
        parts += [Markup("<h3>{} classes</h3>").format(half.capitalize()), blocks.samples(cards)]
    return Markup("\n").join(parts)


def _short(method: str) -> str:
    return _name(method).removesuffix(" CLIP")


def _curves(results: Results) -> Markup:
    drawn = []
    for number, method in enumerate(base_to_new_values(results["records"])):
        histories = [r["history"] for r in results["records"] if r["method"] == method and r["history"]]
        for measure, label in (("loss", "loss"), ("accuracy", "accuracy in %")) if histories else ():
            lines = [charts.Line([e["epoch"] for e in h], [e[measure] for e in h], number) for h in histories]
            ends = ", ".join(f"{h[0][measure]:.2f} to {h[-1][measure]:.2f}" for h in histories)
            chart = charts.curves(
                lines,
                title=f"{_name(method)}: {measure} on training pictures",
                x_label="epoch",
                y_label=label,
                description=f"{_name(method)}, {measure} from the first epoch to the last, a seed each: {ends}.",
            )
            drawn.append(blocks.chart(chart, _steps(histories[0])))
    return blocks.side_by_side(drawn)


def _steps(history: Sequence[Mapping[str, Any]]) -> str:
    images = history[0]["images"]
    return f"{len(history)} passes over {images} pictures; the first at the warm-up rate."


def _settings(results: Results) -> Markup:
    counts = results["pictures"]
    values: dict[str, object] = {
        "Backbone": f"{results['backbone']}: small, bundled, runs anywhere; it is no replacement for CLIP",
        "Pictures": f"{counts['train']} to draw training pictures from, {counts['test']} for tests",
        "Shots": f"{results['shots']} training pictures of each base class in a run",
        "Seeds": ", ".join(map(str, results["seeds"])),
        "Data set": f"SHA-256 {results['fingerprint'][:16]}… of classes and file names",
    }
    for record in results["records"]:
        if record["config"] is not None:
            values[_name(record["method"])] = _training(record["config"])
    values["Image features"] = "encoded once, without augmentation (the papers augment: --cache-features leaves it out)"
    values["Time"] = f"{results['seconds']:.0f} s in all, on {results['processes']} processes of one thread"
    values |= results["versions"]
    return blocks.facts(values)


def _training(config: Mapping[str, Any]) -> str:
    return (
        f"{config['epochs']} epochs, {config['batch_size']} picture{'s' * (config['batch_size'] > 1)} a step, SGD with "
        f"rate {config['learning_rate']:g}, momentum {config['momentum']:g}, weight decay {config['weight_decay']:g}; "
        f"{config['warmup_epochs']} epoch of warm-up at {config['warmup_learning_rate']:g}, then a cosine"
    )


def _next(results: Results, directory: Path) -> Markup:
    run, pictures = directory / results["run"], directory / "pictures" / "test"
    base, new = results["classes"]["base"], results["classes"]["new"]
    one, other = (shlex.quote(str(pictures / names[-1].replace(" ", "_"))) for names in (base, new))
    some = shlex.quote(", ".join(new[-3:]))
    lines = [
        blocks.Command(
            "Use the prompt that was just learned, with its base classes:",
            f"cocoop predict {shlex.quote(str(run))} {one}",
        ),
        blocks.Command(
            "The same prompt with classes it never saw:",
            f"cocoop predict {shlex.quote(str(run))} {other} --classes {some}",
        ),
        blocks.Command(
            "Train on photos of your own: a folder with one folder of photos a class. It measures zero-shot CLIP and "
            "CoOp beside CoCoOp, from base to new classes.",
            "cocoop train PHOTOS",
        ),
        blocks.Command(
            "The same with OpenAI's CLIP, as in the papers (it is downloaded once, and wants a graphics card):",
            "cocoop train PHOTOS --backbone ViT-B/16",
        ),
        blocks.Command("Everything else:", "cocoop --help"),
    ]
    return blocks.commands(lines)
