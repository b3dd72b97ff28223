"""Image files made byte by byte, where Pillow writes no such file: 16-bit colour, and files made to do harm."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_16_bit(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, from pixels (H, W, 1, 2, 3 or 4)."""
    height, width, channels = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return _png([(b"IHDR", header), (b"IDAT", zlib.compress(rows))])


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of that many pixels, all black, in the few bytes that one bit a pixel takes once compressed."""
    compressor = zlib.compressobj(9)
    row = b"\0" + bytes((width + 7) // 8)
    rows = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    return _png([(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", rows)])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in [*chunks, (b"IEND", b"")])


def tiff(tags: dict[int, int | list[int]], data: bytes = b"") -> bytes:
    """A little-endian TIFF of 32-bit tags; a list lies at offset 1,000, `data` at 500."""
    listed = b""
    file = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, value in sorted(tags.items()):
        if isinstance(value, list):
            listed = struct.pack(f"<{len(value)}I", *value)
            file += struct.pack("<HHII", tag, 4, len(value), 1000)
        else:
            file += struct.pack("<HHII", tag, 4, 1, value)
    return (file.ljust(500, b"\0") + data).ljust(1000, b"\0") + listed


def tiff_of_huge_tiles() -> bytes:
    """10 x 10 pixels, in one tile of 900 million."""
    pixels = zlib.compress(bytes(1 << 18), 9)
    side = 30_000
    tags: dict[int, int | list[int]] = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    return tiff({**tags, 324: 500, 325: len(pixels)}, pixels)


def tiff_of_many_strips() -> bytes:
    """7 x 7 pixels, in a million strips."""
    tags: dict[int, int | list[int]] = {256: 7, 257: 7, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1, 279: 7}
    return tiff({**tags, 273: [500] * 1_000_000}, bytes(7))


def jpeg_of_many_scans() -> bytes:
    """2,000 x 2,000 pixels; the last scan of a progressive file, repeated 5,000 times."""
    file = saved(Image.new("RGB", (2000, 2000), (120, 30, 40)), "JPEG", progressive=True)
    scan = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + scan * 5000 + file[-2:]


def bmp_run_length(width: int, height: int) -> bytes:
    """A BMP of 4 bits a pixel, in runs of 255."""
    runs = bytes([255, 0x12]) * (width // 255) + bytes([width % 255, 0x12, 0, 0])
    data = runs * height
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 4, 2, len(data), 0, 0, 16, 0)
    palette = bytes(range(64))
    return b"BM" + struct.pack("<IHHI", 54 + 64 + len(data), 0, 0, 54 + 64) + info + palette + data


def webp_header(width: int, height: int) -> bytes:
    """The first bytes of a WebP with a canvas of that size, and nothing on it."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 80) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas + bytes(58)


def gif_bomb() -> bytes:
    """A GIF of 1 x 1 with a first frame of 11,000 x 11,000."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 11_000, 11_000, 0) + b"\x02\x02\x44\x01\x00"
    return screen + frame + b";"
