"""Blocks of a report page: tables, cards, charts, facts. They turn values into markup; all strings are escaped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cocoop.report.page import render
from cocoop.report.tables import signed


@dataclass(frozen=True)
class Image:
    """An image within the page: a data URI, a description for screen readers and a caption below it."""

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Score:
    """A method with a sentence about it and its main numbers, formatted, by name."""

    name: str
    about: str
    numbers: Mapping[str, str]


@dataclass(frozen=True)
class ChangeRow:
    """Accuracy of a class in percent, and its change by each method in percentage points."""

    name: str
    before: float
    changes: Sequence[float]


@dataclass(frozen=True)
class Command:
    """A command to copy, and a sentence about it."""

    about: str
    line: str


def terms(meanings: Mapping[str, str]) -> Markup:
    """Return a list of terms with their meanings."""
    return render("terms.html", meanings=meanings)


def facts(values: Mapping[str, object]) -> Markup:
    """Return a list of names and values, such as settings and versions."""
    return render("facts.html", values=values)


def commands(lines: Sequence[Command]) -> Markup:
    """Return a list of commands to copy."""
    return render("commands.html", lines=lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> Markup:
    """Return a table of formatted cells."""
    return grouped_table(head, [("", [(row, ()) for row in rows])], caption=caption)


def grouped_table(
    head: Sequence[str],
    groups: Sequence[tuple[str, Sequence[tuple[Sequence[str], Collection[int]]]]],
    *,
    caption: str,
    words: bool = False,
) -> Markup:
    """Return a table with groups of rows.

    Args:
        head: headings of the columns; the first column holds the names of the rows.
        groups: heading (empty for none) and rows of each group; a row is its cells and the indices of the bold cells.
        caption: content and units.
        words: wrap the text of the last column.
    """
    return render("grouped.html", head=head, groups=groups, caption=caption, words=words)


def fold(title: str, body: Markup, *, unfolded: bool = False) -> Markup:
    """Return a block that opens when its title is clicked."""
    return render("fold.html", title=title, body=body, unfolded=unfolded)


def scoreboard(scores: Sequence[Score]) -> Markup:
    """Return a card with the main numbers of each method, side by side."""
    return render("scoreboard.html", scores=scores)


def change_table(groups: Mapping[str, Sequence[ChangeRow]], methods: Sequence[str], *, before: str) -> Markup:
    """Return a table of classes: accuracy with one method, and a bar for the change by each of the others."""
    reach = max((abs(change) for rows in groups.values() for row in rows for change in row.changes), default=0)
    drawn = {
        name: [(row.name, f"{row.before:.0f}", [_bar(change, max(reach, 1)) for change in row.changes]) for row in rows]
        for name, rows in groups.items()
    }
    return render("changes.html", groups=drawn, methods=methods, before=before)


def _bar(change: float, reach: float) -> dict[str, str]:
    """Return width and left end of a bar, in percent of a track from -reach to +reach."""
    width = 50 * abs(change) / reach
    left = 50.0 if change > 0 else 50 - width
    return {"width": f"{width:.1f}", "left": f"{left:.1f}", "label": signed(change, 0)}


def gallery(images: Sequence[Image]) -> Markup:
    """Return small images with captions."""
    return render("gallery.html", images=images)


def chart(svg: Markup, caption: str) -> Markup:
    """Return a chart of `cocoop.report.charts` with a caption."""
    return render("chart.html", svg=svg, caption=caption)


def side_by_side(blocks: Sequence[Markup]) -> Markup:
    """Return blocks side by side if the screen is wide enough."""
    return Markup('<div class="grid figures">{}</div>').format(Markup().join(blocks))
