"""Charts as plain shapes: laid out once, rendered as SVG (`svg`) and as pixels (`png`).

Lengths are CSS pixels, x to the right, y downwards. A role says what a shape is, and the renderers say how that looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Role(StrEnum):
    """What a shape is."""

    TEXT = "text"
    FAINT = "faint"  # text that matters less
    GRID = "grid"
    AXIS = "axis"
    BAND = "band"  # the bounds of a share
    LINE = "line"  # the share itself
    REFERENCE = "reference"
    SWAP = "swap"
    SWAP_LINE = "swap-line"
    NEW = "new"
    OLD = "old"
    WHISKER = "whisker"


Spot = tuple[float, float]
Form = Literal["dot", "ring", "triangle", "hollow triangle", "square"]


@dataclass(frozen=True)
class Line:
    """Joined points."""

    points: Sequence[Spot]
    role: Role
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Area:
    """A filled outline."""

    points: Sequence[Spot]
    role: Role


@dataclass(frozen=True)
class Mark:
    """A sign at a spot, `size` from its middle to its edge; `title` says what it stands for."""

    at: Spot
    form: Form
    role: Role
    size: float = 3.5
    title: str = ""


@dataclass(frozen=True)
class Label:
    """Text on its baseline, which begins, centres or ends at the spot."""

    at: Spot
    text: str
    role: Role = Role.TEXT
    size: float = 12
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False


Shape = Line | Area | Mark | Label


@dataclass(frozen=True)
class Drawing:
    """Shapes on an area of that size, the later over the earlier, and in words what they show."""

    width: float
    height: float
    words: str
    shapes: Sequence[Shape]


def rectangle(left: float, top: float, width: float, height: float, role: Role) -> Area:
    right, bottom = left + width, top + height
    return Area([(left, top), (right, top), (right, bottom), (left, bottom)], role)
