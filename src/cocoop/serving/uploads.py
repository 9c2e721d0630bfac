"""Uploads: bytes from a stranger to the tensor that the backbone wants.

Shapes: H = W = `Preprocessing.size`.
"""

from __future__ import annotations

from typing import BinaryIO

from jaxtyping import Float
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cocoop.data.image_formats import costly_jpeg, decoders
from cocoop.data.images import ImageError, Transform, convert_image

__all__ = ["read_upload"]


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
    costly = costly_jpeg(file.read())
    if costly:
        raise ImageError(name, costly)
    file.seek(0)
    try:
        image = Image.open(file, formats=decoders())
    except UnidentifiedImageError as error:
        raise ImageError(name, f"it is empty, damaged or none of {', '.join(decoders())}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, f"it has more than {_millions(max_pixels)} pixels") from error
    except Exception as error:
        # Decoders stumble over arbitrary bytes in their own ways, before any pixel is read.
        raise ImageError(name, f"it is damaged ({type(error).__name__})") from error
    with image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} pixels"
            raise ImageError(name, f"it has {size}, more than {_millions(max_pixels)}; send a smaller copy")
        return transform(convert_image(image, name))


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:g} million"
