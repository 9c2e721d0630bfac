"""The door: who has no token or brings too much is turned away before anything is kept of what they send."""

from __future__ import annotations

import hmac
from functools import partial

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocoop.serving.error_responses import ApiError, error_response
from cocoop.serving.limits import ServeConfig

__all__ = ["LimitsMiddleware"]

PROTECTED = "/v1/"
"""Paths that need the token. The page and the description of the API tell nothing about the run."""


class LimitsMiddleware:
    """Middleware that checks the token, the size of a request and of all together, and that uploads come in time.

    Args:
        app: what is behind the door.
        config: the limits.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app = app
        self.config = config
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            upload = _Upload(receive, self.config.upload_timeout)
            try:
                await self.app(scope, partial(self._receive, upload), send)
            finally:
                self._held -= upload.seen
            return
        # A client that is still sending would see a broken connection in place of the reason. One that waits to be
        # told to go on has nothing on the way.
        if "expect" not in headers:
            await self._drain(receive)
        await error_response(refusal)(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if path.startswith(PROTECTED) and not self._knows_token(headers.get("authorization", "")):
            how = "send the server's token as 'Authorization: Bearer TOKEN'"
            return ApiError(401, "unauthorized", f"This server needs a token: {how}.", {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.config.max_upload:
            return self._too_large()
        return None

    def _knows_token(self, authorization: str) -> bool:
        token = self.config.token
        if token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        # In a time that does not tell how much of it is right.
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())

    def _too_large(self) -> ApiError:
        limit = f"{self.config.max_upload / 2**20:.3g} MiB"
        return ApiError(413, "too_large", f"The request is larger than {limit}; send fewer or smaller photos at once.")

    async def _receive(self, upload: _Upload) -> Message:
        """The next piece of an upload, for requests that do not say how long they are, stop, or trickle."""
        if upload.is_complete:
            # What comes now is the news that the client has left.
            return await upload.receive()
        config = self.config
        now = anyio.current_time()
        try:
            with anyio.fail_after(min(config.timeout, upload.until - now)):
                message = await upload.receive()
        except TimeoutError:
            said = f"Nothing came of the rest of the request for {config.timeout:g} seconds."
            if now + config.timeout > upload.until:
                said = f"The upload took longer than {config.upload_timeout:g} seconds; send fewer photos at once."
            raise ApiError(408, "upload_timeout", said) from None
        size = len(message.get("body", b""))
        upload.seen += size
        self._held += size
        upload.is_complete = not message.get("more_body", False)
        if upload.seen > config.max_upload:
            await self._drain(upload.receive)
            raise self._too_large()
        if self._held > config.max_held:
            await self._drain(upload.receive)
            said = f"The server holds {self._held / 2**20:.3g} MiB of other requests; try again in a moment."
            raise ApiError(429, "queue_full", said, {"Retry-After": "1"})
        return message

    async def _drain(self, receive: Receive) -> None:
        """Let the rest of a request go nowhere, within bounds."""
        left = 8 * self.config.max_upload
        with anyio.move_on_after(self.config.timeout):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


class _Upload:
    """What is known of one request's body."""

    def __init__(self, receive: Receive, timeout: float) -> None:
        self.receive = receive
        self.until = anyio.current_time() + timeout
        self.seen = 0
        self.is_complete = False
