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

_HEAD, _FOOT = 28.0, 26.0
_BAR, _GAP, _MARGIN = 13.0, 5.0, 7.0  # two bars, the room between them, and that above and below
_NAME = 20.0  # height of a swap's name above its bars, where there is no room beside them
_NAMES, _SIGNS, _VALUES = 178.0, 16.0, 56.0  # widths: of the names at the left, the signs, the figures at the right
_SMALL = 11.0


@dataclass(frozen=True)
class _Frame:
    """Where a change lies, from left to right, and whether there is room for names beside the bars."""

    low: float
    high: float
    width: float

    @property
    def beside(self) -> bool:
        return self.width >= 2 * NARROW

    @property
    def left(self) -> float:
        return _SIGNS + (_NAMES if self.beside else 0.0)

    @property
    def right(self) -> float:
        return self.width - _VALUES

    @property
    def row(self) -> float:
        """Height of a row."""
        return 2 * (_MARGIN + _BAR) + _GAP + (0.0 if self.beside else _NAME)

    def x(self, change: float) -> float:
        return self.left + (change - self.low) / (self.high - self.low) * (self.right - self.left)


def change_chart(changes: Sequence[SwapChange], width: float = WIDE) -> Drawing:
    """The newest changes, oldest first; of some swap at least one of the two must be known. Errors: ValueError."""
    shown = changes[-MOST:]
    ends = [end for each in shown for change in _known(each) for end in change.interval]
    if not ends:
        raise ValueError("no change is known")
    frame = _Frame(_down(min(*ends, -0.05)), -_down(-max(*ends, 0.05)), width)
    bottom = _HEAD + frame.row * len(shown)
    shapes = [*_legend(), *_scale(frame, bottom)]
    for row, each in enumerate(shown):
        shapes += _row(each, _HEAD + row * frame.row, frame)
    return Drawing(width, bottom + _FOOT, " ".join(change_words(each) for each in shown), shapes)


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


def _ticks(frame: _Frame) -> list[float]:
    room = max(2.0, (frame.right - frame.left) / 44)  # labels that fit
    step = next(step for step in (0.05, 0.1, 0.2, 0.25, 0.5, 1.0) if (frame.high - frame.low) / step <= room)
    first, last = math.ceil(frame.low / step - 1e-9), math.floor(frame.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _scale(frame: _Frame, bottom: float) -> Iterator[Shape]:
    for tick in _ticks(frame):
        text = f"{100 * tick:+.0f}".replace("-", "−") if tick else "0"
        yield Label((frame.x(tick), bottom + 16), text, Role.FAINT, _SMALL, "middle")
    yield Label((frame.width - 2, bottom + 16), "points", Role.FAINT, _SMALL, "end")


def _row(each: SwapChange, top: float, frame: _Frame) -> Iterator[Shape]:
    bars = top + _MARGIN + (0.0 if frame.beside else _NAME)
    end = top + frame.row
    for tick in _ticks(frame):  # beside the bars only, so that no line crosses a name
        at = frame.x(tick)
        yield Line([(at, bars - _MARGIN), (at, end)], Role.GRID if tick else Role.AXIS, 1 if tick else 1.5)
    name = f"gen {each.swap.generation.number}, cohort {each.swap.cohort}"
    date = day_and_minute(each.swap.at)
    if frame.beside:
        yield Label((2, bars + 11), name, bold=True)
        yield Label((2, bars + 27), date, Role.FAINT, _SMALL)
    else:
        yield Label((2, top + 18), name, bold=True)
        yield Label((frame.width - 2, top + 18), date, Role.FAINT, _SMALL, "end")
    yield from _bar(each.learning, missing(each, each.learning), bars, Role.NEW, frame)
    yield from _bar(each.forgetting, missing(each, each.forgetting), bars + _BAR + _GAP, Role.OLD, frame)


def _bar(change: Change | None, instead: str, top: float, role: Role, frame: _Frame) -> Iterator[Shape]:
    middle = top + _BAR / 2
    yield _sign(role, (frame.left - _SIGNS + 6, middle), 4)
    if change is None:
        yield Label((frame.x(0) + 6, middle + 4), instead, Role.FAINT, _SMALL)
        return
    left, right = sorted((frame.x(0), frame.x(change.value)))
    yield rectangle(left, top, max(right - left, 1.0), _BAR, role)
    low, high = (frame.x(end) for end in change.interval)
    yield Line([(low, middle), (high, middle)], Role.WHISKER, 1.5)
    for end in (low, high):
        yield Line([(end, middle - 4), (end, middle + 4)], Role.WHISKER, 1.5)
    yield Label((frame.width - 2, middle + 4), points(change.value), Role.TEXT, 12, "end", True)


def missing(each: SwapChange, change: Change | None) -> str:
    """Why a change of this swap is not known; empty where it is."""
    if change is not None:
        return ""
    return "no old cohorts" if change is each.forgetting and each.learning is not None else "not measured"


def change_words(each: SwapChange) -> str:
    """One swap's changes in a sentence."""
    swap = each.swap
    return (
        f"Swap to generation {swap.generation.number} at {day_and_minute(swap.at)} UTC: "
        f"new cohort {swap.cohort} {_change_words(each, each.learning)}, "
        f"old cohorts {_change_words(each, each.forgetting)}."
    )


def _change_words(each: SwapChange, change: Change | None) -> str:
    if change is None:
        return missing(each, change)
    return f"{points(change.value)} points, of {counted(change.after.probes, 'probe')}"
