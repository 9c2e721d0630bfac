"""Charts within a page: in its colours, and without effects on the rest of it."""

from __future__ import annotations

import math
import re

import pytest
from markupsafe import Markup
from pages import Page

from cocoop.report import blocks, charts
from cocoop.report.page import Section, page

NAMES = {
    "a": {"base": (55.0, 5.0), "new": (40.0, 0.0)},
    "$x_<b>": {"base": (90.0, math.nan), "new": (20.0, math.nan)},
}


def bars(values=NAMES, description="What it says."):
    series = [charts.Bars(name, by_group, method) for method, (name, by_group) in enumerate(values.items())]
    return charts.horizontal_bars(series, title="A title", x_label="accuracy in %", description=description)


def shown(*svgs: Markup) -> Page:
    body = Markup().join(blocks.chart(svg, "caption") for svg in svgs)
    return Page(page(title="t", kicker="", lead="", sections=[Section(title="Charts", body=body)], footer=""))


def lengths(svg: Markup, method: int) -> list[float]:
    """Return the lengths of the bars of a method's colour, in points, without its key in the legend."""
    paths = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: var\(--method-{method}\)', svg)
    found = []
    for path in paths:
        xs = [float(x) for x in re.findall(r"([-\d.]+) [-\d.]+", path)]
        found.append(max(xs) - min(xs))
    return [length for length in found if length > 20]


def test_bars_are_as_long_as_the_means():
    first, second = (lengths(bars(), method) for method in (1, 2))
    unit = first[0] / 55
    assert first == pytest.approx([55 * unit, 40 * unit], rel=1e-3)
    assert second == pytest.approx([90 * unit, 20 * unit], rel=1e-3)


def test_all_colours_are_variables_of_the_page():
    for svg in (bars(), curve()):
        assert "var(--method-1)" in svg
        assert "var(--soft)" in svg
        assert re.findall(r"#[0-9a-fA-F]{6}\b", svg) == []


def test_names_are_neither_formulas_nor_markup():
    result = shown(bars())
    texts = [result.words(text) for text in result.all("text")]
    assert "$x_<b>" in texts
    assert {"A title", "base", "new", "55.0", "40.0", "90.0", "20.0", "accuracy in %"} <= set(texts)
    assert result.all("b") == []


def test_charts_on_one_page_share_no_ids():
    result = shown(bars(), bars({"a": {"base": (1.0, math.nan)}}, "Another."), curve())
    links = [element.get("href") for element in result.all("use")]
    assert links
    assert result.broken_links() == []
    assert result.fetched() == []
    assert len(result.all("style")) == 1
    assert [svg.get("aria-label") for svg in result.all("svg")] == ["What it says.", "Another.", "Falls."]


def curve(count=3):
    line = charts.Line(range(1, count + 1), [1.0 / k for k in range(1, count + 1)], 0)
    return charts.curves([line], title="Loss", x_label="epoch", y_label="loss", description="Falls.")


def test_a_curve_has_a_mark_for_each_of_few_points_and_none_for_many():
    marks = [len(re.findall(r"<use [^>]*var\(--method-1\)", curve(count))) for count in (5, 40)]
    assert marks == [5, 0]
    assert "epoch" in [shown(curve()).words(text) for text in shown(curve()).all("text")]


def test_the_same_values_give_the_same_chart():
    assert bars() == bars()
