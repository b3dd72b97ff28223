"""Probe recall: held-out items as queries against the gallery that is served, or that is about to be.

A probe is found when the item nearest to it, itself left out, is of its own category: Recall@1 of `indexer.recall`, one
probe at a time, so that two galleries of the same items can be compared probe by probe (`indexer.gates`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.index import SearchParams, View
from indexer.probes import is_probe, rank

MOST_PROBES: Final = 500  # of a cohort: a standard error of two points at the worst

_BATCH: Final = 32


def probes_of(view: View, cohort_of: Mapping[str, int], most: int = MOST_PROBES) -> dict[int, list[str]]:
    """The ids of each cohort's probes, of those that could be found: another item of their category is there."""
    rows = view.live_rows().tolist()
    categories = [view.attributes.category(row) for row in rows]
    counts = Counter(categories)
    found: dict[int, list[str]] = defaultdict(list)
    for row, category in zip(rows, categories, strict=True):
        if category in cohort_of and counts[category] > 1 and is_probe(id := view.attributes.id(row)):
            found[cohort_of[category]].append(id)
    return {cohort: sorted(ids, key=rank)[:most] for cohort, ids in sorted(found.items())}


def found_first(view: View, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each of these items, searched by its own vector, finds another of its category first (n,).

    An item that the view does not hold finds nothing.
    """
    found = np.zeros(len(ids), np.bool_)
    held = [(at, row) for at, id in enumerate(ids) if (row := view.row_of(id)) is not None]
    for start in range(0, len(held), _BATCH):
        batch = held[start : start + _BATCH]
        rows = np.array([row for _, row in batch])
        # Of two hits at least one is another item, even where a twin of the probe comes before it.
        for (at, row), hits in zip(batch, view.search(view.vectors(rows), SearchParams(k=2)), strict=True):
            others = hits.rows[hits.rows != row]
            found[at] = len(others) > 0 and view.attributes.category(int(others[0])) == view.attributes.category(row)
    return found
