"""Which cohorts have series of their own, what they recall together, and how far that has drifted from the reference:
pure functions.

Of a cohort with many probes only some are searched. Where cohorts are taken together, each probe that was searched
stands for N_c / n_c of its cohort's: for N_c that there are, as `in_all` says, over n_c that were searched. Counts just
added up would give a small cohort the weight of a large one.

Drift is Recall@1 now less Recall@1 when the stage went live. Both are shares of probes, and the probes are not the
same: some have come, some have gone, and where there are many a sample is searched. The error is therefore that of the
difference of two independent shares. What has changed since the latest swap is reckoned in the same way, with what was
measured right after it for the reference.

Of cohorts taken together drift is the mean of theirs, weighted with the probes that there are now: cohorts that have
grown at different rates move the pooled share without any of them having changed. One of many that collapses hardly
moves it either, so that the worst of those without a series of their own is told apart: by a bound for all of them at
once, since the lowest of many bounds that hold for one each is beneath its truth far more often than any of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import NormalDist
from typing import Final

from indexer.catalogue import CohortCounts
from indexer.gates import Z
from indexer.recall import wilson

ALL: Final = "all"
WAITING: Final = "waiting"
OLDER: Final = "older"
WORST_OF_OLDER: Final = "worst of older"
LEAST_PROBES: Final = 10  # of fewer, now or in the reference, no alert says anything
MOST_NUMBERS: Final = 12  # cohorts with a series of their own
_MISSES: Final = 0.05  # how often a bound, or all of a family together, may be beneath the truth: as `Z` has it


@dataclass(frozen=True)
class Estimate:
    """A share of all probes of some cohorts, estimated from those that were searched."""

    value: float
    low: float
    """Ends of its 95 % interval."""
    high: float


@dataclass(frozen=True)
class Drift:
    """Recall@1 now against the reference, over the cohorts that have one."""

    reference: float
    """Recall@1 when their stages went live."""
    reference_probes: int
    probes: int
    """That were searched now, of these cohorts alone."""
    change: float
    """Recall@1 now, less the reference."""
    error: float
    """Standard error of the change; of the worst of many, wider."""

    @property
    def high(self) -> float:
        """What the true change is hardly above: one-sided 95 %."""
        return self.change + Z * self.error


def labelled(cohorts: Sequence[CohortCounts]) -> dict[str, list[CohortCounts]]:
    """The cohorts behind each label: "all"; stage 0 and the newest stages, by number; "older", the others; "waiting".

    A label is there when a cohort with probes is.
    """
    held = [each for each in cohorts if each.probes]
    numbers = sorted(each.cohort for each in held if each.cohort is not None)
    own = set(numbers)
    if len(numbers) > MOST_NUMBERS:
        own = {numbers[0], *numbers[1 - MOST_NUMBERS :]}
    labels: dict[str, list[CohortCounts]] = {ALL: held} if held else {}
    for each in held:
        labels.setdefault(_label(each.cohort, own), []).append(each)
    return labels


def _label(cohort: int | None, own: set[int]) -> str:
    if cohort is None:
        return WAITING
    return str(cohort) if cohort in own else OLDER


def pooled(cohorts: Sequence[CohortCounts], in_all: Mapping[int | None, int]) -> dict[int, Estimate]:
    """Recall@k of all probes of these cohorts, for k = 1, 5 and 10; at least one cohort, each with probes.

    With x_c found of n_c: sum of x_c N_c / n_c over sum of N_c. Its interval is Wilson's with the effective number of
    probes, (sum of N_c)^2 / sum of N_c^2 / n_c: L. Kish, Survey Sampling (1965). Fractions keep it to the digit at the
    share and the interval of the counts added up where every probe is searched, and of a cohort by itself always.
    """
    there = [in_all[each.cohort] for each in cohorts]
    stands_for = [Fraction(count, each.probes) for count, each in zip(there, cohorts, strict=True)]
    effective = sum(there) ** 2 / _sum_of_products(stands_for, there)

    def estimate(found: Sequence[int]) -> Estimate:
        share = _sum_of_products(stands_for, found) / sum(there)
        return Estimate(float(share), *wilson(float(share * effective), float(effective)))

    return {
        1: estimate([each.found_1 for each in cohorts]),
        5: estimate([each.found_5 for each in cohorts]),
        10: estimate([each.found_10 for each in cohorts]),
    }


def _sum_of_products(first: Sequence[Fraction], second: Sequence[int]) -> Fraction:
    return sum((one * other for one, other in zip(first, second, strict=True)), Fraction())


def drift(
    now: Sequence[CohortCounts], references: Mapping[int, CohortCounts], in_all: Mapping[int | None, int]
) -> Drift | None:
    """The drift of these cohorts together, of those that have a reference; None where none has.

    With w_c the share of cohort c among all their probes now: sum of w_c (p_c - r_c), and its standard error, the root
    of the sum of w_c^2 e_c^2.
    """
    compared = [
        (each, references[each.cohort], in_all[each.cohort])
        for each in now
        if each.probes and each.cohort is not None and each.cohort in references and references[each.cohort].probes
    ]
    if not compared:
        return None
    in_total = sum(count for _, _, count in compared)
    return Drift(
        sum(count * reference.recall_1 for _, reference, count in compared) / in_total,
        sum(reference.probes for _, reference, _ in compared),
        sum(each.probes for each, _, _ in compared),
        sum(count * (each.recall_1 - reference.recall_1) for each, reference, count in compared) / in_total,
        math.sqrt(sum((count * _error(each, reference)) ** 2 for each, reference, count in compared)) / in_total,
    )


def worst(
    cohorts: Sequence[CohortCounts], references: Mapping[int, CohortCounts], in_all: Mapping[int | None, int]
) -> Drift | None:
    """The drift of the cohort that has fallen most as far as sampling error lets one say, be it little: that with the
    lowest upper bound. Of those with `LEAST_PROBES` now and in the reference, or one of which nothing can be said would
    hide one that has collapsed; None where there is none.

    The errors of the K that are compared are widened by z(1 - 0.05 / K) / z(0.95), so that `high` is a bound for all of
    them together (Bonferroni). So far out a normal error is short for ten probes: where nothing has changed, the lowest
    bound of a hundred such cohorts is below 0 more often than once in twenty times, but seldom below -0.1.
    """
    compared = [
        found
        for each in cohorts
        if (found := drift([each], references, in_all)) is not None
        and min(found.probes, found.reference_probes) >= LEAST_PROBES
    ]
    if not compared:
        return None
    z = NormalDist().inv_cdf
    wider = z(1 - _MISSES / len(compared)) / z(1 - _MISSES)
    return min((replace(each, error=wider * each.error) for each in compared), key=lambda each: each.high)


def _error(now: CohortCounts, before: CohortCounts) -> float:
    """Standard error of the difference of two shares: sqrt(p q / n + p' q' / n').

    With p = (x + 1) / (n + 2), which lies where Wilson's interval has its middle: a share of 0 or 1 has an error, too.
    """
    return math.sqrt(_variance(now) + _variance(before))


def _variance(counts: CohortCounts) -> float:
    share = (counts.found_1 + 1) / (counts.probes + 2)
    return share * (1 - share) / counts.probes
