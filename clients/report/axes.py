"""The two axes that all charts of recall share: time, and a part of 0 to 100 %."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clients.report.figures import Series

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_STEPS = (  # between ticks, in seconds; beyond the longest they lie on the first of a month
    *(_MINUTE, 5 * _MINUTE, 15 * _MINUTE, 30 * _MINUTE, _HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 4 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY),
)
_LEAST_SPAN_S = 2 * _MINUTE  # a single measurement lies in the middle of as much
_MARGIN = 0.02  # of the span, so that the first and the last measurement do not lie on the frame


@dataclass(frozen=True)
class Axes:
    """What is shown: times in Unix seconds, and shares between 0 and 1."""

    begin: float
    end: float
    low: float
    high: float

    def across(self, at: datetime.datetime) -> float:
        """0 at the left edge, 1 at the right one."""
        return (at.timestamp() - self.begin) / (self.end - self.begin)

    def up(self, share: float) -> float:
        """0 at the lower edge, 1 at the upper one."""
        return (share - self.low) / (self.high - self.low)


def axes_of(period: Series, series: Sequence[Series]) -> Axes:
    """The time of all points of `period`, and recall that holds every point of `series` with its bounds and its
    reference. Errors: ValueError when there is no point."""
    points = [point for each in series for point in each.known]
    times = [point.at.timestamp() for point in period.known]
    shares = [bound for point in points for bound in point.share.interval]
    shares += [point.reference for point in points if point.reference is not None]
    middle, half = (min(times) + max(times)) / 2, max(max(times) - min(times), _LEAST_SPAN_S) / 2
    low, high = math.floor(min(shares) * 10 + 1e-9) / 10, math.ceil(max(shares) * 10 - 1e-9) / 10
    if high - low < 0.2:  # a flat line should look flat
        low, high = (max(0.0, high - 0.2), high) if high > 0.5 else (low, low + 0.2)
    reach = half * (1 + 2 * _MARGIN)
    return Axes(middle - reach, middle + reach, low, high)


def share_ticks(axes: Axes) -> list[float]:
    """At most six shares at round distances, the ends among them where they are round."""
    step = next(step for step in (0.05, 0.1, 0.2) if (axes.high - axes.low) / step <= 5 + 1e-9)
    first, last = math.ceil(axes.low / step - 1e-9), math.floor(axes.high / step + 1e-9)
    return [round(number * step, 2) for number in range(first, last + 1)]


def time_ticks(axes: Axes, most: int) -> list[tuple[datetime.datetime, str]]:
    """At most so many round moments in UTC, each with its label."""
    step = next((step for step in _STEPS if (axes.end - axes.begin) / step <= most), None)
    if step is None:
        return [(moment, f"{moment:%b %Y}") for moment in _months(axes, most)]
    first = math.ceil(axes.begin / step) * step
    moments = [datetime.datetime.fromtimestamp(at, datetime.UTC) for at in range(first, int(axes.end) + 1, step)]
    return [(moment, f"{moment:%-d %b}" if _is_midnight(moment) else f"{moment:%H:%M}") for moment in moments[:most]]


def _is_midnight(moment: datetime.datetime) -> bool:
    return moment.hour == moment.minute == 0


def _months(axes: Axes, most: int) -> list[datetime.datetime]:
    """The firsts of months between both ends: of every, or of every so many."""
    ends = [datetime.datetime.fromtimestamp(at, datetime.UTC) for at in (axes.begin, axes.end)]
    first, last = (at.year * 12 + at.month - 1 for at in ends)
    step = next(
        step for step in itertools.chain((1, 2, 3, 6), itertools.count(12, 12)) if (last - first) / step <= most
    )
    months = (month for month in range(first + 1, last + 1) if month % step == 0)
    return [datetime.datetime(month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC) for month in months][:most]
