"""Group commit: one thread, one fsync for whoever waits."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from indexer.catalogue import Applied, Capacity, Catalogue, Change, Committer, Delete, Outcome
from indexer.errors import EverlookError, ItemNotFound, NotServing, QueueFull, StorageFull
from tests.indexer.catalogues import MODEL, fresh_url, keep_photo, photo, put, vector

WAIT_S = 10.0


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.open(fresh_url("sqlite", tmp_path)) as opened:
        yield opened
        opened.verify()


class Recorder:
    """An `on_commit` that remembers, and that can hold the writer in its place."""

    def __init__(self) -> None:
        self.transactions: list[list[Applied]] = []
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, applied: list[Applied]) -> None:
        self.transactions.append(applied)
        self.reached.set()
        assert self.go_on.wait(WAIT_S)

    def hold(self, committer: Committer, id: str = "held") -> Future[Applied]:
        """Puts an item, and returns when the writer stands in its transaction."""
        self.go_on.clear()
        held = committer.submit(put(id))
        assert self.reached.wait(WAIT_S)
        return held

    @property
    def sizes(self) -> list[int]:
        return [len(applied) for applied in self.transactions]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def committer(catalogue: Catalogue, recorder: Recorder) -> Iterator[Committer]:
    with Committer(catalogue, Capacity(), recorder) as started:
        yield started
        recorder.go_on.set()


def fail_next(monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue, error: Exception) -> list[int]:
    """Makes the next transaction raise; returns the list that will hold how many changes each one had."""
    original: Callable[[list[Change]], list[Applied | ItemNotFound]] = catalogue.apply
    sizes: list[int] = []

    def apply(changes: list[Change], models: Sequence[str] = ()) -> list[Applied | ItemNotFound]:
        sizes.append(len(changes))
        if len(sizes) == 1:
            raise error
        return original(changes)

    monkeypatch.setattr(catalogue, "apply", apply)
    return sizes


def test_what_waits_becomes_one_transaction(committer: Committer, recorder: Recorder) -> None:
    held = recorder.hold(committer)
    waiting = [committer.submit(put(f"{n}")) for n in range(100)]
    assert committer.depth == 101
    recorder.go_on.set()
    assert [held.result(WAIT_S).seq, *(each.result(WAIT_S).seq for each in waiting)] == list(range(1, 102))
    assert recorder.sizes == [1, 100]
    assert committer.depth == 0


@pytest.mark.parametrize(
    ("capacity", "sizes"),
    [
        pytest.param(Capacity(max_transaction_changes=4), [1, 4, 4, 2], id="changes"),
        pytest.param(Capacity(max_transaction_bytes=35_000), [1, 3, 3, 3, 1], id="bytes"),
        pytest.param(Capacity(max_transaction_bytes=1), [1] * 11, id="a photo bigger than a transaction"),
    ],
)
def test_a_transaction_is_bounded(
    catalogue: Catalogue, recorder: Recorder, capacity: Capacity, sizes: list[int]
) -> None:
    with Committer(catalogue, capacity, recorder) as committer:
        recorder.hold(committer)
        for n in range(10):
            committer.submit(put(f"{n}", size=10_000))
        recorder.go_on.set()
    assert recorder.sizes == sizes


def test_an_acknowledged_change_is_durable_and_was_told_to_the_index_before(
    catalogue: Catalogue, recorder: Recorder, committer: Committer
) -> None:
    held = recorder.hold(committer)
    assert catalogue.get("held").seq == 1  # committed, told, and not acknowledged yet
    assert not held.done()
    recorder.go_on.set()
    assert recorder.transactions == [[held.result(WAIT_S)]]


def test_changes_of_one_item_in_one_transaction_apply_in_order(committer: Committer, recorder: Recorder) -> None:
    recorder.hold(committer)
    changes: list[Change] = [put("a"), put("a", "pears"), Delete("a"), put("a"), keep_photo("a", "plums"), Delete("a")]
    waiting = [committer.submit(change) for change in changes]
    recorder.go_on.set()
    assert [each.result(WAIT_S).outcome for each in waiting] == [
        Outcome.CREATED,
        Outcome.UPDATED,
        Outcome.DELETED,
        Outcome.CREATED,
        Outcome.UPDATED,
        Outcome.DELETED,
    ]
    assert recorder.sizes == [1, 6]


def test_the_index_is_not_told_of_what_changed_nothing(committer: Committer, recorder: Recorder) -> None:
    committer.submit(put("a")).result(WAIT_S)
    assert committer.submit(put("a")).result(WAIT_S).outcome is Outcome.UNCHANGED
    with pytest.raises(ItemNotFound):
        committer.submit(Delete("b")).result(WAIT_S)
    assert recorder.sizes == [1]


@pytest.mark.parametrize(
    "capacity",
    [pytest.param(Capacity(max_changes=2), id="changes"), pytest.param(Capacity(max_bytes=5_000), id="bytes")],
)
def test_past_its_bound_the_queue_refuses_at_once_and_takes_again_when_it_has_drained(
    catalogue: Catalogue, recorder: Recorder, capacity: Capacity
) -> None:
    with Committer(catalogue, capacity, recorder) as committer:
        recorder.hold(committer)
        taken = committer.submit(put("a", size=1_000))
        with pytest.raises(QueueFull) as refused:
            committer.submit(put("b", size=1_000))
        assert refused.value.retry_after_s is not None
        assert 0.05 <= refused.value.retry_after_s <= 5.0
        recorder.go_on.set()
        taken.result(WAIT_S)
        assert committer.submit(put("c", size=1_000_000)).result(WAIT_S).outcome is Outcome.CREATED
    assert catalogue.get_many(["a", "b", "c"]).keys() == {"a", "c"}


def test_a_full_disk_fails_its_whole_transaction_and_the_next_one_goes_on(
    catalogue: Catalogue, recorder: Recorder, committer: Committer
) -> None:
    recorder.hold(committer)
    _limit_pages(catalogue, 4)
    waiting = [committer.submit(put("small")), committer.submit(put("large", size=500_000))]
    recorder.go_on.set()
    assert [type(each.exception(WAIT_S)) for each in waiting] == [StorageFull, StorageFull]
    assert catalogue.get_many(["small", "large"]) == {}
    assert committer.submit(put("small")).result(WAIT_S).seq == 2


def _limit_pages(catalogue: Catalogue, more: int) -> None:
    with catalogue._database._driver() as connection:  # type: ignore[attr-defined]  # SQLite's own
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + more}").fetchall()


def test_a_change_that_no_check_foresaw_fails_alone(
    catalogue: Catalogue, recorder: Recorder, committer: Committer
) -> None:
    recorder.hold(committer)
    waiting = [committer.submit(each) for each in (put("a"), put("bad", metadata={"k": math.nan}), put("c"))]
    recorder.go_on.set()
    assert [waiting[0].result(WAIT_S).seq, waiting[2].result(WAIT_S).seq] == [2, 3]
    with pytest.raises(ValueError, match="JSON compliant"):
        waiting[1].result(WAIT_S)
    assert committer.failed is None


def test_an_index_that_cannot_follow_stops_the_committer_and_every_waiter_is_told(catalogue: Catalogue) -> None:
    failures: list[BaseException] = []
    in_commit = threading.Event()
    go_on = threading.Event()

    def broken(applied: list[Applied]) -> None:
        in_commit.set()
        assert go_on.wait(WAIT_S)
        raise RuntimeError("the view is broken")

    with Committer(catalogue, Capacity(), broken, failures.append) as committer:
        first = committer.submit(put("a"))
        assert in_commit.wait(WAIT_S)
        waiting: list[Future[Applied] | Future[None]] = [committer.submit(put("b")), committer.run(lambda: None)]
        go_on.set()
        assert [type(each.exception(WAIT_S)) for each in [first, *waiting]] == [NotServing] * 3
        with pytest.raises(NotServing):
            committer.submit(put("c"))
        with pytest.raises(NotServing):
            committer.run(lambda: None)
        assert isinstance(committer.failed, RuntimeError)
        assert failures == [committer.failed]
        assert committer.depth == 0
    assert catalogue.get_many(["a", "b"]).keys() == {"a"}  # what was committed stays; opening again heals the view


def test_a_commit_of_unknown_outcome_stops_the_committer(
    catalogue: Catalogue, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_next(monkeypatch, catalogue, NotServing("the database cannot be reached"))
    with pytest.raises(NotServing):
        committer.submit(put("a")).result(WAIT_S)
    assert isinstance(committer.failed, NotServing)


def test_an_error_of_the_engine_is_not_tried_again_one_by_one(
    catalogue: Catalogue, recorder: Recorder, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.hold(committer)
    sizes = fail_next(monkeypatch, catalogue, StorageFull("the disk is full"))
    waiting = [committer.submit(put(each)) for each in "abc"]
    recorder.go_on.set()
    assert all(isinstance(each.exception(WAIT_S), EverlookError) for each in waiting)
    assert sizes == [3]


def test_closing_finishes_what_waits_and_refuses_the_rest(catalogue: Catalogue, recorder: Recorder) -> None:
    committer = Committer(catalogue, Capacity(max_transaction_changes=3), recorder)
    waiting = [committer.submit(put(f"{n}")) for n in range(10)]
    committer.start()
    committer.close()
    assert [each.result(0).seq for each in waiting] == list(range(1, 11))
    with pytest.raises(NotServing):
        committer.submit(put("late"))
    committer.close()


def test_closing_gives_up_after_its_time_limit(catalogue: Catalogue, recorder: Recorder) -> None:
    committer = Committer(catalogue, Capacity(), recorder)
    committer.start()
    held = recorder.hold(committer)
    waiting = committer.submit(put("a"))
    closer = threading.Thread(target=committer.close, args=(0.01,))
    closer.start()
    assert isinstance(waiting.exception(WAIT_S), NotServing)
    recorder.go_on.set()
    closer.join(WAIT_S)
    assert held.result(0).seq == 1
    assert catalogue.last_seq == 1


def test_a_committer_that_never_started_tells_its_waiters(catalogue: Catalogue, recorder: Recorder) -> None:
    committer = Committer(catalogue, Capacity(), recorder)
    waiting = committer.submit(put("a"))
    committer.close()
    assert isinstance(waiting.exception(0), NotServing)


def test_a_cancelled_change_is_dropped_unwritten(
    catalogue: Catalogue, recorder: Recorder, committer: Committer
) -> None:
    recorder.hold(committer)
    cancelled, kept = committer.submit(put("a")), committer.submit(put("b"))
    assert cancelled.cancel()
    recorder.go_on.set()
    assert kept.result(WAIT_S).seq == 2
    assert catalogue.get_many(["a", "b"]).keys() == {"b"}
    assert committer.depth == 0


def test_a_function_runs_between_transactions_after_what_was_submitted_before(
    catalogue: Catalogue, recorder: Recorder, committer: Committer
) -> None:
    recorder.hold(committer)
    before = [committer.submit(put(each)) for each in "ab"]
    seen = committer.run(
        lambda: (catalogue.last_seq, [each.done() for each in before], threading.current_thread().name)
    )
    after = committer.submit(put("c"))
    recorder.go_on.set()
    assert seen.result(WAIT_S) == (3, [True, True], "committer")
    assert after.result(WAIT_S).seq == 4
    assert recorder.sizes == [1, 2, 1]


def test_a_function_that_raises_fails_its_own_future_only(committer: Committer) -> None:
    with pytest.raises(ZeroDivisionError):
        committer.run(lambda: 1 // 0).result(WAIT_S)
    assert committer.submit(put("a")).result(WAIT_S).seq == 1


def test_vectors_are_stored_and_dropped_by_the_writer(catalogue: Catalogue, committer: Committer) -> None:
    committer.submit(put("a")).result(WAIT_S)
    assert committer.store_vectors("new", {photo("a").sha256: vector("a", "new")}).result(WAIT_S) == 1
    assert committer.drop_vectors(MODEL) == 1
    assert list(catalogue.missing_vectors(MODEL)) == [photo("a").sha256]
    assert list(catalogue.missing_vectors("new")) == []


def test_housekeeping_that_fails_fails_nobody(
    catalogue: Catalogue, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> bool:
        raise StorageFull("the disk is full")

    monkeypatch.setattr(catalogue, "upkeep", refuse)
    assert [committer.submit(put(each)).result(WAIT_S).seq for each in "ab"] == [1, 2]


def test_many_threads_get_every_seq_once(committer: Committer, recorder: Recorder) -> None:
    seqs: list[int] = []

    def stream(lane: int) -> None:
        seqs.extend(committer.submit(put(f"{lane}-{n}")).result(WAIT_S).seq for n in range(25))

    threads = [threading.Thread(target=stream, args=(lane,)) for lane in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seqs) == list(range(1, 401))
    assert [each.seq for applied in recorder.transactions for each in applied] == list(range(1, 401))
    assert len(recorder.sizes) < 200
