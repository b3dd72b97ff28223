"""A real Prometheus with the configuration of deploy/ reads a real server, and answers with its recall."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

import pytest

from clients import Client, Item
from indexer.probes import is_probe
from tests.deploy.documented import metrics
from tests.deploy.test_rules import ALERTS, RECORDED
from tests.e2e.folders import tiny_data
from tests.e2e.photos import photo
from tests.e2e.process import ServerProcess
from tests.e2e.prometheus import Prometheus, installed, wait_for

WAIT_S = 60.0
ITEMS = 60
CATEGORIES = 4
PROBES = "everlook_probe_recall_probes"


@dataclass(frozen=True)
class Watched:
    """A server that is read every second, and who reads it."""

    server: ServerProcess
    client: Client
    prometheus: Prometheus


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    if not installed():
        pytest.skip("prometheus is not on this machine; Debian's package prometheus has it")
    folder = tmp_path_factory.mktemp("watched")
    with (
        ServerProcess(tiny_data(folder), "--recall-every-s", "1", "--watch-share", "1") as server,
        server.client() as client,
        Prometheus(folder, urlsplit(server.metrics_url).netloc) as prometheus,
    ):
        items = [(Item(f"item-{seed}", f"category-{seed % CATEGORIES}"), photo(seed)) for seed in range(ITEMS)]
        assert all(answer.error is None for answer in client.ingest(items))
        for seed in range(20):
            client.search(image=photo(seed), k=5)
        yield Watched(server, client, prometheus)


def test_it_reads_the_server(watched: Watched) -> None:
    assert wait_for(lambda: watched.prometheus.query("up == 1"), WAIT_S, "the server was not read")
    (target,) = watched.prometheus.ask("targets", state="active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_it_answers_with_the_recall_that_the_server_has_measured(watched: Watched) -> None:
    """Every probe of the four categories is searched, and no more."""
    probes = sum(is_probe(f"item-{seed}") for seed in range(ITEMS))

    def measured() -> bool:
        found = {labels["cohort"]: value for labels, value in watched.prometheus.query(PROBES)}
        return found.get("waiting") == probes

    wait_for(measured, WAIT_S, "recall was not measured")
    found = {
        (labels["cohort"], labels["k"]): value
        for labels, value in watched.prometheus.query("everlook_probe_recall_ratio")
    }
    assert {cohort for cohort, _ in found} == {"all", "waiting"}
    for cohort in ("all", "waiting"):
        recalls = [found[cohort, k] for k in ("1", "5", "10")]
        assert recalls == sorted(recalls)
        assert all(recall * probes == pytest.approx(round(recall * probes)) for recall in recalls)
    assert not watched.prometheus.query("everlook_probe_recall_reference_ratio")  # nothing was ever learned


def test_everything_that_it_stores_of_everlook_is_documented(watched: Watched) -> None:
    wait_for(lambda: watched.prometheus.query(PROBES), WAIT_S, "recall was not measured")
    names = {name for name in watched.prometheus.ask("label/__name__/values") if name.startswith("everlook_")}
    recorded = {name.removesuffix("_created") for name in names if name.endswith("_created")}
    undocumented = {name for name in names if name not in metrics() and name.removesuffix("_created") not in recorded}
    assert undocumented == set()


def test_its_rules_run_without_error_and_a_calm_server_raises_no_alarm_but_for_want_of_a_trainer(
    watched: Watched,
) -> None:
    def all_ran() -> list[dict[str, object]]:
        groups = watched.prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else []

    rules = wait_for(all_ran, WAIT_S, "not every rule was evaluated")
    assert {rule["name"] for rule in rules} == ALERTS.keys() | RECORDED.keys()
    assert {rule["name"]: rule["lastError"] for rule in rules if rule["health"] != "ok"} == {}
    wait_for(lambda: watched.prometheus.query("up == 1"), WAIT_S, "the server was not read")
    evaluated = time.time()

    def all_ran_again() -> bool:
        groups = watched.prometheus.ask("rules")["groups"]
        return all(datetime.fromisoformat(group["lastEvaluation"]).timestamp() > evaluated + 2 for group in groups)

    wait_for(all_ran_again, WAIT_S, "not every rule was evaluated again")

    # Pending ones, too, which would fire in time; how full this machine's disk is says nothing of the server. Its four
    # categories wait, and no trainer runs: in a day that is a ticket.
    def asked_while_it_was_read() -> list[tuple[str, str]] | None:
        if not watched.prometheus.query("min_over_time(up[5s]) == 1"):
            return None  # a machine that stood still: a server that is not read has other alerts
        found = watched.prometheus.query('ALERTS{alertname!~"EverlookDisk.*"}')
        again = watched.prometheus.query("min_over_time(up[5s]) == 1")
        return [(labels["alertname"], labels["alertstate"]) for labels, _ in found] if again else None

    alerts = wait_for(asked_while_it_was_read, WAIT_S, "the server was not read for five seconds on end")
    assert alerts == [("EverlookNoTrainer", "pending")]


def test_what_is_recorded_can_be_asked_for(watched: Watched) -> None:
    def recorded() -> bool:
        watched.client.search(image=photo(0), k=1)
        return bool(watched.prometheus.query("instance:everlook_searches:increase10m > 0"))

    wait_for(recorded, WAIT_S, "nothing was recorded")
