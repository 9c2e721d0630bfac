"""Image formats that are decoded, and limits on image files that would take too long to read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice

import numpy as np
from PIL import Image

__all__ = ["FORMATS", "MAX_BYTES", "NOT_A_FILE", "describe_costly_jpeg", "describe_too_large", "supported_formats"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
"""Formats that are decoded. Pillow has more, but opens some of them, such as EPS, by starting other programs."""

MAX_BYTES = 1 << 30
"""Largest image file; even an uncompressed 16-bit image of the largest allowed size is smaller."""

NOT_A_FILE = "it is not a regular file"
"""Reason to refuse pipes and devices; reading one may never end."""

JPEG_START = b"\xff\xd8"
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
"""JPEG markers: start and end of image, start of scan, and a marker without content."""
MAX_JPEG_SEGMENTS, MAX_JPEG_SCANS = 2000, 64
"""Each scan of a progressive JPEG passes over all pixels but may be a few bytes long; cameras write about ten."""


@cache
def supported_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that the installed Pillow can decode."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def describe_too_large(size: int) -> str | None:
    """Return the reason to refuse a file of `size` bytes, or None."""
    return f"it has {size:,} bytes, more than {MAX_BYTES:,}" if size > MAX_BYTES else None


def describe_costly_jpeg(content: bytes) -> str | None:
    """Return the reason to refuse a JPEG that would take too long to decode, or None."""
    markers = list(islice(_markers(content), MAX_JPEG_SEGMENTS + 1)) if content.startswith(JPEG_START) else []
    if len(markers) > MAX_JPEG_SEGMENTS or markers.count(_SOS) > MAX_JPEG_SCANS:
        return f"it is a JPEG of more than {MAX_JPEG_SEGMENTS} segments or {MAX_JPEG_SCANS} scans; save it again"
    return None


def _markers(content: bytes) -> Iterator[int]:
    """Yield the markers of a JPEG up to its end, without those of embedded previews."""
    codes = np.frombuffer(content, np.uint8)
    positions = np.flatnonzero(codes[:-1] == 0xFF) + 1
    markers = codes[positions]
    # In compressed data, 0xff is followed by 0 or by one of the restart markers 0xd0 to 0xd7.
    is_marker = (markers != 0) & ((markers < 0xD0) | (markers >= _SOI)) & (markers != 0xFF)
    segment_end = 0
    for position, marker in zip(positions[is_marker].tolist(), markers[is_marker].tolist(), strict=True):
        if position < segment_end:
            continue
        if marker == _EOI:
            return
        yield marker
        # The header of a segment may contain any bytes; these two markers have no header.
        length = 0 if marker in (_SOI, _TEM) else int.from_bytes(content[position + 1 : position + 3], "big")
        segment_end = position + 1 + length
