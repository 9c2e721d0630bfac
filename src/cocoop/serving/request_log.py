"""Middleware around every request: request id, log line, security headers, 500 for exceptions, cancellation."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from urllib.parse import quote

import anyio
import h11
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocoop.serving.error_responses import ApiError, error_response

__all__ = ["LOG", "RequestLogMiddleware"]

LOG = logging.getLogger("cocoop.serving")
"""One line (INFO) per request: method, path, status, seconds, id. It never contains queries, headers or file names."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Accepted values of `X-Request-ID`; others could forge log lines."""

MAX_LOGGED_PATH = 200
"""Maximum number of characters of a path in the log."""

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


class RequestLogMiddleware:
    """The outermost middleware: logs requests, answers exceptions, and stops work for clients that disconnect.

    Args:
        app: the application to wrap.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, status, uploaded = time.monotonic(), 0, anyio.Event()

        async def receive_upload() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                uploaded.set()
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
            await send(message)

        async def send_error(error: ApiError) -> None:
            await error_response(error)(scope, receive, send_with_headers)

        async def cancel_on_disconnect(work: anyio.CancelScope) -> None:
            await uploaded.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            # The end of a response is reported as a disconnect too.
            if not status:
                work.cancel()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_on_disconnect, group.cancel_scope)
                try:
                    await self.app(scope, receive_upload, send_with_headers)
                except h11.LocalProtocolError:
                    # uvicorn has already answered malformed data of the client and closes the connection.
                    status = 400
                except Exception:
                    LOG.exception("Request %s failed", request_id)
                    if not status:
                        message = f"Internal error; see the log of the server for request {request_id}."
                        await send_error(ApiError(500, "internal_error", message))
                group.cancel_scope.cancel()
        except asyncio.CancelledError:
            # uvicorn cancels requests that outlast a graceful stop.
            if not status:
                message = "The server is stopping; try again later."
                await send_error(ApiError(503, "stopping", message, {"Retry-After": "10"}))
        seconds = time.monotonic() - started
        path = quote(scope["path"])[:MAX_LOGGED_PATH]
        LOG.info("%s %s %s %.3f s %s", scope["method"], path, status or "left", seconds, request_id)
