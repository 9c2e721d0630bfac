"""What a server allows; checked when made. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from cocoop.config import check_int
from cocoop.errors import ConfigError

__all__ = ["ServeConfig"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Limits of one request and of all together, and how requests are gathered."""

    max_upload: int = 20 * 2**20
    """Bytes of a request."""
    max_images: int = 64
    """Photos of a request."""
    max_pixels: int = 64_000_000
    """Pixels of a photo: decoded, each takes several bytes."""
    max_classes: int = 1000
    """Class names of a request."""
    max_name_length: int = 300
    """Characters of a class name."""
    max_waiting: int = 512
    """Photos that are accepted and not yet answered, over all requests."""
    max_held: int = 512 * 2**20
    """Bytes of all requests that are not yet answered."""
    max_connections: int = 256
    """Connections that are open at the same time, idle ones too."""
    timeout: float = 30.0
    """Seconds from the end of an upload to its answer, between two pieces of an upload, for the head of a request, and
    for a client to take its answer."""
    upload_timeout: float = 120.0
    """Seconds of a whole upload."""
    batch_window_ms: float = 5.0
    """Milliseconds that a first photo waits for others to be computed with."""
    max_batch: int = 32
    """Photos that are enough to begin at once; with 1, every request is computed alone."""
    token: str | None = field(default=None, repr=False)
    """What a request to the API must bring as `Authorization: Bearer TOKEN`; None: nothing."""
    page: bool = True
    """Whether there is a page for people, beside the API."""
    log_requests: bool = False
    """Whether each request is a line of the log."""

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ConfigError: naming the flag, what was given and what is allowed.
        """
        for flag in ("max_upload", "max_images", "max_pixels", "max_classes", "max_name_length", "max_batch"):
            check_int(flag, getattr(self, flag), 1)
        check_int("max_connections", self.max_connections, 1)
        # A larger request could never be accepted.
        check_int("max_waiting", self.max_waiting, self.max_images)
        check_int("max_held", self.max_held, self.max_upload)
        for flag in ("timeout", "upload_timeout"):
            if not 0 < getattr(self, flag) <= 86_400:
                seen = f"--{flag.replace('_', '-')} is {getattr(self, flag)!r}"
                raise ConfigError(f"{seen}; it must be seconds above 0, up to 86400.")
        if not 0 <= self.batch_window_ms <= 10_000:
            raise ConfigError(f"--batch-window-ms is {self.batch_window_ms!r}; it must be from 0 to 10000.")
        # It travels in a header.
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ConfigError("The token is empty or has characters other than ASCII; choose another --token.")
