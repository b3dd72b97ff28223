"""Probe recall: held-out items as queries against the gallery that is served, or that is about to be.

A probe is found at K when one of the K items nearest to it, itself left out, is of its own category: Recall@K of
`indexer.recall`, one probe at a time, so that two galleries of the same items can be compared probe by probe
(`indexer.gates`), and a gallery with itself some time ago (`server.watching`).
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer.index import SearchParams, View
from indexer.probes import PROBE_SHARE, rank
from indexer.recall import ranks

MOST_PROBES: Final = 500  # of a cohort: a standard error of two points at the worst
MOST_PLACES: Final = 10  # how far a probe's own category is looked for

_BATCH: Final = 32
_ROWS: Final = 1024  # looked through at a time for probes


@dataclass(frozen=True, slots=True)
class Place:
    """What a probe, itself left out, finds."""

    id: str
    category: str
    """The probe's own; empty where the view does not hold it."""
    place: int
    """Of the first item of its own category among the nearest, from 1 on; 0 where there is none."""
    nearest: str
    """The id of the nearest item; empty where there is none."""
    nearest_category: str
    score: float
    """The nearest item's cosine similarity; not a number where there is none."""


@dataclass(frozen=True, slots=True)
class CohortProbes:
    """The probes of a cohort that are to be searched, those of the lowest rank, and how many it has."""

    ids: list[str]
    in_all: int


def probes_of(view: View, cohort_of: Mapping[str, int], most: int = MOST_PROBES) -> dict[int, list[str]]:
    """The ids of each cohort's probes, of those that could be found: another item of their category is there."""
    found = all_probes(view, cohort_of, most)
    return {cohort: probes.ids for cohort, probes in found.items() if cohort is not None}


def all_probes(
    view: View, cohort_of: Mapping[str, int], most: int = MOST_PROBES, pause: Callable[[], None] = lambda: None
) -> dict[int | None, CohortProbes]:
    """As `probes_of`, with how many there are, and those of the categories that no stage has taught, None, last.

    Of more than `most` of a cohort those of the lowest rank, in its order. `pause` is called every thousand rows; what
    it raises ends the search for them; of the view only ids and categories are kept meanwhile, no vector.
    """
    rows = view.live_rows()
    attributes = view.attributes
    codes, names = attributes.category_codes(view.rows)
    del view
    counts = np.bincount(codes[rows], minlength=len(names))
    rows = rows[counts[codes[rows]] > 1]
    cohorts = [cohort_of.get(name) for name in names]
    found: dict[int | None, list[tuple[float, str]]] = defaultdict(list)
    in_all: dict[int | None, int] = defaultdict(int)
    for start in range(0, len(rows), _ROWS):
        touched = set()
        for row in rows[start : start + _ROWS].tolist():
            id = attributes.id(row)
            if (at := rank(id)) < PROBE_SHARE:
                cohort = cohorts[codes[row]]
                found[cohort].append((at, id))
                in_all[cohort] += 1
                touched.add(cohort)
        for cohort in touched:
            found[cohort] = heapq.nsmallest(most, found[cohort])
        pause()
    return {
        cohort: CohortProbes([id for _, id in found[cohort]], in_all[cohort])
        for cohort in sorted(found, key=_last_those_that_wait)
    }


def _last_those_that_wait(cohort: int | None) -> tuple[bool, int]:
    return cohort is None, cohort or 0


def places(view: View, ids: Sequence[str], k: int = MOST_PLACES) -> list[Place]:
    """Where each of these items, searched by its own vector, finds the first other item of its category among `k`.

    An item that the view does not hold finds nothing.
    """
    found = {id: Place(id, "", 0, "", "", math.nan) for id in ids}
    held = [(id, row) for id in ids if (row := view.row_of(id)) is not None]
    for start in range(0, len(held), _BATCH):
        batch = held[start : start + _BATCH]
        found.update((place.id, place) for place in _places(view, batch, k))
    return [found[id] for id in ids]


def _places(view: View, batch: Sequence[tuple[str, int]], k: int) -> list[Place]:
    rows = np.array([row for _, row in batch])
    categories = [view.attributes.category(row) for row in rows.tolist()]
    hit_categories = np.full((len(batch), k), None, object)
    nearest = []
    # Of k + 1 hits at least k are other items, even where a twin of the probe comes before it.
    for at, hits in enumerate(view.search(view.vectors(rows), SearchParams(k=k + 1))):
        others = np.flatnonzero(hits.rows != rows[at])[:k]
        found = [view.attributes.category(row) for row in hits.rows[others].tolist()]
        hit_categories[at, : len(found)] = found
        first = int(others[0]) if len(others) else None
        nearest.append(
            ("", "", math.nan)
            if first is None
            else (view.attributes.id(int(hits.rows[first])), found[0], float(hits.scores[first]))
        )
    first_own = ranks(np.array(categories, object), hit_categories).tolist()
    return [
        Place(id, category, place, *first)
        for (id, _), category, place, first in zip(batch, categories, first_own, nearest, strict=True)
    ]


def found_first(view: View, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each of these items, searched by its own vector, finds another of its category first (n,).

    An item that the view does not hold finds nothing.
    """
    return np.array([found.place == 1 for found in places(view, ids)], np.bool_)
