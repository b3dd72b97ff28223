"""Numbers and times as the report writes them."""

from __future__ import annotations

import datetime
import math

from clients.report.figures import Share

UNKNOWN = "–"


def percent(value: float | None) -> str:
    """A share as 84.2 %."""
    return UNKNOWN if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, as +1.2 or −0.4."""
    if value is None or math.isnan(value):
        return UNKNOWN
    text = f"{100 * value:+.1f}"
    return "0.0" if text[1:] == "0.0" else text.replace("-", "−")


def bounds(share: Share) -> str:
    """The 95 % bounds as 80.7–87.1 %."""
    low, high = share.interval
    return f"{100 * low:.1f}–{100 * high:.1f} %"


def of(share: Share) -> str:
    """The counts as 421 of 500."""
    return f"{share.found:,} of {share.probes:,}"


def counted(number: int, one: str, many: str = "") -> str:
    """1 probe, 2 probes."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def day_and_minute(at: datetime.datetime) -> str:
    """In UTC, as 21 Nov 2026, 12:34."""
    return f"{at.astimezone(datetime.UTC):%-d %b %Y, %H:%M}"
