from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping

import pytest

from clients import Client
from clients.recall import CohortMeasurement, MeasurementCause, RecallHistory, RecallMeasurement, SwapRecord
from clients.report import Facts, gather
from clients.types import GenerationRef
from tests.clients.fake_server import FakeServer
from tests.clients.made_up_history import fill

NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(minutes=1)

Counts = dict[int | None, tuple[int, int]]  # by cohort: found first, and probes


def measured(
    minute: float, stages: int, counts: Counts, references: Mapping[int, float] | None = None
) -> RecallMeasurement:
    """A measurement of the model that has learned so many stages, in the generation of that number plus one. References
    are of as many probes."""
    known: dict[int | None, float] = dict(references.items()) if references else {}
    cohorts = tuple(
        CohortMeasurement(cohort, probes, found, found, found, known.get(cohort), probes if cohort in known else None)
        for cohort, (found, probes) in counts.items()
    )
    generation = GenerationRef(stages + 1, f"model {stages}")
    return RecallMeasurement(NOON + minute * MINUTE, generation, MeasurementCause.TIMER, cohorts)


def swapped(minute: float, stages: int, *, again: bool = False) -> SwapRecord:
    generation = GenerationRef(stages + 1, f"model {stages}")
    return SwapRecord(NOON + minute * MINUTE, generation, stages - 1 if stages else None, again)


@pytest.fixture(scope="session")
def facts() -> Iterator[Facts]:
    """Of the server with a made-up past."""
    with FakeServer() as server, Client(server.target) as client:
        fill(server)
        yield gather(client, server.target)


@pytest.fixture
def fresh() -> Callable[..., Facts]:
    """Facts of a server on which nothing has been measured, but for the history that is given."""
    with FakeServer() as server, Client(server.target) as client:
        nothing = gather(client, server.target)

    def make(measurements: tuple[RecallMeasurement, ...] = (), swaps: tuple[SwapRecord, ...] = ()) -> Facts:
        history = RecallHistory(measurements, swaps)
        return Facts(nothing.server, nothing.made_at, nothing.status, history, nothing.generations)

    return make
