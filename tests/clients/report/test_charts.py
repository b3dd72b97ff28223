"""Charts as shapes, as SVG and as PNG."""

from __future__ import annotations

import datetime
import itertools
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from clients.recall import RecallHistory
from clients.report import Facts, change_chart
from clients.report.axes import Axes, axes_of, share_ticks, time_ticks
from clients.report.change_chart import change_words
from clients.report.drawing import Area, Drawing, Label, Line, Mark, Role
from clients.report.figures import changes_of, series_of, together
from clients.report.png import write_png
from clients.report.recall_chart import NARROW, PANEL, WIDE, chart_of_all, cohort_charts
from clients.report.svg import svg
from tests.clients.report.conftest import NOON, measured, swapped

DAY = 86400
YEAR_MINUTES = 365 * 24 * 60


def drawings(facts: Facts) -> list[Drawing]:
    series, everything = series_of(facts.history.measurements), together(facts.history.measurements)
    swaps, changes = facts.history.swaps, changes_of(facts.history)
    return [
        *(chart_of_all(everything, swaps, size) for size in (WIDE, NARROW)),
        *cohort_charts(series, everything, swaps),
        *(change_chart.change_chart(changes, width) for width in (change_chart.WIDE, change_chart.NARROW)),
    ]


def text_width(label: Label) -> float:
    """About as wide as a sans-serif font is at most."""
    return len(label.text) * label.size * (0.6 if label.bold else 0.56)


def left_of(label: Label) -> float:
    return label.at[0] - {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor] * text_width(label)


def test_nothing_is_drawn_beyond_the_edge(facts: Facts) -> None:
    for drawing in drawings(facts):
        spots = [
            spot
            for shape in drawing.shapes
            for spot in (shape.points if isinstance(shape, Line | Area) else [shape.at])
        ]
        assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in spots)
        labels = [shape for shape in drawing.shapes if isinstance(shape, Label)]
        assert all(left_of(label) >= -6 and left_of(label) + text_width(label) <= drawing.width + 6 for label in labels)


def test_labels_of_one_line_do_not_overlap(facts: Facts) -> None:
    for drawing in drawings(facts):
        labels = [shape for shape in drawing.shapes if isinstance(shape, Label)]
        for _, line in itertools.groupby(sorted(labels, key=lambda label: label.at[1]), lambda label: label.at[1]):
            ordered = sorted(line, key=left_of)
            for one, other in itertools.pairwise(ordered):
                assert left_of(one) + text_width(one) <= left_of(other) + 6, (one, other)


def test_a_line_has_a_point_for_each_measurement_and_breaks_where_there_is_none() -> None:
    measurements = [measured(minute, 1, {0: (9, 10)}, {0: 0.8}) for minute in (0, 5, 10)]
    measurements += [measured(15, 0, {None: (3, 10)}), measured(20, 1, {0: (8, 10)}, {0: 0.8})]
    swaps = [swapped(12, 0, again=True), swapped(18, 1, again=True), swapped(99, 2)]
    series, everything = series_of(measurements), together(measurements)
    chart = cohort_charts(series, everything, swaps)[0]
    lines = [shape for shape in chart.shapes if isinstance(shape, Line)]
    assert [len(line.points) for line in lines if line.role is Role.LINE] == [3]
    assert len([line for line in lines if line.role is Role.SWAP_LINE]) == 2  # the third is beyond the chart
    references = [line for line in lines if line.role is Role.REFERENCE]
    assert [len(line.points) for line in references] == [3, 2]  # the second holds on to the right edge
    assert references[1].points[-1][0] == PANEL[0] - 10
    whiskers = [line for line in lines if line.role is Role.BAND]
    assert len(whiskers) == 1  # of the measurement that stands alone
    marks = [shape for shape in chart.shapes if isinstance(shape, Mark) and shape.role is Role.LINE]
    assert [mark.form for mark in marks] == ["dot"]
    assert "80.0 %, 8 of 10" in marks[0].title
    assert [s.form for s in chart.shapes if isinstance(s, Mark) and s.role is Role.SWAP] == ["hollow triangle"] * 2


def test_one_measurement_alone_is_a_chart() -> None:
    measurements = [measured(0, 0, {None: (3, 10)})]
    chart = chart_of_all(together(measurements), [], WIDE)
    assert "30.0 %, 3 of 10" in chart.words
    assert [shape.form for shape in chart.shapes if isinstance(shape, Mark)] == ["dot"]


def test_a_chart_of_nothing_is_refused(facts: Facts) -> None:
    with pytest.raises(ValueError, match="empty"):
        axes_of(together([]), [])
    with pytest.raises(ValueError, match="no change is known"):
        change_chart.change_chart([])


def test_the_axis_of_recall_holds_bounds_and_reference() -> None:
    measurements = [measured(0, 1, {0: (85, 100)}, {0: 0.62})]
    axes = axes_of(together(measurements), series_of(measurements))
    assert (axes.low, axes.high) == (0.6, 1.0)
    assert share_ticks(axes) == [0.6, 0.7, 0.8, 0.9, 1.0]
    assert axes.across(NOON) == 0.5
    sure = [measured(0, 1, {0: (9000, 10000)})]
    narrow = axes_of(together(sure), series_of(sure))
    assert (narrow.low, narrow.high) == pytest.approx((0.8, 1.0))  # never so narrow that noise looks like a fall


@pytest.mark.parametrize(
    ("span", "most", "labels"),
    [
        pytest.param(1200, 5, ["12:05", "12:10", "12:15"], id="minutes"),
        pytest.param(DAY, 5, ["18:00", "22 Nov", "06:00"], id="a-day"),
        pytest.param(10 * DAY, 6, ["23 Nov", "25 Nov", "27 Nov", "29 Nov", "1 Dec"], id="days"),
        pytest.param(29 * DAY, 4, ["3 Dec", "17 Dec"], id="four-weeks"),
        pytest.param(90 * DAY, 4, ["17 Dec", "14 Jan", "11 Feb"], id="a-quarter"),
        pytest.param(400 * DAY, 6, ["Jan 2027", "Apr 2027", "Jul 2027", "Oct 2027"], id="a-year"),
    ],
)
def test_ticks_of_time_are_round(span: float, most: int, labels: list[str]) -> None:
    begin = NOON.timestamp() + 60
    ticks = time_ticks(Axes(begin, begin + span - 120, 0, 1), most)
    assert [label for _, label in ticks] == labels
    assert all(tick.tzinfo is datetime.UTC for tick, _ in ticks)


@pytest.mark.parametrize("size", [PANEL, NARROW, WIDE], ids=["panel", "narrow", "wide"])
@given(
    begin=st.integers(0, 2 * YEAR_MINUTES),
    span=st.floats(math.log(60), math.log(5 * YEAR_MINUTES)).map(math.exp),  # as many short ones as long ones
)
@example(begin=0, span=28 * 24 * 60)
def test_time_from_an_hour_to_five_years_has_two_labels_on_every_chart(
    size: tuple[float, float], begin: int, span: float
) -> None:
    measurements = [measured(minute, 1, {0: (9, 10)}) for minute in (begin, begin + span)]
    chart = chart_of_all(together(measurements), [], size)
    below = [each for each in chart.shapes if isinstance(each, Label) and each.at[1] > size[1] - 20]
    assert len({each.at for each in below}) >= 2


def test_a_change_is_said_in_words_with_its_count() -> None:
    history = [measured(0, 1, {0: (45, 50), None: (3, 10)}), measured(5, 2, {0: (44, 50), 1: (8, 10)})]
    (change,) = changes_of(RecallHistory(tuple(history), (swapped(4, 2),)))
    assert change_words(change) == (
        "Swap to generation 3 at 21 Nov 2026, 12:04 UTC: new cohort 1 +50.0 points, of 10 probes, "
        "old cohorts −2.0 points, of 50 probes."
    )


def test_every_chart_is_well_formed_and_says_what_it_shows(facts: Facts) -> None:
    for drawing in drawings(facts):
        root = ET.fromstring(svg(drawing, "x"))  # noqa: S314 - our own
        assert root.tag == "svg"
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 40
        assert len(list(root)) == len(drawing.shapes)
        assert not root.findall(".//*[@style]")


def test_what_a_chart_says_is_escaped() -> None:
    chart = Drawing(10, 10, 'words "<&>', [Label((1, 1), "<b>&"), Mark((1, 1), "dot", Role.LINE, title="<i>")])
    root = ET.fromstring(svg(chart))  # noqa: S314
    assert root.get("aria-label") == 'words "<&>'
    assert [element.text for element in root] == ["<b>&", None]
    assert root[1][0].text == "<i>"


def test_a_png_has_every_row_and_no_sign_that_its_font_lacks(facts: Facts, tmp_path: Path) -> None:
    every = drawings(facts)
    shown = every[1:4]
    write_png(tmp_path / "all.png", "Title", ["one", "two"], [[drawing] for drawing in shown])
    with Image.open(tmp_path / "all.png") as image:
        image.load()
        assert image.mode == "RGB"
        assert image.width == 2 * (max(drawing.width for drawing in shown) + 2 * 12 + 2 * 28)
        assert image.height > 2 * sum(drawing.height for drawing in shown)
        assert len(image.resize((200, 200)).getcolors(40000) or ()) > 50
    plain = {ord("−"): "-", ord("–"): "-"}
    labels = [shape.text for drawing in every for shape in drawing.shapes if isinstance(shape, Label)]
    assert all(text.translate(plain).isascii() for text in labels)
