"""The documentation, built as `make docs` builds it: complete, and nothing on a page is fetched from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml
from paths import ROOT

import cocoop

NOT_LOADED = {("a", "href"), ("area", "href")}
"""The only addresses in a page that a browser does not load by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; a link that leads nowhere is an error."""
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


class Reader(HTMLParser):
    """What a page loads, and its ids."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.ids, self.styles = [], [], []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self._in_style = tag == "style"
        self.ids += [value for name, value in attrs if name == "id"]
        self.styles.append(attributes.get("style") or "")
        self.loaded += [
            value or ""
            for name, value in attrs
            if name in ("src", "srcset", "href", "poster", "data", "action") and (tag, name) not in NOT_LOADED
        ]

    def handle_endtag(self, tag):
        self._in_style = False

    def handle_data(self, data):
        if self._in_style:
            self.styles.append(data)


def elsewhere(address):
    return re.match(r"(\w+:)?//", address.strip("'\" ")) is not None


def fetched_by_style(text):
    return re.findall(r"url\(([^)]*)\)", text) + re.findall(r"@import\s+[\"']([^\"']*)", text)


def test_nothing_is_fetched_from_elsewhere(site):
    pages, sheets = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 10
    assert sheets
    loaded = []
    for page in pages:
        reader = Reader(page.read_text())
        assert reader.loaded, page
        loaded += reader.loaded + [address for style in reader.styles for address in fetched_by_style(style)]
    for sheet in sheets:
        loaded += fetched_by_style(sheet.read_text())
    assert [address for address in loaded if elsewhere(address)] == []


def test_every_public_name_has_its_entry(site):
    ids = Reader((site / "api.html").read_text()).ids
    for name in [*cocoop.__all__, "sklearn.CoCoOpClassifier"]:
        assert ids.count(f"cocoop.{name}") == 1, name
    # Members have one too.
    assert {"cocoop.CoCoOp.set_classes", "cocoop.TrainConfig.learning_rate"} <= set(ids)


def test_every_page_is_in_the_navigation(site):
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = {page for entry in settings["nav"] for page in entry.values()}
    coming = {line.strip("/") for line in settings.get("not_in_nav", "").split()}
    assert not named & coming
    assert named == {page.name for page in (ROOT / "docs").glob("*.md")} - coming
    for page in named:
        assert (site / page).with_suffix(".html").is_file()


def test_what_the_readme_lends_is_there(site):
    pages = {name: (site / f"{name}.html").read_text() for name in ("index", "backbones", "papers", "performance")}
    assert "cocoop train photos --cache-features" in re.sub(r"<[^>]*>", "", pages["index"])
    for name in ("backbones", "papers", "performance"):
        assert "<table>" in pages[name]
    assert "--8&lt;--" not in "".join(pages.values())
