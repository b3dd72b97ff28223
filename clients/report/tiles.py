"""The summary at the head of the page: each tile a name, a figure, and what that is of."""

from __future__ import annotations

from clients.report.figures import TOLERATED, Series
from clients.report.gather import Facts
from clients.report.markup import name, text
from clients.report.words import UNKNOWN, bounds, counted, day_and_minute, of, percent, points


def tiles(facts: Facts, everything: Series, series: list[Series]) -> str:
    """everything: all probes as one; series: each cohort, and what waits."""
    each = [
        _recall(everything),
        _drift(series),
        _measured(facts),
        _items(facts),
        *_generation(facts),
        _learning(facts),
    ]
    return f'<dl class="tiles">\n{"".join(each)}</dl>'


def _tile(title: str, figure: str, *notes: str) -> str:
    """figure, notes: HTML."""
    small = "".join(f"<small>{note}</small>" for note in notes if note)
    return f"<div><dt>{text(title)}</dt><dd><b>{figure}</b>{small}</dd></div>\n"


def _recall(everything: Series) -> str:
    now = everything.now
    if now is None:
        return _tile("Recall@1 now", UNKNOWN, "nothing has been measured")
    counts = text(f"{of(now.share)} probes found")
    return _tile("Recall@1 now", percent(now.share.value), counts, text(f"95 %: {bounds(now.share)}"))


def _drift(series: list[Series]) -> str:
    """The cohort that has fallen worst since its stage went live, for as much as sampling error lets one say."""
    known = [
        (drift, each.name, now.share)
        for each in series
        if (now := each.now) is not None and (drift := now.drift) is not None
    ]
    if not known:
        return _tile("Worst drift", UNKNOWN, "no cohort has a reference and probes enough to compare")
    drift, cohort, share = min(known, key=lambda one: one[0].high)
    size = f"over {100 * TOLERATED:.0f} points beyond sampling error"
    judged = f"a fall of {size}" if drift.high < -TOLERATED else f"no fall of {size}"
    figure = f"{text(points(drift.value))} <small>points</small>"
    return _tile("Worst drift", figure, f"{text(cohort)}, {text(of(share))}", judged)


def _measured(facts: Facts) -> str:
    measurements = facts.history.measurements
    if not measurements:
        return _tile("Probes", "0", "the server measures at its start, after swaps and from time to time")
    last = measurements[-1]
    probes = sum(each.probes for each in last.cohorts)
    waiting = sum(each.probes for each in last.cohorts if each.cohort is None)
    cohorts = sum(1 for each in last.cohorts if each.cohort is not None)
    whose = f"in {counted(cohorts, 'cohort')}" + (f", {waiting:,} of categories that wait" if waiting else "")
    return _tile("Probes", f"{probes:,}", text(whose), f"measured {text(day_and_minute(last.at))}")


def _items(facts: Facts) -> str:
    held = facts.status.catalogue
    return _tile("Items", f"{held.items:,}", f"in {text(counted(held.categories, 'category', 'categories'))}")


def _generation(facts: Facts) -> list[str]:
    live = facts.status.generation
    if live is None:
        return [_tile("Live generation", UNKNOWN, "none yet"), _tile("Model", UNKNOWN, "none yet")]
    made = f"made {text(day_and_minute(live.created_at))}"
    index = "exact" if live.index_recall is None else f"finds {percent(live.index_recall)} of what exact search finds"
    model = live.model
    shape = f"{name(model.backbone)}, {model.dimension:,} numbers, {name(model.precision)}"
    stages = f"{counted(model.stages, 'stage')} learned"
    return [
        _tile("Live generation", f"{live.number:,}", made, f"index {name(live.index or 'not built')}, {text(index)}"),
        _tile("Model", f"<code>{text(model.id[:12])}</code>", shape, text(stages)),
    ]


def _learning(facts: Facts) -> str:
    training = facts.status.training
    if training is None:
        return _tile("Being learned", "nothing", "no stage is being taught")
    progress = f"{training.done:,} of {training.total:,}" if training.total else ""
    left = f"about {counted(round(training.remaining_s / 60), 'minute')} left" if training.remaining_s >= 30 else ""
    notes = ", ".join(part for part in (progress, left) if part)
    whose = counted(training.categories, "category", "categories")
    return _tile("Being learned", f"stage {training.stage}", f"{name(training.phase)}: {text(notes)}", text(whose))
