"""Unusual photos are accepted and stand upright: each finds the plain photo of the same thing, and is found by it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from clients import Item
from tests.e2e.photos import upright
from tests.e2e.shop import Shop
from tests.indexer.image_files import png_16_bit, saved

PLAIN = upright(7, 120, 96)
_ORIENTATION = 0x0112
_LYING = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the pixels lie in a file of that EXIF orientation, for the photo to be upright."""


def _rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    lying = _LYING[orientation]
    image = PLAIN if lying is None else PLAIN.transpose(lying)
    return saved(image, "JPEG", quality=95, exif=exif)


def _with_alpha() -> Image.Image:
    image = PLAIN.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(PLAIN.size))
    return image


def _on_white() -> Image.Image:
    image = _with_alpha()
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _pixels_16_bit() -> bytes:
    return png_16_bit(np.asarray(PLAIN).astype(np.uint16) * 257)


def _grey_16_bit() -> bytes:
    return png_16_bit(np.asarray(PLAIN.convert("L")).astype(np.uint16)[:, :, None] * 257)


def _animated(kind: str) -> Callable[[], bytes]:
    others = [upright(seed, 120, 96) for seed in (8, 9)]
    return lambda: saved(PLAIN, kind, save_all=True, append_images=others, duration=100, loop=0)


UNUSUAL: dict[str, tuple[Callable[[], bytes], Callable[[], Image.Image]]] = {
    "16-bit colour": (_pixels_16_bit, lambda: PLAIN),
    "16-bit grey": (_grey_16_bit, lambda: PLAIN.convert("L")),
    "grey": (lambda: saved(PLAIN.convert("L"), "JPEG"), lambda: PLAIN.convert("L").convert("RGB")),
    "cmyk": (lambda: saved(PLAIN.convert("CMYK"), "JPEG", quality=95), lambda: PLAIN),
    "palette": (lambda: saved(PLAIN.quantize(256), "PNG"), lambda: PLAIN),
    "alpha": (lambda: saved(_with_alpha(), "PNG"), _on_white),
    "alpha in webp": (lambda: saved(_with_alpha(), "WEBP", lossless=True, exact=True), _on_white),
    "animated gif": (_animated("GIF"), lambda: PLAIN),
    "animated webp": (_animated("WEBP"), lambda: PLAIN),
    "animated png": (_animated("PNG"), lambda: PLAIN),
    "tiff": (lambda: saved(PLAIN, "TIFF"), lambda: PLAIN),
    "bmp": (lambda: saved(PLAIN, "BMP"), lambda: PLAIN),
    "progressive": (lambda: saved(PLAIN, "JPEG", progressive=True, quality=95), lambda: PLAIN),
    **{f"exif orientation {each}": (functools.partial(_rotated, each), lambda: PLAIN) for each in _LYING},
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_photo_finds_the_plain_one_and_is_found_by_it(changing_shop: Shop, kind: str) -> None:
    make, make_plain = UNUSUAL[kind]
    unusual, plain = make(), saved(make_plain(), "PNG")
    client = changing_shop.client
    client.put(Item("plain", "shelf"), plain)
    hit = client.search(image=unusual, k=1).hits[0]
    assert hit.id == "plain"
    assert hit.score > 0.995
    client.delete("plain")

    client.put(Item("unusual", "shelf"), unusual)
    hit = client.search(image=plain, k=1).hits[0]
    assert hit.id == "unusual"
    assert hit.score > 0.995
    stored = client.get("unusual")
    assert (stored.width, stored.height) == PLAIN.size  # as seen, not as it lies in the file
    assert client.get_image("unusual").data == unusual
    client.delete("unusual")


def test_a_photo_on_its_side_is_another_photo_where_no_exif_says_otherwise(changing_shop: Shop) -> None:
    client = changing_shop.client
    client.put(Item("plain", "shelf"), saved(PLAIN, "PNG"))
    lying = client.search(image=saved(PLAIN.transpose(Image.Transpose.ROTATE_90), "PNG"))
    assert all(hit.score < 0.9 for hit in lying.hits)
    client.delete("plain")
