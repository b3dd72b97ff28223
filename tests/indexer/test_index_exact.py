"""The oracle, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.index import exact

VECTORS = np.array([[1, 0], [0.6, 0.8], [0, 1], [1, 0], [-1, 0]], np.float32)
QUERY = np.array([[1, 0]], np.float32)


def test_scores_descend_and_equal_ones_keep_the_older_row_first() -> None:
    ((rows, scores),) = exact.search(VECTORS, QUERY, 10)
    assert rows.tolist() == [0, 3, 1, 2, 4]
    assert scores.tolist() == pytest.approx([1, 1, 0.6, 0, -1])


def test_only_rows_of_the_mask_with_the_minimum_score_count() -> None:
    mask = np.array([False, True, True, True, True])
    ((rows, _),) = exact.search(VECTORS, QUERY, 10, mask, min_score=0.5)
    assert rows.tolist() == [3, 1]


@pytest.mark.parametrize(("k", "count"), [(1, 1), (5, 5), (99, 5)])
def test_at_most_k_rows_are_found(k: int, count: int) -> None:
    assert len(exact.search(VECTORS, QUERY, k)[0][0]) == count


def test_a_gallery_without_rows_finds_nothing() -> None:
    ((rows, scores),) = exact.search(np.empty((0, 2), np.float32), QUERY, 3)
    assert len(rows) == len(scores) == 0


def test_rounding_never_takes_a_score_past_one() -> None:
    vector = np.full((1, 3), np.nextafter(np.float32(3**-0.5), np.float32(1)), np.float32)
    assert exact.cosine(vector, vector).tolist() == [1.0]


def test_more_elements_than_one_chunk_give_the_same_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = exact.search(VECTORS, QUERY, 3)
    monkeypatch.setattr(exact, "_CHUNK_ELEMENTS", 4)
    got = exact.search(VECTORS, QUERY, 3)
    assert got[0][0].tolist() == expected[0][0].tolist()
    assert got[0][1].tolist() == expected[0][1].tolist()
