"""The process: a socket, uvicorn, and a stop that lets requests in flight be answered."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
import warnings
from functools import partial

import uvicorn
from fastapi import FastAPI
from PIL import Image

from cocoop.errors import ConfigError
from cocoop.serving.connection import Connection
from cocoop.serving.limits import ServeConfig
from cocoop.serving.request_log import LOG

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


def serve(app: FastAPI, listener: socket.socket, config: ServeConfig) -> None:
    """Serve until SIGTERM or Ctrl-C, answer what is in flight, and end the process with 0.

    Args:
        app: what to serve.
        listener: from `listen`.
        config: the limits.

    Raises:
        KeyboardInterrupt: after a second Ctrl-C, which does not wait.
    """
    if config.log_requests:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
    # What others warn of is what clients send; they are told, and it could fill the log.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            lifespan="on",
            ws="none",
            http=partial(Connection, limits=config),  # type: ignore[arg-type]
            server_header=False,
            # Nothing here asks where a request came from.
            proxy_headers=False,
            timeout_graceful_shutdown=round(config.timeout) + GRACE,
        )
    )

    def leave(*_: object) -> None:
        if server.force_exit:
            raise KeyboardInterrupt
        sys.exit(0)

    # uvicorn raises the signal that stopped it again, once it has.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, leave)
    server.run(sockets=[listener])
