"""The page's part on recall: the charts, every cohort's figures, and each measurement."""

from __future__ import annotations

from collections.abc import Sequence

from clients.recall import CohortMeasurement, MeasurementCause, RecallMeasurement
from clients.report.figures import Series, Share, cohort_name, mean_reference, recall_at_1
from clients.report.gather import Facts
from clients.report.markup import details, moment, paragraph, section, table, text, with_small
from clients.report.recall_chart import NARROW, WIDE, chart_of_all, cohort_charts
from clients.report.svg import svg
from clients.report.words import UNKNOWN, bounds, counted, of, percent, points

_MOST_ROWS = 100  # of the table of measurements, the newest
_CAUSES = {
    MeasurementCause.START: "start",
    MeasurementCause.SWAP: "swap",
    MeasurementCause.TIMER: "timer",
}
_WORDS = (
    "The charts share the axis of time, which is UTC, and those of cohorts the axis of recall, too, which need not "
    "begin at 0. A line ends where the live model has not learned the cohort."
)
_LEGEND = """<ul class="legend" aria-label="How to read the charts">
<li><i class="line"></i>Recall@1</li><li><i class="band"></i>its 95 % bounds</li>
<li><i class="reference"></i>when its stage went live</li><li><i class="swap"></i>swap of the model</li>
<li><i class="again"></i>back or forward to one that was live before</li>
</ul>"""


def recall_section(facts: Facts, everything: Series, series: list[Series]) -> str:
    """Everything that was measured; a sentence where nothing was."""
    measurements = facts.history.measurements
    if not series:
        none = "Nothing has been measured yet" if facts.since is None else "Nothing has been measured in this time"
        why = "recall is measured with probes, one item in five, as soon as two items of one category are there."
        return section("recall", "Recall over time", paragraph(f"{none}: {why}", "empty"))
    return section(
        "recall",
        "Recall over time",
        *_charts(facts, everything, series),
        _now(measurements[-1].cohorts),
        _all(measurements),
    )


def _charts(facts: Facts, everything: Series, series: list[Series]) -> list[str]:
    swaps = facts.history.swaps
    single = "One measurement so far; lines begin with the second." if len(facts.history.measurements) == 1 else ""
    no_swap = "" if swaps else "No model has been swapped yet."
    words = paragraph(" ".join(part for part in (_WORDS, single, no_swap) if part))
    wide, narrow = (
        svg(chart_of_all(everything, swaps, size), at) for size, at in ((WIDE, "on-wide"), (NARROW, "on-narrow"))
    )
    panels = "\n".join(f'<div class="card">\n{svg(each)}\n</div>' for each in cohort_charts(series, everything, swaps))
    return [words, _LEGEND, f'<div class="card">\n{wide}\n{narrow}\n</div>', f'<div class="panels">\n{panels}\n</div>']


def _now(cohorts: Sequence[CohortMeasurement]) -> str:
    heads = ("cohort", "probes", "Recall@1", "95 % bounds", "Recall@5", "Recall@10", "reference", "drift")
    rows = [_cohort(cohort_name(each.cohort), [each]) for each in cohorts if each.probes]
    return table("Recall measured last", heads, [_cohort("all", cohorts), *rows], range(1, len(heads)))


def _cohort(title: str, cohorts: Sequence[CohortMeasurement]) -> tuple[str, ...]:
    probes = sum(each.probes for each in cohorts)
    found = [Share(sum(getattr(each, f"found_at_{k}") for each in cohorts), probes) for k in (1, 5, 10)]
    first, five, ten = (with_small(percent(share.value), of(share)) for share in found)
    reference, drift = mean_reference(cohorts) or (None, None)
    compared = text(percent(reference)), text(points(drift))
    return (text(title), f"{probes:,}", first, text(bounds(found[0])), five, ten, *compared)


def _all(measurements: Sequence[RecallMeasurement]) -> str:
    cohorts = sorted({each.cohort for m in measurements for each in m.cohorts}, key=lambda c: (c is None, c or 0))
    heads = ("measured", "generation", "after", *(cohort_name(cohort) for cohort in cohorts))
    newest = measurements[: -_MOST_ROWS - 1 : -1]
    caption = "Found first, of the probes of each cohort; newest first"
    rows = (_measurement(measurement, cohorts) for measurement in newest)
    left_out = len(measurements) - len(newest)
    summary = f"The measurements as a table{f', the newest {len(newest)} of {len(measurements)}' if left_out else ''}"
    whole = f" ({counted(len(measurements), 'measurement')})" if not left_out else ""
    return details(text(summary + whole), table(caption, heads, rows, range(3, len(heads))))


def _measurement(measurement: RecallMeasurement, cohorts: Sequence[int | None]) -> list[str]:
    found = {each.cohort: each for each in measurement.cohorts}
    cells = (with_small(*_cell(found.get(cohort))) for cohort in cohorts)
    return [moment(measurement.at), str(measurement.generation.number), _CAUSES[measurement.cause], *cells]


def _cell(each: CohortMeasurement | None) -> tuple[str, str]:
    return (UNKNOWN, "") if each is None else (percent(recall_at_1(each).value), of(recall_at_1(each)))
