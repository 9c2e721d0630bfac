"""A parser for report pages."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

__all__ = ["Page"]


class Page:
    """An HTML page that is well-formed XML; element names have no namespace."""

    def __init__(self, text: str) -> None:
        assert text.startswith("<!DOCTYPE html>")
        self.text = text
        self.root = ElementTree.fromstring(text)
        for element in self.root.iter():
            element.tag = element.tag.rpartition("}")[2]

    def all(self, tag: str, css_class: str | None = None, within: Element | None = None) -> list[Element]:
        """Return elements by name and class."""
        found = (self.root if within is None else within).iter(tag)
        return [e for e in found if css_class is None or css_class in e.get("class", "").split()]

    def words(self, element: Element | None = None) -> str:
        """Return the text of an element or of the page, with white space collapsed."""
        return " ".join("".join((self.root if element is None else element).itertext()).split())

    def tables(self) -> list[list[list[str]]]:
        """Return the cells of all tables, row by row."""
        return [
            [[self.words(cell) for cell in row if cell.tag in ("th", "td")] for row in table.iter("tr")]
            for table in self.all("table")
        ]

    def fetched(self) -> list[str]:
        """Return everything that a browser would load from elsewhere."""
        loaded = []
        for element in self.root.iter():
            for name, value in element.attrib.items():
                if name in ("src", "srcset", "poster", "data", "action") or (name == "href" and element.tag != "a"):
                    loaded.append(value)
        for style in self.all("style"):
            loaded += re.findall(r"url\(([^)]*)\)|(@import)", self.words(style))
        scripts = [f"<{e.tag}>" for tag in ("script", "iframe", "object", "embed") for e in self.all(tag)]
        return [value for value in loaded if not str(value).startswith(("data:image/jpeg;base64,", "#"))] + scripts

    def broken_links(self) -> list[str]:
        """Return links within the page without a target, and duplicate ids."""
        ids = [e.get("id") for e in self.root.iter() if e.get("id") is not None]
        targets = [
            value[1:] for e in self.root.iter() for k, value in e.attrib.items() if k == "href" and value[:1] == "#"
        ]
        targets += re.findall(r'"url\(#([^)]*)\)', self.text)
        duplicates = sorted({name for name in ids if ids.count(name) > 1})
        return duplicates + [target for target in targets if target not in ids]
