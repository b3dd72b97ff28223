"""From a mesh to pixels: cells are diced into points finer than a pixel and kept by depth, as in the Reyes renderer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clients.demo.mesh import Floats, Ints, Mesh

_DICES = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48])
_POINTS_PER_PIXEL = 1.4  # in each direction: fewer leave holes


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera. `turn` (3, 3): rows are its right, up and backward axes; lengths on the picture are in picture
    widths, from the top left."""

    eye: Floats
    turn: Floats
    focal: float
    centre: tuple[float, float]

    @classmethod
    def aimed(
        cls,
        target: Floats,
        *,
        elevation: float,
        roll: float,
        distance: float,
        focal: float,
        centre: tuple[float, float],
    ) -> Camera:
        """Looks at `target` from in front (+z) and `elevation` (radians) above, with the target at `centre`."""
        c, s = np.cos(elevation), np.sin(elevation)
        back, up, right = np.array([0.0, s, c]), np.array([0.0, c, -s]), np.array([1.0, 0.0, 0.0])
        c, s = np.cos(roll), np.sin(roll)
        turn = np.stack([c * right + s * up, c * up - s * right, back]).astype(np.float32)
        return cls((target + distance * back).astype(np.float32), turn, focal, centre)

    def project(self, point: Floats) -> Floats:
        """(V, 3) points to (V, 3): x to the right and y down in picture widths, and depth."""
        seen = (point - self.eye) @ self.turn.T
        depth = np.maximum(-seen[:, 2], 1e-3)
        x = self.centre[0] + self.focal * seen[:, 0] / depth
        y = self.centre[1] - self.focal * seen[:, 1] / depth
        return np.stack([x, y, depth], axis=1)

    def rays(self, size: int) -> Floats:
        """(size, size, 3) directions, not normalised, from the eye through the middle of each pixel."""
        at = (np.arange(size, dtype=np.float32) + 0.5) / size
        x, y = np.meshgrid((at - self.centre[0]) / self.focal, (self.centre[1] - at) / self.focal)
        return np.stack([x, y, np.full_like(x, -1.0)], axis=2) @ self.turn


@dataclass(frozen=True, eq=False)
class Visible:
    """The nearest surface of each covered pixel: which pixel, which cell, and the weights (P, 4) of its corners."""

    pixel: Ints
    cell: Ints
    weights: Floats

    def blend(self, mesh: Mesh, of_vertex: Floats) -> Floats:
        """(P, C) values between those of the vertices (V, C)."""
        corners = of_vertex[mesh.cell[self.cell]]
        return np.asarray(np.einsum("pk,pkc->pc", self.weights, corners), np.float32)


def rasterise(mesh: Mesh, point: Floats, camera: Camera, size: int) -> Visible:
    """What a picture of `size` x `size` pixels shows of `mesh` with its vertices at `point` (V, 3)."""
    place = camera.project(point)
    place[:, :2] *= size
    quad = place[mesh.cell]
    one, two = quad[:, 3, :2] - quad[:, 0, :2], quad[:, 2, :2] - quad[:, 1, :2]
    area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]  # y points down, so what faces the camera turns the other way
    front = np.flatnonzero(area < 0)
    quad = quad[front]
    low = np.minimum(np.minimum(quad[:, 0], quad[:, 1]), np.minimum(quad[:, 2], quad[:, 3]))
    high = np.maximum(np.maximum(quad[:, 0], quad[:, 1]), np.maximum(quad[:, 2], quad[:, 3]))
    within = (high[:, 0] > 0) & (high[:, 1] > 0) & (low[:, 0] < size) & (low[:, 1] < size)
    front, quad = front[within], quad[within]
    wide = np.maximum(_lengths(quad[:, 1] - quad[:, 0]), _lengths(quad[:, 3] - quad[:, 2]))
    tall = np.maximum(_lengths(quad[:, 2] - quad[:, 0]), _lengths(quad[:, 3] - quad[:, 1]))
    dice = np.minimum(np.searchsorted(_DICES, np.stack([wide, tall]) * _POINTS_PER_PIXEL), len(_DICES) - 1)
    kind = dice[0] * len(_DICES) + dice[1]

    places, cells, weights = [], [], []
    for each in np.unique(kind):
        chosen = np.flatnonzero(kind == each)
        blend = _weights(int(_DICES[each // len(_DICES)]), int(_DICES[each % len(_DICES)]))
        places.append(np.matmul(blend, quad[chosen]).reshape(-1, 3))
        cells.append(np.repeat(front[chosen], len(blend)))
        weights.append(np.tile(blend, (len(chosen), 1)))
    if not places:
        return Visible(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros((0, 4), np.float32))
    return _nearest(np.concatenate(places), np.concatenate(cells), np.concatenate(weights), size)


def _nearest(place: Floats, cell: Ints, weights: Floats, size: int) -> Visible:
    column, row = place[:, 0].astype(np.intp), place[:, 1].astype(np.intp)
    inside = np.flatnonzero((place[:, 0] >= 0) & (place[:, 1] >= 0) & (column < size) & (row < size))
    pixel, depth = (row * size + column)[inside], place[inside, 2]
    nearest = np.full(size * size, np.inf, np.float32)
    np.minimum.at(nearest, pixel, depth)
    winner = np.full(size * size, -1, np.intp)
    wins = depth <= nearest[pixel]
    winner[pixel[wins]] = inside[wins]
    covered = np.flatnonzero(winner >= 0)
    return Visible(covered, cell[winner[covered]], weights[winner[covered]])


def _lengths(edge: Floats) -> Floats:
    return np.hypot(edge[:, 0], edge[:, 1])


def _weights(wide: int, tall: int) -> Floats:
    """(wide * tall, 4) bilinear weights of a cell's corners at the middles of its pieces."""
    s = np.tile((np.arange(wide) + 0.5) / wide, tall)
    t = np.repeat((np.arange(tall) + 0.5) / tall, wide)
    return np.stack([(1 - s) * (1 - t), s * (1 - t), (1 - s) * t, s * t], axis=1).astype(np.float32)


def ground_shadow(
    mesh: Mesh, point: Floats, camera: Camera, towards_light: Floats, size: int, reach: float = 4.0
) -> Floats:
    """(size, size) 1 where the mesh, lit from `towards_light`, throws its shadow on the ground y = 0, hard-edged."""
    solid = np.concatenate([point, point[mesh.cell].mean(axis=1)])
    fall = solid[:, 1:2] / max(float(towards_light[1]), 0.2)
    ground: Floats = solid - np.minimum(fall, reach) * towards_light
    ground[:, 1] = 0.0
    place = camera.project(ground)[:, :2] * size
    inside = ((place >= 0) & (place < size)).all(axis=1)
    hit = place[inside].astype(np.intp)
    mask = np.zeros((size, size), np.float32)
    mask[hit[:, 1], hit[:, 0]] = 1.0
    return mask
