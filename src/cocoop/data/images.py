"""Images: from a file in any common format to RGB, and from RGB to the tensor that a backbone takes.

The transforms are those of CLIP (test) and of the CoOp code (train). Shapes: H = W = `Preprocessing.size`.
"""

from __future__ import annotations

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
from cocoop.data.image_formats import NOT_A_FILE, describe_costly_jpeg, describe_too_large, supported_formats
from cocoop.errors import DataError
from cocoop.storage.hashing import hash_content

__all__ = [
    "ImageError",
    "Transform",
    "convert_image",
    "hash_image",
    "open_image",
    "read_image_file",
    "test_transform",
    "train_transform",
]

Transform = Callable[[Image.Image], Float[Tensor, "3 H W"]]
"""Function from an RGB image to a normalised tensor."""

MAX_ASPECT = 100
"""Largest ratio of the longer to the shorter edge; resizing a thinner image would take gigabytes."""

# Pillow raises these for damaged files: SyntaxError for a broken PNG, struct.error or KeyError for broken TIFF tags,
# and so on. Other errors, such as running out of memory, are not caused by the file.
_DECODING_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
)


class ImageError(DataError):
    """An image cannot be read; training and evaluation can skip it."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(image, reason)
        self.image = image
        """Name of the file, as given."""
        self.reason = reason
        """The problem, without the name."""

    def __str__(self) -> str:
        return f"Cannot read the image '{self.image}': {self.reason}."


def open_image(
    source: str | ImagePath | bytes | io.BytesIO, *, name: str | None = None, max_pixels: int | None = None
) -> Image.Image:
    """Read an image as 8-bit RGB, upright.

    Grayscale, 16-bit, CMYK and palette images are converted, transparency is replaced by white, and the EXIF
    orientation is applied. Only the first frame of an animation is read.

    Args:
        source: a path, a member of a shard, or the content of a file.
        name: name of the image in error messages; by default its path.
        max_pixels: largest width times height; by default Pillow's `MAX_IMAGE_PIXELS`, which always applies as well.

    Returns:
        An RGB image that keeps no file open.

    Raises:
        ImageError: if the file is missing, damaged, in none of `FORMATS`, larger than `MAX_BYTES` or `max_pixels`, a
            JPEG that would take too long to decode, or more than 100 times as long as wide.
    """
    if name is None:
        name = "upload" if isinstance(source, bytes | io.BytesIO) else str(source)
    with _image_errors(name):
        content = _read(source, name)
        costly = describe_costly_jpeg(content)
        if costly:
            raise ImageError(name, costly)
        with Image.open(io.BytesIO(content), formats=supported_formats()) as image:
            return _to_upright_rgb(image, name, max_pixels)


def convert_image(image: Image.Image, name: str) -> Image.Image:
    """Convert an image in memory to upright RGB, like `open_image`; `image` stays unchanged.

    Raises:
        ImageError: as `open_image`.
    """
    with _image_errors(name):
        return _to_upright_rgb(image, name, None)


def read_image_file(source: str | ImagePath) -> bytes:
    """Read the bytes of an image file without decoding it.

    Raises:
        ImageError: if the file is missing, unreadable, larger than `MAX_BYTES`, or not a regular file.
    """
    name = str(source)
    with _image_errors(name):
        return _read(source, name)


def hash_image(path: str | ImagePath) -> str | None:
    """Return the SHA-256 of an image file, or None if it cannot be read."""
    try:
        return hash_content(read_image_file(path))
    except ImageError:
        return None


def _read(source: str | ImagePath | bytes | io.BytesIO, name: str) -> bytes:
    if isinstance(source, bytes | io.BytesIO):
        return source if isinstance(source, bytes) else source.getvalue()
    if isinstance(source, str | Path):
        path = Path(source)
        info = path.stat()
        # For a directory, reading raises a clear error.
        if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
            raise ImageError(name, NOT_A_FILE)
        too_large = describe_too_large(info.st_size)
        if too_large:
            raise ImageError(name, too_large)
        return path.read_bytes()
    return source.read_bytes()


@contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Turn the errors of Pillow and of the file system into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(name, "there is no such file") from error
    except UnidentifiedImageError as error:
        raise ImageError(name, "it is empty, damaged or not in a supported format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(name, "it has too many pixels to decode safely; use a smaller copy") from error
    except _DECODING_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(name, f"it is damaged or of an unsupported kind ({reason or type(error).__name__})") from error


def _to_upright_rgb(image: Image.Image, name: str, max_pixels: int | None) -> Image.Image:
    size = f"{image.width} x {image.height} pixels"
    # Pillow only warns up to twice its own limit.
    limit = min(limit for limit in (max_pixels, Image.MAX_IMAGE_PIXELS, float("inf")) if limit)
    if image.width * image.height > limit:
        raise ImageError(name, f"it has {size}, more than {limit:,}; use a smaller copy")
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ImageError(name, f"it has {size}; the longer edge may be at most {MAX_ASPECT} times the shorter")
    image.load()
    return _to_rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DECODING_ERRORS:
        # The pixels are intact; only the EXIF data are damaged.
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _sixteen_to_eight_bits(image)
    elif image.mode == "F":
        raise ValueError("its pixels are floats without a known range; save it with 8 bits per channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _sixteen_to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow's `convert` would clip every value above 255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have 32 bits; save it with 8 or 16 bits per channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def train_transform(preprocessing: Preprocessing) -> Transform:
    """Return CoOp's augmentation: a random resized crop (8 to 100 % of the area, 3:4 to 4:3) and a random flip.

    Random numbers come from PyTorch's CPU generator only.

    Args:
        preprocessing: the input size and normalisation of the backbone.

    Returns:
        A function from an RGB image to a normalised (3, H, W) float tensor.
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
    """Return the backbone's own preprocessing: resize (shorter edge and centre crop, or squash) and normalise.

    Args:
        preprocessing: the input size and normalisation of the backbone.

    Returns:
        A deterministic function from an RGB image to a normalised (3, H, W) float tensor.
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


# Keeps pytest from collecting it in test modules that import it.
test_transform.__test__ = False  # type: ignore[attr-defined]
