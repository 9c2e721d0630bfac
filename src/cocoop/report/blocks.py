"""Blocks of a report page: tables, cards, charts, facts. Plain values in, markup out; every string is escaped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cocoop.report.page import render

__all__ = [
    "ChangeRow",
    "Command",
    "Guess",
    "Image",
    "Sample",
    "Score",
    "change_table",
    "chart",
    "commands",
    "facts",
    "findings",
    "fold",
    "gallery",
    "grouped_table",
    "prose",
    "samples",
    "scoreboard",
    "side_by_side",
    "signed",
    "table",
    "terms",
]


@dataclass(frozen=True)
class Image:
    """A picture within the page."""

    source: str
    """A data URI."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str = ""
    """A few words below it."""


@dataclass(frozen=True)
class Score:
    """A method and its most important numbers."""

    name: str
    """The method."""
    about: str
    """What it does, in a sentence."""
    numbers: Mapping[str, str]
    """Numbers ready to print, by what they are."""


@dataclass(frozen=True)
class Guess:
    """What one method says about one picture."""

    method: str
    """The method."""
    named: str
    """The class it names."""
    right: bool
    """Whether that is the true class."""


@dataclass(frozen=True)
class Sample:
    """A picture, what it shows, and what each method says."""

    image: Image
    truth: str
    """The true class."""
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class ChangeRow:
    """What a class had, and what each of some methods changed."""

    name: str
    """The class."""
    before: float
    """Accuracy before, in percent."""
    changes: Sequence[float]
    """Change of each method, in percentage points."""


@dataclass(frozen=True)
class Command:
    """A command to type, and what it is for."""

    about: str
    line: str


def prose(*paragraphs: str) -> Markup:
    """Paragraphs of plain text."""
    return Markup().join(Markup("<p>{}</p>\n").format(paragraph) for paragraph in paragraphs)


def findings(sentences: Sequence[str]) -> Markup:
    """A list of sentences."""
    return render("findings.html", sentences=sentences)


def terms(meanings: Mapping[str, str]) -> Markup:
    """Words and what they mean."""
    return render("terms.html", meanings=meanings)


def facts(values: Mapping[str, object]) -> Markup:
    """Settings, versions and the like: names and values."""
    return render("facts.html", values=values)


def commands(lines: Sequence[Command]) -> Markup:
    """Commands to copy."""
    return render("commands.html", lines=lines)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, best: Mapping[int, int] | None = None
) -> Markup:
    """A table; the first column names the row.

    Args:
        head: names of the columns.
        rows: cells ready to print.
        caption: what is in it, and in which unit.
        best: the row with the best cell of a column, by the column's number; it is set in bold.
    """
    return render("table.html", head=head, rows=rows, caption=caption, best=best or {})


def grouped_table(
    head: Sequence[str],
    groups: Sequence[tuple[str, Sequence[tuple[Sequence[str], Collection[int]]]]],
    *,
    caption: str,
    words: bool = False,
) -> Markup:
    """A table whose rows stand in groups; the first column names the row.

    Args:
        head: names of the columns.
        groups: heading (empty for none) and rows of each: cells ready to print, and which of them are set in bold.
        caption: what is in it, and in which unit.
        words: whether the last column holds words, which may be broken into lines.
    """
    return render("grouped.html", head=head, groups=groups, caption=caption, words=words)


def fold(title: str, body: Markup, *, unfolded: bool = False) -> Markup:
    """A part that is opened by its title."""
    return render("fold.html", title=title, body=body, unfolded=unfolded)


def scoreboard(scores: Sequence[Score]) -> Markup:
    """Methods side by side with their most important numbers."""
    return render("scoreboard.html", scores=scores)


def change_table(groups: Mapping[str, Sequence[ChangeRow]], methods: Sequence[str], *, before: str) -> Markup:
    """Per class, what there was before and a bar for what each method changed.

    Args:
        groups: rows by the name of their group.
        methods: names of the methods whose changes the rows hold.
        before: name of the method that was before; the bars take the colours that come after its own.
    """
    reach = max((abs(change) for rows in groups.values() for row in rows for change in row.changes), default=0)
    drawn = {
        name: [(row.name, f"{row.before:.0f}", [_bar(change, max(reach, 1)) for change in row.changes]) for row in rows]
        for name, rows in groups.items()
    }
    return render("changes.html", groups=drawn, methods=methods, before=before)


def signed(change: float) -> str:
    """A change in whole points with its sign, and a true minus; 0 has none."""
    return "0" if round(change) == 0 else f"{change:+.0f}".replace("-", "\N{MINUS SIGN}")


def _bar(change: float, reach: float) -> dict[str, str]:
    """Width and left end of a bar in a track whose ends are -reach and +reach, in percent of the track."""
    width = 50 * abs(change) / reach
    left = 50.0 if change > 0 else 50 - width
    return {"width": f"{width:.1f}", "left": f"{left:.1f}", "label": signed(change)}


def samples(cards: Sequence[Sample]) -> Markup:
    """Pictures with what each method says about them."""
    return render("samples.html", cards=cards)


def gallery(images: Sequence[Image]) -> Markup:
    """Small pictures with captions."""
    return render("gallery.html", images=images)


def chart(svg: Markup, caption: str) -> Markup:
    """A drawing from `cocoop.report.charts` and what it shows."""
    return render("chart.html", svg=svg, caption=caption)


def side_by_side(blocks: Sequence[Markup]) -> Markup:
    """Blocks beside each other where the screen is wide enough."""
    return Markup('<div class="grid figures">{}</div>').format(Markup().join(blocks))
