"""Admin's levers and its watch over real gRPC: the server is real, the trainer is this test."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from everlook.v1 import everlook_pb2 as pb
from indexer import stages
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.generation import GenerationInfo
from indexer.probes import is_probe
from indexer.programs import Activity, Reporter
from server import teaching
from server.services import admin
from tests.e2e.folders import publish_candidate
from tests.server.learned import begun, ended
from tests.server.running import TIMEOUT_S, Running, details_of, item, photo, running, status_of

PROBES = [id for id in (f"probe-{n}" for n in range(100)) if is_probe(id)]
OTHERS = [id for id in (f"item-{n}" for n in range(100)) if not is_probe(id)]


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(teaching, "_LOOK_EVERY_S", 0.02)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Running]:
    """A server that makes nothing live by itself, with three items in each of three categories."""
    with running(tmp_path, hold=True) as server:
        fill(server)
        yield server


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same for tests that make nothing live and leave no training behind."""
    with running(tmp_path_factory.mktemp("idle"), hold=True) as server:
        fill(server)
        yield server


def fill(server: Running) -> None:
    for n, id in enumerate(OTHERS[:9]):
        server.put(item(id, ("apple", "pear", "plum")[n % 3]), photo(n))


def data_of(server: Running) -> DataDir:
    return DataDir(server.data)


def candidate(server: Running, seed: int, *cohorts: tuple[str, ...]) -> GenerationInfo:
    """A generation of a model that was taught from the live one, as the other programs make it."""
    with Catalogue.open(data_of(server).catalogue_url) as catalogue:
        return publish_candidate(data_of(server), catalogue, seed, *cohorts)


def status(server: Running) -> pb.StatusResponse:
    return server.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S)


def states(server: Running) -> dict[int, str]:
    found = server.admin.ListGenerations(pb.ListGenerationsRequest(), timeout=TIMEOUT_S).generations
    return {each.number: pb.GenerationState.Name(each.state).removeprefix("GENERATION_STATE_") for each in found}


def promote(server: Running, number: int) -> pb.Generation:
    return server.admin.Promote(pb.PromoteRequest(number=number), timeout=TIMEOUT_S).generation


def rollback(server: Running, number: int = 0) -> pb.Generation:
    return server.admin.Rollback(pb.RollbackRequest(number=number), timeout=TIMEOUT_S).generation


def refused(call: Callable[..., Any], *args: Any) -> tuple[grpc.StatusCode, str, str]:
    """The code, the reason and the words of a call that fails."""
    with pytest.raises(grpc.RpcError) as failed:
        call(*args)
    error: Any = failed.value
    info: Any = details_of(status_of(error))["ErrorInfo"]
    return error.code(), info.reason, error.details()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


# ---------------------------------------------------------------------------------------------------- swaps


def test_a_candidate_goes_live_by_itself_and_its_categories_are_trained(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        fill(server)
        first = status(server).generation
        made = candidate(server, 1, ("apple", "pear"))
        wait_for(lambda: status(server).generation.number == made.number)
        live = status(server).generation
        assert (live.model.id, live.model.stages, live.state) == (made.model, 1, pb.GENERATION_STATE_LIVE)
        assert states(server) == {first.number: "PREVIOUS", made.number: "LIVE"}
        response = server.catalog.ListCategories(pb.ListCategoriesRequest(), timeout=TIMEOUT_S)
        trained, new = pb.CATEGORY_STATE_TRAINED, pb.CATEGORY_STATE_NEW
        assert [(each.name, each.state) for each in response.categories] == [
            ("apple", trained),
            ("pear", trained),
            ("plum", new),
        ]
        cohorts = [each.cohort if each.HasField("cohort") else None for each in response.categories]
        assert cohorts == [0, 0, None]
        wait_for(lambda: 'everlook_swaps_total{result="ok"} 1.0' in server.scrape())


def test_a_held_candidate_is_ready_until_a_person_promotes_it_and_can_be_rolled_back(held: Running) -> None:
    first = status(held).generation.number
    made = candidate(held, 1, ("apple", "pear"))
    assert states(held) == {first: "LIVE", made.number: "READY"}
    time.sleep(0.2)
    assert status(held).generation.number == first
    live = promote(held, made.number)
    assert (live.number, live.state, live.model.id) == (made.number, pb.GENERATION_STATE_LIVE, made.model)
    held.put(item("late", "plum"), photo(50))
    assert rollback(held).number == first
    assert states(held) == {first: "LIVE", made.number: "PREVIOUS"}
    found = held.search.Search(pb.SearchRequest(image=photo(50), k=1), timeout=TIMEOUT_S)
    assert ([hit.id for hit in found.hits], found.generation.number) == (["late"], first)
    assert rollback(held, made.number).number == made.number


def test_a_candidate_that_fails_its_gates_is_refused_with_the_reason_and_never_served(tmp_path: Path) -> None:
    with running(tmp_path, hold=True, floor=1.0) as held:
        fill(held)
        first = status(held).generation.number
        for number, id in enumerate(
            PROBES[:4]
        ):  # each a twin of an item of another category: neither model tells them apart
            held.put(item(id, "fig"), photo(70 + number))
            held.put(item(OTHERS[number], "nut"), photo(70 + number))
        made = candidate(held, 1, ("fig",))
        code, reason, words = refused(promote, held, made.number)
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
        assert "Recall@1 of cohort 0 is below the floor: 0.000 of 4 probes" in words
        assert states(held) == {first: "LIVE", made.number: "REJECTED"}
        listed = held.admin.ListGenerations(pb.ListGenerationsRequest(), timeout=TIMEOUT_S).generations
        (failed,) = [gate for gate in listed[0].gates if not gate.passed]
        assert failed.name == "floor of cohort 0"
        assert [(each.cohort, each.recall_at_1, each.probes) for each in listed[0].recall] == [(0, 0.0, 4)]
        assert 'everlook_swaps_total{result="refused"} 1.0' in held.scrape()


def test_a_swap_that_cannot_be_is_refused_by_its_reason(held: Running) -> None:
    first = status(held).generation.number
    made = candidate(held, 1, ("apple", "pear"))
    not_ready, not_found = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
    assert refused(promote, held, first)[:2] == (not_ready, "NOT_READY")
    assert refused(promote, held, 99)[:2] == (not_found, "GENERATION_NOT_FOUND")
    assert refused(rollback, held, 99)[:2] == (not_found, "GENERATION_NOT_FOUND")
    assert refused(promote, held, 0)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    code, reason, words = refused(rollback, held)
    assert (code, reason) == (not_ready, "NOT_READY")
    assert "no generation of an earlier model" in words
    assert "was never live" in refused(rollback, held, made.number)[2]
    assert states(held) == {first: "LIVE", made.number: "READY"}


# ---------------------------------------------------------------------------------------------------- training


@contextlib.contextmanager
def trainer(
    server: Running, *, deaf: bool = False, ends: stages.State = "cancelled", gathers_s: float = 0.0
) -> Iterator[list[stages.Training]]:
    """A trainer that begins what is asked for, and stops it where that is asked for; yields what it has begun.

    One that gathers says so from the start, so that no request comes before the word, and goes on for `gathers_s`.
    """
    data = data_of(server)
    reporter, stop, began = Reporter(data, "trainer"), threading.Event(), list[stages.Training]()
    words = f"{stages.GATHERS} 3 new categories" if gathers_s else "waiting"

    def work() -> None:
        while not stop.wait(0.02):
            reporter.say(Activity(words))
            asked = stages.requested_training(data)
            if asked is not None and not deaf:
                if stop.wait(gathers_s):
                    return
                chosen = asked.categories or ("apple", "pear", "plum")
                began.append(begun(data, len(began) + 1, chosen, stage=len(began), request=asked.id))
                stages.withdraw(data, asked)
            for training in began:
                if stages.cancel_requested(data, training.number) and not stages.has_ended(data, training.number):
                    ended(data, training, ends)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(lambda: [each.activity for each in status(server).programs if each.name == "trainer"] == [words])
        yield began
    finally:
        stop.set()
        thread.join()
        (data.programs / "trainer.json").unlink()


def start(server: Running, *categories: str) -> int:
    return server.admin.StartTraining(pb.StartTrainingRequest(categories=categories), timeout=TIMEOUT_S).stage


def cancel(server: Running) -> int:
    return server.admin.CancelTraining(pb.CancelTrainingRequest(), timeout=TIMEOUT_S).stage


def test_a_training_begins_on_request_is_shown_and_is_stopped_on_request(held: Running) -> None:
    with trainer(held) as began:
        assert start(held, "apple", "pear") == 0
        assert began[0].categories == ("apple", "pear")
        now = status(held).training
        assert (now.stage, now.categories, now.phase) == (0, 2, "training")
        response = held.catalog.ListCategories(pb.ListCategoriesRequest(), timeout=TIMEOUT_S)
        training, new = pb.CATEGORY_STATE_TRAINING, pb.CATEGORY_STATE_NEW
        assert [(each.name, each.state) for each in response.categories] == [
            ("apple", training),
            ("pear", training),
            ("plum", new),
        ]
        code, reason, words = refused(start, held)
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
        assert words == "stage 0 is being learned (training)"
        assert cancel(held) == 0
        assert not status(held).HasField("training")
        assert start(held) == 1
        assert began[1].categories == ("apple", "pear", "plum")


def test_categories_that_are_no_stage_are_refused_before_anything_is_asked_of_the_trainer(held: Running) -> None:
    with trainer(held) as began:
        for categories, words in [
            (("apple", "grape"), "'grape' is no category that waits to be learned"),
            (("apple",), "too few new categories have the photos to be learned"),
        ]:
            code, reason, said = refused(start, held, *categories)
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
            assert said == words
        promote(held, candidate(held, 1, ("apple", "pear")).number)
        assert "'apple' is no category that waits" in refused(start, held, "apple", "plum")[2]
        assert began == []
        assert stages.requested_training(data_of(held)) is None


def test_without_a_trainer_nothing_is_asked_for(idle: Running) -> None:
    code, reason, words = refused(start, idle)
    assert (code, reason, words) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY", "no trainer runs")
    assert stages.requested_training(data_of(idle)) is None


def test_a_request_that_the_trainer_does_not_take_up_is_withdrawn(
    idle: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_BEGIN_WITHIN_S", 0.3)
    with trainer(idle, deaf=True):
        code, reason, words = refused(start, idle)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
        assert "the trainer did not begin" in words
        assert stages.requested_training(data_of(idle)) is None


def test_a_trainer_that_gathers_the_photos_is_waited_for(held: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_BEGIN_WITHIN_S", 0.0)
    with trainer(held, gathers_s=0.5) as began:
        assert start(held, "apple", "pear") == 0
        assert began[0].categories == ("apple", "pear")


@pytest.fixture
def answers_early(monkeypatch: pytest.MonkeyPatch) -> float:
    """The deadline of a caller whom the server lets wait 0.3 s, and then has all the rest of it for the answer."""
    monkeypatch.setattr(admin, "_TO_ANSWER_S", 15.0)
    return 15.3


def test_but_no_longer_than_its_caller_waits(
    held: Running, answers_early: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "_BEGIN_WITHIN_S", 0.0)
    with trainer(held, gathers_s=60.0):
        with pytest.raises(grpc.RpcError) as failed:
            held.admin.StartTraining(pb.StartTrainingRequest(), timeout=answers_early)
        error: Any = failed.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert stages.requested_training(data_of(held)) is None


def test_a_caller_that_hangs_up_takes_its_request_along(idle: Running) -> None:
    with trainer(idle, deaf=True):
        call = idle.admin.StartTraining.future(pb.StartTrainingRequest(), timeout=TIMEOUT_S)
        wait_for(lambda: stages.requested_training(data_of(idle)) is not None)
        call.cancel()
        wait_for(lambda: stages.requested_training(data_of(idle)) is None)


def test_a_deadline_shorter_than_the_trainers_time_is_kept(idle: Running, answers_early: float) -> None:
    with trainer(idle, deaf=True), pytest.raises(grpc.RpcError) as failed:
        idle.admin.StartTraining(pb.StartTrainingRequest(), timeout=answers_early)
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_there_is_nothing_to_stop_while_nothing_is_trained(idle: Running) -> None:
    assert refused(cancel, idle)[1:] == ("NOT_READY", "no training is under way")


def test_a_training_that_was_over_first_was_not_stopped(held: Running) -> None:
    with trainer(held, ends="published"):
        start(held, "apple", "pear")
        code, reason, words = refused(cancel, held)
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
        assert words == "the training of stage 0 was over before it could be stopped: published"


def test_without_a_trainer_a_cancellation_waits_for_one(held: Running) -> None:
    training = begun(data_of(held), 1, ["apple", "pear"])
    code, reason, words = refused(cancel, held)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
    assert words == "no trainer runs; the training of stage 0 is stopped when one starts"
    assert stages.cancel_requested(data_of(held), training.number)


def test_a_trainer_that_does_not_stop_is_still_asked_to(held: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_STOP_WITHIN_S", 0.3)
    with trainer(held, deaf=True):
        training = begun(data_of(held), 1, ["apple", "pear"])
        code, reason, words = refused(cancel, held)
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
        assert words == "the training of stage 0 did not stop within 0 s; it is still asked to"
        assert stages.cancel_requested(data_of(held), training.number)


# ---------------------------------------------------------------------------------------------------- the watch


def told_until(watch: Iterator[pb.WatchStatusResponse], event: str) -> list[pb.WatchStatusResponse]:
    """What a watch tells, up to this event."""
    told = [next(watch)]
    while told[-1].event != event:
        told.append(next(watch))
    return told


def test_a_watch_tells_the_status_at_once_and_then_what_happens(held: Running) -> None:
    watch = held.admin.WatchStatus(pb.WatchStatusRequest(), timeout=TIMEOUT_S)
    first = next(watch)
    assert (first.event, first.status.catalogue.items) == ("", 9)
    made = candidate(held, 1, ("apple", "pear"))
    ready = f"generation {made.number} is ready, and waits to be promoted"
    before = [each.event for each in told_until(watch, ready)]
    assert before in (["stage 0: backfill began", ready], [ready])
    promote(held, made.number)
    told = told_until(watch, f"generation {made.number} is live")
    assert {each.status.training.phase for each in told[:-1]} <= {"swap"}
    assert told[-1].status.generation.number == made.number
    watch.cancel()


def test_a_watch_tells_progress_now_and_then_without_words(held: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_PROGRESS_EVERY_S", 0.0)
    data = data_of(held)
    begun(data, 1, ["apple", "pear"])
    reporter = Reporter(data, "trainer", clock=time.time)
    watch = held.admin.WatchStatus(pb.WatchStatusRequest(), timeout=TIMEOUT_S)
    assert next(watch).status.training.phase == "training"
    reporter.say(Activity("training", "training", 0, 2, 40, 40))
    told = next(watch)
    assert (told.event, told.status.training.done, told.status.training.total) == ("", 40, 40)
    watch.cancel()


def test_those_who_watch_share_the_looks(idle: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_LOOK_EVERY_S", 60.0)
    watches = [idle.admin.WatchStatus(pb.WatchStatusRequest(), timeout=TIMEOUT_S) for _ in range(3)]
    first = next(watches[0])
    idle.put(item("late", "plum"), photo(50))
    assert [next(watch).status.catalogue.items for watch in watches[1:]] == [first.status.catalogue.items] * 2
    for watch in watches:
        watch.cancel()


def test_a_watch_ends_when_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path, drain_s=15.0) as server:
        watch = server.admin.WatchStatus(pb.WatchStatusRequest(), timeout=TIMEOUT_S)
        next(watch)
        began = time.monotonic()
        server.ask_to_stop()
        with pytest.raises(grpc.RpcError) as ended_with:
            next(watch)
        error: Any = ended_with.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        server.thread.join(TIMEOUT_S)
        assert time.monotonic() - began < 10
