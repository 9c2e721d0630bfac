"""Which kinds of image files are decoded, and which files are too costly to be tried."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import islice

import numpy as np
from PIL import Image

__all__ = ["FORMATS", "JPEG", "MAX_BYTES", "NOT_PLAIN", "costly_jpeg", "decoders", "too_large"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF")
"""Kinds that are decoded. Pillow knows more, some by starting other programs (EPS), and nobody's camera makes them."""

MAX_BYTES = 1 << 30
"""Of a file; a photo of as many pixels as are decoded is smaller, even with 16 bits and not compressed."""

NOT_PLAIN = "it is no plain file"
"""Why a pipe or a device is not read, which might never end."""

JPEG = b"\xff\xd8"
"""How a JPEG begins."""
START, END, SCAN, NOTHING = 0xD8, 0xD9, 0xDA, 0x01
"""Markers of a JPEG: where the picture begins and ends, where the data of a scan follow, and one that says nothing."""
MAX_SEGMENTS, MAX_SCANS = 2000, 64
"""Of a JPEG. Each scan of a progressive one passes over all pixels and may be a few bytes; cameras write about ten."""


@cache
def decoders() -> tuple[str, ...]:
    """Those of `FORMATS` that this machine's Pillow, with its plugins, can decode."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def too_large(size: int) -> str | None:
    """Why a file of so many bytes should not be read; None if it may be."""
    return f"it has {size:,} bytes, more than {MAX_BYTES:,}" if size > MAX_BYTES else None


def costly_jpeg(content: bytes) -> str | None:
    """Why a JPEG should not be decoded; None if it may be, or is none."""
    kinds = list(islice(_segments(content), MAX_SEGMENTS + 1)) if content.startswith(JPEG) else []
    if len(kinds) > MAX_SEGMENTS or kinds.count(SCAN) > MAX_SCANS:
        return f"it is a JPEG of more than {MAX_SEGMENTS} segments or {MAX_SCANS} scans; save it anew"
    return None


def _segments(content: bytes) -> Iterator[int]:
    """The markers of a JPEG from its start to its end, without those of previews in it."""
    codes = np.frombuffer(content, np.uint8)
    places = np.flatnonzero(codes[:-1] == 0xFF) + 1
    kinds = codes[places]
    # Within compressed data, 0xff is followed by 0 or by one of the restart markers 0xd0 to 0xd7.
    marks = (kinds != 0) & ((kinds < 0xD0) | (kinds >= START)) & (kinds != 0xFF)
    behind = 0
    for place, kind in zip(places[marks].tolist(), kinds[marks].tolist(), strict=True):
        if place < behind:
            continue
        if kind == END:
            return
        yield kind
        # The head of a segment may contain anything; these two have none.
        head = 0 if kind in (START, NOTHING) else int.from_bytes(content[place + 1 : place + 3], "big")
        behind = place + 1 + head
