"""Small images within a page, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image as PillowImage
from PIL import ImageOps

from cocoop.errors import DataError

__all__ = ["thumbnail"]


def thumbnail(path: Path, *, edge: int = 224) -> str:
    """Return the central square of an image as a data URI.

    Args:
        path: image file.
        edge: maximum edge of the square in pixels; smaller images are not enlarged.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        with PillowImage.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError) as error:
        raise DataError(f"'{path}' cannot be shown in the report: {error}.") from error
    edge = min(edge, *upright.size)
    file = io.BytesIO()
    ImageOps.fit(upright, (edge, edge)).save(file, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
