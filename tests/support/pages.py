"""Reading report pages in tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

__all__ = ["Page"]


class Page:
    """A page that must be well-formed XML as well as HTML; names of elements have no namespace."""

    def __init__(self, text: str) -> None:
        assert text.startswith("<!DOCTYPE html>")
        self.text = text
        self.root = ElementTree.fromstring(text)
        for element in self.root.iter():
            element.tag = element.tag.rpartition("}")[2]

    def all(self, tag: str, css_class: str | None = None, within: Element | None = None) -> list[Element]:
        """Elements by name and class."""
        found = (self.root if within is None else within).iter(tag)
        return [e for e in found if css_class is None or css_class in e.get("class", "").split()]

    def words(self, element: Element | None = None) -> str:
        """The text of an element, or of the whole page, with its white space made even."""
        return " ".join("".join((self.root if element is None else element).itertext()).split())

    def tables(self) -> list[list[list[str]]]:
        """The cells of all tables, row by row."""
        return [
            [[self.words(cell) for cell in row if cell.tag in ("th", "td")] for row in table.iter("tr")]
            for table in self.all("table")
        ]

    def fetched(self) -> list[str]:
        """Everything that a browser would load from somewhere else."""
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
        """Links within the page that lead nowhere, and ids that are there twice."""
        ids = [e.get("id") for e in self.root.iter() if e.get("id") is not None]
        targets = [
            value[1:] for e in self.root.iter() for k, value in e.attrib.items() if k == "href" and value[:1] == "#"
        ]
        targets += re.findall(r'"url\(#([^)]*)\)', self.text)
        twice = sorted({name for name in ids if ids.count(name) > 1})
        return twice + [target for target in targets if target not in ids]
