"""Image files of all kinds, and the two transforms."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cocoop.config import Preprocessing
from cocoop.data import open_image, train_transform
from cocoop.data import test_transform as eval_transform
from cocoop.data.images import ImageError, hash_image
from cocoop.errors import DataError

CLIP = Preprocessing(size=32, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth image that is asymmetric in every direction and every channel."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((np.stack([x, y, 1 - (x + y) / 2], axis=-1) * 255).astype(np.uint8))


def difference(a: Image.Image, b: Image.Image) -> float:
    """Largest difference between two pixels, in 0..255."""
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max())


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.tiff", {}, 0),
        ("a.tif", {"compression": "tiff_lzw"}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.jpg", {"quality": 95, "subsampling": 0}, 10),
        ("A.JPEG", {"quality": 95, "progressive": True, "subsampling": 0}, 10),
    ],
)
def test_open_image_reads_common_formats(tmp_path: Path, name: str, options: dict, tolerance: float) -> None:
    picture().save(tmp_path / name, **options)
    image = open_image(tmp_path / name)
    assert image.mode == "RGB"
    assert difference(image, picture()) <= tolerance


def test_open_image_reads_paths_and_bytes(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    assert difference(open_image(str(tmp_path / "a.png")), picture()) == 0
    content = (tmp_path / "a.png").read_bytes()
    assert difference(open_image(content), picture()) == 0
    assert difference(open_image(io.BytesIO(content)), picture()) == 0
    with pytest.raises(ImageError, match=r"image 'upload': it is empty, damaged or not in a supported format"):
        open_image(io.BytesIO(b"nothing"))
    with pytest.raises(ImageError, match=r"image 'cat\.png': it is empty, damaged or not in a supported format"):
        open_image(b"nothing", name="cat.png")


def test_open_image_has_a_limit_on_pixels(tmp_path: Path) -> None:
    picture(48, 32).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=48 * 32).size == (48, 32)
    with pytest.raises(ImageError, match="it has 48 x 32 pixels, more than 1,535; use a smaller copy"):
        open_image(tmp_path / "a.png", max_pixels=48 * 32 - 1)


def test_hash_image_depends_on_the_bytes_only(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.jpg", "copy.jpg", "other.jpg"))
    one.write_bytes(b"pixels")
    copy.write_bytes(b"pixels")
    other.write_bytes(b"pixelz")
    assert hash_image(one) == hash_image(copy) != hash_image(other)
    assert hash_image(tmp_path / "missing.jpg") is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_grayscale_becomes_rgb(tmp_path: Path, name: str) -> None:
    grey = picture().convert("L")
    grey.save(tmp_path / name)
    image = open_image(tmp_path / name)
    assert image.mode == "RGB"
    for channel in image.split():
        assert difference(channel, grey) <= 8


def test_one_bit_images_stay_black_and_white(tmp_path: Path) -> None:
    black_and_white = picture().convert("1")
    black_and_white.save(tmp_path / "a.png")
    assert set(np.unique(np.asarray(open_image(tmp_path / "a.png")))) == {0, 255}


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_sixteen_bit_grayscale_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 128, 257, 1000], [32768, 40000, 65534, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    image = np.asarray(open_image(tmp_path / name))
    assert image.shape == (2, 4, 3)
    expected = np.round(values / 257)
    assert expected[1].tolist() == [128, 156, 255, 255]
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], expected)


def test_big_endian_sixteen_bit_grayscale_is_scaled(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257 * 10, 257 * 200))
    image.save(tmp_path / "a.tif")
    assert np.asarray(open_image(tmp_path / "a.tif"))[0, :, 0].tolist() == [10, 200]


def test_thirty_two_bit_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif': .* floats without a known range; save it with 8 bits"):
        open_image(tmp_path / "f.tif")
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(ImageError, match=r"i\.tif': .* 32 bits; save it with 8 or 16 bits"):
        open_image(tmp_path / "i.tif")


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_becomes_rgb(tmp_path: Path, name: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == "CMYK"
    red, green, blue = open_image(tmp_path / name).getpixel((8, 8))
    assert red > 240
    assert green < 15
    assert blue < 15


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png")
    image = open_image(tmp_path / "a.png")
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((3, 1)) == (0, 0, 255)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_entries_become_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=transparency)
    image = open_image(tmp_path / "a.png")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((3, 1)) == (0, 0, 255)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_transparency_becomes_white(tmp_path: Path, name: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    image = open_image(tmp_path / name)
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 255, 127]


def test_grayscale_alpha_and_transparent_colour_become_white(tmp_path: Path) -> None:
    Image.new("LA", (2, 1), (0, 0)).save(tmp_path / "la.png")
    assert open_image(tmp_path / "la.png").getpixel((0, 0)) == (255, 255, 255)
    picture().save(tmp_path / "key.png", transparency=(0, 0, 255))
    assert open_image(tmp_path / "key.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_exif_rotation_is_applied(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rows of the file are columns of the image
    picture().save(tmp_path / name, exif=exif, quality=95)
    image = open_image(tmp_path / name)
    assert image.size == (32, 48)
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    assert difference(image.resize((8, 12)), upright.resize((8, 12))) < 16


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert open_image(tmp_path / "a.jpg").size == (48, 32)


def test_missing_empty_and_unsupported_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the image '.*gone\.jpg': there is no such file\."):
        open_image(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"empty\.jpg': it is empty, damaged or not in a supported format"):
        open_image(tmp_path / "empty.jpg")
    (tmp_path / "text.png").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"text\.png': it is empty, damaged or not in a supported format"):
        open_image(tmp_path / "text.png")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match=r"folder\.jpg': .*[Ii]s a directory|[Pp]ermission denied"):
        open_image(tmp_path / "folder.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "a.bmp"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for share in (0.02, 0.5, 0.9):
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ImageError, match=rf"{name}': it is (empty, )?damaged") as caught:
            open_image(tmp_path / name)
        assert name not in caught.value.reason


def test_broken_png_chunk_is_refused(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 10] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.png': it is damaged or of an unsupported kind"):
        open_image(tmp_path / "a.png")


def huge_png(path: Path, width: int, height: int) -> Path:
    """Write a file of a few bytes whose header claims a huge size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused_even_if_pillow_only_warns(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"bomb\.png': it has too many pixels to decode safely"):
        open_image(huge_png(tmp_path / "bomb.png", 40_000, 40_000))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ImageError, match=r"it has 10000 x 10000 pixels, more than 89,478,485; use a smaller copy"),
    ):
        open_image(huge_png(tmp_path / "large.png", 10_000, 10_000))


def test_very_thin_images_are_refused(tmp_path: Path) -> None:
    picture(1, 100).save(tmp_path / "thin.png")
    open_image(tmp_path / "thin.png")
    picture(101, 1).save(tmp_path / "line.png")
    with pytest.raises(
        ImageError, match=r"line\.png': it has 101 x 1 pixels; the longer edge may be at most 100 times"
    ):
        open_image(tmp_path / "line.png")


def test_test_transform_resizes_the_shorter_edge_and_crops_the_centre() -> None:
    image = picture(97, 64)
    tensor = eval_transform(CLIP)(image)
    # CLIP's steps in Pillow alone: the longer edge is rounded down, the crop is centred.
    scaled = image.resize((97 * 32 // 64, 32), Image.Resampling.BICUBIC)
    left = round((scaled.width - 32) / 2)
    crop = np.asarray(scaled.crop((left, 0, left + 32, 32)), dtype=np.float32) / 255
    expected = (crop - np.array(CLIP.mean, dtype=np.float32)) / np.array(CLIP.std, dtype=np.float32)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor, torch.from_numpy(expected).permute(2, 0, 1), atol=1e-6, rtol=0)


def test_test_transform_can_squash_and_interpolate_bilinearly() -> None:
    image = picture(96, 32)
    squash = Preprocessing(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize="squash")
    tensor = eval_transform(squash)(image)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    torch.testing.assert_close(tensor, torch.from_numpy(expected).permute(2, 0, 1), atol=1e-6, rtol=0)
    bilinear = Preprocessing(size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
    tensor = eval_transform(bilinear)(image)
    expected = np.asarray(image.resize((48, 16), Image.Resampling.BILINEAR), dtype=np.float32)[:, 16:32] / 255
    torch.testing.assert_close(tensor, torch.from_numpy(expected).permute(2, 0, 1), atol=1e-6, rtol=0)


def test_train_transform_crops_flips_and_normalises() -> None:
    plain = Preprocessing(size=24, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    transform = train_transform(plain)
    # Red grows to the right: its slope tells the flip, its range the width of the crop.
    image = picture(240, 240)
    flipped, widths = 0, []
    torch.manual_seed(0)
    for _ in range(400):
        tensor = transform(image)
        assert tensor.shape == (3, 24, 24)
        slope = (tensor[0, :, -1] - tensor[0, :, 0]).mean().item()
        flipped += slope < 0
        widths.append(abs(slope) * tensor.shape[1] / (tensor.shape[1] - 1))
    assert 160 < flipped < 240
    # The narrowest crop has 8 % of the area at 3:4, so a width of sqrt(0.06) = 0.245.
    assert 0.23 < min(widths) < 0.35
    assert 0.95 < max(widths) < 1.02
    torch.manual_seed(1)
    first = transform(image)
    torch.manual_seed(1)
    assert torch.equal(first, transform(image))
    normalised = train_transform(Preprocessing(size=24, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)))
    torch.manual_seed(1)
    scale = torch.tensor([0.5, 0.25, 2.0]).view(3, 1, 1)
    mean = torch.tensor([0.5, 0.25, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(normalised(image), (first - mean) / scale)
