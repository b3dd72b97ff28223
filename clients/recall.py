"""How recall has gone, and what is found worst: the protocol's messages field by field, under the same names."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from enum import StrEnum

from clients.types import GenerationRef


class MeasurementCause(StrEnum):
    """What a measurement was made for: the server had started, a generation had gone live, or time had passed."""

    START = "start"
    SWAP = "swap"
    TIMER = "timer"


@dataclass(frozen=True)
class CohortMeasurement:
    """What the probes of one cohort measured: Recall at K is `found_at_K / probes`.

    cohort: the stage that taught its categories; None for those that wait. reference_at_1: Recall@1 when that stage
    went live, with reference_probes; both None where it is not known.
    """

    cohort: int | None
    probes: int
    found_at_1: int
    found_at_5: int
    found_at_10: int
    reference_at_1: float | None
    reference_probes: int | None


@dataclass(frozen=True)
class RecallMeasurement:
    """What the probes of every cohort measured at one moment; the cohorts in their order, then those that wait."""

    at: datetime.datetime
    generation: GenerationRef
    cause: MeasurementCause
    cohorts: tuple[CohortMeasurement, ...]


@dataclass(frozen=True)
class SwapRecord:
    """One generation of another model that went live. cohort: the newest stage that the model has learned, None for a
    model that has learned none. again: it was live before."""

    at: datetime.datetime
    generation: GenerationRef
    cohort: int | None
    again: bool


@dataclass(frozen=True)
class RecallHistory:
    """Measurements and swaps, both oldest first."""

    measurements: tuple[RecallMeasurement, ...]
    swaps: tuple[SwapRecord, ...]


@dataclass(frozen=True)
class Confusion:
    """A probe that found an item of another category first; `score` is the cosine similarity of the two."""

    probe_id: str
    found_id: str
    found_category: str
    score: float


@dataclass(frozen=True)
class CategoryConfusion:
    """How one category is found, and what is found in its place. `cohort` is None when it waits to be learned."""

    category: str
    cohort: int | None
    probes: int
    found_at_1: int
    examples: tuple[Confusion, ...]


@dataclass(frozen=True)
class Confusions:
    """The categories that are found worst, as one generation was measured last: first those whose Recall@1 has the
    lowest upper bound (95 %, Wilson's), since of few probes none may be found by chance."""

    at: datetime.datetime
    generation: GenerationRef
    categories: tuple[CategoryConfusion, ...]
