"""Uploads: bytes from a stranger to the tensor that the backbone wants.

Shapes: H = W = `Preprocessing.size`.
"""

from __future__ import annotations

from functools import cache
from typing import BinaryIO

from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cocoop.data.images import PhotoError, Transform, convert_photo

__all__ = ["FORMATS", "read_upload"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""Kinds that are decoded. Pillow knows more, some by starting other programs (EPS), and nobody's camera makes them."""


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


@cache
def _decoders() -> tuple[str, ...]:
    """Those of `FORMATS` that this machine's Pillow was built with."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:g} million"
