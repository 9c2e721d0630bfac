"""The page of `cocoop explain`, made from its record alone: words near the context, its shifts, and the control."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from markupsafe import Markup

from cocoop.report import blocks, charts
from cocoop.report.page import Section, page

__all__ = ["CONTROL_NAMES", "explanation_page", "percent_with_spread", "verdict", "word_rows"]

CONTROL_NAMES = {
    "true": "the photo itself",
    "noise": "noise",
    "other": "another photo",
    "mean": "the mean of all photos",
}
"""What Meta-Net was given, in words."""

CHANCE = 2.0
"""Standard errors beyond which a difference is not taken for chance."""


def explanation_page(record: Mapping[str, Any]) -> str:
    """The page.

    Args:
        record: what `explain.json` holds.
    """
    sections = [Section(title="Words near the context", lead=_words_lead(record), body=_words(record))]
    if "shifts" in record:
        sections += [
            Section(
                title="How far photos move the prompt",
                lead=(
                    "CoCoOp adds a shift to every context vector, which Meta-Net makes from the photo. What all shifts "
                    "have in common is no more than another static context; only what differs can tell photos apart."
                ),
                body=_shifts(record["shifts"]),
            ),
            Section(
                title="Does conditioning change anything?",
                lead=(
                    "The control: photos and classes stay as they are, and Meta-Net alone is given something else. If "
                    "accuracy stays the same, looking at the photo does nothing on these data."
                ),
                body=_control(record["control"]),
            ),
        ]
    return page(
        title="What the prompt learned",
        kicker="cocoop explain",
        lead=(
            f"{record['run']}: {record['method']} on {record['backbone']}"
            + (
                f", looked at with {record['shifts']['images']} photos of {record['data']}."
                if "shifts" in record
                else "."
            )
        ),
        sections=sections,
        footer=f"Made by cocoop {record['cocoop']}. Nothing on this page is fetched.",
    )


def word_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A row for each context vector: its number (and class), its length, and words with their distances."""
    return [
        [
            f"{vector['place']}" if vector["classname"] is None else f"{vector['classname']} {vector['place']}",
            f"{vector['norm']:.2f}",
            *(f"{word['text']} {word['distance']:.3f}" for word in vector["words"]),
        ]
        for vector in record["context"]
    ]


def percent_with_spread(values: list[float]) -> str:
    """Mean, and standard deviation (n - 1) where there are several: `71.3 ± 0.4`."""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def verdict(control: list[Mapping[str, Any]]) -> str:
    """Whether conditioning does anything on these data, in a sentence."""
    others = [c for c in control if c["name"] != "true"]
    better = [c for c in others if c["loss"] > CHANCE * c["standard_error"]]
    worse = [c for c in others if c["loss"] < -CHANCE * c["standard_error"]]
    if not any(max(c["changed"]) for c in others):
        return "No answer changes, whatever Meta-Net is given: on these data the prompt is as good as static."
    if len(better) == len(others):
        return "The photo itself is better than all of the others: conditioning on it helps on these data."
    if better and not worse:
        names = " and ".join(CONTROL_NAMES[c["name"]] for c in better)
        return f"The photo itself is better than {names}, but the rest is no worse within {CHANCE:g} standard errors."
    if worse:
        names = " and ".join(CONTROL_NAMES[c["name"]] for c in worse)
        return f"Meta-Net does better with {names} than with the photo itself: conditioning harms on these data."
    return (
        f"Some answers change, but none of it is beyond {CHANCE:g} standard errors: on these data, conditioning on the "
        "photo shows no effect on accuracy."
    )


def _words_lead(record: Mapping[str, Any]) -> str:
    return (
        "The vocabulary words nearest to each learned context vector, with their Euclidean distances. Such words "
        "seldom mean what the vector means: a word of the vocabulary lies "
        f"{record['word_distance']:.2f} from the nearest other word (median), and vectors that lie further out than "
        "that have no word beside them."
    )


def _words(record: Mapping[str, Any]) -> Markup:
    count = max(len(vector["words"]) for vector in record["context"])
    head = ["vector", "length", "nearest", *(f"{number}." for number in range(2, count + 1))]
    return blocks.table(head, word_rows(record), caption="Word and distance; a dash follows a part of a word.")


def _shifts(shifts: Mapping[str, Any]) -> Markup:
    length = shifts["context_norm"]
    between = shifts["between_classes"]
    values = {
        "Context vectors": f"length {length:.3f} (mean)",
        "Shift": f"length {shifts['norm_mean']:.3f} ± {shifts['norm_std']:.3f}: "
        f"{_of(shifts['norm_mean'], length)} of the context's",
        "The same for all photos": f"length {shifts['constant']:.3f}: {_of(shifts['constant'], length)}",
        "Different from photo to photo": f"{shifts['spread']:.3f} (root mean square): {_of(shifts['spread'], length)}",
        "Of this difference": "none"
        if between is None
        else f"{between:.0%} between classes, {1 - between:.0%} among photos of one class",
    }
    explained = shifts["explained"]
    chart = charts.points(
        _by_class(shifts),
        title="Shifts of the photos",
        x_label=f"first component ({explained[0]:.0%} of the variance)",
        y_label=f"second component ({explained[1]:.0%})",
        description=f"Each point is the shift of one of {shifts['images']} photos, coloured by class.",
    )
    caption = "Each point is a photo; the two directions in which shifts differ most (principal components)."
    return Markup("\n").join([blocks.facts(values), blocks.chart(chart, caption)])


def _of(part: float, whole: float) -> str:
    return f"{part / whole:.1%}"


def _by_class(shifts: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Points by class, those of most photos first."""
    found: dict[int, list[tuple[float, float]]] = {}
    for label, (x, y) in zip(shifts["labels"], shifts["components"], strict=True):
        found.setdefault(label, []).append((x, y))
    order = sorted(found, key=lambda label: (-len(found[label]), label))
    return {shifts["classnames"][label]: found[label] for label in order}


def _control(control: list[Mapping[str, Any]]) -> Markup:
    rows = [
        [
            CONTROL_NAMES[c["name"]],
            percent_with_spread(c["accuracies"]),
            ""
            if c["name"] == "true"
            else f"{-c['loss']:+.1f} ± {c['standard_error']:.1f}".replace("-", "\N{MINUS SIGN}"),
            "" if c["name"] == "true" else percent_with_spread(c["changed"]),
        ]
        for c in control
    ]
    seeds = max(len(c["accuracies"]) for c in control)
    chart = charts.level_bars(
        [charts.Bars("CoCoOp", {CONTROL_NAMES[c["name"]]: c["accuracies"] for c in control}, 2)],
        title="Accuracy by what Meta-Net is given",
        x_label="accuracy in %",
        description="; ".join(f"{CONTROL_NAMES[c['name']]}: {percent_with_spread(c['accuracies'])} %" for c in control),
    )
    return Markup("\n").join(
        [
            blocks.findings([verdict(control)]),
            blocks.table(
                ["Meta-Net is given", "accuracy %", "change", "answers changed %"],
                rows,
                caption=f"Noise and other photos are drawn {seeds} times: mean ± standard deviation. The change is in "
                "percentage points, ± its standard error over the photos.",
            ),
            blocks.chart(chart, "Thin lines reach one standard deviation to either side."),
        ]
    )
