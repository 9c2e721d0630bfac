"""Read uploaded images.

Shapes: H = W = `Preprocessing.size`.
"""

from __future__ import annotations

from typing import BinaryIO

from jaxtyping import Float
from torch import Tensor

from cocoop.data.images import Transform, open_image

__all__ = ["read_upload"]


def read_upload(file: BinaryIO, name: str, transform: Transform, max_pixels: int) -> Float[Tensor, "3 H W"]:
    """Read an uploaded image.

    Args:
        file: the upload; its format is detected from its bytes, not from its name.
        name: the image in error messages.
        transform: the backbone's.
        max_pixels: largest width times height.

    Raises:
        ImageError: if it cannot be read.
    """
    return transform(open_image(file.read(), name=name, max_pixels=max_pixels))
