"""`cocoop serve`: put a trained prompt behind a web page and a JSON API."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from cocoop.cli.console import note
from cocoop.cli.options import Device, optional_flag, pick_device
from cocoop.config import Precision, parse_bytes
from cocoop.errors import ConfigError
from cocoop.serving.limits import ServeConfig

if TYPE_CHECKING:
    from cocoop.methods import Method

__all__ = ["ServeCommand"]


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a trained prompt: a web page at /, a JSON API at /v1, its description at /docs."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Run directory of `cocoop train`, or hub repository USER/NAME (USER/NAME@REVISION)."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine can connect, 0.0.0.0 lets others."""
    port: int = 7860
    """Port to listen on; 0 picks a free one."""
    token: Annotated[str | None, optional_flag("SECRET", "COCOOP_TOKEN of the environment, if set")] = None
    """Secret that requests to the API must send as `Authorization: Bearer SECRET`."""
    no_ui: bool = False
    """Serve the API without the web page."""
    max_upload: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "20MiB"
    """Maximum size of a request."""
    max_images: int = ServeConfig.max_images
    """Maximum number of images per request."""
    max_pixels: int = ServeConfig.max_pixels
    """Maximum number of pixels per image; each takes up to 25 bytes of memory while the image is decoded."""
    max_classes: int = ServeConfig.max_classes
    """Maximum number of class names per request."""
    max_waiting: int = ServeConfig.max_waiting
    """Maximum number of images that wait for their answers; further requests are refused with 429."""
    max_held: Annotated[str, tyro.conf.arg(metavar="SIZE")] = "512MiB"
    """Maximum size of all requests that wait for their answers."""
    max_connections: int = ServeConfig.max_connections
    """Maximum number of requests at the same time; further ones are refused with 503."""
    timeout: float = ServeConfig.timeout
    """Maximum seconds from the end of an upload to its answer, and between two packets of an upload."""
    upload_timeout: float = ServeConfig.upload_timeout
    """Maximum seconds for an upload."""
    batch_window_ms: float = ServeConfig.batch_window_ms
    """Milliseconds that an image waits for others to be computed with."""
    max_batch: int = ServeConfig.max_batch
    """Number of images that start a batch without further waiting; 1 computes each request alone."""
    log_requests: bool = False
    """Print a line for each request: method, path, status, seconds, id."""
    precision: Annotated[Precision | None, optional_flag("{fp32,bf16,fp16}", "as in training")] = None
    """Data type of the frozen towers."""
    device: Device = "auto"
    """Device to compute on."""

    def run(self) -> None:
        """Serve until stopped."""
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
            from cocoop.serving.server import serve
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"`cocoop serve` needs the library {error.name}, which is not installed: pip install 'cocoop[serve]'"
            ) from error
        serve(
            self.source,
            host=self.host,
            port=self.port,
            config=config,
            precision=self.precision,
            device=pick_device(self.device),
            on_start=_print_address,
        )


def _print_address(method: Method, address: str) -> None:
    note(f"Serving {method.key} on {method.backbone.name} at {address} (API: /docs). Press Ctrl-C to stop.")
