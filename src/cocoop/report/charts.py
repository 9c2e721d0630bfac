"""Charts for a page: drawn by matplotlib as SVG, in the page's own colours and fonts, for light and dark.

Every chart has a title and a description in words, for screen readers. Accuracies and changes are in percent.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cocoop.report import check_report_extra
from cocoop.report.tables import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bars", "Line", "curves", "horizontal_bars", "horizontal_changes", "points", "reliability"]

INVALID_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
INK, SOFT, LINE = "#0a0b01", "#0a0b02", "#0a0b03"
METHOD_COLOURS = ("#0a0b11", "#0a0b12", "#0a0b13")
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    **{colour: f"--method-{number}" for number, colour in enumerate(METHOD_COLOURS, 1)},
}
"""Placeholders for the page's colours: matplotlib needs numbers, and the page has a light and a dark set."""

STYLE: dict[str, Any] = {
    # Class names can hold dollar signs and are not formulas.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.prop_cycle": f"cycler('color', {list(METHOD_COLOURS)})",
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
STROKES = ("-", "--", ":", "-.")
OPACITY = (1.0, 0.6, 0.35)

GROUP_MARKS = [(colour, mark) for mark in "os^" for colour in ("#4a86c5", "#d98a1f", "#2f9e77", "#c46a9f", "#8c76c9")]
"""Colours and marks that tell groups of points apart, on light and on dark pages."""


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    method: int
    """Index of its colour among the page's method colours."""
    name: str = ""
    """Name in the legend; lines without a name are not in it."""
    spread: Sequence[float] = ()
    """Standard deviation of each point, drawn as a bar; empty for none."""
    style: int = 0
    """Index of its stroke, to tell lines of one colour apart: solid, dashed, dotted."""


@dataclass(frozen=True)
class Bars:
    """Bars of one series, one per group."""

    name: str
    """Name in the legend."""
    values: Mapping[str, tuple[float, float]]
    """Mean and standard deviation (NaN for none) by group."""
    method: int
    """Index of their colour among the page's method colours."""
    style: int = 0
    """Index of their opacity, to tell bars of one colour apart: full, lighter, lightest."""


def horizontal_bars(series: Sequence[Bars], *, title: str, x_label: str, description: str) -> Markup:
    """Draw horizontal bars from 0 to 100 %, one group below the other; suits many groups and long names."""
    groups = list(dict.fromkeys(group for one in series for group in one.values))
    thickness = 0.8 / len(series)
    columns = 3 if sum(len(one.name) for one in series) < 33 else 1
    legend_height = 0.2 * math.ceil(len(series) / columns)
    with _figure(4.6, 0.9 + legend_height + len(groups) * (0.12 + 0.17 * len(series))) as figure:
        axis = figure.subplots()
        for number, one in enumerate(series):
            offset = (number - (len(series) - 1) / 2) * thickness
            places = [place + offset for place, group in enumerate(groups) if group in one.values]
            means = [one.values[group][0] for group in groups if group in one.values]
            spreads = [one.values[group][1] for group in groups if group in one.values]
            colour, opacity = METHOD_COLOURS[one.method % len(METHOD_COLOURS)], OPACITY[one.style % len(OPACITY)]
            axis.barh(places, means, thickness * 0.9, label=one.name, color=colour, alpha=opacity)
            if not all(map(math.isnan, spreads)):
                axis.errorbar(means, places, xerr=spreads, fmt="none", ecolor=INK, elinewidth=0.8, capsize=1.5)
            for place, mean, spread in zip(places, means, spreads, strict=True):
                end = mean + (0 if math.isnan(spread) else spread)
                axis.text(end + 1.2, place, f"{mean:.1f}", va="center", fontsize=8, color=INK)
        axis.set(xlim=(0, 112), xticks=range(0, 101, 25), xlabel=x_label)
        _label_groups(axis, groups)
        legend = figure.legend(loc="outside upper left", ncols=columns, fontsize=9, borderaxespad=0, title=title)
        legend.set_alignment("left")
        legend.get_title().set_fontsize(11.5)
        return _markup(figure, description)


def horizontal_changes(changes: Mapping[str, float], *, title: str, x_label: str, description: str) -> Markup:
    """Draw bars to both sides of zero: gains in the third method's colour, losses in the second's."""
    reach = 1.35 * max(1.0, *map(abs, changes.values()))
    with _figure(4.6, 1.0 + 0.27 * len(changes)) as figure:
        axis = figure.subplots()
        values = list(changes.values())
        axis.barh(range(len(values)), values, 0.7, color=[METHOD_COLOURS[2 if value >= 0 else 1] for value in values])
        for place, value in enumerate(values):
            side, align = (1, "left") if value >= 0 else (-1, "right")
            axis.text(value + side * reach / 60, place, signed(value), va="center", ha=align, fontsize=9, color=INK)
        axis.axvline(0, color=SOFT, linewidth=0.8)
        low, high = (side if any(value * side > 0 for value in values) else 0.15 * side for side in (-1, 1))
        axis.set(xlim=(low * reach, high * reach), xlabel=x_label)
        _label_groups(axis, list(changes))
        # A title of the axis would start to the right of long names.
        figure.suptitle(title, x=0.02, ha="left", fontsize=11.5)
        return _markup(figure, description)


def _label_groups(axis: Axes, groups: Sequence[str]) -> None:
    """Write the names of the groups on the left, the first on top."""
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="x", visible=True)
    axis.grid(axis="y", visible=False)
    axis.spines["left"].set_visible(False)


def reliability(lines: Sequence[Line], *, title: str, description: str) -> Markup:
    """Draw accuracy against confidence, both in percent, beside the diagonal of perfect calibration."""
    with _figure(4.2, 3.9) as figure:
        axis = figure.subplots()
        axis.plot([0, 100], [0, 100], color=SOFT, linewidth=1, linestyle="--")
        for line in lines:
            colour, stroke = METHOD_COLOURS[line.method % len(METHOD_COLOURS)], STROKES[line.style % len(STROKES)]
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
    """Draw lines over a common axis, such as the losses of several runs."""
    from matplotlib.ticker import MaxNLocator

    with _figure(4.6, 3.0) as figure:
        axis = figure.subplots()
        for line in lines:
            colour, mark = METHOD_COLOURS[line.method % len(METHOD_COLOURS)], "o" if len(line.x) <= 20 else ""
            (drawn,) = axis.plot(line.x, line.y, color=colour, linewidth=1.4, alpha=0.8, marker=mark, markersize=3.5)
            drawn.set(linestyle=STROKES[line.style % len(STROKES)], label=line.name or "_unnamed")
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
    """Draw a scatter plot, coloured by group; groups beyond the number of colours share one."""
    with _figure(5.6, 4.2) as figure:
        axis = figure.subplots()
        for number, (name, places) in enumerate(groups.items()):
            colour, mark = GROUP_MARKS[number] if number < len(GROUP_MARKS) else (SOFT, ".")
            label = name if number < len(GROUP_MARKS) else f"{len(groups) - len(GROUP_MARKS)} more classes"
            # matplotlib leaves names that start with an underscore out of the legend.
            shown = "_rest" if number > len(GROUP_MARKS) else f"\N{ZERO WIDTH SPACE}{textwrap.shorten(label, 28)}"
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
    """Yield a figure of this size in inches, in the style of the page."""
    check_report_extra()
    from matplotlib import style
    from matplotlib.figure import Figure

    # No pyplot: its figures are global, and its backend may need a screen.
    with style.context(["default", STYLE]):
        yield Figure(figsize=(width, height), layout="constrained")


def _markup(figure: Figure, description: str) -> Markup:
    """Return a figure as an SVG element, without ids, styles and metadata that would affect the rest of the page."""
    from matplotlib import rc_context

    file = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # Ids within a chart are derived from the salt, so that charts on one page do not share any.
    with rc_context({"svg.hashsalt": description.encode(errors="replace").decode()}):
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    text = INVALID_IN_XML.sub("\N{REPLACEMENT CHARACTER}", file.getvalue())
    view_box, body = re.findall(r'<svg[^>]* viewBox="([^"]*)"[^>]*>(.*)</svg>', text, re.DOTALL)[0]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    root = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="{}" role="img" aria-label="{}" stroke-linejoin="round">'
    return Markup(root + "{}</svg>").format(view_box, description, Markup(body))
