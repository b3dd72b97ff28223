"""Which categories are found worst, and what is found in their place: read off the last measurement of the probes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from indexer.probe_recall import Place
from indexer.recall import wilson
from server.watching.probes import Measured


@dataclass(frozen=True)
class Confused:
    """How one category is found."""

    category: str
    cohort: int | None
    """The stage that taught it; None where it waits."""
    probes: int
    found: int
    """Probes that found their own category first."""
    misses: tuple[Place, ...]
    """Some of those that did not: first those that are surest of the other category."""


def worst(measured: Measured, categories: int, examples: int, is_there: Callable[[str], bool]) -> list[Confused]:
    """The `categories` whose Recall@1 is surest to be low, of those that miss any: by the upper bound of its 95 %
    interval (Wilson's), among equals by Recall@1, then by name. By the share alone the worst of many would be those of
    one probe or two, of which some find none by chance.

    Only items that `is_there` says are there still: what was deleted since is in no answer.
    """
    by_category: dict[str, list[Place]] = defaultdict(list)
    cohort_of: dict[str, int | None] = {}
    for probe in measured.probes:
        place = probe.place
        if is_there(place.id) and is_there(place.nearest):
            by_category[place.category].append(place)
            cohort_of[place.category] = probe.cohort
    found = [_confused(name, cohort_of[name], places, examples) for name, places in by_category.items()]
    missing = [each for each in found if each.found < each.probes]
    missing.sort(key=lambda each: (wilson(each.found, each.probes)[1], each.found / each.probes, each.category))
    return missing[:categories]


def _confused(category: str, cohort: int | None, places: list[Place], examples: int) -> Confused:
    misses = sorted((each for each in places if each.place != 1), key=lambda each: (-each.score, each.id))
    return Confused(category, cohort, len(places), len(places) - len(misses), tuple(misses[:examples]))
