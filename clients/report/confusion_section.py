"""The page's part on the categories that are found worst, with pictures of what is found in their place."""

from __future__ import annotations

from collections.abc import Mapping

from clients.recall import CategoryConfusion, Confusion
from clients.report.figures import Share, cohort_name
from clients.report.gather import Facts
from clients.report.markup import moment, name, paragraph, section, text
from clients.report.thumbnails import data_uri
from clients.report.words import bounds, of, percent

_HEADING = "What is found worst"


def confusion_section(facts: Facts) -> str:
    """A sentence where nothing has been measured, or nothing is confused."""
    found = facts.confusions
    if found is None:
        return section("confusions", _HEADING, paragraph("The live model has not been measured yet.", "empty"))
    measured = f"<p>Of generation {found.generation.number}, measured {moment(found.at)} UTC. "
    if not found.categories:
        return section("confusions", _HEADING, f"{measured}Every probe finds its own category first.</p>")
    words = (
        "First the categories whose Recall@1 is surest to be low: its upper 95 % bound is the lowest, so that what two "
        "probes miss by chance does not come before what many miss. At the left of each pair a probe, at the right "
        "what it finds first."
    )
    cards = "\n".join(_category(each, facts.thumbnails) for each in found.categories)
    return section("confusions", _HEADING, f"{measured}{words}</p>", f'<div class="confusions">\n{cards}\n</div>')


def _category(each: CategoryConfusion, thumbnails: Mapping[str, bytes]) -> str:
    share = Share(each.found_at_1, each.probes)
    figures = f"{percent(share.value)} found, {of(share)}; 95 %: {bounds(share)}; {cohort_name(each.cohort)}"
    pairs = "\n".join(_pair(each.category, pair, thumbnails) for pair in each.examples)
    return f'<article class="card">\n<h3>{name(each.category)}</h3>\n<p>{text(figures)}</p>\n{pairs}\n</article>'


def _pair(category: str, pair: Confusion, thumbnails: Mapping[str, bytes]) -> str:
    probe = _photo(thumbnails.get(pair.probe_id), f"probe {pair.probe_id}, category {category}")
    found = _photo(thumbnails.get(pair.found_id), f"found {pair.found_id}, category {pair.found_category}")
    sides = (
        f"<figure>{probe}<figcaption>{name(pair.probe_id)}</figcaption></figure>"
        f'<span class="arrow" role="img" aria-label="finds">→</span>'
        f"<figure>{found}<figcaption><b>{name(pair.found_category)}</b> {name(pair.found_id)}"
        f"<small>similarity {pair.score:.3f}</small></figcaption></figure>"
    )
    return f'<div class="pair">{sides}</div>'


def _photo(jpeg: bytes | None, words: str) -> str:
    if jpeg is None:
        return (
            f'<span class="no-photo" role="img" aria-label="{text(words)}; its photo cannot be shown">no photo</span>'
        )
    return f'<img src="{data_uri(jpeg)}" alt="{text(words)}">'
