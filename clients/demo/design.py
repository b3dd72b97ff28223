"""What tells categories apart: traits. Categories come in lines of four that share all but a few traits, so that the
nearest neighbours of a product are its siblings, as in a real catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from clients.demo.mesh import Part
from clients.demo.textures import PALETTE, Colour

T = TypeVar("T")

_LINE = 4  # categories in a line
_CHANGES = 3  # traits in which a sibling differs from the line's first category


@dataclass(frozen=True)
class Traits:
    """Named numbers from 0 to 1, read as choices, measures or colours; and the brand that the line carries."""

    values: dict[str, float]
    brand: str

    def pick(self, name: str, options: Sequence[T]) -> T:
        return options[int(self.values[name] * len(options))]

    def between(self, name: str, low: float, high: float) -> float:
        return low + self.values[name] * (high - low)

    def shade(self, name: str) -> str:
        """The name of a colour."""
        return self.pick(name, tuple(PALETTE))

    def colour(self, name: str, unlike: str | None = None) -> Colour:
        """A colour near a named one; another one where it would be the colour of the trait `unlike`."""
        names = tuple(PALETTE)
        place = int(self.values[name] * len(names))
        if unlike is not None and int(self.values[unlike] * len(names)) == place:
            place = (place + 5) % len(names)
        # The place within the named colour's share of the range shifts its tone a little.
        shift = ((self.values[name] * len(names)) % 1.0 - 0.5) * 24
        red, green, blue = (int(np.clip(c + shift, 8, 247)) for c in PALETTE[names[place]])
        return red, green, blue


@dataclass(frozen=True)
class Family:
    """Products of one kind: the traits they differ in, how to build one, and how they are usually photographed.

    `traits` are names with spaces between. `elevation` and `yaw` are (low, high) in radians: the camera's height, and
    the product's turn about its axis.
    """

    name: str
    traits: str
    build: Callable[[Traits], list[Part]]
    elevation: tuple[float, float] = (0.08, 0.65)
    yaw: tuple[float, float] = (-1.1, 1.1)
    mirrored: bool = False  # left and right ones look alike


def traits_of(family: Family, place: int, key: Sequence[int]) -> Traits:
    """The traits of the `place`-th category of a family; `key` are the numbers that seed the family."""
    line, sibling = divmod(place, _LINE)
    rng = np.random.default_rng([*key, line])
    names = family.traits.split()
    values = {name: float(rng.random()) for name in names}
    brand = "".join(
        str(rng.choice(("lo", "ka", "mi", "ver", "sol", "no", "tan", "bri", "fje", "ul", "pa", "re"))) for _ in range(2)
    )
    order = [names[i] for i in rng.permutation(len(names))]
    moves = rng.uniform(0.36, 0.64, len(order))
    # Siblings change different traits (the list is gone round), so that no two of them are the same product.
    for i in range((sibling - 1) * _CHANGES, sibling * _CHANGES):
        if sibling:
            name = order[i % len(order)]
            values[name] = float((values[name] + moves[i % len(order)] + 0.11 * (i // len(order))) % 1.0)
    return Traits(values, brand)
