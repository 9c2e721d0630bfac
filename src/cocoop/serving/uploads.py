"""Read uploaded images.

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
    """Read an uploaded image.

    Args:
        file: its bytes, which alone determine the format.
        name: file name for messages.
        transform: test transform of the backbone.
        max_pixels: largest width times height to decode.

    Raises:
        ImageError: with the reason why it is unreadable.
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
        raise ImageError(name, f"it has more than {max_pixels:,} pixels") from error
    except Exception as error:
        # Decoders fail on arbitrary bytes in their own ways, before any pixel is read.
        raise ImageError(name, f"it is damaged ({type(error).__name__})") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ImageError(name, f"it has {image.width} x {image.height} pixels, more than {max_pixels:,}")
        return transform(convert_image(image, name))
