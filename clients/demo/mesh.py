"""What the renderer draws: parts (a grid of points with a material), and the mesh that a product's parts make together.

Lengths are in units of the product's bounding radius once it is a mesh; y is up, z is towards the camera, and the
product stands on y = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # float32 wherever there is one for each pixel
Mask = NDArray[np.bool_]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Material:
    """How a surface answers light. `texture`: (H, W, 3) linear RGB, around by u and from top to bottom by v."""

    texture: Floats
    gloss: float = 0.3  # 0 chalk, 1 polished
    metal: float = 0.0  # 1: no diffuse light, and reflections take the surface's colour
    glass: float = 0.0  # 1: colour deepens towards the rim, as in tinted glass or liquid
    glow: float = 0.0  # light given off when the lamp is on


@dataclass(frozen=True, eq=False)
class Part:
    """One surface: `grid` (R, C, 3), seen from the side to which cross(along columns, along rows) points.

    `uv` (R, C, 2) lays out the texture; without it u runs along the columns and v from the last row (0) to the first.
    """

    grid: Floats
    material: Material
    uv: Floats | None = None

    def layout(self) -> Floats:
        if self.uv is not None:
            return self.uv
        columns = self.grid.shape[1]
        steps = np.linalg.norm(np.diff(self.grid, axis=0), axis=2).mean(axis=1)
        down = 1.0 - np.concatenate([[0.0], np.cumsum(steps)]) / max(float(steps.sum()), 1e-6)
        u, v = np.meshgrid(np.linspace(0.0, 1.0, columns), down)
        return np.stack([u, v], axis=2).astype(np.float32)

    def normals(self) -> Floats:
        """Unit normals (R, C, 3), smooth across the seam of a surface that closes on itself."""
        grid = self.grid.astype(np.float64)
        along = np.gradient(grid, axis=1)
        if np.allclose(grid[:, 0], grid[:, -1], atol=1e-5):
            along[:, 0] = along[:, -1] = (grid[:, 1] - grid[:, -2]) / 2
        normal = np.cross(along, np.gradient(grid, axis=0))
        return np.asarray(
            (normal / np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-9)).astype(np.float32), np.float32
        )


@dataclass(frozen=True, eq=False)
class Mesh:
    """Quadrilateral cells over shared vertices.

    point, normal: (V, 3); uv: (V, 2); cell: (N, 4) vertex numbers in the order (0,0), (0,1), (1,0), (1,1) of row and
    column; of_material: (N,) numbers into `materials`.
    """

    point: Floats
    normal: Floats
    uv: Floats
    cell: Ints
    of_material: Ints
    materials: tuple[Material, ...] = field(repr=False)

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Mesh:
        cells, owners, start = [], [], 0
        for number, part in enumerate(parts):
            rows, columns = part.grid.shape[:2]
            index = np.arange(rows * columns).reshape(rows, columns) + start
            quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]], axis=2)
            cells.append(quads.reshape(-1, 4))
            owners.append(np.full((rows - 1) * (columns - 1), number))
            start += rows * columns
        point = np.concatenate([part.grid.reshape(-1, 3) for part in parts]).astype(np.float32)
        low, high = point.min(axis=0), point.max(axis=0)
        middle = (low + high) / 2
        middle[1] = low[1]
        radius = float(np.linalg.norm(high - low)) / 2
        return cls(
            point=(point - middle) / radius,
            normal=np.concatenate([part.normals().reshape(-1, 3) for part in parts]),
            uv=np.concatenate([part.layout().reshape(-1, 2) for part in parts]),
            cell=np.concatenate(cells),
            of_material=np.concatenate(owners),
            materials=tuple(part.material for part in parts),
        )

    @property
    def height(self) -> float:
        return float(self.point[:, 1].max())

    @cached_property
    def openness(self) -> Floats:
        """(V,) the share of the sky and surroundings that each vertex sees, from 0 to 1: ambient occlusion."""
        golden = np.pi * (3.0 - np.sqrt(5.0))
        seen = np.zeros(len(self.point), np.float32)
        weight = np.full(len(self.point), 1e-3, np.float32)
        for i in range(32):
            y = 1.0 - 1.5 * (i + 0.5) / 32
            ring = np.sqrt(1.0 - y * y)
            direction = np.array([ring * np.cos(golden * i), y, ring * np.sin(golden * i)], np.float32)
            facing = np.maximum(self.normal @ direction, 0.0)
            seen += facing * lit_from(self.point, self.normal, direction)
            weight += facing
        return np.asarray(np.clip(seen / weight, 0.0, 1.0), np.float32)


def unit(vectors: Floats) -> Floats:
    """(N, 3) vectors of length 1; one of no length stays so."""
    length = np.sqrt(np.einsum("nc,nc->n", vectors, vectors))
    return np.asarray(vectors / np.maximum(length, 1e-6)[:, None], np.float32)


def lit_from(point: Floats, normal: Floats, direction: Floats, cells: int = 44, slack: float = 0.11) -> Floats:
    """(V,) 1 where nothing of the same point cloud stands between a point and a far light in `direction`, else 0.

    A depth map of `cells` x `cells` over the cloud. `slack` is the depth within which a surface does not shade itself;
    points are looked up half of that off their surface.
    """
    aside = np.cross(direction, np.array([0.31, 0.17, 0.93], np.float32))
    aside /= np.sqrt(aside @ aside)
    axes = np.stack([aside, np.cross(direction, aside), direction], axis=1).astype(np.float32)
    cloud, raised = point @ axes, (point + normal * np.float32(slack / 2)) @ axes
    low, high = cloud[:, :2].min(axis=0), cloud[:, :2].max(axis=0)
    scale = (cells - 3) / max(float((high - low).max()), 1e-6)

    def place(seen: Floats) -> tuple[Ints, Ints]:
        cell = np.clip((seen[:, :2] - low) * scale + 1.0, 0.0, cells - 1.0).astype(np.intp)
        return cell[:, 0], cell[:, 1]

    nearest = np.full((cells, cells), -np.inf, np.float32)
    np.maximum.at(nearest, place(cloud), cloud[:, 2])
    return np.asarray(raised[:, 2] + slack >= nearest[place(raised)], np.float32)
