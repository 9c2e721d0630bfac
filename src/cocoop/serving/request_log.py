"""Around every request: an id, a line in the log, an answer whatever happens, and no work for who has left."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocoop.serving.error_responses import ApiError, error_response

__all__ = ["LOG", "Watch"]

LOG = logging.getLogger("cocoop.serving")
"""One line (INFO) for each request: method, path, status, seconds, id. Nothing else that the client sent is in it: no
query, no header, no name."""

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Ids that are taken over from `X-Request-ID`, from a proxy say; others could forge lines in the log."""

LONGEST_PATH = 200
"""Characters of a path in the log."""

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class Watch:
    """The outermost middleware.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if ID.fullmatch(given) else uuid.uuid4().hex
        began, status, arrived = time.monotonic(), 0, anyio.Event()

        async def receive_noting_the_end() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                arrived.set()
            return message

        async def send_signed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                signature = (b"x-request-id", identity.encode())
                message["headers"] = [*message["headers"], *SECURITY_HEADERS, signature]
            await send(message)

        async def refuse(refusal: ApiError) -> None:
            await error_response(refusal)(scope, receive, send_signed)

        async def stop_when_the_client_leaves(work: anyio.CancelScope) -> None:
            await arrived.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            # The end of an answer is told in the same way.
            if not status:
                work.cancel()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(stop_when_the_client_leaves, group.cancel_scope)
                try:
                    await self.app(scope, receive_noting_the_end, send_signed)
                except Exception:
                    LOG.exception("Request %s failed", identity)
                    if not status:
                        message = f"The server made a mistake; its log tells more about request {identity}."
                        await refuse(ApiError(500, "internal_error", message))
                group.cancel_scope.cancel()
        except asyncio.CancelledError:
            # The server stops and has waited long enough.
            if not status:
                await refuse(ApiError(503, "stopping", "The server stops; try again later.", {"Retry-After": "10"}))
        seconds = time.monotonic() - began
        path = quote(scope["path"])[:LONGEST_PATH]
        LOG.info("%s %s %s %.3f s %s", scope["method"], path, status or "left", seconds, identity)
