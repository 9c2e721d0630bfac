"""`cocoop serve`: a trained prompt behind HTTP."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from cocoop.cli.console import note
from cocoop.cli.options import Device, left_out, pick_device
from cocoop.config import Precision, parse_bytes
from cocoop.errors import ConfigError
from cocoop.serving.limits import ServeConfig

__all__ = ["ServeCommand"]


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a trained prompt: a page for people at /, a JSON API at /v1, its description at /docs."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder written by `cocoop train`, or a hub repository USER/NAME (USER/NAME@REVISION)."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine can connect, 0.0.0.0 lets others."""
    port: int = 7860
    """Port to listen on; 0 takes one that is free."""
    token: Annotated[str | None, left_out("SECRET", "COCOOP_TOKEN of the environment, if set")] = None
    """Requests to the API must bring it as `Authorization: Bearer SECRET`."""
    no_ui: bool = False
    """Serve the API alone, without the page."""
    max_upload: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "20MiB"
    """Largest request."""
    max_images: int = ServeConfig.max_images
    """Most photos of a request."""
    max_pixels: int = ServeConfig.max_pixels
    """Most pixels of a photo; each takes up to 25 bytes of memory while it is decoded."""
    max_classes: int = ServeConfig.max_classes
    """Most class names of a request."""
    max_waiting: int = ServeConfig.max_waiting
    """Most photos that wait for their answers; beyond, requests are told to come again."""
    max_held: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "512MiB"
    """Most of all requests that wait for their answers, together."""
    max_connections: int = ServeConfig.max_connections
    """Most connections at the same time."""
    timeout: float = ServeConfig.timeout
    """Seconds until a request is given up."""
    upload_timeout: float = ServeConfig.upload_timeout
    """Seconds until an upload is given up that comes too slowly."""
    batch_window_ms: float = ServeConfig.batch_window_ms
    """Milliseconds that a photo waits for others to be computed with."""
    max_batch: int = ServeConfig.max_batch
    """Photos that are enough to begin at once; 1 computes each request alone."""
    log_requests: bool = False
    """Print a line for each request: method, path, status, seconds, id."""
    precision: Annotated[Precision | None, left_out("{fp32,bf16,fp16}", "as in training")] = None
    """Number type of the frozen towers."""
    device: Device = "auto"
    """Where to compute."""

    def run(self) -> None:
        """Load, listen, serve until stopped."""
        # The C library gives back to the system what was taken in pieces above 32 MiB; of smaller ones, large photos
        # would leave gigabytes behind. Pillow reads this when it is imported.
        os.environ.setdefault("PILLOW_BLOCK_SIZE", "64m")
        config = ServeConfig(
            max_upload=parse_bytes("max_upload", self.max_upload),
            max_images=self.max_images,
            max_pixels=self.max_pixels,
            max_classes=self.max_classes,
            max_waiting=self.max_waiting,
            max_held=parse_bytes("max_held", self.max_held),
            max_connections=self.max_connections,
            timeout=self.timeout,
            upload_timeout=self.upload_timeout,
            batch_window_ms=self.batch_window_ms,
            max_batch=self.max_batch,
            token=(os.environ.get("COCOOP_TOKEN") or None) if self.token is None else self.token,
            page=not self.no_ui,
            log_requests=self.log_requests,
        )
        try:
            from cocoop.serving.app import create_app
            from cocoop.serving.server import is_local, listen, serve
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"`cocoop serve` needs the library {error.name}, which is not installed: pip install 'cocoop[serve]'"
            ) from error
        from cocoop.checkpoints.pretrained import from_pretrained

        method = from_pretrained(self.source, precision=self.precision, device=pick_device(self.device))
        app = create_app(method, config)
        with listen(self.host, self.port) as listener:
            port = listener.getsockname()[1]
            host = f"[{self.host}]" if ":" in self.host else self.host
            note(f"{method.key} on {method.backbone.name} is at http://{host}:{port} (API: /docs). Ctrl-C stops it.")
            if config.token is None and not is_local(listener):
                note("Anyone who reaches this machine can use it; to ask for a secret, set --token or COCOOP_TOKEN.")
            serve(app, listener, config)
