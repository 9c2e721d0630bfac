"""Middleware that checks the token and the size of a request before its body is stored."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from functools import partial

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocoop.serving.error_responses import ApiError, error_response
from cocoop.serving.limits import ServeConfig

__all__ = ["LimitsMiddleware"]

PROTECTED = "/v1/"
"""Prefix of the paths that need the token. The page and the OpenAPI description reveal nothing about the model."""


@dataclass
class _Upload:
    """The body of one request."""

    receive: Receive
    deadline: float
    size: int = 0
    is_complete: bool = False


class LimitsMiddleware:
    """Check the token, the number of requests, and the size and speed of uploads.

    Args:
        app: the application to wrap.
        config: the limits.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app = app
        self.config = config
        self._requests = 0
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._check_headers(scope["path"], headers)
        if refusal is not None:
            # A client that is still sending would see a broken connection instead of the answer; one that sent
            # `Expect: 100-continue` is not sending yet.
            if "expect" not in headers:
                await self._drain(receive)
            await error_response(refusal)(scope, receive, send)
            return
        upload = _Upload(receive, deadline=anyio.current_time() + self.config.upload_timeout)
        self._requests += 1
        try:
            await self.app(scope, partial(self._receive, upload), send)
        finally:
            self._requests -= 1
            self._held_bytes -= upload.size

    def _check_headers(self, path: str, headers: Headers) -> ApiError | None:
        if path.startswith(PROTECTED) and not self._is_authorized(headers.get("authorization", "")):
            message = "This server needs a token: send it as 'Authorization: Bearer TOKEN'."
            return ApiError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        if self._requests >= self.config.max_connections:
            message = f"The server is handling {self._requests} requests already; try again in a moment."
            return ApiError(503, "too_many_connections", message, {"Retry-After": "1"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.config.max_upload:
            return self._too_large()
        return None

    def _is_authorized(self, authorization: str) -> bool:
        token = self.config.token
        if token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        # Constant time, so that response times do not reveal how much of a guess is right.
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())

    def _too_large(self) -> ApiError:
        limit = f"{self.config.max_upload / 2**20:.3g} MiB"
        return ApiError(413, "too_large", f"The request is larger than {limit}; send fewer or smaller images.")

    async def _receive(self, upload: _Upload) -> Message:
        """Return the next message of an upload, or raise an `ApiError` if it is late or exceeds a limit."""
        if upload.is_complete:
            # The only message left is that the client disconnected.
            return await upload.receive()
        config = self.config
        seconds = upload.deadline - anyio.current_time()
        try:
            with anyio.fail_after(min(config.timeout, seconds)):
                message = await upload.receive()
        except TimeoutError:
            text = f"No data of the upload arrived for {config.timeout:g} seconds."
            if seconds < config.timeout:
                text = f"The upload took longer than {config.upload_timeout:g} seconds; send fewer images."
            raise ApiError(408, "upload_timeout", text) from None
        upload.is_complete = not message.get("more_body", False)
        received = len(message.get("body", b""))
        upload.size += received
        self._held_bytes += received
        if upload.size > config.max_upload:
            await self._drain(upload.receive)
            raise self._too_large()
        if self._held_bytes > config.max_held:
            await self._drain(upload.receive)
            text = f"The server holds {self._held_bytes / 2**20:.3g} MiB of other requests; try again in a moment."
            raise ApiError(429, "queue_full", text, {"Retry-After": "1"})
        return message

    async def _drain(self, receive: Receive) -> None:
        """Read and drop the rest of a request, up to a limit."""
        left = 8 * self.config.max_upload
        with anyio.move_on_after(self.config.timeout):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
