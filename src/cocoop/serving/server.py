"""The process: a socket, uvicorn, and a stop that lets requests in flight be answered."""

from __future__ import annotations

import ipaddress
import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

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
        timeout_graceful_shutdown=round(timeout) + GRACE,
    )
    # uvicorn raises the signal that stopped it again, once it has.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.Server(config).run(sockets=[listener])
