"""Which categories are found worst, and what is shown of that."""

from __future__ import annotations

import itertools

import numpy as np

from indexer.catalogue import Cause, Measurement
from indexer.probe_recall import Place
from server.watching.confusions import worst
from server.watching.probes import Measured, Probe


def probe(id: str, category: str, place: int, nearest: str = "", score: float = 0.5, cohort: int | None = 0) -> Probe:
    other = category if place == 1 else "other"
    return Probe(cohort, Place(id, category, place, nearest or f"near {id}", other, score))


def of(*probes: Probe) -> Measured:
    return Measured(Measurement(1.0, 1, "model", Cause.TIMER, ()), probes, {}, {}, 1.0, 1.0)


def there(id: str) -> bool:
    return True


def category(name: str, found: int, probes: int, cohort: int | None = 0) -> list[Probe]:
    return [probe(f"{name} {n}", name, 1 if n < found else 2, cohort=cohort) for n in range(probes)]


def test_the_category_that_is_surest_to_be_found_badly_comes_first_then_that_of_the_lower_recall() -> None:
    """Upper bounds: 0 of 3 56.1 %, 5 of 10 76.3 %, 0 of 1 79.3 %, 2 of 4 85.0 %, 1 of 2 90.5 %."""
    groups = [
        category("none of one", 0, 1),
        category("b: half of two", 1, 2),
        category("a: half of two", 1, 2),
        category("half of four", 2, 4),
        category("half of ten", 5, 10),
        category("none of three", 0, 3, cohort=None),
        category("all", 5, 5),
    ]
    found = worst(of(*itertools.chain(*groups)), 10, 3, there)
    assert [(each.category, each.cohort, each.found, each.probes) for each in found] == [
        ("none of three", None, 0, 3),
        ("half of ten", 0, 5, 10),
        ("none of one", 0, 0, 1),
        ("half of four", 0, 2, 4),
        ("a: half of two", 0, 1, 2),
        ("b: half of two", 0, 1, 2),
    ]


def test_of_a_thousand_categories_those_that_two_probes_miss_by_chance_do_not_hide_one_that_is_found_badly() -> None:
    """At 80 % some forty of a thousand find neither of their two probes; 4 of 20 is no chance."""
    draw = np.random.default_rng(7)
    by_chance = [category(f"category {n:03}", int(draw.binomial(2, 0.8)), 2) for n in range(1_000)]
    assert sum(each[0].place.place != 1 for each in by_chance) > 20
    found = worst(of(*itertools.chain(*by_chance), *category("zebra", 4, 20)), 10, 1, there)
    assert found[0].category == "zebra"


def test_no_more_categories_and_examples_are_shown_than_asked_for_the_surest_mistakes_first() -> None:
    measured = of(
        probe("a", "pear", 0, score=0.2),
        probe("b", "pear", 4, score=0.9),
        probe("c", "pear", 2, score=0.9),
        probe("d", "pear", 1, score=1.0),
        probe("e", "plum", 2),
        probe("f", "plum", 1),
        probe("g", "plum", 1),
    )
    (found,) = worst(measured, 1, 2, there)
    assert (found.category, found.found, found.probes) == ("pear", 1, 4)
    assert [each.id for each in found.misses] == ["b", "c"]


def test_what_has_been_deleted_since_is_in_no_answer() -> None:
    measured = of(
        probe("gone", "pear", 0),
        probe("a", "pear", 0, nearest="gone too"),
        probe("b", "pear", 0, nearest="there"),
        probe("c", "plum", 0, nearest="gone"),
    )
    (found,) = worst(measured, 10, 10, lambda id: not id.startswith("gone"))
    assert (found.category, found.probes, [each.id for each in found.misses]) == ("pear", 1, ["b"])


def test_where_everything_is_found_nothing_is_shown() -> None:
    assert worst(of(probe("a", "pear", 1)), 10, 3, there) == []
    assert worst(of(), 10, 3, there) == []
