"""The report of a real server: two stages went live, the second was gone back from, and the page says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import Client
from clients.report import Facts, gather, write_report
from clients.report.figures import Change, Share, changes_of, recall_at_1
from everlook.v1 import everlook_pb2 as pb
from tests.server.recalled import history, wait_for
from tests.server.running import TIMEOUT_S, running
from tests.server.test_recall import FIRST, SECOND, confusions, fill, serving, teach

Told = tuple[pb.GetRecallHistoryResponse, pb.ListConfusionsResponse]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Facts, Told]]:
    """What the report was made of, and what the server says through raw stubs."""
    data = tmp_path_factory.mktemp("data")
    with running(data) as server:
        fill(server)
    with serving(data) as server, Client(f"127.0.0.1:{server.app.port}") as client:
        wait_for(lambda: history(server).measurements)
        teach(server, 1, FIRST)
        teach(server, 2, FIRST, SECOND)
        server.admin.Rollback(pb.RollbackRequest(), timeout=TIMEOUT_S)
        wait_for(lambda: len(history(server).measurements) == 4)
        yield gather(client, "a real one"), (history(server), confusions(server, max_categories=10))


def test_what_the_swaps_changed_is_what_the_server_measured(reported: tuple[Facts, Told]) -> None:
    facts, (told, _) = reported
    start, first, second, _ = told.measurements

    def share(measurement: pb.RecallMeasurement, cohort: int | None) -> Share:
        (found,) = [
            each for each in measurement.cohorts if (each.cohort if each.HasField("cohort") else None) == cohort
        ]
        return Share(found.found_at_1, found.probes)

    one, two = changes_of(facts.history)
    assert (one.learning, one.forgetting) == (Change(share(start, None), share(first, 0)), None)
    assert (two.learning, two.forgetting) == (
        Change(share(first, None), share(second, 1)),
        Change(share(first, 0), share(second, 0)),
    )


def test_the_page_has_the_figures_of_the_last_measurement(reported: tuple[Facts, Told], tmp_path: Path) -> None:
    facts, (told, _) = reported
    written = write_report(facts, tmp_path)
    text = written.page.read_text(encoding="utf-8")
    assert [path.name for path in written.pictures] == ["recall.png", "changes.png"]
    zero, waiting = facts.history.measurements[-1].cohorts  # the second stage's categories wait again
    for name, cohort in (("cohort 0", zero), ("waiting", waiting)):
        share = recall_at_1(cohort)
        row = rf'<th scope="row">{name}</th>.*?>{share.probes}</td>.*?<small>{share.found} of {share.probes}</small>'
        assert re.search(row, text)
    assert zero.reference_at_1 == told.measurements[1].cohorts[0].found_at_1 / told.measurements[1].cohorts[0].probes
    assert "no fall of over 2 points beyond sampling error" in text
    assert (
        text.count("went live again") == 2 + 3
    )  # in both charts of all probes, and in that of each cohort and of what waits


def test_what_is_confused_is_shown_with_its_photos(reported: tuple[Facts, Told]) -> None:
    facts, (_, told) = reported
    assert facts.confusions is not None
    assert [each.category for each in facts.confusions.categories] == [each.category for each in told.categories]
    shown = {id for category in told.categories for pair in category.examples for id in (pair.probe_id, pair.found_id)}
    assert shown
    assert facts.thumbnails.keys() == shown
