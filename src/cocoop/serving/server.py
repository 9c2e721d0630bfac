"""The process: a socket, uvicorn, and a stop that lets requests in flight be answered."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from cocoop.errors import ConfigError

__all__ = ["is_local", "listen", "serve"]

GRACE = 5
"""Seconds beyond the time limit of a request for those in flight when the server stops."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that accepts connections.

    Args:
        host: a name or an address; "0.0.0.0" or "::" for all of the machine's.
        port: 0 for any that is free.

    Raises:
        ConfigError: if there is no such address here, or the port is taken.
    """
    # Python would take the rest of a division by 65536.
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port is {port}; it must be from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"Nothing can listen on {host}, port {port}: {error.strerror or error}. Give another --host or --port."
        ) from error


class _Door(H11Protocol):
    """A connection that must have said what it wants within `PATIENCE`, at its start and after each answer."""

    PATIENCE = 10.0
    """Seconds for the headers of a request."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest, or no longer."""
        super().data_received(data)
        if self._is_at_work():
            self._stop_waiting()
        elif self._late is None:
            self._expect()

    def on_response_complete(self) -> None:
        """Wait for the next request, if it has begun."""
        super().on_response_complete()
        self._stop_waiting()

    def connection_lost(self, error: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(error)

    def _expect(self) -> None:
        self._late = self.loop.call_later(self.PATIENCE, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if not self._is_at_work() and not self.transport.is_closing():
            self.transport.close()

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def serve(app: FastAPI, listener: socket.socket, *, timeout: float) -> None:
    """Serve until SIGTERM, which ends the process with 0, or Ctrl-C, which raises; a second Ctrl-C does not wait.

    Args:
        app: what to serve.
        listener: from `listen`.
        timeout: seconds that a request may take.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        http=_Door,
        timeout_graceful_shutdown=round(timeout) + GRACE,
    )
    # uvicorn raises the signal that stopped it again, once it has.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])
