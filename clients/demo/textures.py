"""Patterns and labels that products wear, drawn as pictures (H, W, 3) and wrapped around them.

Colours are sRGB triples from 0 to 255. A pattern repeats across its width without a seam.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from clients.demo.mesh import Floats, Mask

Colour = tuple[int, int, int]
Picture = Image.Image

PALETTE: dict[str, Colour] = {
    "cream": (236, 226, 203), "teal": (38, 118, 122), "terracotta": (184, 92, 62), "navy": (38, 52, 92),
    "mustard": (208, 160, 52), "sage": (140, 160, 126), "plum": (104, 52, 84), "sky": (128, 172, 204),
    "charcoal": (58, 60, 64), "blush": (222, 164, 158), "forest": (44, 86, 62), "brick": (156, 44, 40),
    "sand": (198, 172, 136), "lilac": (166, 148, 194), "white": (240, 240, 236), "olive": (118, 116, 58),
}  # fmt: skip


def linear(picture: Picture | NDArray[np.uint8]) -> Floats:
    """sRGB bytes to linear light from 0 to 1."""
    return (np.asarray(picture, np.float32) / 255.0) ** 2.2


def plain(colour: Colour) -> Floats:
    """One colour as a texture."""
    return linear(np.full((2, 2, 3), colour, np.uint8))


def _grid(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """u and v (H, W) of the pixels of a picture of `size` (wide, tall)."""
    wide, tall = size
    u, v = np.meshgrid((np.arange(wide) + 0.5) / wide, (np.arange(tall) + 0.5) / tall)
    return u.astype(np.float32), v.astype(np.float32)


def _two(mask: Mask, base: Colour, accent: Colour) -> Picture:
    return Image.fromarray(np.where(mask[..., None], np.array(accent, np.uint8), np.array(base, np.uint8)))


def _hoops(size: tuple[int, int], n: int) -> Mask:
    v = _grid(size)[1]
    return (v * n) % 1.0 < 0.42


def _pinstripes(size: tuple[int, int], n: int) -> Mask:
    u, _ = _grid(size)
    return (u * 4 * n) % 1.0 < 0.22


def _dots(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    x, y = u * 2 * n, v * n * 2 * size[1] / size[0]
    x = (x + 0.5 * (np.floor(y) % 2)) % 1.0 - 0.5
    return x**2 + (y % 1.0 - 0.5) ** 2 < 0.075


def _checks(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    return np.asarray((np.floor(u * 4 * n) + np.floor(v * 4 * n * size[1] / size[0])) % 2 == 0, bool)


def _chevrons(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    return np.asarray((v * n * 1.5 + 0.5 * np.abs((u * 2 * n) % 1.0 - 0.5) * 2) % 1.0 < 0.4, bool)


def _diamonds(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    x, y = (u * 2 * n) % 1.0 - 0.5, (v * 2 * n * size[1] / size[0]) % 1.0 - 0.5
    return np.asarray(np.abs(x) + np.abs(y) < 0.34, bool)


def _waves(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    return np.asarray((v * n * 1.3 + 0.12 * np.sin(u * 2 * np.pi * 2 * n)) % 1.0 < 0.3, bool)


def _flowers(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    x, y = u * 2 * n, v * 2 * n * size[1] / size[0]
    x = (x + 0.5 * (np.floor(y) % 2)) % 1.0 - 0.5
    y = y % 1.0 - 0.5
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = distance < 0.20 + 0.14 * np.cos(5 * angle)
    return np.asarray(petals & (distance > 0.075), bool)


def _dipped(size: tuple[int, int], n: int) -> Mask:
    u, v = _grid(size)
    edge = 0.35 + 0.06 * n
    return np.asarray(v > edge + 0.03 * np.sin(2 * np.pi * 2 * u) + 0.02 * np.sin(2 * np.pi * 5 * u + 1), bool)


def _speckles(size: tuple[int, int], n: int) -> Mask:
    rng = np.random.default_rng(n)
    sheet = Image.new("L", size)
    draw = ImageDraw.Draw(sheet)
    for x, y, r in zip(rng.uniform(0, 1, 260), rng.uniform(0, 1, 260), rng.uniform(0.003, 0.013, 260), strict=True):
        draw.ellipse([(x - r) * size[0], y * size[1] - r * size[0], (x + r) * size[0], y * size[1] + r * size[0]], 255)
    return np.asarray(sheet) > 0


def _band(size: tuple[int, int], n: int) -> Mask:
    v = _grid(size)[1]
    at = 0.2 + 0.12 * n
    return np.asarray((np.abs(v - at) < 0.07) | (np.abs(v - at - 0.12) < 0.015), bool)


PATTERNS: dict[str, Callable[[tuple[int, int], int], Mask]] = {
    "hoops": _hoops, "pinstripes": _pinstripes, "dots": _dots, "checks": _checks, "chevrons": _chevrons,
    "diamonds": _diamonds, "waves": _waves, "flowers": _flowers, "dipped": _dipped, "speckles": _speckles,
    "band": _band,
}  # fmt: skip


def patterned(kind: str, base: Colour, accent: Colour, repeats: int = 4, size: tuple[int, int] = (512, 256)) -> Picture:
    """A two-coloured pattern, twice smoothed so that its edges are as soft as print."""
    big = _two(PATTERNS[kind]((size[0] * 2, size[1] * 2), repeats), base, accent)
    return big.resize(size, Image.Resampling.BOX)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(size, 6))


def write(picture: Picture, text: str, centre: tuple[float, float], tall: float, ink: Colour) -> None:
    """Puts one line of text into a picture; `centre` and `tall` are shares of its width and height."""
    draw = ImageDraw.Draw(picture)
    at = (centre[0] * picture.width, centre[1] * picture.height)
    draw.text(at, text, fill=ink, font=_font(int(tall * picture.height)), anchor="mm")


def _legible(ink: Colour, paper: Colour) -> Colour:
    """The ink, or a dark or a light one where it could not be read on that paper."""
    if abs(sum(ink) - sum(paper)) > 200:
        return ink
    return (36, 34, 38) if sum(paper) > 380 else (240, 236, 226)


LAYOUTS = ("framed", "banner", "roundel", "split", "columns", "stacked")


def label(layout: str, paper: Colour, ink: Colour, brand: str, size: tuple[int, int] = (200, 200)) -> Picture:
    """A printed label: the brand's name, an emblem and small print, in one of six layouts."""
    ink = _legible(ink, paper)
    sheet = Image.new("RGB", (size[0] * 2, size[1] * 2), paper)
    draw = ImageDraw.Draw(sheet)
    w, h = sheet.size
    second: Colour = (int(ink[0] * 0.5 + paper[0] * 0.5), int(ink[1] * 0.5 + paper[1] * 0.5), (ink[2] + paper[2]) // 2)
    if layout == "framed":
        draw.rectangle([w * 0.05, h * 0.05, w * 0.95, h * 0.95], outline=ink, width=max(3, w // 60))
        draw.ellipse([w * 0.36, h * 0.56, w * 0.64, h * 0.56 + w * 0.28], fill=second)
        write(sheet, brand, (0.5, 0.3), 0.17, ink)
    elif layout == "banner":
        draw.rectangle([0, h * 0.32, w, h * 0.62], fill=ink)
        write(sheet, brand, (0.5, 0.47), 0.19, paper)
        draw.line([w * 0.2, h * 0.8, w * 0.8, h * 0.8], fill=second, width=max(4, h // 40))
    elif layout == "roundel":
        r = min(w, h) * 0.4
        draw.ellipse([w / 2 - r, h / 2 - r, w / 2 + r, h / 2 + r], fill=ink)
        draw.ellipse([w / 2 - r * 0.9, h / 2 - r * 0.9, w / 2 + r * 0.9, h / 2 + r * 0.9], outline=paper, width=4)
        write(sheet, brand, (0.5, 0.5), 0.14, paper)
    elif layout == "split":
        draw.rectangle([0, h * 0.55, w, h], fill=ink)
        write(sheet, brand, (0.5, 0.28), 0.2, ink)
        draw.polygon([(w * 0.3, h * 0.9), (w * 0.5, h * 0.62), (w * 0.7, h * 0.9)], fill=paper)
    elif layout == "columns":
        for x in (0.06, 0.16, 0.78, 0.88):
            draw.rectangle([w * x, 0, w * (x + 0.06), h], fill=second)
        write(sheet, brand[:3], (0.5, 0.4), 0.26, ink)
        write(sheet, "no. 5", (0.5, 0.72), 0.12, ink)
    else:
        for i, letters in enumerate((brand[:3], brand[3:] or "co")):
            write(sheet, letters, (0.5, 0.25 + 0.28 * i), 0.26, ink if i == 0 else second)
        draw.rectangle([w * 0.25, h * 0.76, w * 0.75, h * 0.84], fill=ink)
    return sheet.resize(size, Image.Resampling.LANCZOS)


def pasted(under: Picture, over: Picture, centre: tuple[float, float], wide: float, tall: float) -> Picture:
    """A copy of `under` with `over` on it; centre, width and height are shares of `under`."""
    picture = under.copy()
    box = (max(1, round(wide * under.width)), max(1, round(tall * under.height)))
    at = (round(centre[0] * under.width - box[0] / 2), round(centre[1] * under.height - box[1] / 2))
    picture.paste(over.resize(box, Image.Resampling.LANCZOS), at)
    return picture


def woven(picture: Picture, threads: int = 90, depth: float = 0.10) -> Picture:
    """The same picture as cloth: darkened between its threads."""
    tone = np.asarray(picture, np.float32)
    u, v = _grid(picture.size)
    weave = np.sin(u * 2 * np.pi * threads) * np.sin(v * 2 * np.pi * threads * picture.height / picture.width)
    grain = np.random.default_rng(5).normal(0.0, 0.35, tone.shape[:2])
    return Image.fromarray(np.clip(tone * (1.0 + depth * (weave + grain))[..., None], 0, 255).astype(np.uint8))
