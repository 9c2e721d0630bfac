"""The page of `cocoop explain`, made from its record only: words near the context, shifts by images, the control."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup

from cocoop.report import blocks, charts
from cocoop.report.page import Section, page
from cocoop.report.tables import signed, summary
from cocoop.storage.atomic import write_atomic
from cocoop.storage.json_files import write_json

__all__ = ["CONTROL_HEAD", "control_rows", "explanation_page", "word_head", "word_rows", "write_explanation"]

CONTROL_NAMES = {
    "true": "the image itself",
    "noise": "noise",
    "other": "another image",
    "mean": "the mean of all images",
}
"""Names of the inputs of Meta-Net."""
CONTROL_HEAD = ("input of Meta-Net", "accuracy %", "change", "significant", "answers changed %")

SIGNIFICANT = 2.0
"""Number of standard errors beyond which a difference counts as significant."""


def write_explanation(record: Mapping[str, Any], output: str | Path) -> tuple[Path, Path]:
    """Write explain.json and explain.html.

    Args:
        record: result of `cocoop.explain`.
        output: directory to write to.
    """
    json_file, page_file = Path(output) / "explain.json", Path(output) / "explain.html"
    write_json(json_file, record)
    # A class or file name can hold bytes that are not UTF-8.
    write_atomic(page_file, explanation_page(record).encode(errors="backslashreplace"))
    return json_file, page_file


def explanation_page(record: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    Args:
        record: result of `cocoop.explain`, or the content of explain.json.
    """
    sections = [Section(title="Words near the context", lead=_words_lead(record), body=_words(record))]
    images = ""
    if "shifts" in record:
        images = f", with {record['shifts']['images']} images of {record['data']}"
        sections += [
            Section(
                title="How far images shift the prompt",
                lead=(
                    "CoCoOp adds a shift to every context vector, which Meta-Net computes from the image. The part "
                    "that all shifts share is just another static context; only their differences can tell images "
                    "apart."
                ),
                body=_shifts(record["shifts"]),
            ),
            Section(
                title="Does conditioning matter?",
                lead=(
                    "The control: images and classes stay the same, and only the input of Meta-Net is replaced. If the "
                    "accuracy stays the same, conditioning on the image does nothing on these data."
                ),
                body=_control(record["control"]),
            ),
        ]
    return page(
        title="What the prompt learned",
        kicker="cocoop explain",
        lead=f"{record['run']}: {record['method']} on {record['backbone']}{images}.",
        sections=sections,
        footer=f"Made by cocoop {record['cocoop']}. This page loads nothing from the network.",
    )


def word_head(record: Mapping[str, Any]) -> list[str]:
    """Return the headings of `word_rows`."""
    count = max(len(vector["words"]) for vector in record["context"])
    return ["vector", "length", "nearest", *(f"{number}." for number in range(2, count + 1))]


def word_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each context vector: its number (and class), its length, and words with their distances."""
    return [
        [
            f"{vector['position']}" if vector["classname"] is None else f"{vector['classname']} {vector['position']}",
            f"{vector['norm']:.2f}",
            *(f"{word['text']} {word['distance']:.3f}" for word in vector["words"]),
        ]
        for vector in record["context"]
    ]


def control_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each input of Meta-Net, below `CONTROL_HEAD`."""
    rows = []
    for one in record["control"]:
        change, error = -one["loss"], one["standard_error"]
        compared = [
            f"{signed(change)} ± {error:.1f}",
            "yes" if abs(change) > SIGNIFICANT * error else "no",
            summary(one["changed"]),
        ]
        names = [CONTROL_NAMES[one["name"]], summary(one["accuracies"])]
        rows.append([*names, *(compared if one["name"] != "true" else [""] * 3)])
    return rows


def _words_lead(record: Mapping[str, Any]) -> str:
    return (
        "The vocabulary words nearest to each learned context vector, with their Euclidean distances. Such words "
        f"seldom carry the meaning of the vector: the nearest other word of a word is {record['word_distance']:.2f} "
        "away (median), so a vector that is further than that from its nearest word is not close to any word."
    )


def _words(record: Mapping[str, Any]) -> Markup:
    caption = "Word and distance; a dash follows a token that does not end a word."
    return blocks.table(word_head(record), word_rows(record), caption=caption)


def _shifts(shifts: Mapping[str, Any]) -> Markup:
    length, between = shifts["context_norm"], shifts["between_classes"]

    def share(part: float) -> str:
        return f"{part / length:.1%} of the context's"

    values = {
        "Context vectors": f"length {length:.3f} (mean)",
        "Shift": f"length {shifts['norm_mean']:.3f} ± {shifts['norm_std']:.3f}: {share(shifts['norm_mean'])}",
        "Common to all images": f"length {shifts['constant']:.3f}: {share(shifts['constant'])}",
        "Different from image to image": f"{shifts['spread']:.3f} (root mean square): {share(shifts['spread'])}",
        "Variance between classes": "none" if between is None else f"{between:.0%}, the rest within classes",
    }
    explained = shifts["explained"]
    chart = charts.points(
        _by_class(shifts),
        title="Shifts of the images",
        x_label=f"first component ({explained[0]:.0%} of the variance)",
        y_label=f"second component ({explained[1]:.0%})",
        description=f"Each point is the shift of one of {shifts['images']} images, coloured by class.",
    )
    caption = "Each point is an image; the axes are the first two principal components of the shifts."
    return Markup("\n").join([blocks.facts(values), blocks.chart(chart, caption)])


def _by_class(shifts: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Group the points by class, classes with most images first."""
    points: dict[int, list[tuple[float, float]]] = {}
    for label, (x, y) in zip(shifts["labels"], shifts["components"], strict=True):
        points.setdefault(label, []).append((x, y))
    order = sorted(points, key=lambda label: (-len(points[label]), label))
    return {shifts["classnames"][label]: points[label] for label in order}


def _control(control: list[Mapping[str, Any]]) -> Markup:
    seeds = max(len(one["accuracies"]) for one in control)
    caption = (
        f"Noise and other images are drawn {seeds} times: mean ± standard deviation. The change is in percentage "
        f"points, ± its standard error over the images; it is significant beyond {SIGNIFICANT:g} standard errors."
    )
    accuracies = {CONTROL_NAMES[one["name"]]: one["accuracies"] for one in control}
    chart = charts.horizontal_bars(
        [
            charts.Bars(
                "CoCoOp",
                {name: (fmean(v), stdev(v) if len(v) > 1 else math.nan) for name, v in accuracies.items()},
                2,
            )
        ],
        title="Accuracy by input of Meta-Net",
        x_label="accuracy in %",
        description="; ".join(f"{name}: {summary(values)} %" for name, values in accuracies.items()),
    )
    return Markup("\n").join(
        [
            blocks.table(CONTROL_HEAD, control_rows({"control": control}), caption=caption),
            blocks.chart(chart, "Thin lines extend one standard deviation to either side."),
        ]
    )
