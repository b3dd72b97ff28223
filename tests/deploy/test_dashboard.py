"""Grafana's dashboard, as far as it can be held without a Grafana: its model, its layout, and every expression."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.deploy.documented import faults
from tests.deploy.plain import load
from tests.deploy.promql import promtool, selectors
from tests.deploy.test_rules import ALERTS, EXPRESSIONS, RECORDED

FOLDER = ROOT / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
ROWS = ["Recall", "Learning", "Traffic", "Index", "Machine"]
COLUMNS = 24
TIMES = re.compile(r"everlook_call_seconds_\w+(?:\{[^}]*\})?")
VARIABLES = {"$instance": "host:9464", "$cohort": "all", "$__rate_interval": "1m"}


def expressions() -> dict[str, str]:
    """Each expression of panels and annotations, as Prometheus gets it, by where it stands."""
    shown = {f"{panel['title']}, {each['refId']}": each["expr"] for panel in DRAWN for each in panel["targets"]}
    shown |= {f"annotation {each['name']}": each["target"]["expr"] for each in DASHBOARD["annotations"]["list"]}
    for name, value in VARIABLES.items():
        shown = {where: expr.replace(name, value) for where, expr in shown.items()}
    return shown


def squares(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """The squares of the grid that a panel covers, as (column, line)."""
    at = panel["gridPos"]
    return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}


def test_every_panel_has_an_id_of_its_own_and_a_title_that_no_other_has_in_its_row() -> None:
    assert [count for count in Counter(panel["id"] for panel in PANELS).values() if count > 1] == []
    assert [title for title, count in Counter(panel["title"] for panel in PANELS).items() if count > 1] == []


def test_no_panel_covers_another_and_none_stands_out_of_the_grid() -> None:
    for one, other in combinations(PANELS, 2):
        assert not squares(one) & squares(other), (one["title"], other["title"])
    assert all(0 <= x < COLUMNS for panel in PANELS for x, _ in squares(panel))


def test_its_rows_follow_each_other_and_leave_no_gap() -> None:
    assert [panel["title"] for panel in PANELS if panel["type"] == "row"] == ROWS
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in PANELS]
    assert places == sorted(places)
    lines = {y for panel in PANELS for _, y in squares(panel)}
    assert lines == set(range(max(lines) + 1))


@pytest.mark.parametrize("panel", DRAWN, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] in {"timeseries", "stat", "table"}
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references) > 0
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


@pytest.mark.parametrize("annotation", DASHBOARD["annotations"]["list"], ids=lambda each: each["name"])
def test_an_annotation_has_its_query_where_panels_have_theirs(annotation: dict[str, Any]) -> None:
    """How events are made of the answer, Grafana's support of Prometheus reads beside it (@grafana/prometheus 12.1)."""
    target = annotation["target"]
    assert target.keys() == {"refId", "datasource", "expr", "interval"}
    assert target["datasource"] == annotation["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert annotation.keys() - {"target", "datasource"} == {
        "name",
        "enable",
        "hide",
        "iconColor",
        "titleFormat",
        "textFormat",
        "useValueForTime",
    }


def test_every_variable_that_is_used_is_one_of_the_dashboard_or_of_grafana() -> None:
    own = {f"${each['name']}" for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\w+", (FOLDER / "dashboard.json").read_text()))
    assert used <= own | {"$__rate_interval", "$__all"}
    assert own - {"$datasource"} <= used
    assert set(VARIABLES) <= own | {"$__rate_interval"}


def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(expressions().values())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = promtool("check", "rules", "--lint=none", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("where", expressions())
def test_a_panel_reads_documented_metrics_as_their_type_allows(where: str) -> None:
    assert faults(expressions()[where], set(RECORDED)) == []


def test_times_of_calls_are_of_those_that_somebody_waited_for() -> None:
    """Refusals are fast: among them a server that refuses most calls looks fast."""
    read = [each for expr in EXPRESSIONS.values() for each in TIMES.findall(expr)]
    read += [each for expr in expressions().values() for each in TIMES.findall(expr)]
    codes = {tuple(re.findall(r'code=~?"([^"]*)"', each)) for each in read}
    assert codes == {("OK|DEADLINE_EXCEEDED",), ("OK",)}


def test_what_alerts_look_at_is_shown() -> None:
    def raw(exprs: Iterable[str]) -> set[str]:
        read = {each.name for expr in exprs for each in selectors(expr)}
        recorded = read & RECORDED.keys()
        whole = {re.sub(r"_(bucket|sum|count)$", "", name) for name in read - recorded}
        return whole | (raw(EXPRESSIONS[name] for name in recorded) if recorded else set())

    alerts = raw(EXPRESSIONS[name] for name in ALERTS)
    assert alerts - raw(expressions().values()) == {"up"}


def test_grafana_finds_its_data_and_its_dashboards() -> None:
    (source,) = load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = load((FOLDER / "provisioning/dashboards/everlook.yml").read_text())["providers"]
    services = load((ROOT / "deploy/compose.yaml").read_text())["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in services["prometheus"]["ports"]
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounted["./grafana/dashboard.json"] == f"{provider['options']['path']}/everlook.json"
    assert mounted["./grafana/provisioning"] == "/etc/grafana/provisioning"
