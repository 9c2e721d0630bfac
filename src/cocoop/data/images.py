"""Photos: from a file of any common kind to RGB, and from RGB to the tensor that a backbone wants.

The transforms are those of CLIP (test) and of the CoOp code (train). Shapes: H = W = `Preprocessing.size`.
"""

from __future__ import annotations

import contextlib
import io
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from cocoop.config import Preprocessing
from cocoop.data.dataset import ImagePath
from cocoop.data.image_formats import JPEG, NOT_PLAIN, costly_jpeg, decoders, too_large
from cocoop.errors import DataError

__all__ = ["ImageError", "Transform", "convert_image", "open_image", "test_transform", "train_transform"]

Transform = Callable[[Image.Image], Float[Tensor, "3 H W"]]
"""From an RGB photo to a normalised tensor."""

MAX_ASPECT = 100
"""Longest edge over shortest edge of a photo; scaling a mere line would take gigabytes."""

# Decoders meet arbitrary bytes, and Pillow lets through what they stumble over: SyntaxError in a broken PNG,
# struct.error or KeyError in broken TIFF tags, and so on. Errors outside of this list (memory, say) are not
# about the photo.
_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class ImageError(DataError):
    """A photo that cannot be read; training may leave it out and go on."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(image, reason)
        self.image = image
        """The file, as it was given."""
        self.reason = reason
        """What is wrong with it, without its name."""

    def __str__(self) -> str:
        return f"The photo '{self.image}' cannot be used: {self.reason}."


def open_image(source: str | ImagePath | io.BytesIO) -> Image.Image:
    """Read a photo as 8-bit RGB, the way up it was taken.

    Grey, 16-bit grey, CMYK and palette images are converted, transparent ones are laid on white, and the
    rotation noted by a camera (EXIF) is applied. Of several frames the first is taken.

    Args:
        source: a file, a place in a shard, or the bytes of a file (an upload).

    Returns:
        An image of mode RGB, with no file kept open.

    Raises:
        PhotoError: a `DataError` with the file's name, if it is missing, empty, damaged, cut off, none of `FORMATS`,
            too large to be decoded safely (`MAX_BYTES`, Pillow's `MAX_IMAGE_PIXELS`, the scans of a JPEG), or more
            than 100 times as long as wide.
    """
    name = "upload" if isinstance(source, io.BytesIO) else str(source)
    with _explained(name), _opened(source, name) as file, Image.open(file, formats=decoders()) as image:
        return _image(image, name)


def convert_image(image: Image.Image, name: str) -> Image.Image:
    """An image in memory as 8-bit RGB, converted as `open_photo` converts those in files.

    Args:
        image: of any mode; it stays as it is.
        name: what to call it in messages.

    Raises:
        PhotoError: as `open_photo` does.
    """
    with _explained(name):
        return _image(image, name)


@contextmanager
def _opened(source: str | ImagePath | io.BytesIO, name: str) -> Iterator[io.BytesIO | io.BufferedReader]:
    """The bytes of a photo that ends, and does not take hours."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, str | Path):
            facts = Path(source).stat()
            # A folder says itself what it is.
            if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
                raise ImageError(name, NOT_PLAIN)
            large = too_large(facts.st_size)
            if large:
                raise ImageError(name, large)
            file: io.BytesIO | io.BufferedReader = stack.enter_context(Path(source).open("rb"))
        else:
            file = source if isinstance(source, io.BytesIO) else io.BytesIO(source.read_bytes())
        head = file.read(len(JPEG))
        costly = costly_jpeg(head + file.read()) if head == JPEG else None
        if costly:
            raise ImageError(name, costly)
        file.seek(0)
        yield file


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what Pillow raises for a photo into one that names it."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(name, "there is no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(name, "it is empty, damaged or no image") from error
    except _BROKEN as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(name, f"it is damaged or of an unusual kind ({reason or type(error).__name__})") from error


def _image(image: Image.Image, name: str) -> Image.Image:
    # Pillow itself only warns up to twice this limit.
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ImageError(name, f"it has {image.width} x {image.height} pixels, too many to decode safely")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(name, f"at {image.width} x {image.height} pixels it is a line, not a photo")
    image.load()
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:
        # Pixels are already loaded: damaged EXIF data alone are no reason to lose a photo.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _sixteen_to_eight_bits(image)
    elif image.mode == "F":
        raise ValueError("its pixels are fractions without a known range; save it with 8 bits a channel")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's own `convert` would clip everything above 255 to white."""
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits a channel")
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def train_transform(preprocessing: Preprocessing) -> Transform:
    """A random crop of 8 to 100 % of the area, 3:4 to 4:3, scaled; flipped half of the time; normalised.

    The randomness is taken from PyTorch's CPU generator only.

    Args:
        preprocessing: of the backbone.

    Returns:
        A function from an RGB photo to a (3, H, W) float tensor.
    """
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                preprocessing.size,
                scale=(0.08, 1.0),
                ratio=(3 / 4, 4 / 3),
                interpolation=InterpolationMode(preprocessing.interpolation),
                antialias=True,
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


def test_transform(preprocessing: Preprocessing) -> Transform:
    """The backbone's own preprocessing: resize (shorter edge and centre crop, or squash) and normalise.

    Args:
        preprocessing: of the backbone.

    Returns:
        A function from an RGB photo to a (3, H, W) float tensor; the same photo always gives the same tensor.
    """
    size = preprocessing.size
    squash = preprocessing.resize == "squash"
    interpolation = InterpolationMode(preprocessing.interpolation)
    return transforms.Compose(
        [
            transforms.Resize((size, size) if squash else size, interpolation=interpolation, antialias=True),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


# The name is for readers; this keeps pytest from collecting it where it is imported into a test module.
test_transform.__test__ = False  # type: ignore[attr-defined]
