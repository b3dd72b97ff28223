"""The report's figures: shares of probes with their bounds, recall over time, and what each swap changed."""

from __future__ import annotations

import datetime
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clients.recall import CohortMeasurement, MeasurementCause, RecallHistory, RecallMeasurement, SwapRecord

Z = 1.96  # two-sided 95 %
# A drift is judged as the server's alert EverlookRecallDropped judges it.
Z_ONE_SIDED = 1.645  # one-sided 95 %
TOLERATED = 0.02  # a fall of so much counts for nothing
LEAST_PROBES = 10  # of fewer, now or in the reference, nothing can be said
WAITING = "waiting"  # the name of the categories that no stage has taught yet


@dataclass(frozen=True)
class Share:
    """So many probes, and how many of them found their category."""

    found: int
    probes: int

    def __add__(self, other: Share) -> Share:
        return Share(self.found + other.found, self.probes + other.probes)

    @property
    def value(self) -> float:
        """0 to 1; not a number without probes."""
        return self.found / self.probes if self.probes else math.nan

    @property
    def error(self) -> float:
        """Its standard error, with (x + 1) / (n + 2) for the share, so that it is never 0; there are probes."""
        share = (self.found + 1) / (self.probes + 2)
        return math.sqrt(share * (1 - share) / self.probes)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % bounds: the score interval of E. B. Wilson, Probable Inference, JASA 22 (1927)."""
        if not self.probes:
            return 0.0, 1.0
        share, n = self.value, self.probes
        centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
        half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
        # At the ends the interval reaches 0 or 1 exactly; rounding must not leave it just inside.
        low = 0.0 if self.found == 0 else max(0.0, centre - half)
        return low, 1.0 if self.found == n else min(1.0, centre + half)


@dataclass(frozen=True)
class Change:
    """A share before and after."""

    before: Share
    after: Share

    @property
    def value(self) -> float:
        """Between -1 and 1."""
        return self.after.value - self.before.value

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % bounds: method 10 of R. G. Newcombe, Interval estimation for the difference between independent
        proportions, Statistics in Medicine 17 (1998), from the bounds of both shares.

        Mostly the same probes are searched before and after, which this does not use: the bounds are rather too wide.
        """
        (low0, high0), (low1, high1) = self.before.interval, self.after.interval
        p0, p1 = self.before.value, self.after.value
        return self.value - math.hypot(p1 - low1, high0 - p0), self.value + math.hypot(high1 - p1, p0 - low0)


@dataclass(frozen=True)
class Drift:
    """Recall@1 less its reference, and the standard error of that difference, as of two independent shares."""

    value: float
    error: float

    @property
    def high(self) -> float:
        """What the true drift is hardly above: one-sided 95 %."""
        return self.value + Z_ONE_SIDED * self.error


@dataclass(frozen=True)
class Point:
    """Recall@1 at one moment, and the reference that it compares with, with its probes; None where it is not known."""

    at: datetime.datetime
    generation: int
    cause: MeasurementCause
    share: Share
    reference: float | None
    reference_probes: int | None

    @property
    def drift(self) -> Drift | None:
        """None where one of the two is not known, or has too few probes to say anything."""
        before, probes = self.reference, self.reference_probes
        if before is None or probes is None or min(probes, self.share.probes) < LEAST_PROBES:
            return None
        reference = Share(round(before * probes), probes)
        return Drift(self.share.value - before, math.hypot(self.share.error, reference.error))


@dataclass(frozen=True)
class Series:
    """Recall@1 over time: a point for each measurement, None where it measured nothing of this."""

    name: str
    points: tuple[Point | None, ...]

    @property
    def known(self) -> list[Point]:
        return [point for point in self.points if point is not None]

    @property
    def runs(self) -> list[list[Point]]:
        """The points that lie between two gaps, for each gap."""
        groups = itertools.groupby(self.points, lambda point: point is not None)
        return [[point for point in group if point is not None] for known, group in groups if known]

    @property
    def now(self) -> Point | None:
        """The point of the last measurement."""
        return self.points[-1] if self.points else None


@dataclass(frozen=True)
class SwapChange:
    """What a swap changed: Recall@1 of the categories that its model had just learned, and of those learned before it.
    None where it was not measured on both sides of the swap."""

    swap: SwapRecord
    learning: Change | None
    forgetting: Change | None


def cohort_name(cohort: int | None) -> str:
    return WAITING if cohort is None else f"cohort {cohort}"


def recall_at_1(cohort: CohortMeasurement) -> Share:
    return Share(cohort.found_at_1, cohort.probes)


def series_of(measurements: Sequence[RecallMeasurement]) -> list[Series]:
    """One for each cohort, in their order, and the last for the categories that wait."""
    cohorts = {each.cohort for measurement in measurements for each in measurement.cohorts if each.probes}
    ordered: list[int | None] = [*sorted(cohort for cohort in cohorts if cohort is not None)]
    if None in cohorts:
        ordered.append(None)
    return [Series(cohort_name(cohort), tuple(_point(m, cohort) for m in measurements)) for cohort in ordered]


def _point(measurement: RecallMeasurement, cohort: int | None) -> Point | None:
    for each in measurement.cohorts:
        if each.cohort == cohort and each.probes:
            number = measurement.generation.number
            share, reference = recall_at_1(each), each.reference_at_1
            return Point(measurement.at, number, measurement.cause, share, reference, each.reference_probes)
    return None


def together(measurements: Sequence[RecallMeasurement]) -> Series:
    """All probes as one, waiting categories among them, and therefore without a reference."""
    return Series("all probes searched", tuple(_pooled(measurement) for measurement in measurements))


def _pooled(measurement: RecallMeasurement) -> Point | None:
    share = sum((recall_at_1(each) for each in measurement.cohorts), Share(0, 0))
    if not share.probes:
        return None
    return Point(measurement.at, measurement.generation.number, measurement.cause, share, None, None)


def mean_reference(cohorts: Sequence[CohortMeasurement]) -> tuple[float, float] | None:
    """The reference and the drift of all cohorts that have a reference: means of theirs, weighed with their probes, so
    that cohorts which grow move neither. None where no cohort has one."""
    known = [(each, each.reference_at_1) for each in cohorts if each.probes and each.reference_at_1 is not None]
    probes = sum(each.probes for each, _ in known)
    if not probes:
        return None
    reference = sum(each.probes * reference for each, reference in known) / probes
    return reference, sum(each.found_at_1 for each, _ in known) / probes - reference


def changes_of(history: RecallHistory, since: datetime.datetime | None = None) -> list[SwapChange]:
    """What each swap changed to a model that had not been live before and has learned something; oldest first.

    since: only swaps at this time or later.
    """
    changes = []
    for at, swap in enumerate(history.swaps):
        if swap.again or swap.cohort is None or (since is not None and swap.at < since):
            continue
        before_it = history.swaps[at - 1].generation.model if at else None
        before, after = _around(history.measurements, swap, before_it)
        changes.append(SwapChange(swap, _learning(swap.cohort, before, after), _forgetting(swap.cohort, before, after)))
    return changes


Cohorts = dict[int | None, Share]


def _around(
    measurements: Sequence[RecallMeasurement], swap: SwapRecord, model_before: str | None
) -> tuple[Cohorts, Cohorts]:
    """What the last measurement of the model before the swap found, and the first of the swap's own; both empty where
    the two did not follow each other. model_before: None where it is not known, and any will do."""
    for last, first in itertools.pairwise(measurements):
        if first.generation.model == swap.generation.model and first.at >= swap.at:
            served = last.generation.model
            followed = served != swap.generation.model and model_before in (None, served)
            return (_shares(last), _shares(first)) if followed else ({}, {})
    return {}, {}


def _shares(measurement: RecallMeasurement) -> Cohorts:
    return {each.cohort: recall_at_1(each) for each in measurement.cohorts if each.probes}


def _learning(cohort: int, before: Cohorts, after: Cohorts) -> Change | None:
    waited = before.get(cohort, before.get(None))
    return Change(waited, after[cohort]) if waited is not None and cohort in after else None


def _forgetting(cohort: int, before: Cohorts, after: Cohorts) -> Change | None:
    old = [each for each in before if each is not None and each != cohort and each in after]
    if not old:
        return None
    return Change(sum((before[each] for each in old), Share(0, 0)), sum((after[each] for each in old), Share(0, 0)))
