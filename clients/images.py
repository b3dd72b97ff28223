"""Turning what apps hold of a photo into the bytes that are sent."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from clients.errors import InvalidRequest
from clients.types import ImageLike

_PNG_MODES = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}


def image_bytes(image: ImageLike) -> bytes:
    """The bytes of a photo's file, never empty: files as they are, pixels as PNG, which loses nothing.

    Errors: InvalidRequest (reason IMAGE_UNREADABLE) for a file that is empty or cannot be read, an array of another
    shape or type than uint8 (H, W), (H, W, 3) or (H, W, 4), or anything else.
    """
    data = _file_bytes(image)
    if not data:  # to `Put` an empty photo would say: keep the one that the item has
        raise _unreadable("the photo is empty", "0 bytes", "the bytes of an image file")
    return data


def _file_bytes(image: ImageLike) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, Path):
        try:
            return image.read_bytes()
        except OSError as error:
            raise _unreadable(f"{image} cannot be read: {error.strerror}", str(image), "a readable file") from error
    if isinstance(image, Image.Image):
        return _png(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.size == 0 or image.shape[2:] not in ((), (3,), (4,)) or image.ndim < 2:
            expected = "uint8 of shape (H, W), (H, W, 3) or (H, W, 4)"
            raise _unreadable("the array is no photo", f"{image.dtype} of shape {image.shape}", expected)
        return _png(Image.fromarray(image))
    expected = "bytes, pathlib.Path, PIL.Image.Image or a numpy array"
    raise _unreadable("this type is no photo", type(image).__name__, expected)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _unreadable(message: str, got: str, expected: str) -> InvalidRequest:
    return InvalidRequest(message, reason="IMAGE_UNREADABLE", field="image", got=got, expected=expected)
