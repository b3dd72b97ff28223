"""Grids of points (R, C, 3) for the shapes that products are made of. All wind so that their normals point outwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from clients.demo.mesh import Floats

Points = Sequence[Sequence[float]]


def spline(points: Points, samples: int = 40) -> Floats:
    """(samples, D): a Catmull-Rom curve through `points` (P, D)."""
    p = np.asarray(points, np.float64)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    at = np.linspace(0.0, len(p) - 3.0, samples)
    i = np.minimum(at.astype(np.intp), len(p) - 4)
    t = (at - i)[:, None]
    a, b, c, d = p[i], p[i + 1], p[i + 2], p[i + 3]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.asarray(curve.astype(np.float32), np.float32)


def bevelled(points: Points, radius: float = 0.03, step: float = 0.06) -> Floats:
    """(P, D): straight lines through `points` with corners rounded by about `radius`, in steps of at most `step`."""
    p = [np.asarray(point, np.float64) for point in points]
    path = [p[0]]
    for before, corner, after in zip(p, p[1:], p[2:], strict=False):
        into, out = before - corner, after - corner
        cut = min(radius, 0.45 * float(np.linalg.norm(into)), 0.45 * float(np.linalg.norm(out)))
        start = corner + into / np.linalg.norm(into) * cut
        end = corner + out / np.linalg.norm(out) * cut
        path += [(1 - t) ** 2 * start + 2 * t * (1 - t) * corner + t * t * end for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    path.append(p[-1])
    fine = [path[0]]
    for a, b in pairwise(path):
        pieces = max(1, int(np.ceil(float(np.linalg.norm(b - a)) / step)))
        fine += [a + (b - a) * (i + 1) / pieces for i in range(pieces)]
    return np.asarray(fine, np.float32)


def revolve(profile: Floats, columns: int = 72, lobes: int = 0, depth: float = 0.0) -> Floats:
    """A surface of revolution about y from `profile` (R, 2) of (radius, height), bottom to top for an outer wall.

    u = 0.5 faces +z. With `lobes`, the radius swells and shrinks that many times around by `depth`.
    """
    angle = (np.linspace(0.0, 1.0, columns) - 0.5) * 2 * np.pi
    radius = np.maximum(profile[:, :1], 1e-4) * (1.0 + depth * np.cos(lobes * angle))
    height = np.broadcast_to(profile[:, 1:], radius.shape)
    return np.stack([radius * np.sin(angle), height, radius * np.cos(angle)], axis=2).astype(np.float32)


def tube(path: Floats, radius: float | Floats, flatten: float = 1.0, columns: int = 18) -> Floats:
    """A tube along `path` (R, 3). `radius` is one number or (R,); `flatten` squeezes it across its second axis."""
    along = np.gradient(path.astype(np.float64), axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    side = np.cross(along[0], [0.13, 0.21, 0.97] if abs(along[0][2]) < 0.9 else [0.97, 0.21, 0.13])
    sides = []
    for direction in along:  # carried along the path without twisting
        side = side - direction * (side @ direction)
        side = side / np.linalg.norm(side)
        sides.append(side)
    first = np.asarray(sides)
    second = np.cross(along, first)
    angle = np.linspace(0.0, 2 * np.pi, columns)
    width = np.broadcast_to(np.asarray(radius, np.float64), (len(path),))[:, None, None]
    ring = first[:, None] * np.cos(angle)[None, :, None] * flatten + second[:, None] * np.sin(angle)[None, :, None]
    return np.asarray((path[:, None] + width * ring).astype(np.float32), np.float32)


def ribbon(path: Floats, across: Floats, width: float | Floats, thickness: float) -> Floats:
    """A flat band with rounded edges along `path` (R, 3); `across` (3,) is the direction of its width."""
    along = np.gradient(path.astype(np.float64), axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    out = np.cross(np.broadcast_to(across, along.shape), along)
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    angle = np.linspace(0.0, 2 * np.pi, 25)
    a = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.35
    b = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.6
    half = np.broadcast_to(np.asarray(width, np.float64), (len(path),))[:, None, None] / 2
    grid = path[:, None] + half * a[None, :, None] * across - thickness / 2 * b[None, :, None] * out[:, None]
    return grid.astype(np.float32)


def squircle(profile: Floats, aspect: float, power: float = 4.0, columns: int = 72) -> Floats:
    """As `revolve`, with a rounded-square plan: `aspect` is depth over width, `power` 2 an ellipse, 8 nearly a box."""
    angle = (np.linspace(0.0, 1.0, columns) - 0.5) * 2 * np.pi
    s, c = np.sin(angle), np.cos(angle)
    reach = (np.abs(s) ** power + np.abs(c) ** power) ** (-1.0 / power)
    radius = np.maximum(profile[:, :1], 1e-4)
    height = np.broadcast_to(profile[:, 1:], (len(profile), columns))
    return np.stack([radius * reach * s, height, radius * reach * c * aspect], axis=2).astype(np.float32)


def box(size: Sequence[float], bevel: float, steps: int = 10) -> list[Floats]:
    """The six faces of a box about the origin with rounded edges: front, back, right, left, top, bottom."""
    half = np.asarray(size, np.float64) / 2
    edge = np.array([0.0, 0.3, 0.7, 1.0]) * bevel
    faces = []
    for axis, sign in ((2, 1), (2, -1), (0, 1), (0, -1), (1, 1), (1, -1)):
        # Columns and rows run so that columns x rows points out of the face, and text on the sides reads upright.
        across, up = {2: (0, 1), 0: (2, 1), 1: (0, 2)}[axis]
        turn = sign if axis == 2 else -sign
        lines = []
        for side in (across, up):
            core = np.linspace(-(half[side] - bevel), half[side] - bevel, steps + 1)
            lines.append(np.concatenate([-half[side] + edge[:-1], core, half[side] - edge[::-1][1:]]))
        grid = np.zeros((len(lines[1]), len(lines[0]), 3))
        grid[..., across] = lines[0] * turn
        grid[..., up] = lines[1][:, None]
        grid[..., axis] = sign * half[axis]
        inner = np.clip(grid, -(half - bevel), half - bevel)
        out = grid - inner
        out /= np.maximum(np.linalg.norm(out, axis=2, keepdims=True), 1e-9)
        faces.append((inner + bevel * out).astype(np.float32))
    return faces


def moved(grid: Floats, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Floats:
    return grid + np.array([x, y, z], np.float32)


def pitched(grid: Floats, angle: float) -> Floats:
    """Turned about x: a positive angle (radians) leans the top towards +z."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray((grid @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])).astype(np.float32), np.float32)


def planar(grid: Floats, across: int, up: int) -> Floats:
    """Texture coordinates (R, C, 2) that look straight at a grid: u along axis `across`, v down axis `up`."""
    low, high = grid.min(axis=(0, 1)), grid.max(axis=(0, 1))
    span = np.maximum(high - low, 1e-6)
    u = (grid[..., across] - low[across]) / span[across]
    v = 1.0 - (grid[..., up] - low[up]) / span[up]
    return np.stack([u, v], axis=2).astype(np.float32)
