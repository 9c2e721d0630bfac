"""The door: who has no token or brings too much is turned away before anything is kept of what they send."""

from __future__ import annotations

import contextlib
import hmac

import anyio
import h11
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cocoop.serving.config import ServeConfig
from cocoop.serving.refusals import Refusal, refusal_response

__all__ = ["Guard"]

PROTECTED = "/v1/"
"""Paths that need the token. The page and the description of the API tell nothing about the run."""

SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
}


class Guard:
    """Middleware that checks the token, the size of a request, and that its pieces keep coming.

    Args:
        app: what is behind the door.
        config: the limits.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app = app
        self.config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *SECURITY_HEADERS.items()]
            # A request that breaks in its middle has been answered by uvicorn before we know of it.
            with contextlib.suppress(h11.LocalProtocolError):
                await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal is None:
            await self.app(scope, self._counted(receive), send_safely)
            return
        # A client that is still sending would see a broken connection in place of the reason. One that waits to be
        # told to go on has nothing on the way.
        if "expect" not in headers:
            await self._drain(receive)
        await refusal_response(refusal)(scope, receive, send_safely)

    def _refusal(self, path: str, headers: Headers) -> Refusal | None:
        if path.startswith(PROTECTED) and not self._knows_token(headers.get("authorization", "")):
            how = "send the server's token as 'Authorization: Bearer TOKEN'"
            return Refusal(401, "unauthorized", f"This server needs a token: {how}.", {"WWW-Authenticate": "Bearer"})
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

    def _too_large(self) -> Refusal:
        limit = f"{self.config.max_upload / 2**20:.3g} MiB"
        return Refusal(413, "too_large", f"The request is larger than {limit}; send fewer or smaller photos at once.")

    def _counted(self, receive: Receive) -> Receive:
        """`receive` for requests that do not say how long they are, or stop in the middle."""
        seen, complete = 0, False

        async def count() -> Message:
            nonlocal seen, complete
            if complete:
                # What comes now is the news that the client has left.
                return await receive()
            try:
                with anyio.fail_after(self.config.timeout):
                    message = await receive()
            except TimeoutError:
                wait = f"for {self.config.timeout:g} seconds"
                raise Refusal(408, "upload_timeout", f"Nothing came of the rest of the request {wait}.") from None
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > self.config.max_upload:
                await self._drain(receive)
                raise self._too_large()
            return message

        return count

    async def _drain(self, receive: Receive) -> None:
        """Let the rest of a request go nowhere, within bounds."""
        left = 8 * self.config.max_upload
        with anyio.move_on_after(self.config.timeout):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
