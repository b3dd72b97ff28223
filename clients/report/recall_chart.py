"""Recall over time as a drawing: its line within its bounds, the reference, and where models were swapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clients.recall import MeasurementCause, SwapRecord
from clients.report.axes import Axes, axes_of, share_ticks, time_ticks
from clients.report.drawing import Area, Drawing, Label, Line, Mark, Role, Shape, Spot
from clients.report.figures import WAITING, Point, Series
from clients.report.words import bounds, counted, day_and_minute, of, percent, points

PANEL = (320.0, 214.0)  # a chart for one cohort
WIDE = (960.0, 300.0)  # the chart for all of them, on a screen
NARROW = (320.0, 240.0)  # and on a telephone

_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 52.0, 26.0
_SWAP_LABELS = 16.0  # height of the line of labels above a chart that has them
_LABEL_WIDTH = 44.0
_TICK_WIDTH = 64.0
_SMALL = 11.0


@dataclass(frozen=True)
class _Plot:
    """The rectangle inside a chart, and what it shows."""

    axes: Axes
    left: float
    top: float
    right: float
    bottom: float

    def x(self, point: Point | SwapRecord) -> float:
        return self.left + self.axes.across(point.at) * (self.right - self.left)

    def y(self, share: float) -> float:
        return self.bottom - self.axes.up(share) * (self.bottom - self.top)

    def spot(self, point: Point) -> Spot:
        return self.x(point), self.y(point.share.value)

    def holds(self, swap: SwapRecord) -> bool:
        return self.axes.begin <= swap.at.timestamp() <= self.axes.end


def chart_of_all(everything: Series, swaps: Sequence[SwapRecord], size: tuple[float, float]) -> Drawing:
    """All probes as one, with the swapped generations' numbers. Errors: ValueError when nothing was measured."""
    return recall_chart(everything, axes_of(everything, [everything]), swaps, size, labels=True)


def cohort_charts(series: Sequence[Series], everything: Series, swaps: Sequence[SwapRecord]) -> list[Drawing]:
    """One for each series, all with the same time axis. Those of cohorts share the axis of recall too, while categories
    that wait, which lie far below, have their own."""
    learned, waiting = (
        [each for each in series if each.name != WAITING],
        [each for each in series if each.name == WAITING],
    )
    return [recall_chart(each, axes_of(everything, group), swaps) for group in (learned, waiting) for each in group]


def recall_chart(
    series: Series, axes: Axes, swaps: Sequence[SwapRecord], size: tuple[float, float] = PANEL, *, labels: bool = False
) -> Drawing:
    """Recall@1 of one cohort, or of all. labels: the generations' numbers stand above their swaps."""
    width, height = size
    top = _TOP + (_SWAP_LABELS if labels else 0.0)
    plot = _Plot(axes, _LEFT, top, width - _RIGHT, height - _BOTTOM)
    shown = [swap for swap in swaps if plot.holds(swap)]
    shapes: list[Shape] = [
        *_heading(series, width),
        *_bands(series, plot),
        *_grid(plot),
        *_swaps(shown, plot, labels),
        *_references(series, plot),
        *_lines(series, plot),
        *_marks(series, plot),
    ]
    return Drawing(width, height, _words(series, shown), shapes)


def _heading(series: Series, width: float) -> Iterator[Shape]:
    yield Label((2, 16), series.name.capitalize(), size=14, bold=True)
    now = series.now
    if now is None:
        yield Label((2, 34), "no probes in the last measurement", Role.FAINT, _SMALL)
        return
    yield Label((width - _RIGHT, 16), percent(now.share.value), size=14, anchor="end", bold=True)
    yield Label((2, 34), f"{of(now.share)} found, 95 %: {bounds(now.share)}", Role.FAINT, _SMALL)
    if now.reference is not None:
        drift = f"drift {points(now.share.value - now.reference)}"
        yield Label((width - _RIGHT, 34), drift, Role.FAINT, _SMALL, "end")


def _grid(plot: _Plot) -> Iterator[Shape]:
    for share in share_ticks(plot.axes):
        y = plot.y(share)
        yield Line([(plot.left, y), (plot.right, y)], Role.GRID)
        yield Label((plot.left - 6, y + 4), f"{100 * share:.0f} %", Role.FAINT, _SMALL, "end")
    yield Line([(plot.left, plot.bottom), (plot.right, plot.bottom)], Role.AXIS)
    for moment, text in time_ticks(plot.axes, int((plot.right - plot.left) / _TICK_WIDTH)):
        x = plot.left + plot.axes.across(moment) * (plot.right - plot.left)
        yield Line([(x, plot.bottom), (x, plot.bottom + 4)], Role.AXIS)
        yield Label((_inside(x, text, plot), plot.bottom + 17), text, Role.FAINT, _SMALL, "middle")


def _inside(x: float, text: str, plot: _Plot) -> float:
    """The middle of a label that would otherwise cross the chart's right edge, moved to where it does not."""
    half = len(text) * _SMALL * 0.28
    return min(x, plot.right + _RIGHT - half)


def _bands(series: Series, plot: _Plot) -> Iterator[Shape]:
    for run in series.runs:
        limits = [(plot.x(point), *point.share.interval) for point in run]
        if len(run) > 1:
            lower = [(x, plot.y(low)) for x, low, _ in limits]
            upper = [(x, plot.y(high)) for x, _, high in limits]
            yield Area([*upper, *reversed(lower)], Role.BAND)
        else:  # a single measurement has no width, and its bounds are a stroke
            ((x, low, high),) = limits
            yield Line([(x, plot.y(low)), (x, plot.y(high))], Role.BAND, 5)


def _swaps(swaps: Sequence[SwapRecord], plot: _Plot, labels: bool) -> Iterator[Shape]:
    free_from = plot.left
    for swap in swaps:
        x = plot.x(swap)
        yield Line([(x, plot.top), (x, plot.bottom)], Role.SWAP_LINE, 1, True)
        yield Mark((x, plot.top), "hollow triangle" if swap.again else "triangle", Role.SWAP, 4, swap_words(swap))
        at = min(max(x, plot.left + _LABEL_WIDTH / 2), plot.right - _LABEL_WIDTH / 2)
        if labels and at - _LABEL_WIDTH / 2 >= free_from - 1e-6:
            yield Label((at, plot.top - 12), f"gen {swap.generation.number}", Role.FAINT, _SMALL, "middle")
            free_from = at + _LABEL_WIDTH / 2


def _references(series: Series, plot: _Plot) -> Iterator[Shape]:
    for run in series.runs:
        spots = [(plot.x(point), plot.y(point.reference)) for point in run if point.reference is not None]
        if run[-1] is series.now and spots:  # it holds on, to be compared with what is measured next
            spots.append((plot.right, spots[-1][1]))
        if len(spots) > 1:
            yield Line(spots, Role.REFERENCE, 1.5, True)


def _lines(series: Series, plot: _Plot) -> Iterator[Shape]:
    for run in series.runs:
        if len(run) > 1:
            yield Line([plot.spot(point) for point in run], Role.LINE, 2)


def _marks(series: Series, plot: _Plot) -> Iterator[Shape]:
    for run in series.runs:
        for point in run:
            if point is series.now:
                yield Mark(plot.spot(point), "dot", Role.LINE, 4.5, point_words(point))
            elif len(run) == 1 or point.cause is MeasurementCause.SWAP:
                yield Mark(plot.spot(point), "ring", Role.LINE, 3.2, point_words(point))


def point_words(point: Point) -> str:
    """One measurement in words."""
    share, reference = point.share, point.reference
    compared = "" if reference is None else f", reference {percent(reference)}"
    measured = f"{percent(share.value)}, {of(share)}, 95 %: {bounds(share)}{compared}"
    return f"{day_and_minute(point.at)} UTC, generation {point.generation}: {measured}"


def swap_words(swap: SwapRecord) -> str:
    """One swap in words."""
    learned = "that has learned nothing yet" if swap.cohort is None else f"whose newest cohort is {swap.cohort}"
    again = "live again" if swap.again else "live"
    return f"{day_and_minute(swap.at)} UTC: generation {swap.generation.number} went {again}, with a model {learned}"


def _words(series: Series, swaps: Sequence[SwapRecord]) -> str:
    first, last = series.known[0], series.known[-1]
    shown = f"Recall at 1 of {series.name} over time, {counted(len(series.known), 'measurement')}"
    begins = f"; first {point_words(first)}" if first is not last else ""
    return f"{shown}{begins}; last {point_words(last)}. {counted(len(swaps), 'swap')} of the model in this time."
