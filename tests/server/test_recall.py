"""Recall through a real server: what the metrics page and Admin say is what the same items give, computed apart."""

from __future__ import annotations

import contextlib
import io
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from PIL import Image

from everlook.v1 import everlook_pb2 as pb
from indexer.catalogue import Catalogue, Cause, CohortCounts, Measurement
from indexer.datadir import DataDir
from indexer.generation import live_number
from indexer.probes import is_probe, rank
from indexer.recall import Recall, recall_of, wilson
from server.services.recall import MOST_CATEGORIES, MOST_EXAMPLES, MOST_MEASUREMENTS
from server.watching.probes import ProbeWatch
from tests.e2e.folders import publish_candidate
from tests.server.recalled import Samples, drifts, fell, history, measured_page, wait_for
from tests.server.running import TIMEOUT_S, Running, details_of, item, running, status_of

KS = (1, 5, 10)
COUNT = 150
CATEGORIES = [f"kind-{n}" for n in range(15)]
FIRST, SECOND = tuple(CATEGORIES[:6]), tuple(CATEGORIES[6:10])
"""What two stages teach; the others wait."""

_PROBES = [id for id in (f"probe-{n}" for n in range(1000)) if is_probe(id)]
_OTHERS = [id for id in (f"item-{n}" for n in range(1000)) if not is_probe(id)]
IDS = [(_PROBES if n % 2 else _OTHERS)[n] for n in range(COUNT)]
SHOWN = [CATEGORIES[n // 2 % 15] for n in range(COUNT)]


def picture(number: int) -> bytes:
    """A photo of the item of this number: its category's patches of colour, and as much of its own."""
    category = np.random.default_rng(number // 2 % 15).integers(0, 256, (4, 4, 3))
    own = np.random.default_rng(1000 + number).integers(0, 256, (4, 4, 3))
    file = io.BytesIO()
    patches = ((2 * category + 3 * own) // 5).astype(np.uint8)
    Image.fromarray(patches).resize((40, 40), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def fill(server: Running, numbers: Sequence[int] = range(COUNT)) -> None:
    requests = [pb.IngestRequest(item=item(IDS[n], SHOWN[n]), image=picture(n)) for n in numbers]
    answers = list(server.catalog.Ingest(iter(requests), timeout=TIMEOUT_S))
    assert [each.error for each in answers if each.HasField("error")] == []


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the items, of which model 0 is live."""
    folder = tmp_path_factory.mktemp("begun")
    with running(folder) as server:
        fill(server)
    return folder


@pytest.fixture
def shop(begun: Path, tmp_path: Path) -> Iterator[Running]:
    """A server over a copy of it, which makes nothing live by itself and measures at its start and after swaps."""
    with serving(copied(begun, tmp_path / "data")) as server:
        yield server


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@contextlib.contextmanager
def serving(folder: Path, **changes: object) -> Iterator[Running]:
    with running(folder, **({"hold": True, "recall_every_s": 0, "floor": 0.0, "most_drop": 1.0} | changes)) as server:
        yield server


def confusions(server: Running, **asked: Any) -> pb.ListConfusionsResponse:
    return server.admin.ListConfusions(pb.ListConfusionsRequest(**asked), timeout=TIMEOUT_S)


def teach(server: Running, seed: int, *cohorts: tuple[str, ...]) -> int:
    """A model with these cohorts goes live."""
    data = DataDir(server.data)
    with Catalogue.open(data.catalogue_url) as catalogue:
        number = publish_candidate(data, catalogue, seed, *cohorts).number
    server.admin.Promote(pb.PromoteRequest(number=number), timeout=TIMEOUT_S)
    wait_for(lambda: [each for each in history(server).measurements if each.generation.number == number])
    return number


def embedded(server: Running) -> NDArray[np.float32]:
    """What the live model makes of the photos (N, D): asked for over the wire, one by one."""
    answers = [server.search.Embed(pb.EmbedRequest(image=picture(n)), timeout=TIMEOUT_S) for n in range(COUNT)]
    return np.array([answer.vector.values for answer in answers], np.float32)


def offline(vectors: NDArray[np.float32], *categories: str, most: int = COUNT) -> dict[int, Recall]:
    """Recall of the probes of these categories, of at most so many, by a definition of its own: exact search among all
    vectors."""
    rows = np.array(probe_rows(categories)[:most])
    return recall_of(vectors[rows], [SHOWN[n] for n in rows], vectors, SHOWN, KS, self_rows=rows)


def probe_rows(categories: Sequence[str]) -> list[int]:
    """The numbers of the probes of these categories, those of the lowest rank first."""
    return sorted((n for n in range(COUNT) if is_probe(IDS[n]) and SHOWN[n] in categories), key=lambda n: rank(IDS[n]))


def check(found: Samples, expected: dict[str, dict[int, Recall]]) -> None:
    """The page has these cohorts and no other, each with its recall to the digit."""
    assert {cohort for name, cohort, _ in found if name == "ratio"} == expected.keys()
    for cohort, recalls in expected.items():
        assert found["probes", cohort, ""] == recalls[1].queries
        for k, recall in recalls.items():
            assert found["ratio", cohort, str(k)] == recall.value
            assert (found["low_ratio", cohort, str(k)], found["high_ratio", cohort, str(k)]) == recall.interval()


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failed:
        call()
    error: Any = failed.value
    info: Any = details_of(status_of(error))["ErrorInfo"]
    return error.code(), info.reason


# ---------------------------------------------------------------------------------------------------- the figures


def test_recall_through_metrics_is_recall_computed_offline_from_the_same_items_to_the_digit(shop: Running) -> None:
    waiting = offline(embedded(shop), *CATEGORIES)
    assert 0.2 < waiting[1].value < waiting[5].value < waiting[10].value < 1  # so that they can be told apart
    check(measured_page(shop), {"all": waiting, "waiting": waiting})

    teach(shop, 1, FIRST)
    teach(shop, 2, FIRST, SECOND)
    vectors = embedded(shop)
    check(
        measured_page(shop),
        {
            "all": offline(vectors, *CATEGORIES),
            "0": offline(vectors, *FIRST),
            "1": offline(vectors, *SECOND),
            "waiting": offline(vectors, *CATEGORIES[10:]),
        },
    )
    last = history(shop).measurements[-1]
    assert [each.found_at_10 for each in last.cohorts][:2] == [
        offline(vectors, *names)[10].found for names in (FIRST, SECOND)
    ]


def test_of_cohorts_that_are_searched_in_part_all_is_their_recall_weighted_with_all_their_probes(
    begun: Path, tmp_path: Path
) -> None:
    most = 9
    with serving(copied(begun, tmp_path / "data"), recall_probes=most) as server:
        teach(server, 1, FIRST)
        teach(server, 2, FIRST, SECOND)
        vectors, found = embedded(server), measured_page(server)
    parts: dict[str, Sequence[str]] = {"0": FIRST, "1": SECOND, "waiting": CATEGORIES[10:]}
    there = {cohort: len(probe_rows(names)) for cohort, names in parts.items()}
    assert there == {"0": 30, "1": 20, "waiting": 25}
    recalls = {cohort: offline(vectors, *names, most=most) for cohort, names in parts.items()}
    check({key: value for key, value in found.items() if key[1] != "all"}, recalls)
    assert found["probes", "all", ""] == 3 * most
    effective = 75**2 / sum(count**2 / most for count in there.values())
    for k in KS:
        share = sum(there[cohort] * recall[k].value for cohort, recall in recalls.items()) / 75
        assert found["ratio", "all", str(k)] == pytest.approx(share, abs=1e-12)
        ends = found["low_ratio", "all", str(k)], found["high_ratio", "all", str(k)]
        assert ends == pytest.approx(wilson(share * effective, effective), abs=1e-12)
    added_up = sum(recall[1].found for recall in recalls.values()) / (3 * most)
    assert abs(found["ratio", "all", "1"] - added_up) > 0.001  # so that the two can be told apart


def test_what_has_changed_is_told_from_where_the_live_model_began_across_a_restart_too(
    begun: Path, tmp_path: Path
) -> None:
    folder = copied(begun, tmp_path / "data")
    with serving(folder) as server:
        teach(server, 1, FIRST)
        teach(server, 2, FIRST, SECOND)
        before = measured_page(server)
    with serving(folder) as server:
        found = wait_for(lambda: ("since_swap_ratio", "all", "") in (page := measured_page(server)) and page)
    for cohort in ("all", "0", "1"):
        assert found["since_swap_ratio", cohort, ""] == 0.0
        assert found["since_swap_probes", cohort, ""] == found["after_swap_probes", cohort, ""] > 0
    assert found["after_swap_ratio", "0", ""] == before["ratio", "0", "1"] != before["reference_ratio", "0", ""]


def test_series_of_a_stage_disappear_when_it_is_rolled_back(shop: Running) -> None:
    teach(shop, 1, FIRST)
    found = measured_page(shop)
    assert {cohort for name, cohort, _ in found if name == "drift_ratio"} == {"all", "0"}
    shop.admin.Rollback(pb.RollbackRequest(), timeout=TIMEOUT_S)
    found = measured_page(shop)
    assert {cohort for name, cohort, _ in found if cohort} == {"all", "waiting"}
    assert not any(name.startswith(("drift", "reference")) for name, _, _ in found)


# ---------------------------------------------------------------------------------------------------- the history


def test_the_history_has_each_measurement_with_its_cause_and_each_swap(shop: Running) -> None:
    first = wait_for(lambda: history(shop).measurements)[0].generation.number
    second = teach(shop, 1, FIRST)
    third = teach(shop, 2, FIRST, SECOND)
    shop.admin.Rollback(pb.RollbackRequest(), timeout=TIMEOUT_S)
    found = wait_for(lambda: len((now := history(shop)).measurements) == 4 and now)
    start, swap = pb.MEASUREMENT_CAUSE_START, pb.MEASUREMENT_CAUSE_SWAP
    assert [(each.generation.number, each.cause) for each in found.measurements] == [
        (first, start),
        (second, swap),
        (third, swap),
        (second, swap),
    ]
    assert [(each.generation.number, each.again) for each in found.swaps] == [
        (first, False),
        (second, False),
        (third, False),
        (second, True),
    ]
    assert [each.cohort if each.HasField("cohort") else None for each in found.swaps] == [None, 0, 1, 0]
    times = [each.at.ToNanoseconds() for each in found.measurements]
    assert times == sorted(times)

    one, two = found.measurements[1].cohorts[0], found.measurements[2].cohorts[1]
    assert one.reference_at_1 == one.found_at_1 / one.probes
    assert found.measurements[2].cohorts[0].reference_at_1 == one.reference_at_1
    assert two.reference_at_1 == two.found_at_1 / two.probes
    assert (found.measurements[2].cohorts[0].reference_probes, two.reference_probes) == (one.probes, two.probes)
    waiting = found.measurements[1].cohorts[-1]
    assert not waiting.HasField("cohort")
    assert not waiting.HasField("reference_at_1")
    assert not waiting.HasField("reference_probes")

    since = found.measurements[2].at
    assert list(history(shop, since=since).measurements) == list(found.measurements[2:])
    assert len(history(shop, max_measurements=2).measurements) == 2


def test_the_length_of_an_answer_is_bounded_however_many_cohorts_there_are(begun: Path, tmp_path: Path) -> None:
    """Of 200 measurements of 130 cohorts, 26,000 rows, there are no more than 20,000 in an answer."""
    folder = copied(begun, tmp_path / "data")
    cohorts = tuple(CohortCounts(stage, 500, 400, 450, 480) for stage in range(130))
    with Catalogue.open(DataDir(folder).catalogue_url) as catalogue:
        for at in range(200):
            catalogue.history.append(Measurement(2e9 + at, 1, "a" * 64, Cause.TIMER, cohorts))
    with serving(folder) as server:
        found = history(server, since=Timestamp(seconds=2_000_000_000), max_measurements=MOST_MEASUREMENTS)
    times = [each.at.seconds for each in found.measurements]
    assert (times[0], times[-1]) == (2_000_000_000, 2_000_000_199)
    assert 10_000 < sum(len(each.cohorts) for each in found.measurements) <= 20_000
    # The server's own, which comes after them, may be there already.
    assert all(len(each.cohorts) == 130 for each in found.measurements if each.generation.model == "a" * 64)


def test_status_and_generations_have_the_reference_of_the_history(shop: Running) -> None:
    teach(shop, 1, FIRST)
    second = teach(shop, 2, FIRST, SECOND)
    measured = {each.cohort: each.reference_at_1 for each in history(shop).measurements[-1].cohorts[:2]}
    live = shop.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).generation
    listed = shop.admin.ListGenerations(pb.ListGenerationsRequest(), timeout=TIMEOUT_S).generations
    for generation in (live, *(each for each in listed if each.number == second)):
        assert {each.cohort: each.reference for each in generation.recall} == pytest.approx(measured)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"max_measurements": MOST_MEASUREMENTS + 1}, id="too many"),
        pytest.param({"since": Timestamp(seconds=1, nanos=-1)}, id="nanoseconds below zero"),
        pytest.param({"since": Timestamp(seconds=1, nanos=1_000_000_000)}, id="nanoseconds beyond a second"),
        pytest.param({"since": Timestamp(seconds=253_402_300_800)}, id="after the year 9999"),
        pytest.param({"since": Timestamp(seconds=-62_135_596_801)}, id="before the year 1"),
    ],
)
def test_a_history_that_cannot_be_is_refused(server: Running, asked: dict[str, Any]) -> None:
    assert refused(lambda: history(server, **asked)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_what_may_be_asked_for_at_the_most_is_answered(server: Running) -> None:
    year_9999 = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
    assert not history(server, since=year_9999, max_measurements=MOST_MEASUREMENTS).measurements
    history(server, since=Timestamp(seconds=-62_135_596_800))


# ---------------------------------------------------------------------------------------------------- confusions


def upper(found: int, probes: int) -> float:
    """The highest share of which so many found are within 1.96 of its own standard errors."""
    z2 = 1.96**2
    return round(float(max(np.roots([probes + z2, -(2 * found + z2), found**2 / probes]).real)), 9)


def test_the_worst_categories_are_those_that_are_surest_to_be_found_least_offline(shop: Running) -> None:
    teach(shop, 1, FIRST)
    vectors = embedded(shop)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = scores.argmax(axis=1)
    counted = {name: [n for n in range(COUNT) if SHOWN[n] == name and is_probe(IDS[n])] for name in CATEGORIES}
    missed = {name: [n for n in rows if SHOWN[nearest[n]] != name] for name, rows in counted.items()}
    measured_page(shop)
    found = confusions(shop, max_categories=100, max_examples=100)
    assert found.generation.model == shop.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).generation.model.id
    assert {each.category for each in found.categories} == {name for name, rows in missed.items() if rows}
    order = [
        (upper(each.found_at_1, each.probes), each.found_at_1 / each.probes, each.category) for each in found.categories
    ]
    assert order == sorted(order)
    for each in found.categories:
        assert each.probes == len(counted[each.category])
        assert each.probes - each.found_at_1 == len(missed[each.category])
        assert (each.cohort if each.HasField("cohort") else None) == (0 if each.category in FIRST else None)
        assert {(one.probe_id, one.found_id, one.found_category) for one in each.examples} == {
            (IDS[n], IDS[nearest[n]], SHOWN[nearest[n]]) for n in missed[each.category]
        }
        for one in each.examples:
            assert one.score == pytest.approx(scores[IDS.index(one.probe_id)].max(), abs=1e-5)
    few = confusions(shop, max_categories=2, max_examples=1)
    assert [each.category for each in few.categories] == [each.category for each in found.categories[:2]]
    assert all(len(each.examples) == 1 for each in few.categories)


def test_a_deleted_item_is_in_no_confusion(shop: Running) -> None:
    measured_page(shop)
    gone = confusions(shop).categories[0].examples[0]
    shop.catalog.Delete(pb.DeleteRequest(id=gone.found_id), timeout=TIMEOUT_S)
    left = confusions(shop, max_categories=100, max_examples=100)
    assert gone.found_id not in {each.found_id for category in left.categories for each in category.examples}


@pytest.mark.parametrize("asked", [{"max_categories": MOST_CATEGORIES + 1}, {"max_examples": MOST_EXAMPLES + 1}])
def test_more_confusions_than_an_answer_holds_are_refused(server: Running, asked: dict[str, int]) -> None:
    assert refused(lambda: confusions(server, **asked)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_before_the_first_measurement_there_is_no_telling(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProbeWatch, "last", lambda watch: None)
    assert refused(lambda: confusions(server)) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")


# ---------------------------------------------------------------------------------------------------- planted falls


def test_a_calm_repeat_has_no_drift_at_all_and_a_cohorts_spoiled_vectors_have(begun: Path, tmp_path: Path) -> None:
    folder = copied(begun, tmp_path / "data")
    with serving(folder) as server:
        teach(server, 1, FIRST)
        teach(server, 2, FIRST, SECOND)
        assert {name: change for name, (change, _) in drifts(server).items()}["1"] == 0.0
        before = drifts(server)
    with serving(folder) as server:
        assert drifts(server) == before
    spoil(folder, FIRST)
    with serving(folder) as server:
        after = drifts(server)
        assert fell(after["0"])
        assert not fell(after["1"])
        assert history(server).measurements[-1].cause == pb.MEASUREMENT_CAUSE_START


def spoil(folder: Path, categories: Sequence[str]) -> None:
    """Replaces the stored vectors of these categories' items by any others, and has the index made of them again."""
    rng = np.random.default_rng(3)
    with sqlite3.connect(folder / "catalogue.db") as database:
        marks = ",".join("?" * len(categories))
        rows = database.execute(
            "SELECT v.model_id, v.photo_id, length(v.vector) FROM vectors v JOIN items i ON i.photo_id = v.photo_id"  # noqa: S608
            f" JOIN categories c ON c.id = i.category_id WHERE c.name IN ({marks})",
            categories,
        ).fetchall()
        assert rows
        for model, photo, size in rows:
            vector = rng.standard_normal(size // 4).astype("<f4")
            vector /= np.linalg.norm(vector)
            key = (vector.tobytes(), model, photo)
            database.execute("UPDATE vectors SET vector = ? WHERE model_id = ? AND photo_id = ?", key)
    database.close()
    data = DataDir(folder)
    (data.generation(live_number(data) or 0) / "index.faiss").unlink()


def test_the_reference_survives_a_restart_and_a_merge(begun: Path, tmp_path: Path) -> None:
    folder = copied(begun, tmp_path / "data")
    with serving(folder) as server:
        teach(server, 1, FIRST)
        before = measured_page(server)
    with serving(folder, merge_min_entries=1, merge_ratio=0.001) as server:
        server.put(item("one more", "new"), picture(999))
        wait_for(lambda: 'everlook_merges_total{result="ok"} 0.0' not in server.scrape())
        after = measured_page(server)
    assert after["reference_ratio", "0", ""] == before["reference_ratio", "0", ""]
    assert after["drift_ratio", "0", ""] == 0.0
