"""The page's part on generations and their gates."""

from __future__ import annotations

from clients.report.gather import Facts
from clients.report.markup import details, moment, name, paragraph, section, table, text
from clients.report.words import counted, percent
from clients.status import Gate, Generation, GenerationState

_MOST = 30  # generations on the page, the newest
_WORDS = (
    "A generation is a model and an index of the whole gallery, made for each other. It is served when it has met "
    "every gate; one that fails a gate is kept with the figure and the reason, and never served."
)


def generation_section(facts: Facts) -> str:
    """Newest first."""
    found = facts.generations
    if not found:
        return section("generations", "Generations and their gates", paragraph("There is no generation yet.", "empty"))
    left_out = len(found) - _MOST
    more = f"{counted(left_out, 'older one is', 'older ones are')} left out; `everlook models` lists all."
    parts = [_generation(each) for each in found[:_MOST]]
    return section("generations", "Generations and their gates", paragraph(_WORDS), *parts, *_if(left_out > 0, more))


def _if(condition: bool, words: str) -> list[str]:
    return [paragraph(words)] if condition else []


def _generation(each: Generation) -> str:
    title = _title(each)
    state = f'<span class="state {text(each.state)}">{text(each.state)}</span>'
    summary = f"<b>{title}</b> {state} <span>{text(_gates_in_short(each))}</span>"
    opened = each.state is GenerationState.LIVE or any(not gate.passed for gate in each.gates)
    model = each.model
    facts = (
        f"Model <code>{text(model.id[:12])}</code>, {name(model.backbone)}, {name(model.precision)}, "
        f"{counted(model.stages, 'stage')} learned; made {moment(each.created_at)} UTC."
    )
    return details(summary, f"<p>{facts}</p>\n{_recall(each)}\n{_gates(each)}", opened=opened)


def _title(each: Generation) -> str:
    return f"Generation {each.number}" if each.number else "A model without a generation"


def _gates_in_short(each: Generation) -> str:
    passed = sum(gate.passed for gate in each.gates)
    if not each.gates:
        return "no gates"
    if passed == len(each.gates):
        return f"passed {'its gate' if passed == 1 else f'all {passed} gates'}"
    return f"failed {len(each.gates) - passed} of {counted(len(each.gates), 'gate')}"


def _recall(each: Generation) -> str:
    shown = (
        f"cohort {cohort.cohort}: {percent(cohort.recall_at_1)} of {counted(cohort.probes, 'probe')}"
        for cohort in each.recall
    )
    return paragraph(f"Recall@1 as its gates measured it: {'; '.join(shown)}.") if each.recall else ""


def _gates(each: Generation) -> str:
    if not each.gates:
        return ""
    heads = ("gate", "result", "measured", "required", "reason")
    return table(f"Gates of {_title(each)[0].lower()}{_title(each)[1:]}", heads, map(_gate, each.gates), (2, 3))


def _gate(gate: Gate) -> tuple[str, ...]:
    result = '<span class="passed">✓ passed</span>' if gate.passed else '<span class="failed">✕ failed</span>'
    return (
        name(gate.name),
        result,
        _figure(gate.measured),
        _figure(gate.required),
        f'<p class="reason">{name(gate.reason)}</p>',
    )


def _figure(value: float) -> str:
    return text(f"{value:.4g}".replace("-", "−"))
