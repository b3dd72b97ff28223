"""How recall has gone, and what is found worst, through both clients."""

from __future__ import annotations

import asyncio
import datetime

import grpc
import pytest

from clients import AsyncClient, Client, errors
from clients.recall import (
    CategoryConfusion,
    CohortMeasurement,
    Confusion,
    Confusions,
    MeasurementCause,
    RecallMeasurement,
    SwapRecord,
)
from clients.types import GenerationRef
from everlook.v1 import everlook_pb2 as pb
from tests.clients.conftest import QUICK
from tests.clients.fake_server import Failure, FakeServer

NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
SEVEN = pb.GenerationRef(number=7, model="ab" * 32)


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    """Two measurements an hour apart, a swap between them, and one category that is found worst."""
    for hour, cause in ((0, pb.MEASUREMENT_CAUSE_START), (1, pb.MEASUREMENT_CAUSE_SWAP)):
        measured = server.history.measurements.add(generation=SEVEN, cause=cause)
        measured.at.FromDatetime(NOON + hour * HOUR)
        known = measured.cohorts.add(cohort=0, probes=50, found_at_1=41, found_at_5=45, found_at_10=47)
        known.reference_at_1, known.reference_probes = 0.84, 25
        measured.cohorts.add(probes=9, found_at_1=4, found_at_5=6, found_at_10=6)
    server.history.swaps.add(generation=SEVEN, cohort=0, again=True).at.FromDatetime(NOON + HOUR / 2)
    server.confusions = pb.ListConfusionsResponse(generation=SEVEN)
    server.confusions.at.FromDatetime(NOON)
    for name in ("bowls", "mugs"):
        found = server.confusions.categories.add(category=name, cohort=0, probes=8, found_at_1=2)
        for number in range(3):
            found.examples.add(probe_id=f"{name}-{number}", found_id="cup-1", found_category="cups", score=0.5)
    return server


def test_the_history_has_every_measurement_and_swap(server: FakeServer, client: Client) -> None:
    history = client.recall_history()
    generation = GenerationRef(7, "ab" * 32)
    cohorts = (CohortMeasurement(0, 50, 41, 45, 47, 0.84, 25), CohortMeasurement(None, 9, 4, 6, 6, None, None))
    assert history.measurements == (
        RecallMeasurement(NOON, generation, MeasurementCause.START, cohorts),
        RecallMeasurement(NOON + HOUR, generation, MeasurementCause.SWAP, cohorts),
    )
    assert history.swaps == (SwapRecord(NOON + HOUR / 2, generation, 0, True),)


def test_a_history_may_begin_later_and_be_thinned(server: FakeServer, client: Client) -> None:
    later = client.recall_history(since=NOON + HOUR)
    assert [each.at for each in later.measurements] == [NOON + HOUR]
    elsewhere = (NOON + HOUR).astimezone(datetime.timezone(5 * HOUR))
    assert client.recall_history(since=elsewhere).measurements == later.measurements
    assert len(client.recall_history(max_measurements=1).measurements) == 1


def test_a_time_without_a_zone_is_refused(server: FakeServer, client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="since has no time zone") as refused:
        client.recall_history(since=datetime.datetime(2026, 11, 21))
    assert (refused.value.field, refused.value.got) == ("since", "2026-11-21 00:00:00")
    with pytest.raises(errors.InvalidRequest):
        client.recall_history(max_measurements=-1)
    assert not server.calls


def test_what_is_found_worst_comes_with_examples(server: FakeServer, client: Client) -> None:
    found = client.confusions(max_categories=1, max_examples=2)
    examples = tuple(Confusion(f"bowls-{number}", "cup-1", "cups", 0.5) for number in range(2))
    generation = GenerationRef(7, "ab" * 32)
    assert found == Confusions(NOON, generation, (CategoryConfusion("bowls", 0, 8, 2, examples),))


def test_before_the_first_measurement_the_history_is_empty_and_nothing_is_found_worst() -> None:
    with FakeServer() as fresh, Client(fresh.target, retries=QUICK) as client:
        history = client.recall_history()
        assert (history.measurements, history.swaps) == ((), ())
        with pytest.raises(errors.NotReady, match="nothing has been measured yet"):
            client.confusions()


def test_both_are_tried_again(server: FakeServer, client: Client) -> None:
    for method in ("GetRecallHistory", "ListConfusions"):
        server.fail(method, Failure(grpc.StatusCode.UNAVAILABLE))
    assert len(client.recall_history().measurements) == len(client.confusions().categories) == 2


def test_the_asyncio_client_answers_the_same(server: FakeServer, client: Client) -> None:
    async def run() -> None:
        async with AsyncClient(server.target, retries=QUICK) as other:
            assert await other.recall_history(since=NOON) == client.recall_history(since=NOON)
            assert await other.confusions(max_examples=1) == client.confusions(max_examples=1)

    asyncio.run(run())
