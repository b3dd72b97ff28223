"""The main segment: built, measured, saved, loaded, and refused when damaged."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import GenerationDamaged
from indexer.index import Segment, exact
from indexer.index.rows import RowSet
from tests.indexer.vectors import clustered, unit

D = 32


def _seqs(count: int) -> NDArray[np.uint64]:
    return np.arange(10, 10 + 2 * count, 2, dtype=np.uint64)


@pytest.fixture(scope="module")
def approximate() -> Segment:
    """A small segment with inverted lists."""
    return Segment.build(clustered(4000, D, 80), _seqs(4000), flat_below=1000)


@pytest.fixture(scope="module")
def flat() -> Segment:
    return Segment.build(clustered(300, D, 20), _seqs(300))


@pytest.fixture(params=["flat", "approximate"])
def segment(request: pytest.FixtureRequest) -> Segment:
    built: Segment = request.getfixturevalue(request.param)
    return built


def _recall(segment: Segment, queries: NDArray[np.float32], k: int, keep: RowSet | None = None) -> float:
    _, rows = segment.search(queries, k, keep=keep)
    expected = exact.search(segment.vectors, queries, k, None if keep is None else keep.mask())
    shares = [
        len(set(got.tolist()) & set(want.tolist())) / len(want) for got, (want, _) in zip(rows, expected, strict=True)
    ]
    return float(np.mean(shares))


def test_the_type_follows_from_the_size(flat: Segment, approximate: Segment) -> None:
    assert (flat.kind, flat.recall) == ("Flat", None)
    assert approximate.kind == "IVF128,PQ8x4fs,RFlat"
    assert approximate.recall is not None
    assert approximate.recall >= 0.99


def test_vectors_that_no_effort_can_find_are_searched_exactly() -> None:
    noise = unit(np.random.default_rng(0).standard_normal((3000, 64)))
    assert Segment.build(noise, _seqs(3000), flat_below=1000).kind == "Flat"


def test_a_dimension_that_does_not_divide_into_fours_is_searched_exactly() -> None:
    assert Segment.build(clustered(1500, 30, 20), _seqs(1500), flat_below=1000).kind == "Flat"


def test_the_full_vectors_are_read_where_the_index_holds_them(segment: Segment) -> None:
    vectors = segment.vectors
    assert np.array_equal(vectors, clustered(len(segment), D, 80 if len(segment) == 4000 else 20))
    assert not vectors.flags.owndata
    assert not vectors.flags.writeable


def test_lent_vectors_outlive_the_segment() -> None:
    expected = clustered(500, D, 10)
    vectors = Segment.build(expected, _seqs(500)).vectors
    Segment.build(clustered(500, D, 10, seed=1), _seqs(500))  # would take the freed memory
    assert np.array_equal(vectors, expected)


@pytest.mark.parametrize("share", [None, 0.9, 0.3, 0.02], ids=str)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_recall_holds_for_any_k_and_share_of_rows(approximate: Segment, share: float | None, k: int) -> None:
    rng = np.random.default_rng(5)
    queries = unit(approximate.vectors[rng.integers(0, 4000, 100)] + 0.02 * rng.standard_normal((100, D)))
    keep = None if share is None else RowSet.of(rng.random(4000) < share)
    _, rows = approximate.search(queries, k, keep=keep)
    if keep is not None:
        assert keep.has(rows[rows >= 0]).all()
    assert _recall(approximate, queries, k, keep) >= 0.97


def test_an_exact_search_finds_what_the_oracle_finds(segment: Segment) -> None:
    queries = segment.vectors[:20]
    keep = RowSet.full(len(segment)).without([0, 5, 9])
    _, rows = segment.search(queries, 10, keep=keep, exact=True)
    for got, (want, _) in zip(rows, exact.search(segment.vectors, queries, 10, keep.mask()), strict=True):
        assert set(want.tolist()) <= set(got.tolist())


def test_every_row_is_found_when_k_is_larger_than_the_segment(segment: Segment) -> None:
    _, rows = segment.search(segment.vectors[:2], len(segment) + 5)
    assert [sorted(found.tolist()) for found in rows] == [list(range(len(segment)))] * 2


def test_rows_that_the_visited_lists_do_not_hold_are_still_found(approximate: Segment) -> None:
    """Only rows far from the query are left, so its nearest lists are empty."""
    query = approximate.vectors[:1]
    far = np.argsort(query[0] @ approximate.vectors.T)[:30]
    mask = np.zeros(4000, bool)
    mask[far] = True
    _, rows = approximate.search(query, 20, keep=RowSet.of(mask))
    assert np.count_nonzero(rows[0] >= 0) >= 20
    assert set(rows[0][rows[0] >= 0].tolist()) <= set(far.tolist())


def test_threads_that_search_at_once_find_the_same(approximate: Segment) -> None:
    """Each with row sets of its own: nothing of one call reaches another."""
    keeps = [RowSet.of(np.arange(4000) % 4 == thread) for thread in range(4)]
    expected = [approximate.search(approximate.vectors[:50], 10, keep=keep)[1] for keep in keeps]
    wrong: list[int] = []

    def work(thread: int) -> None:
        for _ in range(40):
            rows = approximate.search(approximate.vectors[:50], 10, keep=keeps[thread])[1]
            if not np.array_equal(rows, expected[thread]):
                wrong.append(thread)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_a_build_reports_its_steps_and_ends_when_told_to() -> None:
    steps: list[str] = []

    class StopBuildingError(Exception):
        pass

    def progress(step: str, done: float) -> None:
        assert 0.0 <= done <= 1.0
        steps.append(step)
        if step == "measure":
            raise StopBuildingError

    with pytest.raises(StopBuildingError):
        Segment.build(clustered(2000, D, 50), _seqs(2000), flat_below=1000, progress=progress)
    assert steps[:2] == ["train", "add"]


@pytest.mark.parametrize(
    ("vectors", "seqs"),
    [
        (np.zeros((3, 4)), [1, 2]),
        (np.zeros(3), [1, 2, 3]),
        (np.zeros((3, 4)), [1, 2, 2]),
        (np.zeros((3, 4)), [3, 2, 5]),
    ],
    ids=["too few seqs", "one axis", "equal seqs", "falling seqs"],
)
def test_vectors_and_seqs_that_do_not_fit_are_refused(vectors: NDArray[np.float32], seqs: list[int]) -> None:
    with pytest.raises(ValueError, match="seqs"):
        Segment.build(vectors, np.array(seqs, np.uint64))


# ---------------------------------------------------------------------------------------------------- files


def test_what_is_saved_is_loaded(segment: Segment, tmp_path: Path) -> None:
    segment.save(tmp_path)
    loaded = Segment.load(tmp_path)
    assert (loaded.kind, loaded.recall, loaded.tuning) == (segment.kind, segment.recall, segment.tuning)
    assert np.array_equal(loaded.seqs, segment.seqs)
    assert np.array_equal(loaded.vectors, segment.vectors)
    queries = segment.vectors[:20]
    assert np.array_equal(loaded.search(queries, 10)[1], segment.search(queries, 10)[1])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("count", [3, 5000], ids=["less than a buffer", "much"])
def test_a_full_disk_is_told_however_little_is_written(tmp_path: Path, count: int) -> None:
    (tmp_path / "index.faiss").symlink_to("/dev/full")
    segment = Segment.build(unit(np.ones((count, 8))), np.arange(1, count + 1, dtype=np.uint64))
    with pytest.raises(OSError, match="No space left"):
        segment.save(tmp_path)
    assert not (tmp_path / "segment.json").exists()


def test_a_segment_may_be_empty(tmp_path: Path) -> None:
    empty = Segment.build(np.empty((0, D), np.float32), np.empty(0, np.uint64))
    empty.save(tmp_path)
    loaded = Segment.load(tmp_path)
    for segment in (empty, loaded):
        assert (len(segment), segment.dimension, segment.vectors.shape) == (0, D, (0, D))
        assert segment.search(unit(np.ones((2, D))), 5)[1].shape == (2, 0)


@pytest.fixture(scope="module")
def saved(approximate: Segment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segment")
    approximate.save(folder)
    return folder


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["index.faiss", "seqs.npy", "segment.json"])
@pytest.mark.parametrize(
    "damage",
    [Path.unlink, _cut, _lengthen, _flip, lambda path: path.write_bytes(b"")],
    ids=["gone", "cut", "longer", "altered", "empty"],
)
def test_a_damaged_file_is_refused(saved: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    damage(folder / name)
    with pytest.raises(GenerationDamaged):
        Segment.load(folder)


def test_without_verifying_a_file_that_was_cut_off_is_still_refused(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    _cut(folder / "index.faiss")
    with pytest.raises(GenerationDamaged, match="cut off"):
        Segment.load(folder, verify=False)


def test_an_altered_setting_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    content = json.loads((folder / "segment.json").read_text())
    content["tuning"]["nprobe"] += 1
    (folder / "segment.json").write_text(json.dumps(content))
    with pytest.raises(GenerationDamaged, match=r"segment\.json"):
        Segment.load(folder)


def test_files_of_two_segments_are_refused_together(saved: Path, flat: Segment, tmp_path: Path) -> None:
    flat.save(tmp_path)
    shutil.copy(saved / "index.faiss", tmp_path)
    with pytest.raises(GenerationDamaged):
        Segment.load(tmp_path)


@pytest.mark.slow
def test_recall_of_30000_clustered_vectors_reaches_the_target() -> None:
    segment = Segment.build(clustered(30_000, 128, 600), _seqs(30_000), threads=2)
    assert segment.kind == "IVF512,PQ32x4fs,RFlat"
    rng = np.random.default_rng(9)
    queries = unit(segment.vectors[rng.integers(0, 30_000, 300)] + 0.02 * rng.standard_normal((300, 128)))
    assert _recall(segment, queries, 10) >= 0.985
