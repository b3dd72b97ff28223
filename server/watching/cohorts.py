"""Which cohorts have series of their own, and how far recall has drifted from the reference: pure functions.

Drift is Recall@1 now less Recall@1 when the stage went live. Both are shares of probes, and the probes are not the
same: some have come, some have gone, and where there are many a sample is searched. The error is therefore that of the
difference of two independent shares. What has changed since the latest swap is reckoned in the same way, with what was
measured right after it for the reference.

Where cohorts are taken together, drift is the mean of theirs, weighted with their probes now: cohorts that have grown
at different rates move the pooled share without any of them having changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from indexer.catalogue import CohortCounts

ALL: Final = "all"
WAITING: Final = "waiting"
OLDER: Final = "older"
MOST_NUMBERS: Final = 12  # cohorts with a series of their own


@dataclass(frozen=True)
class Drift:
    """Recall@1 now against the reference, over the cohorts that have one."""

    reference: float
    """Recall@1 when their stages went live."""
    reference_probes: int
    probes: int
    """Of these cohorts alone, now."""
    change: float
    """Recall@1 now, less the reference."""
    error: float
    """Standard error of the change."""


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


def merged(parts: Iterable[CohortCounts]) -> CohortCounts:
    """Counts added up; of no cohort."""
    held = list(parts)
    return CohortCounts(
        None,
        sum(each.probes for each in held),
        sum(each.found_1 for each in held),
        sum(each.found_5 for each in held),
        sum(each.found_10 for each in held),
    )


def drift(now: Sequence[CohortCounts], references: Mapping[int, CohortCounts]) -> Drift | None:
    """The drift of these cohorts together, of those that have a reference; None where none has.

    With w_c the share of cohort c among their probes now: sum of w_c (p_c - r_c), and its standard error, the root of
    the sum of w_c^2 e_c^2.
    """
    pairs = [
        (each, references[each.cohort])
        for each in now
        if each.probes and each.cohort is not None and each.cohort in references and references[each.cohort].probes
    ]
    if not pairs:
        return None
    probes = sum(each.probes for each, _ in pairs)
    return Drift(
        sum(each.probes * reference.recall_1 for each, reference in pairs) / probes,
        sum(reference.probes for _, reference in pairs),
        probes,
        sum(each.probes * (each.recall_1 - reference.recall_1) for each, reference in pairs) / probes,
        math.sqrt(sum((each.probes * _error(each, reference)) ** 2 for each, reference in pairs)) / probes,
    )


def _error(now: CohortCounts, before: CohortCounts) -> float:
    """Standard error of the difference of two shares: sqrt(p q / n + p' q' / n').

    With p = (x + 1) / (n + 2), which lies where Wilson's interval has its middle: a share of 0 or 1 has an error, too.
    """
    return math.sqrt(_variance(now) + _variance(before))


def _variance(counts: CohortCounts) -> float:
    share = (counts.found_1 + 1) / (counts.probes + 2)
    return share * (1 - share) / counts.probes
