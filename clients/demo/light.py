"""How light falls on what is visible: a sun-like key light, windows, sky and ground, in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clients.demo.mesh import Floats, Ints, Mesh, lit_from, unit
from clients.demo.raster import Camera, Visible


@dataclass(frozen=True, eq=False)
class Window:
    """A rectangular light that polished things reflect: its direction, half-width and half-height as tangents."""

    direction: Floats
    wide: float
    tall: float
    colour: Floats


@dataclass(frozen=True, eq=False)
class Lighting:
    """`key` (3,) points to the light; colours (3,) are linear RGB. `soft` from 0 (bare bulb) to 1 (overcast)."""

    key: Floats
    key_colour: Floats
    sky: Floats
    ground: Floats
    soft: float
    windows: tuple[Window, ...]
    lamp: float = 0.0  # the share of its full glow that a lamp in the picture gives

    @classmethod
    def drawn(cls, rng: np.random.Generator, ground: Floats) -> Lighting:
        """A random but plausible light; `ground` (3,) is the colour that the surface below throws back."""
        azimuth, height = rng.uniform(-np.pi * 0.85, np.pi * 0.85), rng.uniform(0.45, 1.25)
        key = np.array([np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)], np.float32)
        warmth = rng.normal(0.0, 0.13)
        warm = np.array([1.0 + warmth, 1.0, 1.0 - warmth], np.float32)
        soft = float(rng.uniform(0.1, 1.0))
        sky = (1.0 + 0.5 * (1.0 - warm)) * rng.uniform(0.35, 0.75) * (0.7 + 0.5 * soft)
        key_colour = warm * rng.uniform(0.8, 1.6) * (1.15 - 0.7 * soft)
        windows = []
        for turn in (azimuth + rng.normal(0.0, 0.15), rng.uniform(-np.pi, np.pi)):
            rise = rng.uniform(0.2, 0.9)
            way = np.array([np.cos(rise) * np.sin(turn), np.sin(rise), np.cos(rise) * np.cos(turn)], np.float32)
            colour = (warm * rng.uniform(1.2, 4.0)).astype(np.float32)
            windows.append(Window(way, rng.uniform(0.15, 0.6), rng.uniform(0.25, 0.8), colour))
        bounce = ground * (0.55 * sky + 0.3 * key_colour * key[1])
        return cls(key, key_colour.astype(np.float32), sky.astype(np.float32), bounce.astype(np.float32), soft,
                   tuple(windows), lamp=float(rng.uniform(0.7, 1.6)) if rng.random() < 0.5 else 0.0)  # fmt: skip

    def around(self, direction: Floats, blur: Floats) -> Floats:
        """(P, 3) light that arrives from `direction` (P, 3), seen in a surface of roughness `blur` (P, 1)."""
        share = np.clip(0.5 + direction[:, 1:2] / (0.12 + blur), 0.0, 1.0)
        lift = 0.65 + 0.5 * np.maximum(direction[:, 1:2], 0.0)
        light = self.ground + share * (self.sky * lift - self.ground)
        for window in self.windows:
            ahead = direction @ window.direction
            right = np.cross(window.direction, np.array([0.0, 1.0, 0.0], np.float32))
            right /= np.linalg.norm(right)
            up = np.cross(right, window.direction)
            depth = np.maximum(ahead, 1e-3)
            edge = 0.04 + 0.9 * blur[:, 0]
            across = np.clip(0.5 + (window.wide - np.abs(direction @ right) / depth) / edge, 0.0, 1.0)
            along = np.clip(0.5 + (window.tall - np.abs(direction @ up) / depth) / edge, 0.0, 1.0)
            weaker = 1.0 / (1.0 + 6.0 * blur[:, 0])
            light = light + (across * along * weaker * (ahead > 0.05))[:, None] * window.colour
        return np.asarray(light, np.float32)


def _textured(mesh: Mesh, of_material: Ints, uv: Floats) -> Floats:
    colour = np.empty((len(uv), 3), np.float32)
    for number, material in enumerate(mesh.materials):
        mine = np.flatnonzero(of_material == number)
        if len(mine):
            tall, wide = material.texture.shape[:2]
            column = (uv[mine, 0] * wide).astype(np.intp) % wide
            row = np.clip((uv[mine, 1] * tall).astype(np.intp), 0, tall - 1)
            colour[mine] = material.texture[row, column]
    return colour


def shade(mesh: Mesh, point: Floats, normal: Floats, seen: Visible, camera: Camera, light: Lighting) -> Floats:
    """(P, 3) linear RGB of the visible pixels, for a mesh whose vertices stand at `point` with `normal` (V, 3)."""
    shadow = np.zeros(len(point), np.float32)
    for nudge in ((0.0, 0.0), (0.14, -0.1), (-0.12, 0.12)):
        towards = light.key + np.array([nudge[0], 0.0, nudge[1]], np.float32) * (0.3 + light.soft)
        shadow += lit_from(point, normal, towards / np.linalg.norm(towards)) / 3
    vertex = np.concatenate([normal, point, mesh.uv, mesh.openness[:, None], shadow[:, None]], axis=1)
    value = seen.blend(mesh, vertex)
    n = unit(value[:, :3])
    where, uv, openness, lit = value[:, 3:6], value[:, 6:8], value[:, 8:9], value[:, 9:10]
    of_material = mesh.of_material[seen.cell]
    finish = np.array([(m.gloss, m.metal, m.glass, m.glow) for m in mesh.materials], np.float32)[of_material]
    gloss, metal, glass, glow = (finish[:, i : i + 1] for i in range(4))

    view = unit(camera.eye - where)
    facing = np.clip(np.einsum("pc,pc->p", n, view), 0.0, 1.0)[:, None]
    albedo = _textured(mesh, of_material, uv)
    albedo = albedo ** (1.0 + glass * (1.0 - facing) * 1.2)

    near_ground = np.clip(0.45 + where[:, 1:2] * 2.5, 0.0, 1.0)
    hollow = openness**1.3
    wrap = 0.25 * light.soft
    lambert = np.clip((n @ light.key + wrap) / (1.0 + wrap), 0.0, 1.0)[:, None] * lit
    up = 0.5 + 0.5 * n[:, 1:2]
    ambient = (light.ground + up * (light.sky - light.ground)) * hollow * (near_ground + (1 - near_ground) * up)
    diffuse = albedo * (ambient + lambert * light.key_colour)

    mirrored = 2.0 * facing * n - view
    fresnel = 0.04 + 0.96 * (1.0 - facing) ** 5 * gloss
    blur = (1.0 - gloss) ** 2
    strength = fresnel * gloss * (1.0 - metal) + metal * (0.75 + 0.25 * (1.0 - facing) ** 5)
    tint = 1.0 + metal * (albedo - 1.0)
    reflected = light.around(mirrored, blur) * strength * tint * (0.3 + 0.7 * hollow)
    half = unit(view + light.key)
    sharpness = 2.0 ** (2.0 + 8.0 * gloss)
    shine = np.clip(np.einsum("pc,pc->p", n, half), 0.0, 1.0)[:, None] ** sharpness * (sharpness + 8.0) / 60.0
    spark = np.minimum(shine, 2.5) * lit * light.key_colour * strength * tint * (1.0 - 0.8 * light.soft)
    return np.asarray(diffuse * (1.0 - metal) + reflected + spark + albedo * glow * light.lamp, np.float32)
