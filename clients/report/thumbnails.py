"""Photos of the catalogue made small enough to lie inside a page."""

from __future__ import annotations

import base64
import io
import warnings

from PIL import Image

from clients.contact_sheet import thumbnail

MOST_BYTES = 16 << 10  # of one thumbnail's file
_TRIES = ((192, 80), (192, 60), (144, 50), (96, 40))  # side in pixels and quality, until it is small enough


def small_jpeg(photo: bytes) -> bytes | None:
    """An upright JPEG of at most `MOST_BYTES`, with nothing of the photo's file but its pixels; None for a photo that
    cannot be shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how large a photo may be is the server's to say
            with Image.open(io.BytesIO(photo)) as image:
                image.draft("RGB", (2 * _TRIES[0][0], 2 * _TRIES[0][0]))  # a JPEG is decoded no larger than needed
                upright = thumbnail(image, _TRIES[0][0])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    upright.info = {}  # or a comment in the file would come along
    for side, quality in _TRIES:
        upright.thumbnail((side, side))
        buffer = io.BytesIO()
        upright.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    return None


def data_uri(jpeg: bytes) -> str:
    """The file as an address that holds all of it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")
