"""The demo's chart: where the figures of two lines stand that come near each other."""

from __future__ import annotations

import pytest

from clients.demo.chart import highest_of


@pytest.mark.parametrize(
    ("recalls", "highest"),
    [
        ((0.729, 0.797), 1),
        ((0.797, 0.729), 0),
        ((0.8, 0.8), 0),
        ((None, 0.0), 1),
        ((0.5, None), 0),
        ((None, None), None),
    ],
)
def test_the_figure_of_the_highest_point_stands_above_it(
    recalls: tuple[float | None, ...], highest: int | None
) -> None:
    assert highest_of(recalls) == highest
