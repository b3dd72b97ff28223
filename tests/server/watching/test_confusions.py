"""Which categories are found worst, and what is shown of that."""

from __future__ import annotations

from indexer.catalogue import Cause, Measurement
from indexer.probe_recall import Place
from server.watching.confusions import worst
from server.watching.probes import Measured, Probe


def probe(id: str, category: str, place: int, nearest: str = "", score: float = 0.5, cohort: int | None = 0) -> Probe:
    other = category if place == 1 else "other"
    return Probe(cohort, Place(id, category, place, nearest or f"near {id}", other, score))


def of(*probes: Probe) -> Measured:
    return Measured(Measurement(1.0, 1, "model", Cause.TIMER, ()), probes, {}, {}, 1.0)


def there(id: str) -> bool:
    return True


def test_the_category_of_lowest_recall_comes_first_and_among_equals_that_with_more_misses() -> None:
    found = worst(
        of(
            *(probe(f"a{n}", "half", 1 if n % 2 else 0) for n in range(2)),
            *(probe(f"b{n}", "half of many", 1 if n % 2 else 3) for n in range(10)),
            *(probe(f"c{n}", "none", 2, cohort=None) for n in range(3)),
            *(probe(f"d{n}", "all", 1) for n in range(5)),
            probe("e0", "another half", 1),
            probe("e1", "another half", 0),
        ),
        10,
        3,
        there,
    )
    assert [(each.category, each.cohort, each.found, each.probes) for each in found] == [
        ("none", None, 0, 3),
        ("half of many", 0, 5, 10),
        ("another half", 0, 1, 2),
        ("half", 0, 1, 2),
    ]


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
