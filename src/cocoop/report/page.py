"""The frame of a report page: one file that opens from disk, with nothing fetched from anywhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

__all__ = ["Section", "page", "render"]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page."""

    title: str
    """Its heading."""
    body: Markup
    """What is in it, from `render` or `cocoop.report.blocks`: markup that needs no more escaping."""
    lead: str = ""
    """A sentence or two before it, as plain text."""

    @property
    def anchor(self) -> str:
        """Its id, for links within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("cocoop.report"),
        # Class names are the user's, and may hold anything: everything is escaped, whatever its template is called.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: object) -> Markup:
    """A template of this package filled with values, which are escaped unless they are `Markup`.

    Args:
        template: name of a file in `cocoop/report/templates`.
        values: by the names the template uses; a missing one is an error.
    """
    return Markup(_templates().get_template(template).render(**values))


def page(*, title: str, kicker: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """A whole page, as HTML that is well-formed XML too.

    Args:
        title: of the page and of the window.
        kicker: a few words above the title: what made this page.
        lead: a paragraph below it.
        sections: in reading order; their titles make the table of contents.
        footer: one line at the end.
    """
    return render("page.html", title=title, kicker=kicker, lead=lead, sections=sections, footer=footer)
