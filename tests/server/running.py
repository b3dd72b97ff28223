"""The real server in this process, on free ports, over the tiny model: for tests that call it through raw stubs."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from PIL import Image
from prometheus_client import CollectorRegistry

from everlook.v1 import everlook_pb2 as pb
from everlook.v1 import everlook_pb2_grpc as pb_grpc
from indexer.datadir import DataDir
from indexer.engine import Engine, Options
from indexer.images import ImageLimits
from indexer.validate import Limits
from server.app import App
from server.batching import Lane, LaneLimits
from server.budget import Budget
from server.jobs import Answer, QueryJob
from server.metrics import Metrics
from server.pipeline import Pipeline
from server.services.calls import Calls
from server.settings import Settings
from tests.indexer.tiny_model import write_tiny_model

TIMEOUT_S = 20.0


def photo(seed: int, size: int = 40) -> bytes:
    """A PNG of coloured patches; the same seed gives the same bytes."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize((size, size), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def item(id: str, category: str = "apples", **metadata: str | float | bool) -> pb.Item:
    """An item; `metadata` with the kind of each value."""
    message = pb.Item(id=id, category=category)
    for key, value in metadata.items():
        message.metadata[key].CopyFrom(metadata_value(value))
    return message


def metadata_value(value: str | float | bool) -> pb.MetadataValue:
    """A value with its kind."""
    if isinstance(value, bool):
        return pb.MetadataValue(bool=value)
    return pb.MetadataValue(string=value) if isinstance(value, str) else pb.MetadataValue(number=value)


def settings_of(data: Path, **changes: object) -> Settings:
    """Settings for a server in this process: free ports, little patience, no other programs."""
    values: dict[str, object] = {"data": data, "port": 0, "metrics_port": 0, "threads": 2, "drain_s": 5.0}
    return Settings.model_validate(values | {"supervise": False} | changes)


@dataclass
class Running:
    """A server that serves in a thread of its own."""

    app: App
    data: Path
    loop: asyncio.AbstractEventLoop
    channel: grpc.Channel
    asked_to_stop: asyncio.Event
    thread: threading.Thread

    def __post_init__(self) -> None:
        self.search = pb_grpc.SearchStub(self.channel)
        self.catalog = pb_grpc.CatalogStub(self.channel)
        self.admin = pb_grpc.AdminStub(self.channel)

    def put(self, item: pb.Item, image: bytes | None) -> pb.PutResponse:
        """Put with a deadline."""
        return self.catalog.Put(pb.PutRequest(item=item, image=image), timeout=TIMEOUT_S)

    def scrape(self) -> str:
        """The page that Prometheus reads."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.app.metrics_port}/metrics", timeout=TIMEOUT_S) as page:
            return str(page.read().decode())

    def ask_to_stop(self) -> None:
        """Begins the stop, and does not wait for it."""
        self.loop.call_soon_threadsafe(self.asked_to_stop.set)


@contextlib.contextmanager
def running(data: Path, **changes: object) -> Iterator[Running]:
    """A server over `data`, which gets the tiny model when it has none; stopped at the end of the block."""
    write_tiny_model(DataDir(data).models)
    ready: Future[tuple[App, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        asked_to_stop = asyncio.Event()
        async with App(settings_of(data, **changes)) as app:
            ready.set_result((app, asyncio.get_running_loop(), asked_to_stop))
            await asked_to_stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="server")
    thread.start()
    app, loop, asked_to_stop = ready.result(TIMEOUT_S)
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        server = Running(app, data, loop, channel, asked_to_stop, thread)
        try:
            yield server
        finally:
            if thread.is_alive():
                server.ask_to_stop()
            thread.join(TIMEOUT_S)


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status that a failed call carries."""
    trailers: Any = error.trailing_metadata()
    return status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])


def details_of(status: status_pb2.Status) -> dict[str, object]:
    """The details of a status by the name of their message."""
    found: dict[str, object] = {}
    for packed in status.details:
        detail = getattr(error_details_pb2, packed.TypeName().rsplit(".", 1)[1])()
        assert packed.Unpack(detail)
        found[type(detail).__name__] = detail
    return found


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """A sample of the registry; 0 when it has none."""
    return registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def engine_in(folder: Path) -> Iterator[Engine]:
    """A real engine over the tiny model."""
    data = DataDir(folder)
    write_tiny_model(data.models)
    with Engine(data, Options()) as engine:
        yield engine


def calls_of(
    engine: Engine,
    *,
    threads: int = 1,
    queue: int = 64,
    max_batch: int = 8,
    jobs: int = 1000,
    size_bytes: int = 1 << 30,
    on_answers: Callable[[Sequence[tuple[QueryJob, Answer]]], None] | None = None,
) -> Calls:
    """What the services need. Its pipeline is not entered yet: what is submitted waits, as behind busy workers."""
    metrics = Metrics(CollectorRegistry())
    pipeline = Pipeline(
        engine,
        metrics,
        threads=threads,
        lanes={lane: LaneLimits(queue, 1 << 30, max_batch) for lane in Lane},
        patience_s=0.5,
        image_limits=ImageLimits(),
        on_failure=lambda error: None,
        on_answers=on_answers,
    )
    return Calls(
        engine=engine,
        pipeline=pipeline,
        limits=Limits(),
        writes=Budget(jobs, size_bytes),
        metrics=metrics,
        readers=ThreadPoolExecutor(1),
        stopping=asyncio.Event(),
    )


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that other threads bring about."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError("it did not come about")
