"""Starting and stopping: what waits is answered, what cannot start says why, and health says what is so."""

from __future__ import annotations

import json
import queue
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import clients
from clients import Client, Item
from everlook.v1 import everlook_pb2 as pb
from indexer.datadir import DataDir
from indexer.engine import Engine
from indexer.generation import read_live
from indexer.model import ONNX
from tests.e2e.folders import publish_candidate
from tests.e2e.photos import photo, slow_photo
from tests.e2e.process import ServerProcess, run_to_end
from tests.e2e.raw import TIMEOUT_S, Stubs, refusal

SERVICES = ["", "everlook.v1.Search", "everlook.v1.Catalog", "everlook.v1.Admin"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


# ---------------------------------------------------------------------------------------------------- stopping


def test_a_stop_answers_the_searches_under_way_and_refuses_new_ones(data: Path) -> None:
    flags = ("--threads", "1", "--max-batch", "1", "--drain-s", "60")
    with ServerProcess(data, *flags) as server, server.client() as client, ThreadPoolExecutor(20) as callers:
        under_way = [callers.submit(client.search, image=slow_photo()) for _ in range(20)]  # two seconds of work
        _wait_for_queries(server, 20)
        server.ask_to_stop()
        _wait_until_refused(client)
        assert [each.exception() for each in under_way] == [None] * 20
        assert server.wait() == 0


def _wait_for_queries(server: ServerProcess, count: int) -> None:
    """Until so many searches have come, in all."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        now = server.metrics()
        taken = now.get('everlook_stage_seconds_count{lane="query",stage="queue"}', 0.0)
        if taken + now['everlook_queue_depth{lane="query"}'] == count:
            return
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _wait_until_refused(client: Client) -> None:
    while True:
        try:
            client.status()
        except clients.Unavailable:
            return


def test_a_stop_acknowledges_what_a_stream_has_sent_and_ends_it_as_unavailable(data: Path) -> None:
    with ServerProcess(data) as server, grpc.insecure_channel(server.target) as channel:
        hold: queue.Queue[None] = queue.Queue()

        def requests() -> Iterator[pb.IngestRequest]:
            for seed in range(20):
                yield pb.IngestRequest(item=pb.Item(id=f"item-{seed}", category="shelf"), image=photo(seed))
            hold.get()  # the stream stays open, as one that waits for more items does

        call = Stubs(channel).catalog.Ingest(requests(), timeout=TIMEOUT_S)
        answers = [next(call) for _ in range(10)]
        server.ask_to_stop()
        refused = refusal(lambda: answers.extend(call))
        hold.put(None)
        assert (refused.code, refused.reason) == ("UNAVAILABLE", "NOT_SERVING")
        assert refused.retry_after_s
        assert server.wait() == 0
    acknowledged = {answer.id for answer in answers if answer.WhichOneof("result") == "acknowledged"}
    assert len(acknowledged) >= 10
    with ServerProcess(data) as server, server.client() as client:
        assert {item.id for item in client.get_many(f"item-{seed}" for seed in range(20))} == acknowledged


def test_a_client_goes_on_with_its_ingest_when_the_server_comes_back(data: Path) -> None:
    with ServerProcess(data) as server:
        target, restarted = server.target, threading.Event()
        port = target.rpartition(":")[2]

        def items() -> Iterator[tuple[Item, bytes]]:
            for seed in range(60):
                if seed == 30:
                    server.ask_to_stop()
                    restarted.wait(TIMEOUT_S)
                yield Item(f"item-{seed}", "shelf"), photo(seed)

        with Client(target) as client, ThreadPoolExecutor(1) as callers:
            ingesting = callers.submit(lambda: list(client.ingest(items())))
            assert server.wait() == 0
            with ServerProcess(data, "--port", port):
                restarted.set()
                answers = ingesting.result(TIMEOUT_S)
                assert [answer.error for answer in answers] == [None] * 60
                assert len({answer.id for answer in answers}) == 60
                assert client.status().catalogue.items == 60


def test_health_says_serving_until_the_stop_begins(data: Path) -> None:
    with ServerProcess(data) as server, grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in SERVICES:
            assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S).status == SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest(service="everlook.v1.Search"), timeout=TIMEOUT_S)
        assert next(watched).status == SERVING
        server.ask_to_stop()
        assert next(watched).status == NOT_SERVING
        watched.cancel()
        assert server.wait() == 0


def test_a_watcher_of_health_does_not_hold_up_the_stop(data: Path) -> None:
    with ServerProcess(data, "--drain-s", "30") as server, grpc.insecure_channel(server.target) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watched).status == SERVING
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15


def test_a_service_that_is_unknown_has_no_health(data: Path) -> None:
    with ServerProcess(data) as server, grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="everlook.v1.Unknown")
        assert refusal(lambda: health.Check(request, timeout=TIMEOUT_S)).code == "NOT_FOUND"
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=TIMEOUT_S
        )
        listed = [service.name for service in next(answers).list_services_response.service]
        assert {*SERVICES[1:], "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == set(listed)


# ---------------------------------------------------------------------------------------------------- not starting


def test_a_second_server_on_the_same_folder_is_told_who_has_it(data: Path) -> None:
    with ServerProcess(data) as server, server.client() as client:
        second = run_to_end(data)
        assert second.returncode == 1
        assert f"in use by process {server.pid}" in second.stderr
        assert client.status().serving


# Not `sys.modules["torch"] = None`: libraries that look there for it take that for torch itself.
_NO_TORCH = """
from importlib.machinery import PathFinder

found = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name.partition(".")[0] == "torch" else found(name, *where)
"""


def _without_torch(parent: Path) -> Path:
    """A folder for PYTHONPATH that makes a process believe that torch is not installed."""
    folder = parent / "no-torch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_NO_TORCH)
    return folder


def test_without_a_model_and_without_torch_it_says_how_to_get_one(tmp_path: Path) -> None:
    ended = run_to_end(tmp_path / "data", python_path=_without_torch(tmp_path))
    assert ended.returncode == 1
    assert "there is no model to serve" in ended.stderr
    assert "trainer export" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("damage", ["altered", "cut off", "missing", "no manifest"])
def test_a_damaged_model_is_named_and_not_served(data: Path, damage: str) -> None:
    (folder,) = DataDir(data).models.iterdir()
    graph = folder / ONNX
    match damage:
        case "altered":
            graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
        case "cut off":
            graph.write_bytes(graph.read_bytes()[:100])
        case "missing":
            graph.unlink()
        case "no manifest":
            (folder / "manifest.json").write_text("{")
    ended = run_to_end(data, python_path=_without_torch(data.parent))
    assert ended.returncode == 1
    assert folder.name in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        pytest.param(("--max-batch", "0"), "max_batch", id="out of range"),
        pytest.param(("--port", "many"), "port", id="no number"),
        pytest.param(("--log-level", "loud"), "log_level", id="no such level"),
        pytest.param(("--no-such-flag", "1"), "no-such-flag", id="unknown"),
    ],
)
def test_a_bad_flag_is_named(data: Path, flags: tuple[str, ...], named: str) -> None:
    ended = run_to_end(data, *flags)
    assert ended.returncode == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_named(data: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_to_end(data, flag, port)
    assert ended.returncode == 1
    assert port in ended.stderr
    assert "Traceback" not in ended.stderr


def test_in_json_what_keeps_it_from_starting_is_an_entry_as_all_else(data: Path) -> None:
    with ServerProcess(data) as server:
        second = run_to_end(data, "--log-format", "json")
    assert second.returncode == 1
    *_, last = map(json.loads, second.stderr.splitlines())
    assert (last["level"], last["program"]) == ("critical", "server")
    assert f"in use by process {server.pid}" in last["message"]


def test_in_json_what_the_exporter_of_the_first_model_says_is_entries_too(tmp_path: Path) -> None:
    exporter = tmp_path / "exporter" / "trainer"
    exporter.mkdir(parents=True)
    (exporter / "__init__.py").touch()
    (exporter / "__main__.py").write_text("import sys; print('looks for weights'); sys.exit('finds none')")
    ended = run_to_end(tmp_path / "data", "--log-format", "json", python_path=exporter.parent)
    assert ended.returncode == 1
    entries = [json.loads(line) for line in ended.stderr.splitlines()]
    said = [entry["message"] for entry in entries if entry["program"] == "trainer"]
    assert sorted(said) == ["finds none", "looks for weights"]
    assert "there is no model to serve" in entries[-1]["message"]


def test_callers_that_hang_up_in_the_middle_of_a_stream_leave_the_server_as_it_was(data: Path) -> None:
    def watch_and_hang_up(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(20):
            with grpc.insecure_channel(server.target) as channel:
                watching = Stubs(channel).admin.WatchStatus(pb.WatchStatusRequest(), timeout=TIMEOUT_S)
                if rng.random() < 0.7:
                    next(watching)
                time.sleep(rng.uniform(0, 0.02))
                if rng.random() < 0.5:
                    watching.cancel()  # otherwise the connection goes

    with ServerProcess(data) as server:
        with ThreadPoolExecutor(8) as callers:
            list(callers.map(watch_and_hang_up, range(8)))
        with server.client() as client:
            assert client.status().serving
        assert server.stop() == 0


# ---------------------------------------------------------------------------------------------------- damage


def test_a_backup_of_catalogue_and_models_is_enough_to_go_on_with_the_model_that_was_live(data: Path) -> None:
    with ServerProcess(data) as server, server.client() as client:
        list(client.ingest((Item(f"item-{seed}", "shelf"), photo(seed)) for seed in range(20)))
        assert server.stop() == 0
    with Engine(DataDir(data)) as engine:
        first = engine.live.current.generation.model.id
        abandoned = publish_candidate(engine.data, engine.catalogue, 3)
        engine.promote(abandoned.number)
        engine.promote(1)
        learned = publish_candidate(engine.data, engine.catalogue, 1)
        engine.promote(learned.number)
    restored = data.with_name("restored")
    restored.mkdir()
    shutil.copy(data / "catalogue.db", restored)
    shutil.copytree(data / "models", restored / "models")
    with ServerProcess(restored) as server, server.client() as client:
        generation = client.status().generation
        assert generation is not None
        assert generation.model.id == learned.model
        assert generation.number > learned.number  # which the history names
        assert client.search(image=photo(7), k=1).hits[0].id == "item-7"
        assert server.stop() == 0
    live = read_live(DataDir(restored))
    assert live is not None
    assert set(live.models) == {first, abandoned.model, learned.model}  # what was gone back from stays so


def test_a_damaged_generation_is_built_again_from_the_catalogue(data: Path) -> None:
    merging = ("--merge-min-entries", "64")
    with ServerProcess(data, *merging) as server, server.client() as client:
        list(client.ingest((Item(f"item-{seed}", "shelf"), photo(seed)) for seed in range(150)))
        client.delete("item-7")
        assert server.stop() == 0
    for index in DataDir(data).generations.glob("*/index.faiss"):
        index.write_bytes(index.read_bytes()[:-100])
    with ServerProcess(data, *merging) as server, server.client() as client:
        assert "built again from the catalogue" in server.log
        assert "embedding" not in server.log
        everything = client.search(image=photo(0), k=1000, exact=True).hits
        assert {hit.id for hit in everything} == {f"item-{seed}" for seed in range(150)} - {"item-7"}
        for seed in range(0, 150, 10):
            assert client.search(image=photo(seed), k=1).hits[0].id == f"item-{seed}"
        assert server.stop() == 0
