"""Limits and settings of the server. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from cocoop.config import check_int
from cocoop.errors import ConfigError

__all__ = ["ServeConfig"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Limits of one request and of all requests together, batching, and access.

    Raises:
        ConfigError: naming the field, its value and the allowed range.
    """

    max_upload: int = 20 * 2**20
    """Maximum size of a request, in bytes."""
    max_images: int = 64
    """Maximum number of images per request."""
    max_pixels: int = 64_000_000
    """Maximum number of pixels per image; each takes up to 25 bytes of memory while the image is decoded."""
    max_classes: int = 1000
    """Maximum number of class names per request."""
    max_name_length: int = 300
    """Maximum length of a class name, in characters."""
    max_waiting: int = 512
    """Maximum number of images that wait for their answers, over all requests."""
    max_held: int = 512 * 2**20
    """Maximum size of all requests that wait for their answers, in bytes."""
    max_connections: int = 256
    """Maximum number of requests at the same time, each on its own connection."""
    timeout: float = 30.0
    """Maximum seconds from the end of an upload to its answer, and between two packets of an upload."""
    upload_timeout: float = 120.0
    """Maximum duration of an upload, in seconds."""
    batch_window_ms: float = 5.0
    """Milliseconds that the first image of a batch waits for others."""
    max_batch: int = 32
    """Number of images that start a batch without further waiting; 1 computes every request alone."""
    token: str | None = field(default=None, repr=False)
    """Secret that requests to the API send as `Authorization: Bearer TOKEN`; None: no authorization."""
    page: bool = True
    """True to serve the web page beside the API."""
    log_requests: bool = False
    """True to log a line for each request."""

    def __post_init__(self) -> None:
        for name in (
            "max_upload",
            "max_images",
            "max_pixels",
            "max_classes",
            "max_name_length",
            "max_batch",
            "max_connections",
        ):
            check_int(name, getattr(self, name), 1)
        # Below these, the largest request could never be accepted.
        check_int("max_waiting", self.max_waiting, self.max_images)
        check_int("max_held", self.max_held, self.max_upload)
        for name in ("timeout", "upload_timeout"):
            if not 0 < getattr(self, name) <= 86_400:
                raise ConfigError(f"`{name}` is {getattr(self, name)!r}; it must be above 0 and at most 86400 seconds.")
        if not 0 <= self.batch_window_ms <= 10_000:
            raise ConfigError(f"`batch_window_ms` is {self.batch_window_ms!r}; it must be from 0 to 10000.")
        # The token is sent in a header.
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ConfigError("`token` is empty or has characters other than printable ASCII; choose another one.")
