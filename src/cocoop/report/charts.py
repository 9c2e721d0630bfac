"""Charts for a page: drawn by matplotlib as SVG, in the page's own colours and type, in light and in dark."""

from __future__ import annotations

import hashlib
import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bars", "Line", "bars", "curves", "level_bars", "level_changes", "points", "reliability"]

NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
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
    spread: Sequence[float] = ()
    """Standard deviation of each point, drawn as a bar; empty for none."""
    style: int = 0
    """Tells lines of one colour apart: solid, dashed, dotted."""


@dataclass(frozen=True)
class Bars:
    """Bars of one kind, one a group."""

    name: str
    """For the legend."""
    values: Mapping[str, Sequence[float]]
    """Numbers by group; several are shown as mean and standard deviation (n - 1)."""
    method: int
    """Which of the page's method colours they take, from 0."""
    style: int = 0
    """Tells bars of one colour apart: full, lighter, lightest."""


STROKES = ("-", "--", ":", "-.")
OPACITY = (1.0, 0.6, 0.35)

GROUPS = [(colour, mark) for mark in "os^" for colour in ("#4a86c5", "#d98a1f", "#2f9e77", "#c46a9f", "#8c76c9")]
"""Colours and marks that tell groups of points apart, on light and on dark pages."""


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


def level_bars(series: Sequence[Bars], *, title: str, x_label: str, description: str) -> Markup:
    """Bars that lie, from 0 to 100 %, in groups below each other: for many groups, or ones with long names.

    Args:
        series: one a method; groups are in the order of the first.
        title: in the chart.
        x_label: what is measured, and its unit.
        description: what the chart says, for those who do not see it.
    """
    groups = list(dict.fromkeys(group for bars_ in series for group in bars_.values))
    thick = 0.8 / len(series)
    # Long names stand below each other.
    columns = 3 if sum(len(bars_.name) for bars_ in series) < 33 else 1
    legend_height = 0.2 * math.ceil(len(series) / columns)
    with _figure(4.6, 0.9 + legend_height + len(groups) * (0.12 + 0.17 * len(series))) as figure:
        axis = figure.subplots()
        for number, bars_ in enumerate(series):
            shown = [(place, bars_.values[g]) for place, g in enumerate(groups) if bars_.values.get(g)]
            places = [place + (number - (len(series) - 1) / 2) * thick for place, _ in shown]
            means = [fmean(values) for _, values in shown]
            spreads = [stdev(values) if len(values) > 1 else 0.0 for _, values in shown]
            look: dict[str, Any] = {
                "color": METHODS[bars_.method % len(METHODS)],
                "alpha": OPACITY[bars_.style % len(OPACITY)],
            }
            axis.barh(places, means, thick * 0.9, label=bars_.name, **look)
            if any(spreads):
                axis.errorbar(means, places, xerr=spreads, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)
            for place, mean, spread in zip(places, means, spreads, strict=True):
                axis.text(mean + spread + 1.2, place, f"{mean:.1f}", va="center", fontsize=8, color=INK)
        axis.set(xlim=(0, 112), xticks=range(0, 101, 25), xlabel=x_label)
        _level(axis, groups)
        legend = figure.legend(loc="outside upper left", ncols=columns, fontsize=9, borderaxespad=0, title=title)
        legend.set_alignment("left")
        legend.get_title().set_fontsize(11.5)
        return _markup(figure, description)


def level_changes(changes: Mapping[str, float], *, title: str, x_label: str, description: str) -> Markup:
    """Bars to the left and right of a middle, one a group: gains in the third method's colour, losses in the second's.

    Args:
        changes: in percentage points, from top to bottom.
        title: in the chart.
        x_label: what the change is, and its unit.
        description: what the chart says, for those who do not see it.
    """
    reach = 1.35 * max(1.0, *map(abs, changes.values()))
    with _figure(4.6, 1.0 + 0.27 * len(changes)) as figure:
        axis = figure.subplots()
        values = list(changes.values())
        axis.barh(range(len(values)), values, 0.7, color=[METHODS[2 if value >= 0 else 1] for value in values])
        for place, value in enumerate(values):
            side = 1 if value >= 0 else -1
            label = f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
            where = "left" if side > 0 else "right"
            axis.text(value + side * reach / 60, place, label, va="center", ha=where, fontsize=9, color=INK)
        axis.axvline(0, color=SOFT, linewidth=0.8)
        low, high = (side if any(value * side > 0 for value in values) else 0.15 * side for side in (-1, 1))
        axis.set(xlim=(low * reach, high * reach), xlabel=x_label)
        _level(axis, list(changes))
        # Above the axis alone it would begin in the middle of the chart, where names are long.
        figure.suptitle(title, x=0.02, ha="left", fontsize=11.5)
        return _markup(figure, description)


def _level(axis: Axes, groups: Sequence[str]) -> None:
    """Names of groups at the left, the first at the top."""
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", visible=True)
    axis.spines["left"].set_visible(False)


def reliability(lines: Sequence[Line], *, title: str, description: str) -> Markup:
    """Accuracy against confidence, both in percent, beside the diagonal on which they agree.

    Args:
        lines: one a method.
        title: in the chart.
        description: what the chart says, for those who do not see it.
    """
    with _figure(4.2, 3.9) as figure:
        axis = figure.subplots()
        axis.plot([0, 100], [0, 100], color=SOFT, linewidth=1, linestyle="--")
        for line in lines:
            colour, stroke = METHODS[line.method % len(METHODS)], STROKES[line.style % len(STROKES)]
            axis.plot(line.x, line.y, stroke, color=colour, linewidth=1.4, marker="o", markersize=3.5, label=line.name)
        axis.set(xlim=(0, 100), ylim=(0, 102), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
        axis.set(xlabel="confidence in %", ylabel="accuracy in %")
        axis.set_title(title)
        axis.legend(fontsize=9, loc="upper left")
        return _markup(figure, description)


def curves(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    description: str,
    x_ticks: Sequence[int] | None = None,
) -> Markup:
    """Lines over a common axis, such as the losses of several runs.

    Args:
        lines: what to draw; those of a method share its colour.
        title: in the chart.
        x_label: what is counted to the right.
        y_label: what is measured, and its unit.
        description: what the chart says, for those who do not see it.
        x_ticks: where the axis has numbers; None: where they fall.
    """
    from matplotlib.ticker import MaxNLocator

    with _figure(4.6, 3.0) as figure:
        axis = figure.subplots()
        for line in lines:
            mark = "o" if len(line.x) <= 20 else ""
            colour = METHODS[line.method % len(METHODS)]
            label = line.name or "_unnamed"
            stroke = STROKES[line.style % len(STROKES)]
            axis.plot(
                line.x, line.y, stroke, color=colour, linewidth=1.4, alpha=0.8, marker=mark, markersize=3.5, label=label
            )
            if line.spread:
                axis.errorbar(line.x, line.y, line.spread, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5)
        axis.set(xlabel=x_label, ylabel=y_label)
        if x_ticks is None:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            axis.set_xticks(x_ticks)
        axis.margins(x=0.02)
        axis.set_title(title)
        if any(line.name for line in lines):
            axis.legend(fontsize=9.5)
        return _markup(figure, description)


def points(
    groups: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str, y_label: str, description: str
) -> Markup:
    """Points in a plane, coloured by group; of more groups than can be told apart, the rest shares one colour.

    Args:
        groups: points by the name of their group, the most important first.
        title: in the chart.
        x_label: what is measured to the right.
        y_label: what is measured upwards.
        description: what the chart says, for those who do not see it.
    """
    with _figure(5.6, 4.2) as figure:
        axis = figure.subplots()
        for number, (name, places) in enumerate(groups.items()):
            colour, mark = GROUPS[number] if number < len(GROUPS) else (SOFT, ".")
            label = name if number < len(GROUPS) else f"{len(groups) - len(GROUPS)} more classes"
            # A name that begins with an underscore would be left out of the legend.
            shown = "_rest" if number > len(GROUPS) else f"\N{ZERO WIDTH SPACE}{textwrap.shorten(label, 28)}"
            x, y = zip(*places, strict=True)
            axis.scatter(x, y, 20, color=colour, marker=mark, alpha=0.75, linewidths=0, label=shown)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_aspect("equal", adjustable="datalim")
        axis.grid(axis="x", visible=True)
        axis.set_title(title)
        figure.legend(loc="outside right upper", fontsize=9)
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
    # What XML cannot hold, a name may.
    root = ElementTree.fromstring(NO_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue().decode()))
    salt = hashlib.sha256(file.getvalue() + description.encode(errors="replace")).hexdigest()[:8]
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
