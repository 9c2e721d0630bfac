"""The web page: plain HTML, CSS and JavaScript on top of the API; it loads nothing from other hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.responses import Response
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from cocoop.version import __version__

__all__ = ["add_page"]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:"
)

FILES = {
    "/": ("app.html", "text/html"),
    "/app.css": ("app.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
}
"""Template and media type by path."""


def add_page(app: FastAPI) -> None:
    """Add the web page to an application, at `/`."""
    templates = Environment(
        # app.css includes the style sheet of the reports.
        loader=ChoiceLoader([PackageLoader("cocoop.serving"), PackageLoader("cocoop.report")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    for path, (name, media_type) in FILES.items():
        content = templates.get_template(name).render(version=__version__)
        app.add_api_route(path, _route(content, media_type), include_in_schema=False)


def _route(content: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def respond() -> Response:
        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
        return Response(content, media_type=media_type, headers=headers)

    return respond
