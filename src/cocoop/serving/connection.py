"""One connection: it says what it wants, and takes its answer, in time; what is not HTTP gets a JSON answer too."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cocoop.serving.error_responses import ApiError, error_response
from cocoop.serving.limits import ServeConfig

__all__ = ["Connection"]

LINGER = 2.0
"""Seconds that a client who was refused in the middle of a request has to read why; closed at once, it would see a
broken connection instead."""


class Connection(H11Protocol):
    """uvicorn's protocol with limits on time and number.

    Args:
        limits: `timeout` is for the head of a request and for taking an answer; `max_connections`.
        options: uvicorn's.
    """

    def __init__(self, *, limits: ServeConfig, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._head_late: asyncio.TimerHandle | None = None
        self._answer_late: asyncio.TimerHandle | None = None
        self._is_over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of a request, or refuse one connection too many."""
        super().connection_made(transport)
        # With nothing left to the buffer, `pause_writing` tells that the client does not keep up.
        transport.set_write_buffer_limits(high=0)
        most = self._limits.max_connections
        if len(self.connections) > 2 * most:
            # Those that are being refused are too many as well.
            transport.abort()
        elif len(self.connections) > most:
            message = f"{most} connections are open already; try again in a moment."
            self._refuse(ApiError(503, "too_many_connections", message, {"Retry-After": "1"}))
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing."""
        self._forget_head()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request, unless all is said."""
        if self._is_over:
            return
        super().data_received(data)
        if self._is_at_work():
            self._forget_head()
        elif not self._is_over:
            self._expect_head()

    def pause_writing(self) -> None:
        """Wait for the client to take what was written."""
        super().pause_writing()
        self._answer_late = self._answer_late or self.loop.call_later(self._limits.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no longer."""
        if self._answer_late is not None:
            self._answer_late.cancel()
            self._answer_late = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or not within h11's limits; uvicorn calls it while it handles h11's error."""
        error = sys.exc_info()[1]
        status = HTTPStatus(getattr(error, "error_status_hint", 400))
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE and b"\n" not in self.conn.trailing_data[0]:
            status = HTTPStatus.REQUEST_URI_TOO_LONG
        self._refuse(ApiError(status, status.name.lower(), f"{error or msg}."))

    def _expect_head(self) -> None:
        self._head_late = self._head_late or self.loop.call_later(self._limits.timeout, self._give_up_head)

    def _forget_head(self) -> None:
        if self._head_late is not None:
            self._head_late.cancel()
            self._head_late = None

    def _give_up_head(self) -> None:
        self._head_late = None
        if self._is_at_work() or self._is_over or self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            message = f"The head of the request was not complete after {self._limits.timeout:g} seconds."
            self._refuse(ApiError(408, "request_timeout", message))
        else:
            self.transport.close()

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: ApiError) -> None:
        """Answer, hear no more, and close."""
        self._is_over = True
        self._forget_head()
        if self._is_at_work():
            # Whoever works on the request need not go on.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = error_response(refusal)
            head = h11.Response(
                status_code=response.status_code,
                headers=[*response.raw_headers, (b"connection", b"close")],
                reason=HTTPStatus(response.status_code).phrase.encode(),
            )
            events = (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        # Who has read it may have left by now.
        with contextlib.suppress(OSError):
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.abort)
