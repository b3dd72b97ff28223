"""The operator's readings: each by itself, cheap whatever there is, and none lost with another."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from indexer.datadir import DataDir
from indexer.gates import RecallLimits
from indexer.programs import Activity, Reporter
from server.learning import Learning
from server.metrics import Metrics
from server.progress import Progress
from server.supervisor import Supervisor
from server.swapper import Swapper
from server.watching.learning import LearningProgress
from server.watching.operator import OperatorCollector, Reading, build, counters, disk, gauge, gauges, queues
from server.watching.programs import Programs
from server.watching.records import Records
from tests.server.learned import begun, ended, measured, model_of
from tests.server.running import Running, engine_in
from tests.server.test_learning import generation
from tests.server.watching.conftest import values_of


def collected(**readings: Reading) -> tuple[OperatorCollector, CollectorRegistry]:
    registry = CollectorRegistry()
    collector = OperatorCollector(readings, registry)
    registry.register(collector)
    return collector, registry


def test_a_reading_that_fails_is_counted_logged_once_and_takes_no_other_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = True

    def half() -> Iterator[Metric]:
        yield gauge("half", "Half.", 1)
        if broken:
            raise OSError("no such disk")
        yield gauge("whole", "Whole.", 2)

    _, registry = collected(
        first=lambda: [gauge("first", "First.", 1)], half=half, last=lambda: [gauge("last", "L.", 3)]
    )
    for _ in range(3):
        assert (registry.get_sample_value("first"), registry.get_sample_value("last")) == (1, 3)
    assert registry.get_sample_value("half") is None
    assert len(caplog.records) == 1
    assert "half" in caplog.text
    broken = False
    assert registry.get_sample_value("whole") == 2
    failures = [
        registry.get_sample_value("everlook_reading_failures_total", {"reading": name}) for name in ("first", "half")
    ]
    assert failures[0] == 0
    assert failures[1] is not None
    assert failures[1] >= 3


def test_a_family_without_a_value_is_named_and_has_no_sample() -> None:
    assert gauge("a", "A.", None).samples == []
    assert gauges("a", "A.", "k", {}).samples == []
    assert [(each.labels, each.value) for each in gauges("a", "A.", "k", {"x": 1}).samples] == [({"k": "x"}, 1)]
    (sample,) = counters("a", "A.", ("k", "l"), {("x", "y"): 2}).samples
    assert (sample.name, sample.labels, sample.value) == ("a_total", {"k": "x", "l": "y"}, 2)


def test_the_disk_is_the_data_directorys(tmp_path: Path) -> None:
    found = values_of(disk(tmp_path)())
    expected = os.statvfs(tmp_path)
    assert found["everlook_disk_size_bytes"] == {"": expected.f_blocks * expected.f_frsize}
    assert 0 < found["everlook_disk_free_bytes"][""] < found["everlook_disk_size_bytes"][""]


def test_the_build_names_the_versions_of_what_runs() -> None:
    (info,) = build("1.2.3")()
    (sample,) = info.samples
    assert sample.labels.keys() == {"version", "python", "grpc", "onnxruntime", "faiss"}
    assert sample.labels["version"] == "1.2.3"
    assert sample.labels["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (sample.name, sample.value) == ("everlook_build_info", 1)


def test_the_lag_is_the_age_of_the_oldest_job() -> None:
    assert values_of(queues(lambda: {"query": 0.0, "ingest": 2.5})()) == {
        "everlook_queue_oldest_seconds": {"query": 0.0, "ingest": 2.5}
    }


# ---------------------------------------------------------------------------------------------- what a scrape costs


class Work:
    """Counts files opened and folders listed, by an audit hook, which stays for good and counts only while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.counts: Counter[str] = Counter()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event in ("open", "os.listdir", "os.scandir"):
            self.counts[event] += 1

    def query(self, *_: object) -> None:
        self.counts["query"] += self.on


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    found = Work()
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", found.query)
    yield found
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", found.query)


def settle(data: DataDir) -> None:
    """Makes all that was written look old."""
    for path in (data.stages, data.generations, data.verdicts, data.models, data.live):
        os.utime(path, (1_000_000, 1_000_000))


@pytest.mark.parametrize("trainings", [1, 40])
def test_a_scrape_costs_the_same_however_much_there_has_been(trainings: int, tmp_path: Path, work: Work) -> None:
    with engine_in(tmp_path) as engine:
        data, registry = engine.data, CollectorRegistry()
        base = engine.live.current.generation.model.id
        gates = measured(0, {0: (9, 10)})
        for number in range(1, trainings + 1):
            ended(data, begun(data, number, ["a", "b"]), "rejected", gates=gates)
        begun(data, trainings + 1, ["c", "d"])
        generation(data, model_of(data, 2, base, ["a"], gates=gates).id)
        learning, supervisor = Learning(data), Supervisor({}, lambda name: None)
        swapper = Swapper(engine, RecallLimits(), Metrics(registry).swaps, hold=False)
        progress = Progress(data, learning, swapper, supervisor)
        for name in ("trainer", "indexer"):
            Reporter(data, name).say(Activity("works"))
        settle(data)
        collector = OperatorCollector(
            {
                "build": build("1"),
                "records": Records(data, learning, time.time()),
                "learning": LearningProgress(engine, learning, progress),
                "programs": Programs(data, progress, supervisor),
                "disk": disk(data.root),
            },
            registry,
        )
        list(collector.collect())
        work.counts.clear()
        work.on = True
        families = list(collector.collect())
        work.on = False
    found = values_of(families)
    assert found["everlook_trainings"]["rejected"] == trainings
    assert found["everlook_generations"] == {"candidate": 1, "live": 1, "previous": 0, "rejected": 0}
    assert work.counts["os.listdir"] + work.counts["os.scandir"] == 0
    assert work.counts["open"] <= 12  # what the programs say, a few times
    assert work.counts["query"] <= 6


# ---------------------------------------------------------------------------------------------------- the whole page


def test_promtool_finds_nothing_to_say_of_the_page_of_a_running_server(server: Running) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=server.scrape(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_running_servers_readings_do_not_fail(server: Running) -> None:
    page = server.scrape()
    failures = dict(re.findall(r'^everlook_reading_failures_total\{reading="(\w+)"\} (\S+)$', page, re.MULTILINE))
    assert failures == dict.fromkeys(
        ("build", "state", "catalogue", "records", "learning", "programs", "queues", "disk"), "0.0"
    )
