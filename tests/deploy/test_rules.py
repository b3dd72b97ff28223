"""Prometheus's configuration and rules: valid, tested, explained, and about metrics that there are."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from clients.report import figures
from indexer.errors import InvalidField
from indexer.gates import RecallLimits, Z
from indexer.stages import StageRule
from server.metrics import Metrics
from server.status import FAULTS
from server.watching import cohorts
from server.watching.limits import WatchLimits
from tests.conftest import ROOT
from tests.deploy.documented import faults
from tests.deploy.plain import load
from tests.deploy.promql import promtool, selectors
from trainer.recipe import Recipe

FOLDER = ROOT / "deploy" / "prometheus"
TESTS = sorted((FOLDER / "tests").glob("*.yml"))


def rules(name: str) -> list[dict[str, Any]]:
    groups = load((FOLDER / "rules" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RAISED = rules("alerts.yml")
RECORDED = {rule["record"]: rule for rule in rules("recording.yml")}
ALERTS: dict[str, list[dict[str, Any]]] = {}
"""The rules of each name: one, or one for each severity."""
for each in RAISED:
    ALERTS.setdefault(each["alert"], []).append(each)
EXPRESSIONS = {name: " or ".join(f"({rule['expr']})" for rule in found) for name, found in ALERTS.items()}
EXPRESSIONS |= {name: rule["expr"] for name, rule in RECORDED.items()}


def number(name: str, pattern: str) -> float:
    """A number in a rule's expression."""
    match = re.search(pattern, EXPRESSIONS[name])
    assert match, (name, pattern)
    return float(match[1])


# ------------------------------------------------------------------------------------------------ valid and tested


def test_the_configuration_is_valid_and_names_rules_that_are() -> None:
    done = promtool("check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rule files found" in done.stdout


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    found = re.findall(
        r"alertname: (\w+)\n +exp_alerts:( \[\])?", "".join(path.read_text() for path in TESTS), re.MULTILINE
    )
    assert {name for name, silent in found if silent} == ALERTS.keys()
    assert {name for name, silent in found if not silent} == ALERTS.keys()


def test_there_is_an_alert_for_all_that_matters() -> None:
    answers = {"Down", "Restarting", "Failing", "PartsFailing", "Slow", "Refusing"}
    recall = {
        "RecallFell",
        "RecallDropped",
        "RecallCollapsed",
        "RecallNotMeasured",
        "IndexRecallLow",
        "QueriesDrifted",
        "UnfamiliarQueries",
    }
    learning = {
        "StageNotServed",
        "SwapsFailing",
        "CandidatesRefused",
        "ProgramDown",
        "NoTrainer",
        "ProgramHangs",
        "ProgramRestarting",
    }
    machine = {"DiskFull", "DiskFilling", "StorageFull", "MergesFailing", "ReadingsFailing"}
    assert ALERTS.keys() == {f"Everlook{name}" for name in answers | recall | learning | machine}


# ------------------------------------------------------------------------------------------------ explained


@pytest.mark.parametrize("rule", RAISED, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_how_bad_it_is_since_when_what_is_seen_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert "$labels.instance" in rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_alerts_of_one_name_differ_in_how_bad_they_are() -> None:
    """Prometheus keeps what has the same labels apart by nothing else."""
    for name, found in ALERTS.items():
        severities = [rule["labels"]["severity"] for rule in found]
        assert len(set(severities)) == len(severities), name


def test_every_alert_has_its_paragraph_for_whoever_is_woken_and_no_other_has() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert re.findall(r"^### (Everlook\w+)$", text, re.MULTILINE) == list(ALERTS)
    for name in ALERTS:
        paragraph = text.split(f"### {name}\n", 1)[1].split("\n#", 1)[0]
        for part in ("Means", "Confirm", "Do", "Nothing"):
            assert f"**{part}.**" in paragraph, (name, part)


# ------------------------------------------------------------------------------------------------ of what there is


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_rule_reads_documented_metrics_as_their_type_allows(name: str) -> None:
    assert faults(EXPRESSIONS[name], set(RECORDED)) == []


def test_what_is_recorded_is_used() -> None:
    panels = (ROOT / "deploy" / "grafana" / "dashboard.json").read_text()
    used = {each.name for name in ALERTS for each in selectors(EXPRESSIONS[name])}
    assert {name for name in RECORDED if name not in used and name not in panels} == set()


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("rate(everlook_items[5m])", "gauge"),
        ("sum(everlook_swaps_total) > 3", "counter"),
        ('rate(everlook_swaps_total{outcome="ok"}[5m])', "no labels"),
        ("everlook_nothing > 1", "not documented"),
        ("sum by (nothing) (everlook_items)", "nothing here has"),
        ("instance:everlook_nothing:rate5m", "not recorded"),
        ("everlook_items[5m]", "gauge"),
    ],
)
def test_what_a_rule_must_not_do_is_seen(expr: str, fault: str) -> None:
    assert any(fault in each for each in faults(expr, set(RECORDED)))


# ------------------------------------------------------------------------------------------------ of the right size


def test_recall_may_drop_as_far_as_the_gates_let_it_beyond_the_same_error() -> None:
    least = {name: re.findall(r"high[^<>]*< -([\d.]+)", EXPRESSIONS[name]) for name in ALERTS}
    assert {float(each) for each in least["EverlookRecallDropped"]} == {RecallLimits().most_drop}
    (collapsed,) = {float(each) for each in least["EverlookRecallCollapsed"]}
    assert {float(each) for each in least["EverlookRecallFell"]} == {RecallLimits().most_drop, collapsed}
    errors = [
        float(each) for expr in EXPRESSIONS.values() for each in re.findall(r"([\d.]+) \* (?:sqrt|\w+_error)", expr)
    ]
    assert errors == [Z] * 8


def test_a_fall_of_all_that_new_categories_may_explain_waits_for_the_morning_however_far_it_is() -> None:
    """Between two rules of which each ends where the other begins, one that wavers would be raised by neither."""
    page, ticket = (rule["expr"] for rule in ALERTS["EverlookRecallFell"])
    assert f"< -{RecallLimits().most_drop} unless on (instance) " in page
    assert f'{{cohort="all"}} < -{RecallLimits().most_drop} and on (instance) ' in ticket
    (waits,) = re.findall(r"on \(instance\) (sum .*?> 0)", page)
    assert f"on (instance) {waits}" in ticket


def test_the_worst_of_the_older_cohorts_wakes_nobody() -> None:
    page, ticket = ALERTS["EverlookRecallCollapsed"]
    assert (page["labels"]["severity"], ticket["labels"]["severity"]) == ("page", "ticket")
    assert f'{{cohort!~"{cohorts.ALL}|{cohorts.WORST_OF_OLDER}"}}' in page["expr"]
    assert f'{{cohort="{cohorts.WORST_OF_OLDER}"}}' in ticket["expr"]


def test_the_report_judges_drift_as_the_alert_does() -> None:
    assert number("EverlookRecallDropped", r"high < -([\d.]+)") == figures.TOLERATED
    for probes in ("drift_probes", "reference_probes"):
        assert number("EverlookRecallDropped", rf"everlook_probe_recall_{probes} >= (\d+)") == figures.LEAST_PROBES
    recorded = r"drift_ratio \+ ([\d.]+) \* everlook_probe_recall_drift_error"
    assert number("instance_cohort:everlook_probe_recall_drift_ratio:high", recorded) == figures.Z_ONE_SIDED


def test_no_older_cohort_that_is_told_apart_has_too_few_probes_for_an_alert() -> None:
    """Or it would hide one that has enough."""
    for name in ("EverlookRecallFell", "EverlookRecallDropped", "EverlookRecallCollapsed"):
        assert {int(each) for each in re.findall(r"probes >= (\d+)", EXPRESSIONS[name])} == {cohorts.LEAST_PROBES}


def test_the_limit_of_slow_searches_is_a_bucket() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.call_seconds.labels(rpc="Search/Search", code="OK")
    (family,) = metrics.call_seconds.collect()
    edges = {sample.labels["le"] for sample in family.samples if "le" in sample.labels}
    used = {edge for expr in EXPRESSIONS.values() for edge in re.findall(r'le="([^"]+)"', expr)}
    assert used
    assert used <= edges


def test_a_stage_that_is_learned_is_given_longer_than_its_training_takes() -> None:
    assert number("EverlookStageNotServed", r"seconds > (\d+)") >= 2 * Recipe().budget_s


def test_categories_wait_without_a_trainer_as_long_as_two_of_them_would_wait_for_one() -> None:
    least = int(number("EverlookNoTrainer", r">= (\d+)"))
    assert StageRule(min_categories=least).min_categories == least
    with pytest.raises(InvalidField):
        StageRule(min_categories=least - 1)
    (rule,) = ALERTS["EverlookNoTrainer"]
    assert rule["for"] == f"{StageRule().wait_s / 3600:.0f}h"


def test_what_fails_through_the_servers_fault_is_the_same_for_a_rule_as_for_the_server() -> None:
    named = [
        set(codes.split("|")) for expr in EXPRESSIONS.values() for codes in re.findall(r'code=~"([^"]*L[^"]*)"', expr)
    ]
    faults_of_server = {code.name for code in FAULTS}
    assert [codes for codes in named if "INTERNAL" in codes] == [faults_of_server] * 3


@pytest.mark.parametrize("page", ["docs/metrics.md", "docs/operations.md", "deploy/prometheus/rules/alerts.yml"])
def test_whoever_reads_of_the_servers_faults_reads_of_all(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    lists = re.findall(r"\bINTERNAL(?:(?:, | or | and |\|)[A-Z_]{3,})+", text)
    assert lists
    assert [each for each in lists if set(re.findall(r"[A-Z_]+", each)) != {code.name for code in FAULTS}] == []


def test_the_docs_say_from_how_many_searches_on_an_alert_of_watched_queries_can_fire() -> None:
    limits, text = WatchLimits(), (ROOT / "docs" / "operations.md").read_text()

    def paragraph(name: str) -> str:
        return " ".join(text.split(f"### {name}\n", 1)[1].split("\n#", 1)[0].split())

    def searches(watched: float) -> str:
        return f"{watched / limits.share:,.0f} searches"

    for name, window in (("EverlookIndexRecallLow", "30m"), ("EverlookUnfamiliarQueries", "6h")):
        assert searches(number(name, rf"increase{window} >= (\d+)")) in paragraph(name)
    least = {number("EverlookIndexRecallLow", rf"increase{window} >= (\d+)") for window in ("30m", "1d")}
    assert len(least) == 1
    windows = number("EverlookQueriesDrifted", r"increase1h >= (\d+)")
    assert searches(windows * limits.window) in paragraph("EverlookQueriesDrifted")
    assert f"searches at the least, {limits.reference / limits.share:,.0f} by default" in text
    words = {0.05: "one in twenty"}[limits.share]
    assert f"`--watch-share`, {words}" in text


def chance_of_a_majority(windows: int, alpha: float, correlation: float, share: float) -> float:
    """Probability that of `windows` whose statistics are standard normal, each two with that correlation, more than
    `share` lie beyond what one does with probability `alpha`.

    With what they have in common, u, given, they are independent: integrated over u, standard normal too.
    """
    normal = NormalDist()
    common = np.linspace(-8, 8, 2001)
    weights = np.exp(-(common**2) / 2)
    beyond = (normal.inv_cdf(1 - alpha) - math.sqrt(correlation) * common) / math.sqrt(1 - correlation)
    chance = np.array([1 - normal.cdf(each) for each in beyond])
    most = range(math.floor(share * windows) + 1, windows + 1)
    return float(
        np.average(
            sum(math.comb(windows, k) * chance**k * (1 - chance) ** (windows - k) for k in most), weights=weights
        )
    )


def test_queries_that_do_not_drift_raise_the_alarm_less_than_once_in_a_thousand_times() -> None:
    """A window of n queries is compared with a reference of m that all windows share: a difference of means has the
    variance 1/n + 1/m, of which 1/m is common to two of them. An approximation, in which each test asks for a mean."""
    limits = WatchLimits()
    correlation = limits.window / (limits.window + limits.reference)
    (least,) = set(re.findall(r"windows:increase1[hd] >= (\d+)", EXPRESSIONS["EverlookQueriesDrifted"]))
    share = number("EverlookQueriesDrifted", r"> ([\d.]+) \*")
    assert chance_of_a_majority(1, limits.alpha, correlation, share) == pytest.approx(limits.alpha)
    assert chance_of_a_majority(3, limits.alpha, 0.0, share) == pytest.approx(3 * 0.01**2 * 0.99 + 0.01**3)
    chances = [chance_of_a_majority(windows, limits.alpha, correlation, share) for windows in range(int(least), 200)]
    assert 1.0e-4 < max(chances) < 1.0e-3
