"""The frame of a report page: a single file that opens from disk and loads nothing from the network."""

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
    """Heading."""
    body: Markup
    """Content from `render` or `cocoop.report.blocks`; it is not escaped again."""
    lead: str = ""
    """A sentence or two before the content, as plain text."""

    @property
    def anchor(self) -> str:
        """The id for links within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("cocoop.report"),
        # Class names can contain markup, so templates escape all values, whatever the suffix of the template.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: object) -> Markup:
    """Fill a template of this package; values are escaped unless they are `Markup`; a missing value is an error."""
    return Markup(_templates().get_template(template).render(**values))


def page(*, title: str, kicker: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """Return a page as HTML that is also well-formed XML; the kicker stands above the title, the lead below it."""
    return render("page.html", title=title, kicker=kicker, lead=lead, sections=sections, footer=footer)
