"""The page's part on forgetting against learning."""

from __future__ import annotations

from clients.report.change_chart import MOST, NARROW, WIDE, change_chart, missing
from clients.report.figures import Change, SwapChange, changes_of
from clients.report.gather import Facts
from clients.report.markup import moment, paragraph, section, table, text, with_small
from clients.report.svg import svg
from clients.report.words import UNKNOWN, counted, of, percent, points

_HEADING = "Forgetting against learning"
_WORDS = (
    "What each swap changed: Recall@1 in the first measurement after it, less that in the last one before it that this "
    "page has, in percentage points. Learning is the change of the new cohort, the categories that the new model had "
    "just been taught; before the swap it is that of all categories that waited, also of those that were left waiting. "
    "Forgetting is the change of all the old cohorts together, those that the model before had learned already; below "
    "zero, the new model has forgotten. The lines on the bars are 95 % bounds as if before and after had been measured "
    "with different probes, and rather too wide."
)


def change_section(facts: Facts) -> str:
    """What the swaps changed; a sentence where there was none."""
    changes = changes_of(facts.history, facts.since)
    if not changes:
        when = "since the history began" if facts.since is None else "in this time"
        none = f"No stage has gone live {when}, so that there is nothing to compare yet."
        return section("changes", _HEADING, paragraph(none, "empty"))
    return section("changes", _HEADING, paragraph(_WORDS), *_chart(changes), _table(changes))


def _chart(changes: list[SwapChange]) -> list[str]:
    known = [each for each in changes if each.learning or each.forgetting]
    if not known:
        return [paragraph("No swap was measured on both of its sides.", "empty")]
    wide, narrow = svg(change_chart(known, WIDE), "on-wide"), svg(change_chart(known, NARROW), "on-narrow")
    more = f"The chart has the newest {MOST} of {counted(len(known), 'swap')}." if len(known) > MOST else ""
    return [f'<div class="card">\n{wide}\n{narrow}\n</div>', paragraph(more) if more else ""]


def _table(changes: list[SwapChange]) -> str:
    heads = ("generation", "learning", "before → after", "forgetting", "before → after")
    return table("What each swap changed, newest first", heads, map(_row, reversed(changes)), range(1, len(heads)))


def _row(each: SwapChange) -> tuple[str, ...]:
    swap = each.swap
    first = f"{swap.generation.number}<small>cohort {swap.cohort}, {moment(swap.at)}</small>"
    return (first, *_change(each, each.learning), *_change(each, each.forgetting))


def _change(each: SwapChange, change: Change | None) -> tuple[str, str]:
    if change is None:
        return text(UNKNOWN), text(missing(each, change))
    shares = " → ".join(percent(share.value) for share in (change.before, change.after))
    low, high = change.interval
    counts = " → ".join(of(share) for share in (change.before, change.after))
    return with_small(points(change.value), f"{points(low)} to {points(high)}"), with_small(shares, counts)
