"""What probes say of a model that is not served yet: which they are, their embeddings, and which of them are found."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexer import embedding
from indexer.catalogue import Catalogue
from indexer.embedding import Vectors
from indexer.encoder import Encoder
from indexer.errors import PhotoDamaged
from indexer.probes import is_probe, rank
from indexer.recall import found_first
from indexer.stages import leave_out
from trainer.lookahead import ahead

MOST: Final = 2000  # of a cohort: a standard error of a point at the worst

_ROUNDS: Final = 10


@dataclass(frozen=True)
class Probe:
    """A photo of a held-out item."""

    sha256: str
    category: str
    cohort: int  # the stage that teaches its category


def choose(
    catalogue: Catalogue, cohort_of: Mapping[str, int], trained: Collection[str], most: int = MOST
) -> list[Probe]:
    """The probes of these categories, at most so many of a cohort: the same ones as long as the items are the same.

    trained  SHA-256 of photos that a training was given: one that later became a probe's too says nothing

    Each photo is taken once. Of a cohort with too many, each category gives two at a time, for one alone has no other
    to be near to; which ones, and of which categories, follows from the hashes of their ids and names.
    """
    items = catalogue.items_of(list(cohort_of))
    ranked = sorted((rank(item.id), item.category, item.image_sha256) for item in items if is_probe(item.id))
    seen, places = set(trained), defaultdict[str, int](int)
    found = []
    for _, category, sha256 in ranked:
        if sha256 not in seen:
            seen.add(sha256)
            found.append((places[category] // 2, rank(category), Probe(sha256, category, cohort_of[category])))
            places[category] += 1
    room = defaultdict[int, int](lambda: most)
    chosen = []
    for _, _, probe in sorted(found, key=lambda each: each[:2]):
        if room[probe.cohort]:
            room[probe.cohort] -= 1
            chosen.append(probe)
    return chosen


def embed(
    catalogue: Catalogue,
    encoder: Encoder,
    shas: Sequence[str],
    *,
    workers: int,
    damaged: set[str],
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Vectors:
    """The vectors of these photos, in threads; those that no item shows any more are left out, and so are those whose
    bytes have changed on the disk: `damaged` holds the ones that are known, and gets the others.

    `tick` hears how many are done; what it raises ends the work. Errors: those of `indexer.embedding.embed`.
    """
    parts = [shas[start : start + embedding.BATCH] for start in range(0, len(shas), embedding.BATCH)]
    found: Vectors = {}
    with ahead(
        lambda part: _embedded(catalogue, encoder, part, damaged), parts, workers=workers, depth=2 * workers
    ) as results:
        for number, vectors in enumerate(results):
            found |= vectors
            tick(min((number + 1) * embedding.BATCH, len(shas)), len(shas))
    return found


def _embedded(catalogue: Catalogue, encoder: Encoder, shas: Sequence[str], damaged: set[str]) -> Vectors:
    while True:
        try:
            return embedding.embed(catalogue, encoder, [sha256 for sha256 in shas if sha256 not in damaged])
        except PhotoDamaged as error:
            leave_out(error, damaged)


def found_by_cohort(probes: Sequence[Probe], vectors: Vectors) -> dict[int, NDArray[np.bool_]]:
    """By cohort, which of its probes find their own category first, searched among all these probes: (n,).

    Those that no other probe of their category could be found by are left out.
    """
    if not probes:
        return {}
    rows = np.stack([vectors[probe.sha256] for probe in probes])
    found, counts = found_first(rows, [probe.category for probe in probes])
    cohorts = np.array([probe.cohort for probe in probes])
    return {int(cohort): found[(cohorts == cohort) & counts] for cohort in np.unique(cohorts)}


def speedup(plain: Encoder, quantised: Encoder) -> float:
    """How many times as fast the second is, on batches and on this machine."""
    # The seconds of this thread's own work on a CPU, so that others' work does not matter.
    clock = time.thread_time if plain.device.threads else time.perf_counter
    side = plain.manifest.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    seconds: dict[Encoder, float] = {}
    for _ in range(_ROUNDS):
        for encoder in (plain, quantised):
            began = clock()
            encoder.run_once(pixels)
            seconds[encoder] = min(seconds.get(encoder, float("inf")), clock() - began)
    return seconds[plain] / seconds[quantised]
