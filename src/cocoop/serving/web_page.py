"""The page for people: plain HTML, CSS and JavaScript over the API; nothing is fetched from anywhere else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.responses import Response
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from cocoop.version import __version__

__all__ = ["add_page"]

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:"
"""Content of the page: its own files, and the photos that were chosen."""

FILES = {
    "/": ("app.html", "text/html"),
    "/app.css": ("app.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
}
"""Path: template and media type."""


def add_page(app: FastAPI) -> None:
    """Add the page to an application, at `/`."""
    templates = Environment(
        # Colours and type are those of the reports.
        loader=ChoiceLoader([PackageLoader("cocoop.serving"), PackageLoader("cocoop.report")]),
        autoescape=True,
        undefined=StrictUndefined,
    )
    for path, (name, media_type) in FILES.items():
        content = templates.get_template(name).render(version=__version__)
        app.add_api_route(path, _answer_with(content, media_type), include_in_schema=False)


def _answer_with(content: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(content, media_type=media_type, headers=headers)

    return answer
