from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from indexer.errors import ImageTooLarge, ImageUnreadable
from indexer.images import ImageLimits, open_rgb, preprocess
from indexer.model import Preprocessing
from tests.indexer import image_files as files
from tests.indexer.corpus import pillow_test_images
from tests.indexer.image_files import saved

SPEC = Preprocessing(image_size=32, resize_size=36)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
TRANSPOSES = {  # what the camera did to the upright photo before it stored it, by the EXIF orientation that it wrote
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}}


def upright(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth photo, no two corners of one colour."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([255 * x, 255 * y, 128 * (1 - x) * (1 - y)], axis=-1)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def pixels_of(data: bytes) -> NDArray[np.int16]:
    return np.asarray(open_rgb(data)[0], np.int16)


def colour_of(data: bytes) -> tuple[int, ...]:
    """The colour of a file that is one colour all over."""
    (colour,) = np.unique(pixels_of(data).reshape(-1, 3), axis=0)
    return tuple(int(value) for value in colour)


# Right side up


@pytest.mark.parametrize("orientation", TRANSPOSES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_stored_in_any_exif_orientation_comes_upright(kind: str, orientation: int) -> None:
    photo = upright()
    transpose = TRANSPOSES[orientation]
    stored = photo if transpose is None else photo.transpose(transpose)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, kind, exif=exif, **LOSSLESS.get(kind, {"quality": 95, "subsampling": 0}))

    image, info = open_rgb(data)
    assert image.size == (info.width, info.height) == photo.size
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(photo, np.int16))
    assert difference.max() <= (0 if kind in LOSSLESS else 8)

    square, square_info = preprocess(data, SPEC)
    assert square_info == info
    expected, _ = preprocess(saved(photo, "PNG"), SPEC)
    assert np.abs(square.astype(int) - expected).max() <= (1 if kind in LOSSLESS else 8)


def test_a_photo_with_damaged_exif_is_taken_as_it_lies() -> None:
    data = saved(upright(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 50)
    assert open_rgb(data)[0].size == (96, 64)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_taken_as_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert open_rgb(saved(upright(), "JPEG", exif=exif))[0].size == (96, 64)


# Colours


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*GREEN, *RED])
    return image


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(saved(Image.new("RGB", (8, 8), RED), "PNG"), RED, id="RGB"),
        pytest.param(
            saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), RED, id="CMYK JPEG, inverted as Adobe"
        ),
        pytest.param(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), RED, id="CMYK TIFF"),
        pytest.param(saved(Image.new("YCbCr", (8, 8), (76, 85, 255)), "JPEG"), RED, id="YCbCr JPEG"),
        pytest.param(saved(palette_with_transparency(), "PNG"), RED, id="palette"),
        pytest.param(saved(palette_with_transparency(), "PNG", transparency=1), WHITE, id="palette, one clear colour"),
        pytest.param(
            saved(palette_with_transparency(), "PNG", transparency=bytes([255, 51])),
            (255, 204, 204),
            id="palette, alpha",
        ),
        pytest.param(saved(palette_with_transparency(), "GIF", transparency=1), WHITE, id="GIF, clear"),
        pytest.param(saved(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED), WHITE, id="RGB, one clear colour"),
        pytest.param(saved(Image.new("L", (8, 8), 7), "PNG", transparency=7), WHITE, id="grey, one clear value"),
        pytest.param(saved(Image.new("RGBA", (8, 8), (*RED, 51)), "PNG"), (255, 204, 204), id="alpha"),
        pytest.param(saved(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True), WHITE, id="WebP, clear"),
        pytest.param(saved(Image.new("LA", (8, 8), (0, 51)), "PNG"), (204, 204, 204), id="grey and alpha"),
        pytest.param(saved(Image.new("L", (8, 8), 99), "JPEG"), (99, 99, 99), id="grey JPEG"),
        pytest.param(saved(Image.new("1", (8, 8), 1), "PNG"), WHITE, id="one bit"),
        pytest.param(saved(Image.new("1", (8, 8), 0), "BMP"), (0, 0, 0), id="one bit BMP"),
        pytest.param(saved(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"), WHITE, id="Lab TIFF"),
    ],
)
def test_colours_are_right(data: bytes, expected: tuple[int, int, int]) -> None:
    assert np.abs(np.subtract(colour_of(data), expected)).max() <= 2


def tiff_16_bit_big_endian() -> bytes:
    return saved(Image.fromarray(np.full((4, 4), 0x8000, ">u2")), "TIFF")


def numbers(value: float, kind: type) -> bytes:
    pixels: NDArray[Any] = np.zeros((4, 4), kind)
    pixels[:, 2:] = value
    return saved(Image.fromarray(pixels), "TIFF")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(files.png_16_bit(np.full((4, 4, 1), 0x8000, np.uint16)), (128, 128, 128), id="grey PNG"),
        pytest.param(files.png_16_bit(np.full((4, 4, 3), 0x40FF, np.uint16)), (64, 64, 64), id="RGB PNG"),
        pytest.param(files.png_16_bit(np.full((4, 4, 1), 0xFFFF, np.uint16)), WHITE, id="white grey PNG"),
        pytest.param(
            files.png_16_bit(np.full((4, 4, 4), [0xFFFF, 0, 0, 0x3333], np.uint16)), (255, 204, 204), id="RGBA PNG"
        ),
        pytest.param(
            files.png_16_bit(np.full((4, 4, 2), [0, 0x3333], np.uint16)), (204, 204, 204), id="grey, alpha PNG"
        ),
        pytest.param(saved(Image.fromarray(np.full((4, 4), 0x8000, "<u2")), "TIFF"), (128, 128, 128), id="TIFF"),
        pytest.param(tiff_16_bit_big_endian(), (128, 128, 128), id="big-endian TIFF"),
    ],
)
def test_16_bits_are_scaled_to_8_and_not_clipped(data: bytes, expected: tuple[int, int, int]) -> None:
    assert np.abs(np.subtract(colour_of(data), expected)).max() <= 1


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(numbers(0x8000, np.int32), 128, id="integers up to 65,535"),
        pytest.param(numbers(1 << 30, np.int32), 255, id="integers beyond"),
        pytest.param(numbers(0.5, np.float32), 128, id="floats up to 1"),
        pytest.param(numbers(200.0, np.float32), 200, id="floats up to 255"),
        pytest.param(numbers(1e30, np.float32), 255, id="floats beyond"),
        pytest.param(numbers(float("nan"), np.float32), 0, id="not a number"),
        pytest.param(numbers(float("inf"), np.float32), 0, id="infinite"),
    ],
)
def test_32_bit_numbers_go_to_8_bits_by_a_full_scale_that_they_fit_into(data: bytes, expected: int) -> None:
    pixels = pixels_of(data)
    assert (pixels[:, :2] == 0).all()
    assert np.abs(pixels[:, 2:] - expected).max() <= 1


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})])
def test_of_an_animation_the_first_frame_is_taken(kind: str, options: dict[str, bool]) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    assert colour_of(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)) == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_accepted_format_is_told_by_its_name(kind: str) -> None:
    _, info = open_rgb(saved(upright(), kind))
    assert (info.width, info.height, info.format, info.media_type) == (96, 64, kind, f"image/{kind.lower()}")


def test_a_jpeg_with_more_pictures_behind_it_is_a_jpeg() -> None:
    data = saved(upright(), "MPO", save_all=True, append_images=[upright(48, 32)])
    image, info = open_rgb(data)
    assert (image.size, info.format) == ((96, 64), "JPEG")


# Geometry


@pytest.mark.parametrize("size", [(256, 256), (300, 200), (97, 411), (33, 36), (20, 10)])
@pytest.mark.parametrize("spec", [SPEC, Preprocessing(128, 128)], ids=["cropped", "whole"])
def test_preprocessing_is_resize_of_the_shorter_side_then_centre_crop(
    size: tuple[int, int], spec: Preprocessing
) -> None:
    photo = upright(*size)
    scale = spec.resize_size / min(size)
    resized = photo.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC)
    left, top = ((side - spec.image_size) / 2 for side in resized.size)
    cropped = resized.crop((round(left), round(top), round(left) + spec.image_size, round(top) + spec.image_size))

    pixels, _ = preprocess(saved(photo, "PNG"), spec)
    assert pixels.shape == (spec.image_size, spec.image_size, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert np.abs(pixels.astype(int) - np.asarray(cropped)).mean() < 3  # half a pixel of rounding


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (2, 3), (5000, 7)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_tiny_and_very_long_photos_keep_their_shape(size: tuple[int, int], kind: str) -> None:
    data = saved(Image.new("RGB", size, BLUE), kind, **({"quality": 95} if kind == "JPEG" else {}))
    pixels, info = preprocess(data, SPEC)
    assert pixels.shape == (32, 32, 3)
    assert (info.width, info.height) == size
    assert np.abs(pixels.astype(int) - BLUE).max() <= 3


def test_a_large_jpeg_is_decoded_small_and_looks_the_same() -> None:
    photo = upright(1600, 1200)
    data = saved(photo, "JPEG", quality=95)
    image, info = open_rgb(data, min_side=SPEC.resize_size)
    assert image.size == (200, 150)
    assert (info.width, info.height) == photo.size
    pixels, _ = preprocess(data, SPEC)
    expected, _ = preprocess(saved(photo, "PNG"), SPEC)
    assert np.abs(pixels.astype(int) - expected).max() <= 6


def test_a_photo_smaller_than_asked_for_is_not_reduced() -> None:
    assert open_rgb(saved(upright(), "JPEG"), min_side=1000)[0].size == (96, 64)


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\0", id="one zero"),
        pytest.param(b"this is a text file, whatever its name", id="text"),
        pytest.param(b"%PDF-1.4\n", id="PDF"),
        pytest.param(saved(upright(), "PPM"), id="PPM"),
        pytest.param(saved(upright(), "ICO"), id="ICO"),
        pytest.param(saved(upright(), "TGA"), id="TGA"),
        pytest.param(saved(upright(), "JPEG2000"), id="JPEG 2000"),
    ],
)
def test_what_is_no_photo_of_an_accepted_format_is_unreadable(data: bytes) -> None:
    with pytest.raises(ImageUnreadable) as caught:
        open_rgb(data)
    assert caught.value.field == "image"
    assert "bytes" in caught.value.got
    assert "JPEG" in caught.value.expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_a_photo_that_is_cut_off_is_unreadable(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), kind)
    with pytest.raises(ImageUnreadable):
        preprocess(data[: int(len(data) * share)], SPEC)


def test_a_png_with_one_damaged_byte_is_unreadable() -> None:
    data = bytearray(saved(upright(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageUnreadable):
        preprocess(bytes(data), SPEC)


def test_a_file_over_the_byte_limit_is_too_large() -> None:
    data = saved(upright(), "PNG")
    open_rgb(data, ImageLimits(max_bytes=len(data)))
    with pytest.raises(ImageTooLarge) as caught:
        open_rgb(data, ImageLimits(max_bytes=len(data) - 1))
    assert (caught.value.got, caught.value.expected) == (f"{len(data)} bytes", f"{len(data) - 1} bytes at most")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_photo_over_the_pixel_limit_is_too_large(kind: str) -> None:
    data = saved(upright(), kind)
    open_rgb(data, ImageLimits(max_pixels=96 * 64))
    with pytest.raises(ImageTooLarge) as caught:
        preprocess(data, SPEC, ImageLimits(max_pixels=96 * 64 - 1))
    assert "96 x 64" in caught.value.got
    assert caught.value.expected == "6143 pixels at most"


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_pixels": 0}, {"max_pixels": 200_000_000}])
def test_limits_that_cannot_be_kept_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="max_"):
        ImageLimits(**limits)


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 20,000 x 20,000": lambda: files.png_bomb(20_000, 20_000),
    "PNG between our limit and Pillow's": lambda: files.png_bomb(9_000, 9_000),
    "TIFF of huge tiles": files.tiff_of_huge_tiles,
    "TIFF of many strips": files.tiff_of_many_strips,
    "JPEG of many scans": files.jpeg_of_many_scans,
    "BMP of long runs": lambda: files.bmp_run_length(4_000, 4_000),
    "WebP of 16,000 x 16,000": lambda: files.webp_header(16_000, 16_000),
    "GIF of a small screen and a huge frame": files.gif_bomb,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_would_take_much_memory_or_time_is_too_large(name: str) -> None:
    with pytest.raises(ImageTooLarge) as caught:
        preprocess(BOMBS[name](), SPEC)
    assert caught.value.field == "image"
    assert caught.value.got


def test_refusing_bombs_takes_little_memory(tmp_path: Path) -> None:
    for number, make in enumerate(BOMBS.values()):
        (tmp_path / f"{number}.bomb").write_bytes(make())
    script = """
import resource, sys
from pathlib import Path
from indexer.errors import ImageTooLarge
from indexer.images import open_rgb
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
before = peak()
for path in Path(sys.argv[1]).iterdir():
    try:
        open_rgb(path.read_bytes())
    except ImageTooLarge:
        pass
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64  # MiB; a single one of them decoded takes several hundred


# Files that none of us made


@cache
def pillow_corpus() -> list[Path]:
    return sorted(path for path in pillow_test_images().rglob("*") if path.is_file())


@pytest.mark.timeout(300)
def test_every_file_of_pillows_tests_is_decoded_or_refused_with_a_type() -> None:
    """What Pillow itself decodes, of the accepted formats and within the limits, is decoded; and nothing warns."""
    decoded: Counter[str] = Counter()
    wrong = []
    for path in pillow_corpus():
        data = path.read_bytes()
        try:
            pixels, info = preprocess(data, SPEC)
        except ImageTooLarge:
            assert path.name in TOO_LARGE
        except ImageUnreadable:
            if _pillow_decodes(data):
                wrong.append(path.name)
        else:
            decoded[info.format] += 1
            assert pixels.shape == (32, 32, 3)
    assert not wrong
    assert decoded >= Counter({"PNG": 400, "TIFF": 90, "JPEG": 55, "BMP": 50, "GIF": 35, "WEBP": 14})


TOO_LARGE = {"badwidth.bmp", "reallybig.bmp", "decompression_bomb.gif", "l2rgb_read.bmp"}


def _pillow_decodes(data: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")) as image:
                image.load()
        except Exception:
            return False
    return True


def test_photos_of_pillows_tests_decode_the_same_in_many_threads_at_once() -> None:
    photos = [path.read_bytes() for path in pillow_corpus() if path.suffix in (".jpg", ".tif", ".gif", ".webp")]

    def outcome(data: bytes) -> bytes | str:
        try:
            return preprocess(data, SPEC)[0].tobytes()
        except (ImageTooLarge, ImageUnreadable) as error:
            return error.reason

    expected = [outcome(data) for data in photos]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, photos)) == expected


# Damage of any kind

SEEDS = [
    saved(upright(24, 16), "JPEG"),
    saved(upright(24, 16), "JPEG", progressive=True, exif=Image.Exif()),
    saved(Image.new("CMYK", (24, 16)), "JPEG"),
    saved(upright(24, 16), "PNG"),
    saved(palette_with_transparency(), "PNG", transparency=bytes([255, 51])),
    saved(upright(24, 16), "PNG", save_all=True, append_images=[upright(24, 16).rotate(180)]),
    files.png_16_bit(np.zeros((4, 4, 4), np.uint16)),
    saved(upright(24, 16), "WEBP"),
    saved(upright(24, 16), "WEBP", save_all=True, append_images=[upright(24, 16).rotate(180)]),
    saved(upright(24, 16), "GIF", save_all=True, append_images=[upright(24, 16).rotate(180)]),
    saved(upright(24, 16), "BMP"),
    files.bmp_run_length(24, 16),
    saved(upright(24, 16), "TIFF"),
    saved(upright(24, 16), "TIFF", compression="tiff_lzw"),
    saved(upright(24, 16), "TIFF", compression="jpeg"),
    saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"),
]


@settings(max_examples=1500, deadline=None)
@given(data=st.data())
def test_no_byte_string_raises_anything_but_the_two_errors(data: st.DataObject) -> None:
    photo = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(photo) - 1)))
        damage = data.draw(st.sampled_from(["overwrite", "insert", "remove", "cut off", "repeat"]))
        if damage == "overwrite":
            photo[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
        elif damage == "insert":
            photo[at:at] = data.draw(st.binary(min_size=1, max_size=16))
        elif damage == "remove":
            del photo[at : at + data.draw(st.integers(1, 64))]
        elif damage == "cut off":
            del photo[at:]
        else:
            photo[at:at] = photo[at : at + 32]
    try:
        pixels, info = preprocess(bytes(photo), SPEC, ImageLimits(max_pixels=1_000_000))
    except (ImageTooLarge, ImageUnreadable):
        return
    assert pixels.shape == (32, 32, 3)
    assert info.width * info.height <= 1_000_000
