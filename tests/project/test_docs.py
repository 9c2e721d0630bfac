"""Build the documentation as `make docs` does: it is complete, and its pages load nothing from other hosts."""

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
"""Attributes with addresses that a browser does not load by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; `--strict` makes a broken link an error."""
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


class Page(HTMLParser):
    """Addresses that a page loads, its ids and its styles."""

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


def on_another_host(address):
    return re.match(r"(\w+:)?//", address.strip("'\" ")) is not None


def addresses_in(text):
    return re.findall(r"url\(([^)]*)\)", text) + re.findall(r"@import\s+[\"']([^\"']*)", text)


def test_pages_load_nothing_from_other_hosts(site):
    pages, sheets = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 10
    assert sheets
    loaded = []
    for page in pages:
        parsed = Page(page.read_text())
        assert parsed.loaded, page
        loaded += parsed.loaded + [address for style in parsed.styles for address in addresses_in(style)]
    for sheet in sheets:
        loaded += addresses_in(sheet.read_text())
    assert [address for address in loaded if on_another_host(address)] == []


def test_every_public_name_has_an_entry(site):
    assert cocoop.__all__
    ids = Page((site / "api.html").read_text()).ids
    for name in [*cocoop.__all__, "sklearn.CoCoOpClassifier"]:
        assert ids.count(f"cocoop.{name}") == 1, name
    # Their members have entries too.
    assert {"cocoop.Method.set_classes", "cocoop.TrainConfig.learning_rate"} <= set(ids)


def test_every_page_is_in_the_navigation(site):
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [page for entry in settings["nav"] for page in entry.values()]
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    for page in pages:
        assert (site / page).with_suffix(".html").is_file()


def test_pages_include_the_table_of_the_readme(site):
    pages = {name: (site / f"{name}.html").read_text() for name in ("papers", "study")}
    row = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| CoCoOp |"))
    for page in pages.values():
        for cell in row.strip("|").split("|"):
            assert f">{cell.strip()}<" in page
        assert "--8&lt;--" not in page
