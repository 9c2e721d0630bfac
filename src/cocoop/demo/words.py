"""The demonstration's words: what the terms mean, and what the numbers say. No number is written here."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

from cocoop.report.tables import METHOD_NAMES, base_to_new_values

__all__ = ["findings", "meanings"]

TIMES = "\N{MULTIPLICATION SIGN}"


def meanings(results: Mapping[str, Any]) -> dict[str, str]:
    """The terms of the page, with this run's numbers where they help."""
    base, new = results["classes"]["base"], results["classes"]["new"]
    values = base_to_new_values(results["records"])
    method = next(iter(values))
    b, n, h = (values[method][column][0] for column in ("base", "new", "H"))
    return {
        "Zero-shot CLIP": (
            "CLIP has learned from captions which pictures and sentences belong together. To classify, it compares a "
            f"picture with one sentence for each class, such as “a photo of a {base[-1]}.”, and names the class "
            "whose sentence is closest. It needs no training picture at all."
        ),
        "Prompt": (
            "The words around the class name. To the model they are vectors, so instead of choosing better words by "
            "hand, one can learn better vectors from examples; the rest of the model stays as it is."
        ),
        "CoOp": (
            "Learns these vectors, once and for all pictures. They fit the classes they were learned on, and may fit "
            "others worse than plain words do."
        ),
        "CoCoOp": (
            "Learns the vectors, and Meta-Net, a small network that shifts them for each picture. The idea: a prompt "
            "that looks at the picture depends less on the classes it was learned on."
        ),
        "Base classes": (
            f"The classes with training pictures, here {_list(base)}. Accuracy on base is the share of their test "
            "pictures that are named right, among the base classes."
        ),
        "New classes": (
            f"Classes that training never saw, here {_list(new)}. For them the learned vectors are put around new "
            "names. Accuracy on new is the share of their test pictures that are named right, among the new classes."
        ),
        "H": (
            f"The harmonic mean of both accuracies, 2 {TIMES} base {TIMES} new / (base + new). It is high only if "
            f"both are; who gives up the new classes for the base ones does not win. Here, for {METHOD_NAMES[method]}: "
            f"2 {TIMES} {b:.1f} {TIMES} {n:.1f} / ({b:.1f} + {n:.1f}) = {h:.1f}."
        ),
        "Seed": (
            "A number that decides which training pictures are drawn, where learning starts and in which order "
            "pictures come. Several seeds show how much of a difference is luck: that is what stands after ±."
        ),
    }


def findings(results: Mapping[str, Any]) -> list[str]:
    """What came out, in sentences that follow the numbers whatever they are."""
    values = base_to_new_values(results["records"])
    mean = {method: {c: fmean(v) for c, v in columns.items()} for method, columns in values.items()}
    zero, learners = mean["zero-shot"], [method for method in mean if method != "zero-shot"]
    base, new = results["classes"]["base"], results["classes"]["new"]
    guess = " and ".join(dict.fromkeys(f"{100 / len(names):.0f}%" for names in (base, new)))
    best = max(mean, key=lambda method: mean[method]["H"])
    sentences = [
        f"Zero-shot CLIP, which has learned nothing here, names {zero['base']:.0f}% of the base pictures and "
        f"{zero['new']:.0f}% of the new ones right. Guessing would give {guess}.",
        "With "
        + _count(results["shots"], "labelled picture")
        + " a class, on base classes "
        + _join([f"{METHOD_NAMES[m]} reaches {mean[m]['base']:.0f}%" for m in learners])
        + ".",
        "On new classes, against zero-shot, "
        + _join([f"{METHOD_NAMES[m]} {_moved(mean[m]['new'] - zero['new'])}" for m in learners])
        + ".",
        f"{METHOD_NAMES[best]} has the highest H, {mean[best]['H']:.1f}.",
    ]
    if {"coop", "cocoop"} <= mean.keys():
        sentences.append(_beside_paper(values["coop"]["new"], values["cocoop"]["new"]))
    return sentences


def _beside_paper(coop: list[float], cocoop: list[float]) -> str:
    """How the order on new classes compares with the published one."""
    difference = fmean(cocoop) - fmean(coop)
    published = (
        "The paper, with a large CLIP on eleven collections of photos, finds that CoCoOp keeps new classes better"
    )
    caution = (
        "This world is small, its classes are few and lite is a small model: "
        "it shows how the methods work, not which one to choose for your photos."
    )
    if len(coop) > 1 and abs(difference) <= max(stdev(coop), stdev(cocoop)):
        return f"{published} than CoOp; here the difference is within the spread of the seeds. {caution}"
    same = "so does this run" if difference > 0 else "this run does not"
    return f"{published} than CoOp; {same}. {caution}"


def _moved(points: float) -> str:
    if abs(points) < 0.05:
        return "stays where it was"
    return f"{'gains' if points > 0 else 'loses'} {abs(points):.1f} points"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _join(parts: list[str]) -> str:
    return " and ".join(parts) if len(parts) < 3 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _list(names: list[str]) -> str:
    return ", ".join(names)
