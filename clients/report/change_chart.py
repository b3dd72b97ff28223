"""Forgetting against learning as a drawing: for each swap two bars, with the bounds of each change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clients.report.drawing import Drawing, Label, Line, Mark, Role, Shape, Spot, rectangle
from clients.report.figures import Change, SwapChange
from clients.report.words import counted, day_and_minute, points

WIDE, NARROW = 960.0, 320.0
MOST = 12  # swaps in the chart, the newest; the table beside it has all

_HEAD, _ROW, _FOOT = 28.0, 62.0, 26.0
_BAR, _GAP = 13.0, 5.0
_LEFT, _VALUES = 16.0, 56.0  # room at the left, and for the figures at the right
_SMALL = 11.0


@dataclass(frozen=True)
class _Scale:
    """Where a change lies, from left to right."""

    low: float
    high: float
    left: float
    right: float

    def x(self, change: float) -> float:
        return self.left + (change - self.low) / (self.high - self.low) * (self.right - self.left)


def change_chart(changes: Sequence[SwapChange], width: float = WIDE) -> Drawing:
    """The newest changes, oldest first; of some swap at least one of the two must be known. Errors: ValueError."""
    shown = changes[-MOST:]
    ends = [end for each in shown for change in _known(each) for end in change.interval]
    if not ends:
        raise ValueError("no change is known")
    scale = _Scale(_down(min(*ends, -0.05)), -_down(-max(*ends, 0.05)), _LEFT, width - _VALUES)
    height = _HEAD + _ROW * len(shown) + _FOOT
    shapes = [*_legend(), *_grid(scale, height - _FOOT, width)]
    for row, each in enumerate(shown):
        shapes += _row(each, _HEAD + row * _ROW, scale, width)
    return Drawing(width, height, " ".join(change_words(each) for each in shown), shapes)


def _known(each: SwapChange) -> list[Change]:
    return [change for change in (each.learning, each.forgetting) if change is not None]


def _down(change: float) -> float:
    """The next lower multiple of five points."""
    return math.floor(change * 20 + 1e-9) / 20


def _legend() -> Iterator[Shape]:
    yield _sign(Role.NEW, (8, 10), 5)
    yield Label((18, 14), "new cohort")
    yield _sign(Role.OLD, (110, 10), 5)
    yield Label((120, 14), "old cohorts")


def _sign(role: Role, at: Spot, size: float) -> Mark:
    """What tells the two bars apart without colour."""
    return Mark(at, "square" if role is Role.NEW else "dot", role, size)


def _grid(scale: _Scale, bottom: float, width: float) -> Iterator[Shape]:
    span = scale.high - scale.low
    room = (scale.right - scale.left) / 44  # labels that fit
    step = next(step for step in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if span / step <= max(2.0, room))
    for number in range(math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9) + 1):
        x = scale.x(number * step)
        role = Role.GRID if number else Role.AXIS
        yield Line([(x, _HEAD), (x, bottom)], role, 1 if number else 1.5)
        text = f"{100 * number * step:+.0f}".replace("-", "−") if number else "0"
        yield Label((x, bottom + 16), text, Role.FAINT, _SMALL, "middle")
    yield Label((width - 2, bottom + 16), "points", Role.FAINT, _SMALL, "end")


def _row(each: SwapChange, top: float, scale: _Scale, width: float) -> Iterator[Shape]:
    swap = each.swap
    name = f"gen {swap.generation.number}, cohort {swap.cohort}"
    yield Label((2, top + 18), name, size=12, bold=True)
    yield Label((2 + 7.2 * len(name), top + 18), day_and_minute(swap.at), Role.FAINT, _SMALL)
    yield from _bar(each.learning, top + 25, Role.NEW, scale, width)
    yield from _bar(each.forgetting, top + 25 + _BAR + _GAP, Role.OLD, scale, width)


def _bar(change: Change | None, top: float, role: Role, scale: _Scale, width: float) -> Iterator[Shape]:
    middle = top + _BAR / 2
    yield _sign(role, (6, middle), 4)
    if change is None:
        yield Label((scale.x(0) + 6, middle + 4), "not measured", Role.FAINT, _SMALL)
        return
    left, right = sorted((scale.x(0), scale.x(change.value)))
    yield rectangle(left, top, max(right - left, 1.0), _BAR, role)
    low, high = (scale.x(end) for end in change.interval)
    yield Line([(low, middle), (high, middle)], Role.WHISKER, 1.5)
    for end in (low, high):
        yield Line([(end, middle - 4), (end, middle + 4)], Role.WHISKER, 1.5)
    yield Label((width - 2, middle + 4), points(change.value), Role.TEXT, 12, "end", True)


def change_words(each: SwapChange) -> str:
    """One swap's changes in a sentence."""
    swap = each.swap
    return (
        f"Swap to generation {swap.generation.number} at {day_and_minute(swap.at)} UTC: "
        f"new cohort {swap.cohort} {_change_words(each.learning)}, old cohorts {_change_words(each.forgetting)}."
    )


def _change_words(change: Change | None) -> str:
    if change is None:
        return "not measured on both sides"
    return f"{points(change.value)} points, of {counted(change.after.probes, 'probe')}"
