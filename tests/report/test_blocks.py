"""Blocks of a page: their content, and that no name becomes markup."""

from __future__ import annotations

import base64
import io

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from pages import Page
from PIL import Image

from cocoop.errors import DataError
from cocoop.report import blocks
from cocoop.report.page import Section, page, render
from cocoop.report.thumbnails import thumbnail

NASTY = """<script>alert("1")</script> & <b>'bold'</b>"""


def shown(*bodies: Markup, title="A page") -> Page:
    sections = [Section(title=f"Part {number}", body=body) for number, body in enumerate(bodies, 1)]
    return Page(page(title=title, kicker="test", lead="", sections=sections, footer=""))


def test_every_block_escapes_its_content():
    image = blocks.Image("data:image/jpeg;base64,AAAA", NASTY, NASTY)
    made = {
        "terms": blocks.terms({NASTY: NASTY}),
        "facts": blocks.facts({NASTY: NASTY}),
        "commands": blocks.commands([blocks.Command(NASTY, NASTY)]),
        "table": blocks.table([NASTY], [[NASTY]], caption=NASTY),
        "scoreboard": blocks.scoreboard([blocks.Score(NASTY, NASTY, {NASTY: NASTY})]),
        "change_table": blocks.change_table({NASTY: [blocks.ChangeRow(NASTY, 1, [2])]}, [NASTY], before=NASTY),
        "gallery": blocks.gallery([image]),
    }
    for name, body in made.items():
        result = shown(body, title=NASTY)
        assert result.all("script") == [], name
        assert result.all("b") == [], name
        assert result.words(result.all("section")[0]).count(NASTY) >= 1, name
        assert result.words(result.all("h1")[0]) == NASTY


def test_a_page_links_to_its_sections():
    result = shown(Markup("<p>one</p>"), Markup("<p>two</p>"))
    assert [link.get("href") for link in result.all("nav")[0].iter("a")] == ["#part-1", "#part-2"]
    assert result.broken_links() == []
    assert Section(title="Über & ältere", body=Markup()).anchor == "ber-ltere"


def test_a_missing_value_of_a_template_is_an_error():
    with pytest.raises(UndefinedError, match="'caption' is undefined"):
        render("grouped.html", head=[], groups=[], words=False)


def test_the_marked_cells_of_a_table_are_bold():
    groups = [("", [(["a", "1", "2"], [2]), (["b", "3", "4"], [1])])]
    result = shown(blocks.grouped_table(["m", "x", "y"], groups, caption="c"))
    assert [result.words(cell) for cell in result.all("strong")] == ["2", "3"]
    assert result.tables() == [[["m", "x", "y"], ["a", "1", "2"], ["b", "3", "4"]]]


def test_bars_of_changes_share_one_scale():
    rows = [
        blocks.ChangeRow("up", 50, [40.0]),
        blocks.ChangeRow("down", 80, [-20.0]),
        blocks.ChangeRow("same", 3, [0.2]),
    ]
    result = shown(blocks.change_table({"all": rows}, ["CoOp"], before="zero-shot"))
    assert [bar.get("style") for bar in result.all("i")] == [
        "left: 50.0%; width: 50.0%",
        "left: 25.0%; width: 25.0%",
        "left: 50.0%; width: 0.2%",
    ]
    minus = "\N{MINUS SIGN}"
    assert [row[1:] for row in result.tables()[0][2:]] == [["50", "+40"], ["80", f"{minus}20"], ["3", "0"]]


def test_a_thumbnail_is_the_upright_central_square(tmp_path):
    image = Image.new("RGB", (300, 200), "white")
    image.paste("red", (0, 0, 50, 200))
    exif = image.getexif()
    exif[274] = 6  # rotate clockwise by 90 degrees
    image.save(tmp_path / "photo.png", exif=exif)
    source = thumbnail(tmp_path / "photo.png", edge=100)
    kind, _, content = source.partition(",")
    assert kind == "data:image/jpeg;base64"
    small = Image.open(io.BytesIO(base64.b64decode(content)))
    assert small.size == (100, 100)
    # The red stripe at the left is at the top now, outside the central square.
    assert min(small.getpixel((50, 2))) > 240
    kept = thumbnail(tmp_path / "photo.png", edge=1000).partition(",")[2]
    assert Image.open(io.BytesIO(base64.b64decode(kept))).size == (200, 200)


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"broken\.jpg' cannot be shown in the report: "):
        thumbnail(tmp_path / "broken.jpg")
