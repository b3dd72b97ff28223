"""The server's parts, put together, started in order and stopped in reverse.

Start: open the engine, start the workers and what watches their answers, look for candidates, listen, say SERVING,
start the other programs. Stop: say NOT_SERVING, refuse new calls, let those under way finish within `drain_s`, stop the
other programs, the watch and the workers, close the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
import prometheus_client
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from indexer.catalogue import Capacity
from indexer.datadir import DataDir
from indexer.engine import Engine, Options
from indexer.gates import RecallLimits
from indexer.images import ImageLimits
from indexer.validate import Limits
from server.batching import Lane, LaneLimits
from server.budget import Budget
from server.health import Health
from server.interceptors import CallInterceptor
from server.learning import Learning
from server.metrics import Metrics, gauge_families, snapshot_families
from server.pipeline import Pipeline
from server.progress import Progress
from server.services.admin import AdminService
from server.services.calls import Calls
from server.services.catalog import CatalogService
from server.services.search import SearchService
from server.settings import Settings
from server.state import ServerState, everlook_version
from server.supervisor import Supervisor, commands, environment
from server.swapper import Attempt, Swapper
from server.teaching import Teaching
from server.watching.learning import LearningProgress
from server.watching.limits import WatchLimits
from server.watching.operator import OperatorCollector, Reading, build, disk, queues
from server.watching.probes import ProbeWatch
from server.watching.programs import Programs
from server.watching.queries import QueryWatch
from server.watching.recall_metrics import RecallMetrics
from server.watching.records import Records
from server.wire import pb, pb_grpc

if TYPE_CHECKING:
    from server.tracing import Tracing

log = logging.getLogger(__name__)

SERVICES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class App:
    """`async with App(settings) as app:` serves until the block ends; `app.port` says where."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self.failed = asyncio.Event()
        """Set when a part has failed for good: the process should end, and be started again."""
        self.port = 0
        self.metrics_port = 0

    async def __aenter__(self) -> Self:
        """Errors: NotServing, Damaged; OSError when a port is taken."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        metrics = Metrics(CollectorRegistry())
        loop = asyncio.get_running_loop()

        def fail(error: BaseException) -> None:
            log.critical("the server cannot go on: %r", error)
            loop.call_soon_threadsafe(self.failed.set)

        engine = Engine(DataDir(settings.data), engine_options(settings, metrics, fail))
        await asyncio.to_thread(engine.__enter__)
        stack.push_async_callback(asyncio.to_thread, engine.__exit__, None, None, None)

        limits = Limits()
        queries = QueryWatch(engine.data, engine.live, metrics.registry, watch_limits(settings))
        pipeline = await stack.enter_async_context(
            Pipeline(
                engine,
                metrics,
                threads=settings.threads,
                lanes={
                    Lane.QUERY: LaneLimits(settings.query_queue, settings.query_queue_bytes, settings.max_batch),
                    Lane.INGEST: LaneLimits(
                        settings.ingest_queue, settings.ingest_queue_bytes, settings.max_ingest_batch
                    ),
                },
                patience_s=settings.ingest_patience_s,
                image_limits=image_limits(settings),
                on_failure=fail,
                on_answers=queries.tap.offer if settings.watch_share else None,
            )
        )
        queries.__enter__()
        stack.push_async_callback(asyncio.to_thread, queries.__exit__, None, None, None)
        readers = stack.enter_context(ThreadPoolExecutor(4, thread_name_prefix="reader"))
        tracing = self._start_tracing(stack)

        def on_swap_end(attempt: Attempt) -> None:
            metrics.count_swap(attempt)
            if tracing is not None:
                tracing.swap(attempt)

        learning = Learning(engine.data)
        probes = self._probe_watch(engine, learning, metrics, queries)
        swapper = await stack.enter_async_context(
            Swapper(
                engine,
                recall_limits(settings),
                metrics.swaps,
                hold=settings.hold,
                on_swap=probes.wake,
                on_end=on_swap_end,
            )
        )
        supervisor = Supervisor(
            commands(settings),
            lambda name: metrics.program_restarts.labels(program=name).inc(),
            environment=environment(settings),
        )
        progress = Progress(engine.data, learning, swapper, supervisor)
        state = ServerState(engine, pipeline, settings, limits, learning, swapper, progress)
        readings: dict[str, Reading] = {
            "build": build(everlook_version()),
            "state": lambda: snapshot_families(state.snapshot()),
            "catalogue": lambda: gauge_families(state.held()),
            "records": Records(engine.data, learning, time.time()),
            "learning": LearningProgress(engine, learning, progress),
            "programs": Programs(engine.data, progress, supervisor),
            "queues": queues(lambda: {lane.label: pipeline.queue.oldest_s(lane) for lane in Lane}),
            "disk": disk(engine.data.root),
        }
        metrics.registry.register(OperatorCollector(readings, metrics.registry))
        self._start_metrics(stack, metrics)
        calls = Calls(
            tracing=tracing,
            engine=engine,
            pipeline=pipeline,
            limits=limits,
            writes=Budget(settings.ingest_queue, settings.ingest_queue_bytes),
            metrics=metrics,
            readers=readers,
            stopping=asyncio.Event(),
        )
        # The programs start when the server serves, and stop when it does not any more.
        programs = await stack.enter_async_context(AsyncExitStack())
        admin = AdminService(calls, state, swapper, Teaching(engine, learning, progress, calls.read), probes)
        await self._start_grpc(stack, calls, CatalogService(calls, learning, settings.ingest_window), admin)
        await programs.enter_async_context(supervisor)
        probes.__enter__()
        stack.push_async_callback(asyncio.to_thread, probes.__exit__, None, None, None)

    def _probe_watch(self, engine: Engine, learning: Learning, metrics: Metrics, queries: QueryWatch) -> ProbeWatch:
        settings = self._settings
        probes = ProbeWatch(
            engine,
            learning.cohort_of,
            every_s=settings.recall_every_s,
            most_probes=settings.recall_probes,
        )
        probes.on_measured.append(RecallMetrics(metrics.registry, probes.last, engine.history.after_last_swap).observe)
        probes.on_measured.append(
            lambda measured: queries.know_probes(measured.model, [each.place.score for each in measured.probes])
        )
        return probes

    def _start_tracing(self, stack: AsyncExitStack) -> Tracing | None:
        if self._settings.otlp_endpoint is None:
            return None
        from server.tracing import Tracing  # and OpenTelemetry with it

        tracing = Tracing.to_collector(self._settings.otlp_endpoint, everlook_version())
        stack.push_async_callback(asyncio.to_thread, tracing.close)
        return tracing

    def _start_metrics(self, stack: AsyncExitStack, metrics: Metrics) -> None:
        registry = metrics.registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        host, port = self._settings.metrics_address, self._settings.metrics_port
        try:
            http, thread = prometheus_client.start_http_server(port, host, registry=registry)
        except OSError as error:  # which says not where
            raise OSError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
        self.metrics_port = http.server_port

        def stop() -> None:
            http.shutdown()
            http.server_close()
            thread.join()

        stack.callback(stop)

    async def _start_grpc(
        self, stack: AsyncExitStack, calls: Calls, catalog: CatalogService, admin: AdminService
    ) -> None:
        settings = self._settings
        server = aio.server(
            interceptors=[CallInterceptor(calls.metrics, calls.tracing)],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=settings.max_concurrent_calls,
        )
        checks = Health()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        pb_grpc.add_SearchServicer_to_server(SearchService(calls), server)
        pb_grpc.add_CatalogServicer_to_server(catalog, server)
        pb_grpc.add_AdminServicer_to_server(admin, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.port = _listen(server, settings)
        await server.start()

        async def stop() -> None:
            await checks.stop()
            calls.stopping.set()  # ends the reading of ingest streams, which would otherwise outlast any drain
            await server.stop(settings.drain_s)

        stack.push_async_callback(stop)
        for service in ("", *SERVICES):
            await checks.set(service, _SERVING)

        async def unhealthy() -> None:
            await self.failed.wait()
            for service in ("", *SERVICES):
                await checks.set(service, _NOT_SERVING)

        watch = asyncio.create_task(unhealthy())
        stack.callback(watch.cancel)


def _listen(server: aio.Server, settings: Settings) -> int:
    """Returns the port. Errors: OSError for a TLS file that cannot be read; RuntimeError when the port is taken."""
    address = f"{settings.host}:{settings.port}"
    if settings.tls_cert is None or settings.tls_key is None:
        return server.add_insecure_port(address)
    authorities = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    credentials = grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=authorities,
        require_client_auth=authorities is not None,
    )
    return server.add_secure_port(address, credentials)


def recall_limits(settings: Settings) -> RecallLimits:
    """What is asked of a candidate's probe recall."""
    return RecallLimits(most_drop=settings.most_drop, floor=settings.floor)


def watch_limits(settings: Settings) -> WatchLimits:
    """What is watched of the live queries."""
    return WatchLimits(
        share=settings.watch_share,
        reference=settings.drift_reference,
        reference_s=settings.drift_reference_s,
        window=settings.drift_window,
        alpha=settings.drift_alpha,
    )


def image_limits(settings: Settings) -> ImageLimits:
    """What a photo may cost."""
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels)


def engine_options(settings: Settings, metrics: Metrics, on_failure: Callable[[BaseException], None]) -> Options:
    """The engine's share of the settings."""
    return Options(
        database_url=settings.database_url,
        encoder_threads=settings.threads,
        merge_min_entries=settings.merge_min_entries,
        merge_ratio=settings.merge_ratio,
        keep_generations=settings.keep_generations,
        # The budget before it bounds writes with photos; this leaves room beside them for deletions and small changes.
        capacity=Capacity(max_changes=2 * settings.ingest_queue, max_bytes=2 * settings.ingest_queue_bytes),
        on_merge=lambda ok: metrics.merges.labels(result="ok" if ok else "failed").inc(),
        on_failure=on_failure,
    )
