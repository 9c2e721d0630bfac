"""Run the application: a socket, uvicorn, and a graceful stop."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image

from cocoop.checkpoints.pretrained import from_pretrained
from cocoop.config import Precision
from cocoop.errors import CocoopWarning, ConfigError
from cocoop.methods import Method
from cocoop.serving.app import create_app
from cocoop.serving.limits import ServeConfig
from cocoop.serving.request_log import LOG

__all__ = ["serve"]

GRACE_SECONDS = 5
"""Time beyond `timeout` for requests in progress when the server stops."""


def serve(
    method: Method | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    config: ServeConfig | None = None,
    precision: Precision | None = None,
    device: str = "cpu",
    on_start: Callable[[Method, str], None] | None = None,
) -> None:
    """Serve a method over HTTP until SIGTERM or Ctrl-C, then answer the requests in progress and return.

    Args:
        method: a method; or a run directory or repository of the hub to load one from.
        host: name or address to listen on; "0.0.0.0" or "::" for all addresses of the machine.
        port: port to listen on; 0 for any free one.
        config: limits and settings; None: the defaults.
        precision: data type of the frozen towers of a loaded method; None: as in training.
        device: device of a loaded method.
        on_start: called with the method and the address of the server when it accepts connections.

    Raises:
        CocoopError: as `from_pretrained`.
        ConfigError: if the address does not exist here, or the port is in use.
        KeyboardInterrupt: after a second Ctrl-C, which stops without waiting.
    """
    config = config or ServeConfig()
    # glibc returns blocks above 32 MiB to the system; large images in smaller blocks would leave gigabytes behind.
    Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]
    if not isinstance(method, Method):
        method = from_pretrained(method, precision=precision, device=device)
    app = create_app(method, config)
    with listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        if on_start:
            on_start(method, f"http://{f'[{host}]' if ':' in host else host}:{port}")
        if config.token is None and not ipaddress.ip_address(address).is_loopback:
            warnings.warn(
                "Everyone who can reach this machine can use the server; set `token` to protect it.",
                CocoopWarning,
                stacklevel=2,
            )
        if config.log_requests:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            LOG.addHandler(handler)
            LOG.setLevel(logging.INFO)
        # Pillow and python_multipart warn about uploads that get an error response anyway; this could flood the log.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="error",
                access_log=False,
                lifespan="on",
                ws="none",
                http="h11",
                server_header=False,
                # Nothing depends on the address of the client.
                proxy_headers=False,
                timeout_graceful_shutdown=round(config.timeout) + GRACE_SECONDS,
            )
        )
        with _return_on_signals(server):
            server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections.

    Raises:
        ConfigError: if the address does not exist here, or the port is in use.
    """
    # Python would reduce a larger number modulo 65536.
    if not 0 <= port <= 65535:
        raise ConfigError(f"`port` is {port}; it must be from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}. Choose another `host` or `port`."
        ) from error


@contextmanager
def _return_on_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let `server.run` return after SIGTERM or Ctrl-C, although uvicorn raises the signal again when it has stopped."""

    def stopped(*_: object) -> None:
        if server.force_exit:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
