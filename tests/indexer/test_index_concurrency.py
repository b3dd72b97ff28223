"""Readers search without locks while the one writer applies changes and merges."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.index import AnyOf, Filter, Gallery, Removal, SearchParams, Segment, Upsert, View, exact
from indexer.index.filters import EVERYTHING
from tests.indexer.vectors import unit

D = 16
ITEMS = 200
STEPS = 1500
VECTORS = unit(np.random.default_rng(0).standard_normal((512, D)))
EVEN = Filter(conditions=(AnyOf("parity", ("even",)),))


def _vector_of(seq: int) -> NDArray[np.float32]:
    vector: NDArray[np.float32] = VECTORS[seq % len(VECTORS)]
    return vector


def _check(view: View, filtered: bool) -> None:
    """Everything that one reply must hold, from the reply and its view alone."""
    query = VECTORS[view.seq % 100]
    params = SearchParams(k=30, filter=EVEN if filtered else EVERYTHING)
    for hits in view.search(np.stack([query] * 5), params):
        seqs = hits.seqs.tolist()
        assert len(set(hits.ids)) == len(hits.ids), "an id came twice"
        assert max(seqs, default=0) <= view.seq, "an entry came before its view"
        for item_id, seq, score, category in zip(hits.ids, seqs, hits.scores, hits.categories, strict=True):
            assert score == exact.cosine(_vector_of(seq), query), "a vector of another entry"
            assert category == f"c{seq % 7}"
            row = view.row_of(item_id)
            assert row is not None, "a deleted item came"
            assert int(view.attributes.seqs(view.rows)[row]) == seq, "an entry came that was replaced"
        if filtered:
            assert all(values["parity"] == "even" for values in hits.metadata)
        expected = len(view) if not filtered else len(hits)
        assert len(hits) == min(30, expected)


def test_every_reply_is_of_its_view_while_the_writer_works() -> None:
    galleries = [Gallery.open(Segment.build(np.empty((0, D), np.float32), np.empty(0, np.uint64)), [])]
    done = threading.Event()
    failures: list[BaseException] = []
    replies = [0] * 3

    def read(reader: int) -> None:
        try:
            while not done.is_set():
                _check(galleries[0].view, filtered=bool(replies[reader] % 2))
                replies[reader] += 1
        except BaseException as error:  # a failed assertion must reach the test's own thread
            failures.append(error)

    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(3)]
    for reader in readers:
        reader.start()
    try:
        _write(galleries, done, failures)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    if failures:
        raise failures[0]
    assert min(replies) >= 5


def _write(galleries: list[Gallery], done: threading.Event, failures: list[BaseException]) -> None:
    rng = np.random.default_rng(1)
    seq = 0
    for step in range(STEPS):
        if failures:
            return
        changes: list[Upsert | Removal] = []
        for item in rng.integers(0, ITEMS, 4).tolist():
            seq += 1
            if rng.random() < 0.25:
                changes.append(Removal(seq, f"id{item}"))
            else:
                metadata = {"parity": "odd" if seq % 2 else "even", f"key{seq % 50}": float(seq)}
                changes.append(Upsert(seq, f"id{item}", f"c{seq % 7}", metadata, _vector_of(seq)))
        galleries[0].apply(changes)
        if step % 200 == 199:
            view = galleries[0].view
            galleries[0] = Gallery.rebase(view, Segment.build(*view.live_vectors()))
        if step % 10 == 0:
            time.sleep(0)  # lets readers in


def test_a_view_may_be_rebased_in_another_thread_while_the_writer_goes_on() -> None:
    gallery = Gallery.open(Segment.build(np.empty((0, D), np.float32), np.empty(0, np.uint64)), [])
    views: list[View] = [
        gallery.apply([Upsert(seq, f"id{seq % ITEMS}", "c", {f"key{seq % 9}": "x"}, _vector_of(seq))])
        for seq in range(1, 400)
    ]
    merged: list[Gallery] = []

    def merge() -> None:
        merged.extend(Gallery.rebase(views[-1], Segment.build(*views[-1].live_vectors())) for _ in range(20))

    thread = threading.Thread(target=merge)
    thread.start()
    for seq in range(400, 2400):
        gallery.apply([Upsert(seq, f"id{seq}", f"c{seq}", {f"key{seq % 60}": f"value{seq}"}, _vector_of(seq))])
    thread.join()
    (expected,) = views[-1].search(VECTORS[:1], SearchParams(k=ITEMS))
    assert len(merged) == 20
    for each in merged:
        (hits,) = each.view.search(VECTORS[:1], SearchParams(k=ITEMS))
        assert (hits.ids, hits.seqs.tolist()) == (expected.ids, expected.seqs.tolist())
        assert hits.metadata == expected.metadata


@pytest.mark.parametrize("readers", [2])
def test_searching_starts_no_threads_of_faiss(readers: int) -> None:
    """Each worker of the server is one core's worth: a search must not spread over the others."""
    vectors = unit(np.random.default_rng(2).standard_normal((4000, 64)))
    segment = Segment.build(vectors, np.arange(1, 4001, dtype=np.uint64))
    spent: list[tuple[float, float]] = []

    def work() -> None:
        started, used = time.perf_counter(), time.thread_time()
        for _ in range(20):
            segment.search(vectors[:16], 10)
        spent.append((time.perf_counter() - started, time.thread_time() - used))

    before, threads = time.process_time(), [threading.Thread(target=work) for _ in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process = time.process_time() - before
    assert process <= 1.5 * sum(used for _, used in spent) + 0.05
