"""The page: whole in itself, closed to what names may hold, true to the messages, and in words where nothing is."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from clients.recall import CategoryConfusion, Confusion, Confusions
from clients.report import Facts
from clients.report.figures import Share, series_of
from clients.report.page import page
from clients.report.thumbnails import MOST_BYTES
from clients.types import GenerationRef
from tests.clients.made_up_history import SCRIPT
from tests.clients.report.conftest import NOON, Counts, measured, swapped

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of those that have no script or style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def text(facts: Facts) -> str:
    return page(facts)


@pytest.fixture(scope="module")
def seen(text: str) -> Reader:
    return Reader(text)


def words(seen: Reader) -> str:
    return " ".join(seen.text.split())


def test_every_element_is_closed_and_every_id_is_there_once(seen: Reader) -> None:
    assert seen.open == []
    ids = [attributes["id"] for _, attributes in seen.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [attributes["aria-labelledby"] for _, attributes in seen.elements if "aria-labelledby" in attributes]
    assert set(named) <= set(ids)


def test_nothing_is_loaded_or_run(text: str, seen: Reader) -> None:
    assert "http:" not in text
    assert "https:" not in text
    assert not {tag for tag, _ in seen.elements} & {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
    sources = [
        value for _, attributes in seen.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_forbids_all_but_the_one_style_and_pictures_inside(text: str, seen: Reader) -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [
        attributes["content"]
        for _, attributes in seen.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert not [tag for tag, attributes in seen.elements if {"style", "onload", "onclick"} & set(attributes)]


def test_names_are_text_and_never_markup(facts: Facts, text: str, seen: Reader) -> None:
    """In the made-up past a category and a gate's reason hold a script; here everything does that somebody chose."""
    assert SCRIPT not in text
    assert html.escape(SCRIPT) in text
    assert SCRIPT in seen.text
    live = facts.status.generation
    assert live is not None
    model = dataclasses.replace(live.model, backbone=SCRIPT, precision=SCRIPT, id=f"<i>{SCRIPT}")
    generation = dataclasses.replace(live, model=model, index=SCRIPT)
    assert facts.status.training is not None
    training = dataclasses.replace(facts.status.training, phase=SCRIPT)
    status = dataclasses.replace(facts.status, version=SCRIPT, generation=generation, training=training)
    gate = dataclasses.replace(facts.generations[0].gates[0], name=SCRIPT, reason='" onload="x')
    hostile = Confusion(SCRIPT, '"><img src=x onerror=alert(1)>', "</bdi></body>", 0.5)
    told = page(
        dataclasses.replace(
            facts,
            server=SCRIPT,
            status=status,
            generations=(dataclasses.replace(generation, gates=(gate,)),),
            confusions=Confusions(NOON, GenerationRef(1, "x"), (CategoryConfusion(SCRIPT, None, 3, 1, (hostile,)),)),
        )
    )
    other = Reader(told)
    assert other.open == []
    assert "script" not in {tag for tag, _ in other.elements}
    assert not [attributes for _, attributes in other.elements if {"onload", "onerror"} & set(attributes)]
    assert '"><img src=x onerror=alert(1)>' in other.text


def cells(text: str, caption: str) -> list[list[str]]:
    """The rows of the table with that caption, each cell's texts joined."""
    (body,) = re.findall(rf"<caption>{re.escape(caption)}</caption>.*?<tbody>(.*?)</tbody>", text, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [[_plain(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def _plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", markup)).strip()


def test_every_cohorts_figures_are_those_of_the_message(facts: Facts, text: str) -> None:
    total, *rows = cells(text, "Recall measured last")
    last = facts.history.measurements[-1].cohorts
    assert len(rows) == len(last) == 5
    for row, cohort in zip(rows, last, strict=True):
        assert row[:2] == [f"cohort {cohort.cohort}", f"{cohort.probes:,}"]
        found = ((2, cohort.found_at_1), (4, cohort.found_at_5), (5, cohort.found_at_10))
        for at, count in found:
            assert row[at].split() == [
                f"{100 * count / cohort.probes:.1f}",
                "%",
                f"{count:,}",
                "of",
                f"{cohort.probes:,}",
            ]
        low, high = Share(cohort.found_at_1, cohort.probes).interval
        assert row[3] == f"{100 * low:.1f}–{100 * high:.1f} %"
        assert cohort.reference_at_1 is not None
        assert row[6] == f"{100 * cohort.reference_at_1:.1f} %"
        drift = 100 * (cohort.found_at_1 / cohort.probes - cohort.reference_at_1)
        assert float(row[7].replace("−", "-")) == pytest.approx(drift, abs=0.0501)
    assert total[1] == f"{sum(cohort.probes for cohort in last):,}"
    assert total[2].endswith(f"{sum(c.found_at_1 for c in last):,} of {sum(c.probes for c in last):,}")


def test_every_measurement_is_in_the_table(facts: Facts, text: str) -> None:
    rows = cells(text, "Found first, of the probes of each cohort; newest first")
    assert len(rows) == len(facts.history.measurements) == 60
    for row, measurement in zip(rows, reversed(facts.history.measurements), strict=True):
        assert row[:3] == [f"{measurement.at:%-d %b %Y, %H:%M}", str(measurement.generation.number), measurement.cause]
        told = {found for cell in row[3:] for found in re.findall(r"[\d,]+ of [\d,]+", cell)}
        assert told == {f"{each.found_at_1:,} of {each.probes:,}" for each in measurement.cohorts}


def test_each_swap_has_its_counts_before_and_after(facts: Facts, text: str) -> None:
    newest = cells(text, "What each swap changed, newest first")[0]
    before, after = ({c.cohort: c for c in facts.history.measurements[at].cohorts} for at in (56, 57))
    old = [
        (sum(found[c].found_at_1 for c in range(4)), sum(found[c].probes for c in range(4)))
        for found in (before, after)
    ]
    assert newest[0].startswith("6")
    assert newest[2].endswith(
        f"{before[None].found_at_1} of {before[None].probes} → {after[4].found_at_1} of {after[4].probes}"
    )
    assert newest[4].endswith(" → ".join(f"{found:,} of {probes:,}" for found, probes in old))


def test_a_gate_has_its_figure_and_its_reason(text: str) -> None:
    (failed, passed) = cells(text, "Gates of a model without a generation")
    assert failed == ["old cohort 1", "✕ failed", "−0.094", "−0.02", f"fell by 9.4 points, 320 probes; {SCRIPT}"]
    assert passed[:4] == ["new cohort 3", "✓ passed", "0.21", "0"]


def test_what_is_confused_is_shown_with_photos_and_words(facts: Facts, text: str, seen: Reader) -> None:
    photos = [attributes for tag, attributes in seen.elements if tag == "img"]
    assert len(photos) == 35  # of 36, one is gone
    assert "probe coffee mugs/00, category coffee mugs" in {photo["alt"] for photo in photos}
    assert "found item-20, category teapots; its photo cannot be shown" in text
    assert all(len(photo["src"]) < MOST_BYTES * 4 / 3 + 40 for photo in photos)
    assert "25.0 % found, 4 of 16" in words(seen)
    assert "similarity 0.912" in words(seen)


def test_every_chart_in_the_page_is_well_formed(text: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(charts) == 2 + 6 + 2
    assert {ET.fromstring(chart).tag for chart in charts} == {"svg"}  # noqa: S314 - our own


def test_the_tiles_say_what_matters(seen: Reader) -> None:
    said = words(seen)
    for tile in (
        "Recall@1 now 80.7 % 918 of 1,137 probes found",
        "Worst drift −5.4 points cohort 0, 407 of 500 no fall of over 2 points beyond sampling error",
        "Probes 1,137 in 5 cohorts",
        "Items 35 in 6 categories",
        "Live generation 6",
        "Model 555555555555 mean colours, 48 numbers, fp32 5 stages learned",
        "Being learned stage 5 backfill: 3,200 of 12,345, about 6 minutes left 12 categories",
    ):
        assert tile.replace(" ", "") in said.replace(" ", ""), tile


def test_the_worst_drift_is_the_one_that_is_surest_and_judged_as_by_the_alert(fresh: Callable[..., Facts]) -> None:
    """Three probes that find nothing say nothing, and 20 that have fallen by 15 points less than 500 by 10."""
    counts: Counts = {0: (400, 500), 1: (12, 20), 2: (0, 3), None: (0, 50)}
    said = words(Reader(page(fresh((measured(0, 3, counts, {0: 0.9, 1: 0.75, 2: 1.0}),)))))
    assert "Worst drift−10.0 pointscohort 0, 400 of 500a fall of over 2 points beyond sampling error" in said
    calm = words(Reader(page(fresh((measured(0, 3, {0: (400, 500)}, {0: 0.85}),)))))
    assert "Worst drift−5.0 pointscohort 0, 400 of 500no fall of over 2 points beyond sampling error" in calm
    few = words(Reader(page(fresh((measured(0, 3, {0: (0, 9)}, {0: 1.0}),)))))
    assert "no cohort has a reference and probes enough to compare" in few


# ---- where there is little or nothing


def test_a_fresh_server_is_described_in_words(fresh: Callable[..., Facts]) -> None:
    seen = Reader(page(fresh()))
    said = words(seen)
    assert "Nothing has been measured yet" in said
    assert "No stage has gone live since the history began, so that there is nothing to compare yet." in said
    assert "The live model has not been measured yet." in said
    assert "Recall@1 now – nothing has been measured" in said.replace("now–nothing", "now – nothing")
    assert not [tag for tag, _ in seen.elements if tag in ("svg", "img")]


def test_one_measurement_without_a_swap_is_shown_and_said(fresh: Callable[..., Facts]) -> None:
    said = words(Reader(page(fresh((measured(0, 0, {None: (3, 10)}),)))))
    assert "One measurement so far; lines begin with the second. No model has been swapped yet." in said
    assert "3 of 10" in said
    assert "no cohort has a reference and probes enough to compare" in said


def test_swaps_that_were_not_measured_on_both_sides_are_said(fresh: Callable[..., Facts]) -> None:
    said = words(Reader(page(fresh((measured(5, 1, {0: (3, 10)}),), (swapped(4, 1),)))))
    assert "No swap was measured on both of its sides." in said
    assert "not measured" in said


def test_where_nothing_is_confused_it_is_said(fresh: Callable[..., Facts]) -> None:
    found = Confusions(NOON, GenerationRef(1, "x"), ())
    assert "Every probe finds its own category first." in page(dataclasses.replace(fresh(), confusions=found))


def test_before_the_first_generation_the_page_is_there(fresh: Callable[..., Facts]) -> None:
    facts = fresh()
    status = dataclasses.replace(facts.status, generation=None)
    said = words(Reader(page(dataclasses.replace(facts, status=status, generations=()))))
    assert "There is no generation yet." in said


def test_a_cohort_without_probes_has_no_chart_and_no_row(fresh: Callable[..., Facts]) -> None:
    measurements = (measured(0, 1, {0: (0, 0), None: (3, 10)}),)
    text = page(fresh(measurements))
    assert [series.name for series in series_of(measurements)] == ["waiting"]
    assert [row[0] for row in cells(text, "Recall measured last")] == ["all", "waiting"]


def test_of_many_measurements_the_table_has_the_newest(fresh: Callable[..., Facts]) -> None:
    text = page(fresh(tuple(measured(minute, 0, {None: (minute % 10, 10)}) for minute in range(130))))
    assert "the newest 100 of 130" in text
    rows = cells(text, "Found first, of the probes of each cohort; newest first")
    assert len(rows) == 100
    assert rows[0][0] == "21 Nov 2026, 14:09"
