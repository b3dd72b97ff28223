"""Where products are photographed: a surface they stand on and what is behind it, in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from clients.demo.mesh import Floats
from clients.demo.raster import Camera

_TILE = 512


@lru_cache(maxsize=32)
def _noise(seed: int, slope: float = 1.0, stretch: float = 1.0) -> Floats:
    """(512, 512) tileable fractal noise of mean 0 and deviation 1, drawn out along x by `stretch`."""
    rng = np.random.default_rng(seed)
    fy = np.fft.fftfreq(_TILE)[:, None] * _TILE
    fx = np.fft.rfftfreq(_TILE)[None, :] * _TILE * stretch
    falloff = (1.0 + fx**2 + fy**2) ** (-slope / 2 - 0.5)
    falloff[0, 0] = 0.0
    phase = np.exp(2j * np.pi * rng.random((_TILE, _TILE // 2 + 1)))
    noise = np.fft.irfft2(falloff * phase, s=(_TILE, _TILE))
    return np.asarray(noise / noise.std(), np.float32)


def _mix(share: Floats, dark: tuple[float, ...], bright: tuple[float, ...]) -> Floats:
    share = np.clip(share, 0.0, 1.0)[..., None]
    return np.asarray(dark, np.float32) * (1 - share) + np.asarray(bright, np.float32) * share


def _wood(variant: int) -> Floats:
    dark, bright = (((0.10, 0.045, 0.018), (0.32, 0.17, 0.075)), ((0.30, 0.19, 0.10), (0.58, 0.42, 0.26)),
                    ((0.20, 0.17, 0.14), (0.45, 0.41, 0.36)))[variant % 3]  # fmt: skip
    grain = np.sin(3.0 * _noise(variant, 1.4, 9.0) + np.arange(_TILE)[:, None] * 0.09) * 0.25
    sheet = _mix(0.5 + grain + 0.13 * _noise(variant + 50, 0.3, 20.0), dark, bright)
    planks = np.arange(_TILE)[:, None] * 4 // _TILE
    tone = np.random.default_rng(variant).uniform(0.8, 1.15, 4)[planks]
    gap = (np.arange(_TILE)[:, None] * 4 % _TILE) < 10
    return np.asarray(sheet * np.where(gap, 0.35, tone)[..., None], np.float32)


def _marble(variant: int) -> Floats:
    vein = np.exp(-np.abs(_noise(variant + 100, 1.3)) * (9.0, 14.0)[variant % 2])
    veil = 0.5 + 0.25 * _noise(variant + 110, 1.6)
    stone, line = (((0.78, 0.77, 0.75), (0.30, 0.30, 0.32)), ((0.05, 0.055, 0.06), (0.55, 0.53, 0.48)),
                   ((0.20, 0.30, 0.24), (0.6, 0.65, 0.58)))[variant % 3]  # fmt: skip
    return _mix(0.75 * vein * veil + 0.12 * veil, stone, line)


def _fabric(variant: int) -> Floats:
    y, x = np.mgrid[0:_TILE, 0:_TILE] * (2 * np.pi / _TILE)
    weave = np.sin(64 * x) * np.sin(64 * y) * 0.22 + 0.14 * _noise(variant + 200, 0.2)
    colour = ((0.55, 0.50, 0.42), (0.09, 0.13, 0.22), (0.42, 0.13, 0.11), (0.33, 0.37, 0.30))[variant % 4]
    stripe = 0.35 * (np.sin(8 * x) > 0.7) if variant % 2 else 0.0
    sheet = np.asarray(colour) * (0.85 + weave + 0.12 * _noise(variant + 210, 1.2) + stripe)[..., None]
    return np.asarray(np.clip(sheet, 0.01, 0.95).astype(np.float32), np.float32)


def _concrete(variant: int) -> Floats:
    tone = 0.36 + 0.022 * _noise(variant + 300, 0.5) + 0.014 * _noise(variant + 310, 1.4)
    tint = ((1.0, 1.0, 1.0), (1.08, 1.0, 0.9), (0.55, 0.6, 0.66))[variant % 3]
    return np.asarray(np.clip(tone[..., None] * np.asarray(tint), 0.02, 0.9).astype(np.float32), np.float32)


def _tiles(variant: int) -> Floats:
    y, x = np.mgrid[0:_TILE, 0:_TILE]
    joint = (x % 128 < 5) | (y % 128 < 5)
    glaze = ((0.70, 0.72, 0.72), (0.16, 0.30, 0.36), (0.62, 0.50, 0.38))[variant % 3]
    tone = 1.0 + 0.07 * _noise(variant + 400, 0.9)
    return np.asarray(np.where(joint[..., None], 0.36, tone[..., None] * np.asarray(glaze)), np.float32)


def _grass(variant: int) -> Floats:
    """A rug or lawn: short strands in every direction."""
    strands = 0.5 + 0.3 * _noise(variant + 500, 0.0, 4.0) * 0.7 + 0.2 * _noise(variant + 510, 0.9)
    dark, bright = (((0.03, 0.07, 0.015), (0.20, 0.30, 0.07)), ((0.25, 0.22, 0.19), (0.62, 0.58, 0.52)))[variant % 2]
    return _mix(strands, dark, bright)


_SURFACES = {"wood": _wood, "marble": _marble, "fabric": _fabric, "concrete": _concrete, "tiles": _tiles, "rug": _grass}
_WALLS = ("concrete", "tiles", "wood", "fabric")


@lru_cache(maxsize=48)
def _sheet(kind: str, variant: int) -> Floats:
    return _SURFACES[kind](variant)


def _room(rng: np.random.Generator, size: int) -> Floats:
    """(size, size, 3) a room or street far out of focus: big shapes, and lights that become discs."""
    tone = rng.uniform(0.06, 0.5)
    hue = rng.uniform(0.75, 1.25, 3)
    small = 96
    picture = Image.new("RGB", (small, small), tuple(int(255 * min(1.0, tone * c) ** 0.45) for c in hue))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(6, 16))):
        x, y, w, h = rng.uniform(-10, small), rng.uniform(-10, small), rng.uniform(5, 40), rng.uniform(8, 60)
        shape = draw.rectangle if rng.random() < 0.7 else draw.ellipse
        shape(
            [x, y, x + w, y + h],
            fill=tuple(int(v) for v in rng.uniform(25, 200) * rng.uniform(0.82, 1.15, 3) * (1.05, 1.0, 0.92)),
        )
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 5.0)))
    lights = Image.new("L", (size, size))
    draw = ImageDraw.Draw(lights)
    radius = rng.uniform(0.015, 0.05) * size
    for _ in range(int(rng.integers(0, 14))):
        x, y = rng.uniform(0, size, 2)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=int(rng.uniform(30, 200)))
    glow = np.asarray(lights.filter(ImageFilter.GaussianBlur(1.2)), np.float32)[..., None] / 255
    base = (np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255) ** 2.2
    return np.asarray(base + glow * np.array([1.0, 0.8, 0.55], np.float32), np.float32)


def _shelf(rng: np.random.Generator, size: int) -> Floats:
    """(size, size, 3) rows of goods on shelves, out of focus."""
    picture = Image.new("RGB", (size, size), tuple(int(v) for v in rng.uniform(30, 110) * rng.uniform(0.8, 1.2, 3)))
    draw = ImageDraw.Draw(picture)
    rows = int(rng.integers(2, 5))
    board = tuple(int(v) for v in rng.uniform(70, 210) * np.array([1.0, 0.92, 0.8]))
    for row in range(rows):
        floor = size * (row + 1) / rows
        x = rng.uniform(-20, 0)
        while x < size:
            wide, tall = rng.uniform(0.04, 0.14) * size, rng.uniform(0.4, 0.85) * size / rows
            colour = tuple(int(v) for v in np.clip(rng.uniform(30, 215) * rng.uniform(0.65, 1.15, 3), 0, 255))
            draw.rounded_rectangle([x, floor - tall, x + wide, floor], radius=wide * rng.uniform(0, 0.5), fill=colour)
            x += wide * rng.uniform(1.02, 1.5)
        draw.rectangle([0, floor - 6, size, floor + 2], fill=board)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(2.0, 6.0)))
    return (np.asarray(picture, np.float32) / 255) ** 2.2


@dataclass(frozen=True, eq=False)
class Backdrop:
    """A floor of one kind and a wall, room, shelf or sweep behind it. `gloss`: how much the floor mirrors."""

    floor: str
    variant: int
    behind: str
    tint: Floats
    scale: float
    gloss: float
    distance: float
    turn: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Backdrop:
        kinds = ("sweep", *_SURFACES)
        floor = str(rng.choice(kinds, p=[0.22, 0.22, 0.13, 0.16, 0.11, 0.08, 0.08]))
        behind = "sweep" if floor == "sweep" else str(rng.choice(("room", "shelf", "wall"), p=[0.45, 0.2, 0.35]))
        tint = rng.uniform(0.75, 1.1) * rng.uniform(0.92, 1.08, 3)
        if floor == "sweep":
            tint = (rng.uniform(0.08, 0.9) ** 0.8) * rng.uniform(0.8, 1.12, 3)
        return cls(floor, int(rng.integers(6)), behind, tint.astype(np.float32), float(rng.uniform(0.13, 0.3)),
                   float({"marble": 0.35, "tiles": 0.25, "wood": 0.12, "sweep": 0.1}.get(floor, 0.0) * rng.random()),
                   float(rng.uniform(1.0, 3.5)), float(rng.uniform(0, np.pi)))  # fmt: skip

    @property
    def bounce(self) -> Floats:
        """(3,) the colour that the floor throws back at what stands on it."""
        if self.floor == "sweep":
            return self.tint
        return np.asarray(_sheet(self.floor, self.variant).mean(axis=(0, 1)) * self.tint, np.float32)

    def paint(self, rng: np.random.Generator, camera: Camera, size: int) -> tuple[Floats, Floats]:
        """(size, size, 3) reflectance of floor and background, and (size, size) 1 on the floor, 0 elsewhere."""
        ray = camera.rays(size)
        down = np.where(ray[..., 1] < -1e-4, -camera.eye[1] / np.minimum(ray[..., 1], -1e-4), np.inf)
        back = camera.turn[2].copy()
        back[1] = 0.0
        back /= np.linalg.norm(back)
        # The wall is upright and square to the camera, `distance` behind the product.
        beyond = (self.distance + float(camera.eye @ back)) / np.maximum(-(ray @ back), 1e-4)
        on_floor = (down < beyond).astype(np.float32)
        hit = camera.eye + ray * np.minimum(down, beyond)[..., None]
        if self.floor == "sweep":
            bend = np.clip((hit @ back + self.distance) / self.distance, 0.0, 1.0)
            fade = 1.0 - 0.22 * (1.0 - bend) * on_floor - 0.22 * (1 - on_floor)
            fade = fade - 0.05 * (1 - on_floor) * hit[..., 1]
            return np.maximum(fade, 0.1)[..., None] * self.tint, on_floor
        c, s = np.cos(self.turn), np.sin(self.turn)
        offset = rng.random(2)
        x = (hit[..., 0] * c + hit[..., 2] * s) * self.scale + offset[0]
        y = (hit[..., 2] * c - hit[..., 0] * s) * self.scale + offset[1]
        ground = _sampled(_sheet(self.floor, self.variant), x, y) * self.tint
        if self.behind == "wall":
            kind, variant, tone = str(rng.choice(_WALLS)), int(rng.integers(6)), rng.uniform(0.5, 1.2)
            along = np.cross(np.array([0.0, 1.0, 0.0]), back)
            wall = _sampled(_sheet(kind, variant), (hit @ along) * self.scale, hit[..., 1] * self.scale) * tone
        else:
            wall = (_room if self.behind == "room" else _shelf)(rng, size)
        return np.where(on_floor[..., None] > 0, ground, wall).astype(np.float32), on_floor


def _sampled(sheet: Floats, x: Floats, y: Floats) -> Floats:
    column, row = (x * _TILE).astype(np.intp) % _TILE, (y * _TILE).astype(np.intp) % _TILE
    return sheet[row, column]
