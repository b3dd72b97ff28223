"""What Prometheus reads: the figures after calls, their names, and the page that documents them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from everlook.v1 import everlook_pb2 as pb
from everlook.v1.everlook_pb2_grpc import AdminServicer, CatalogServicer, SearchServicer
from indexer.errors import CatalogueDamaged, InvalidField, QueueFull, StorageFull
from server.metrics import Metrics, Snapshot, gauge_families, snapshot_families
from server.state import ServerState
from server.status import FAULTS
from server.watching.operator import OperatorCollector
from tests.conftest import ROOT
from tests.server.running import TIMEOUT_S, Running, item, photo, running, sample

BASE_UNITS = ("_seconds", "_bytes", "_ratio", "_info")
OTHER_UNITS = re.compile(r"_(ms|millis|milliseconds|minutes|hours|kb|mb|kilobytes|megabytes|percent|count|sum)(_|$)")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(server: Running) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(server.scrape())}


def samples(server: Running) -> Samples:
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in families(server).values()
        for each in family.samples
    }


@pytest.fixture
def value_of(used: Running) -> Callable[..., float]:
    found = samples(used)
    return lambda name, **labels: found.get((name, frozenset(labels.items())), 0.0)


@pytest.fixture(scope="module")
def used(server: Running) -> Running:
    """A server after a few calls of each kind."""
    for n in range(3):
        server.put(item(f"i{n}", f"c{n % 2}"), photo(n))
    server.put(item("i0", "c0"), photo(0))
    server.put(item("i0", "c1"), None)
    server.catalog.Delete(pb.DeleteRequest(id="i2"), timeout=TIMEOUT_S)
    list(server.catalog.Ingest(iter([pb.IngestRequest(item=item("bad"), image=b"no photo")]), timeout=TIMEOUT_S))
    server.search.Search(pb.SearchRequest(image=photo(1)), timeout=TIMEOUT_S)
    server.search.Search(pb.SearchRequest(item_id="i1"), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError):
        server.search.Search(pb.SearchRequest(item_id="nobody"), timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError):
        server.search.Search(pb.SearchRequest(image=photo(1), k=100_000), timeout=TIMEOUT_S)
    for _ in range(500):  # a call that fails is counted a moment after its answer
        if sum(value for (name, _), value in samples(server).items() if name == "everlook_calls_total") == 11:
            return server
        time.sleep(0.01)
    raise AssertionError("not all calls were counted")


def test_calls_are_counted_by_method_and_code(value_of: Callable[..., float]) -> None:
    counted = {
        ("Catalog/Put", "OK"): 5,
        ("Catalog/Delete", "OK"): 1,
        ("Catalog/Ingest", "OK"): 1,
        ("Search/Search", "OK"): 2,
        ("Search/Search", "NOT_FOUND"): 1,
        ("Search/Search", "INVALID_ARGUMENT"): 1,
    }
    for (rpc, code), times in counted.items():
        assert value_of("everlook_calls_total", rpc=rpc, code=code) == times
    assert value_of("everlook_call_seconds_count", rpc="Search/Search", code="OK") == 2
    assert value_of("everlook_call_seconds_count", rpc="Search/Search", code="NOT_FOUND") == 1


def test_items_are_counted_by_what_became_of_them(value_of: Callable[..., float]) -> None:
    outcomes = {"created": 3, "unchanged": 1, "updated": 1, "deleted": 1}
    assert {name: value_of("everlook_items_written_total", outcome=name) for name in outcomes} == outcomes
    assert value_of("everlook_items_refused_total", reason="IMAGE_UNREADABLE") == 1


def test_items_of_a_stream_and_queries_of_a_batch_are_counted_each_by_its_code(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        items = [pb.IngestRequest(item=item(f"i{n}"), image=photo(n)) for n in range(3)]
        list(server.catalog.Ingest(iter([*items, pb.IngestRequest(item=item("bad"), image=b"")]), timeout=TIMEOUT_S))
        queries = [pb.SearchRequest(item_id=id) for id in ("i0", "i1", "nobody")]
        server.search.BatchSearch(pb.BatchSearchRequest(requests=queries), timeout=TIMEOUT_S)
        counted = {
            (labels["rpc"], labels["code"]): value
            for (name, found), value in samples(server).items()
            if name == "everlook_parts_total" and value and (labels := dict(found))
        }
    assert counted == {
        ("Catalog/Ingest", "OK"): 3,
        ("Catalog/Ingest", "INVALID_ARGUMENT"): 1,
        ("Search/BatchSearch", "OK"): 2,
        ("Search/BatchSearch", "NOT_FOUND"): 1,
    }


def test_each_stage_is_timed_for_what_goes_through_it(value_of: Callable[..., float]) -> None:
    counts = {
        ("query", "queue"): 3,
        ("query", "decode"): 1,  # one of the searches was by photo
        ("query", "encode"): 1,
        ("query", "search"): 2,  # the third knew no such item
        ("ingest", "queue"): 5,
        ("ingest", "decode"): 5,
        ("ingest", "encode"): 4,
        ("ingest", "commit"): 4,
    }
    for (lane, stage), count in counts.items():
        assert value_of("everlook_stage_seconds_count", lane=lane, stage=stage) == count, (lane, stage)
    assert value_of("everlook_batch_jobs_sum", lane="query") == 3


def test_the_gauges_say_what_is_held_and_what_waits(value_of: Callable[..., float]) -> None:
    held = {"items": 2, "categories": 1, "photos": 2, "catalogue_seq": 5, "main_entries": 0, "writes_pending": 0}
    assert {name: value_of(f"everlook_{name}") for name in held} == held
    assert value_of("everlook_delta_entries") - value_of("everlook_tombstones") == 2
    assert value_of("everlook_photo_bytes") == len(photo(0)) + len(photo(1))
    assert value_of("everlook_queue_depth", lane="query") == 0
    assert value_of("everlook_queue_capacity", lane="ingest") > 0


def test_the_live_generation_is_named(used: Running) -> None:
    (info,) = families(used)["everlook_generation_info"].samples
    live = used.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).generation
    assert info.value == 1
    assert info.labels["number"] == str(live.number)
    assert info.labels["model"] == live.model.id
    assert info.labels["index"] == live.index
    assert info.labels.keys() == {"number", "model", "index", "version"}


def test_what_alerts_look_at_is_there_before_the_first_time() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    for name, labels in [
        ("everlook_refusals_total", {"reason": "QUEUE_FULL"}),
        ("everlook_refusals_total", {"reason": "STORAGE_FULL"}),
        ("everlook_expired_total", {"lane": "query"}),
        ("everlook_merges_total", {"result": "failed"}),
        *(
            (name, {"rpc": rpc, "code": code})
            for name, rpc in (
                ("everlook_calls_total", "Search/Search"),
                ("everlook_calls_total", "Catalog/Ingest"),
                ("everlook_calls_total", "Admin/WatchStatus"),
                ("everlook_parts_total", "Search/BatchSearch"),
                ("everlook_parts_total", "Catalog/Ingest"),
            )
            for code in ("OK", *(fault.name for fault in FAULTS))
        ),
    ]:
        assert registry.get_sample_value(name, labels) == 0, (name, labels)


def test_calls_are_there_for_every_method_before_the_first_and_for_no_code_of_a_caller() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    (family,) = metrics.calls.collect()
    found = {(each.labels["rpc"], each.labels["code"]) for each in family.samples if each.name.endswith("_total")}
    stubs = {"Search": SearchServicer, "Catalog": CatalogServicer, "Admin": AdminServicer}
    methods = {f"{name}/{method}" for name, stub in stubs.items() for method in vars(stub) if method[0].isupper()}
    assert len(methods) > 10
    assert found == {(rpc, code) for rpc in methods for code in ("OK", *(fault.name for fault in FAULTS))}


def test_only_a_bound_that_was_reached_is_a_refusal() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for error in (QueueFull("full"), QueueFull("full"), StorageFull("full"), InvalidField("no")):
        metrics.count_refusal(error)
    assert sample(registry, "everlook_refusals_total", reason="QUEUE_FULL") == 2
    assert sample(registry, "everlook_refusals_total", reason="STORAGE_FULL") == 1
    assert sample(registry, "everlook_refusals_total", reason="INVALID_FIELD") == 0


def test_a_snapshot_becomes_gauges_at_each_scrape() -> None:
    registry = CollectorRegistry()
    items = iter((1.0, 2.0))

    def read() -> Iterator[Metric]:
        return snapshot_families(Snapshot({"items": ("Items.", next(items))}, {"query": (3, 9)}, {"number": "7"}))

    registry.register(OperatorCollector({"state": read}, registry))
    assert registry.get_sample_value("everlook_items") == 1
    assert registry.get_sample_value("everlook_items") == 2
    assert list(gauge_families({})) == []


@pytest.mark.parametrize("error", [CatalogueDamaged("bytes have changed"), RuntimeError("nobody foresaw this")])
def test_the_page_outlives_a_catalogue_and_a_state_that_cannot_be_read_and_counts_it(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> NoReturn:
        raise error

    with running(tmp_path) as server:
        for reading, method, lost in (
            ("catalogue", "held", "everlook_items"),
            ("state", "snapshot", "everlook_queue_depth"),
        ):
            assert lost in families(server)
            with monkeypatch.context() as failing:
                failing.setattr(ServerState, method, broken)
                page = families(server)
            assert lost not in page
            assert "everlook_disk_free_bytes" in page
            assert server_value(server, "everlook_reading_failures_total", reading=reading) == 1


# ---------------------------------------------------------------------------------------------------- names


def exposed(server: Running) -> dict[str, Metric]:
    """Our families by the names that samples have; the gauges of creation times are the library's."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in families(server).values()
        if family.name.startswith("everlook_") and not family.name.endswith("_created")
    }


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that watches each of its searches, after as many as make a reference and a window, and often its probes,
    of which there are enough for a floor."""
    settings = {
        "watch_share": 1.0,
        "drift_reference": 16,
        "drift_reference_s": 0,
        "drift_window": 16,
        "recall_every_s": 0.2,
    }
    with running(tmp_path_factory.mktemp("watched"), **settings) as server:
        for n in range(150):
            server.put(item(f"i{n}", f"c{n % 2}"), photo(n))
        for _ in range(1000):
            if server_value(server, "everlook_probe_top_score_floor") is not None:
                break
            time.sleep(0.02)
        for n in range(32):
            server.search.Search(pb.SearchRequest(image=photo(1000 + n)), timeout=TIMEOUT_S)
        for _ in range(1000):
            if server_value(server, "everlook_query_drift_distance", test="score") is not None:
                break
            time.sleep(0.02)
        yield server


def server_value(server: Running, name: str, **labels: str) -> float | None:
    return samples(server).get((name, frozenset(labels.items())))


def test_each_search_of_a_server_that_watches_all_is_compared_with_exact_search(watched: Running) -> None:
    live = str(watched.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).generation.number)
    assert server_value(watched, "everlook_query_samples_total", result="taken") == 32
    assert server_value(watched, "everlook_query_samples_total", result="dropped") == 0
    assert server_value(watched, "everlook_index_recall_queries", generation=live) == 32
    assert server_value(watched, "everlook_index_recall_query_ratio_count", generation=live) == 32
    assert server_value(watched, "everlook_index_recall_query_ratio_sum", generation=live) == 32
    assert server_value(watched, "everlook_index_recall_ratio", generation=live) == 1
    assert server_value(watched, "everlook_query_top_score_count") == 32
    assert server_value(watched, "everlook_query_reference_queries") == 16
    familiar, unfamiliar = (
        server_value(watched, f"everlook_query_{which}_total") or 0.0 for which in ("familiar", "unfamiliar")
    )
    assert familiar + unfamiliar == 32
    assert familiar > 24
    for test in ("mmd", "score"):
        results = [
            server_value(watched, "everlook_query_drift_windows_total", test=test, result=result)
            for result in ("same", "drifted")
        ]
        assert results == [1, 0], server_value(watched, "everlook_query_drift_p_value", test=test)


def test_names_follow_the_conventions_of_prometheus(watched: Running) -> None:
    for name, family in exposed(watched).items():
        assert re.fullmatch(r"everlook(_[a-z]+)+", name)
        assert family.documentation.endswith(".")
        assert name.endswith("_total") == (family.type == "counter")
        assert not OTHER_UNITS.search(name)
        if any(word in family.documentation for word in ("Time of", "Size of", "Unix time")):
            assert name.removesuffix("_total").endswith(BASE_UNITS)


def documented() -> dict[str, tuple[str, set[str]]]:
    """Name -> type and labels, from the tables of docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `(everlook_\w+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_of_a_running_server_is_documented_and_no_other(watched: Running) -> None:
    assert documented().keys() == exposed(watched).keys()


def test_type_and_labels_are_documented_as_they_are(watched: Running) -> None:
    list(watched.catalog.Ingest(iter([pb.IngestRequest(item=item("bad"), image=b"no photo")]), timeout=TIMEOUT_S))
    for name, family in exposed(watched).items():
        kind, labels = documented()[name]
        assert kind == family.type, name
        for each in family.samples:
            assert each.labels.keys() - {"le"} == labels, name


def test_the_metrics_of_the_process_are_there(used: Running) -> None:
    others = {name for name in families(used) if not name.startswith("everlook_")}
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds", "python_info"} <= others
    assert all(name.startswith(("process_", "python_")) for name in others)
