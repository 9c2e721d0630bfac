"""Charts for a page: drawn by matplotlib as SVG, in the page's own colours and type, in light and in dark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Line", "bars", "curves"]

INK, SOFT, LINE = "#0a0b01", "#0a0b02", "#0a0b03"
METHODS = ("#0a0b11", "#0a0b12", "#0a0b13")
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    **{colour: f"--method-{number}" for number, colour in enumerate(METHODS, 1)},
}
"""Colours that stand for the page's variables: matplotlib wants numbers, and the page has two sets of colours."""

STYLE: dict[str, Any] = {
    # Names of classes may hold dollar signs, and are no formulas.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cocoop",
    "font.size": 10.5,
    "text.color": INK,
    "axes.prop_cycle": f"cycler('color', {list(METHODS)})",
    "lines.color": SOFT,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlecolor": INK,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "y",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    method: int
    """Which of the page's method colours it takes, from 0."""
    name: str = ""
    """For the legend; a line without a name is not in it."""


def bars(values: Mapping[str, Mapping[str, Sequence[float]]], *, title: str, description: str) -> Markup:
    """Groups of bars from 0 to 100 %, one bar a method, with what is repeated (seeds) as its spread.

    Args:
        values: numbers in percent by method and group; several are shown as mean and standard deviation (n - 1).
        title: in the chart.
        description: what the chart says, for those who do not see it.
    """
    groups = list(next(iter(values.values())))
    width = 0.8 / len(values)
    with _figure(5.0, 3.3) as figure:
        axis = figure.subplots()
        for number, (method, by_group) in enumerate(values.items()):
            places = [place + (number - (len(values) - 1) / 2) * width for place in range(len(groups))]
            heights = [fmean(by_group[group]) for group in groups]
            spreads = [stdev(by_group[group]) if len(by_group[group]) > 1 else 0.0 for group in groups]
            drawn = axis.bar(places, heights, width * 0.9, color=METHODS[number % len(METHODS)], label=method)
            axis.errorbar(places, heights, spreads, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
            labels = [f"{height:.0f}" for height in heights]
            axis.bar_label(drawn, labels, padding=5, color=INK, fontsize=9.5)
        axis.set(ylim=(0, 109), yticks=range(0, 101, 25), ylabel="accuracy in %")
        axis.set_xticks(range(len(groups)), groups)
        axis.tick_params(axis="x", length=0, labelcolor=INK)
        axis.spines["left"].set_visible(False)
        axis.set_title(title, pad=26)
        axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(values), fontsize=9.5, borderaxespad=0)
        return _markup(figure, description)


def curves(lines: Sequence[Line], *, title: str, x_label: str, y_label: str, description: str) -> Markup:
    """Lines over a common axis, such as the losses of several runs.

    Args:
        lines: what to draw; those of a method share its colour.
        title: in the chart.
        x_label: what is counted to the right.
        y_label: what is measured, and its unit.
        description: what the chart says, for those who do not see it.
    """
    from matplotlib.ticker import MaxNLocator

    with _figure(4.6, 3.0) as figure:
        axis = figure.subplots()
        for line in lines:
            mark = "o" if len(line.x) <= 20 else ""
            colour = METHODS[line.method % len(METHODS)]
            label = line.name or "_unnamed"
            axis.plot(line.x, line.y, color=colour, linewidth=1.4, alpha=0.8, marker=mark, markersize=3.5, label=label)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.margins(x=0.02)
        axis.set_title(title)
        if any(line.name for line in lines):
            axis.legend(fontsize=9.5)
        return _markup(figure, description)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in the style of the page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    # No pyplot: its figures are global, and its backend may want a screen.
    with style.context(["default", STYLE]):
        yield Figure(figsize=(width, height), layout="constrained")


def _markup(figure: Figure, description: str) -> Markup:
    """A figure as an element of a page.

    Namespaces, metadata and a style sheet that would apply to the whole page are left out; ids are made different
    from those of other charts.
    """
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())
    salt = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    for parent in list(root.iter()):
        for child in list(parent):
            if _plain(child.tag) in ("metadata", "style"):
                parent.remove(child)
    linked = {match for element in root.iter() for value in element.attrib.values() for match in _links(value)}
    for element in root.iter():
        element.tag = _plain(element.tag)
        attributes = {_plain(name): value for name, value in element.attrib.items()}
        if attributes.get("id") not in linked:
            attributes.pop("id", None)
        element.attrib = {name: _relinked(name, value, salt) for name, value in attributes.items()}
    box = root.attrib["viewBox"]
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": box,
        "role": "img",
        "aria-label": description,
        "stroke-linejoin": "round",
    }
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(text)


def _plain(name: Any) -> str:
    """A name without its namespace."""
    return str(name).rpartition("}")[2]


def _links(value: str) -> list[str]:
    """Ids that an attribute points to."""
    return re.findall(r"url\(#([^)]+)\)", value) + re.findall(r"^#(.+)$", value)


def _relinked(name: str, value: str, salt: str) -> str:
    """An attribute whose id, or link to one, belongs to this chart alone."""
    if name == "id":
        return f"{salt}-{value}"
    value = re.sub(r"url\(#", f"url(#{salt}-", value)
    return f"#{salt}-{value[1:]}" if name == "href" and value.startswith("#") else value
