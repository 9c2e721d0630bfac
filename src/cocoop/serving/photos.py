"""Uploads: bytes from a stranger to the tensor that the backbone wants.

Shapes: H = W = `Preprocessing.size`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import BinaryIO

from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cocoop.data.images import PhotoError, Transform, convert_photo

__all__ = ["FORMATS", "read_upload"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""Kinds that are decoded. Pillow knows more, some by starting other programs (EPS), and nobody's camera makes them."""


MAX_SEGMENTS, MAX_SCANS = 2000, 64
"""Of a JPEG. Each scan of a progressive one passes over all pixels and may be a few bytes; cameras write about ten."""

MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""What begins a segment: within compressed data, 0xff is followed by 0x00 or by a restart marker (0xd0 to 0xd7)."""


def read_upload(file: BinaryIO, name: str, transform: Transform, max_pixels: int) -> Float[Tensor, "3 H W"]:
    """Read an uploaded photo.

    Args:
        file: its bytes; the kind is told by them, not by the name.
        name: what to call it in messages.
        transform: the backbone's.
        max_pixels: more are not decoded.

    Raises:
        PhotoError: saying what is wrong with it.
    """
    kinds = list(islice(_segments(file.read()), MAX_SEGMENTS + 1))
    if len(kinds) > MAX_SEGMENTS or kinds.count(b"\xda") > MAX_SCANS:
        raise PhotoError(name, f"it is a JPEG of more than {MAX_SEGMENTS} segments or {MAX_SCANS} scans; save it anew")
    file.seek(0)
    try:
        image = Image.open(file, formats=_decoders())
    except UnidentifiedImageError as error:
        raise PhotoError(name, f"it is empty, damaged or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(name, f"it has more than {_millions(max_pixels)} pixels") from error
    except Exception as error:
        # Decoders stumble over arbitrary bytes in their own ways, before any pixel is read.
        raise PhotoError(name, f"it is damaged ({type(error).__name__})") from error
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} pixels"
            raise PhotoError(name, f"it has {size}, more than {_millions(max_pixels)}; send a smaller copy")
        return transform(convert_photo(image, name))


def _segments(content: bytes) -> Iterator[bytes]:
    """The markers of a JPEG from its start to its end (0xd9), without those of previews in it; none of other kinds."""
    found = MARKER.match(content)
    while found is not None and found[1] != b"\xd9":
        yield found[1]
        # The head of a segment may contain anything; the start of the picture (0xd8) has none.
        size = 0 if found[1] == b"\xd8" else int.from_bytes(content[found.end() : found.end() + 2], "big")
        found = MARKER.search(content, found.end() + size)


@cache
def _decoders() -> tuple[str, ...]:
    """Those of `FORMATS` that this machine's Pillow was built with."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:g} million"
