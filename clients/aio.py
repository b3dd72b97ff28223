"""The asyncio client: the methods of `clients.client.Client`, awaited. Belongs to one event loop."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from clients import wire
from clients.aio_ingest import AsyncIngestStream
from clients.connection import CHANNEL_OPTIONS, DEFAULT_TARGET, DEFAULT_TIMEOUT_S, Connection, Tls
from clients.errors import Cancelled, EverlookClientError, NotFound, from_rpc_error
from clients.recall import Confusions, RecallHistory
from clients.requests import REQUEST_ID, id_of_call
from clients.retry import ONCE, PATIENT, Attempts, RetryPolicy
from clients.status import Event, Generation, Status
from clients.types import (
    Acknowledgement,
    Category,
    Embedding,
    Filter,
    ImageLike,
    Item,
    Query,
    SearchResult,
    StoredImage,
    StoredItem,
)
from clients.window import IngestLimits, Window

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: the same arguments, errors, deadlines and retries. Cancelling a task cancels its call.

    Photos that are not bytes already are read and encoded in a thread, so that the event loop goes on.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: RetryPolicy | None = None,
        tls: Tls | None = None,
        token: str | None = None,
    ) -> None:
        self._connection = Connection(target, tls, token)
        self._timeout_s = timeout_s
        self._retries = retries or RetryPolicy()
        self._ingest_retries = retries or PATIENT
        self._metadata = self._connection.metadata
        self._closed = False
        self._opened: grpc.aio.Channel | None = None  # with the first call, because it binds to the running event loop

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls that are under way raise Cancelled."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    # ---- search

    async def search(
        self,
        *,
        image: ImageLike | None = None,
        vector: Embedding | None = None,
        item_id: str | None = None,
        k: int | None = None,
        filter: Filter | None = None,
        exact: bool = False,
        min_score: float | None = None,
        include_metadata: bool = False,
        timeout_s: float | None = None,
    ) -> SearchResult:
        query = Query(image, vector, item_id, k, filter, exact, min_score, include_metadata)
        return await self._run(await asyncio.to_thread(wire.search, query), timeout_s)

    async def search_batch(
        self, queries: Sequence[Query], *, timeout_s: float | None = None
    ) -> list[SearchResult | EverlookClientError]:
        return await self._run(await asyncio.to_thread(wire.search_batch, queries), timeout_s)

    async def embed(self, image: ImageLike, *, timeout_s: float | None = None) -> Embedding:
        return await self._run(await asyncio.to_thread(wire.embed, image), timeout_s)

    # ---- catalogue

    async def put(self, item: Item, image: ImageLike | None, *, timeout_s: float | None = None) -> Acknowledgement:
        return await self._run(await asyncio.to_thread(wire.put, item, image), timeout_s)

    async def delete(self, item_id: str, *, timeout_s: float | None = None) -> int | None:
        return await self._run(wire.delete(item_id), timeout_s)

    async def get(self, item_id: str, *, timeout_s: float | None = None) -> StoredItem:
        return await self._run(wire.get(item_id), timeout_s)

    async def get_many(self, ids: Iterable[str], *, timeout_s: float | None = None) -> list[StoredItem]:
        return [item for call in wire.get_many(ids) for item in await self._run(call, timeout_s)]

    async def get_image(self, item_id: str, *, timeout_s: float | None = None) -> StoredImage:
        return await self._run(wire.get_image(item_id), timeout_s)

    async def categories(self, *, timeout_s: float | None = None) -> AsyncIterator[Category]:
        token: str | None = ""
        while token is not None:
            page, token = await self._run(wire.categories_page(token), timeout_s)
            for category in page:
                yield category

    def ingest(
        self,
        items: AsyncIterable[tuple[Item, ImageLike]] | Iterable[tuple[Item, ImageLike]],
        *,
        limits: IngestLimits | None = None,
    ) -> AsyncIterator[Acknowledgement]:
        """As `Client.ingest`. `items` is async or not; one that is not is read in a thread, an item at a time."""
        window, request = Window(limits or IngestLimits(), self._ingest_retries), id_of_call()

        def open_stream(requests: AsyncIterator[bytes]) -> Any:
            call: Any = self._channel().stream_stream(wire.INGEST_PATH)
            return call(requests, timeout=window.limits.stream_s, metadata=self._with(request))

        return aiter(AsyncIngestStream(open_stream, items, window, request))

    # ---- operation

    async def status(self, *, timeout_s: float | None = None) -> Status:
        return await self._run(wire.status(), timeout_s)

    async def generations(self, *, timeout_s: float | None = None) -> list[Generation]:
        return await self._run(wire.generations(), timeout_s)

    async def recall_history(
        self,
        *,
        since: datetime.datetime | None = None,
        max_measurements: int = 0,
        timeout_s: float | None = None,
    ) -> RecallHistory:
        return await self._run(wire.recall_history(since, max_measurements), timeout_s)

    async def confusions(
        self, *, max_categories: int = 0, max_examples: int = 0, timeout_s: float | None = None
    ) -> Confusions:
        return await self._run(wire.confusions(max_categories, max_examples), timeout_s)

    async def promote(self, number: int, *, timeout_s: float | None = None) -> Generation:
        return await self._run(wire.promote(number), timeout_s)

    async def rollback(self, number: int = 0, *, timeout_s: float | None = None) -> Generation:
        return await self._run(wire.rollback(number), timeout_s)

    async def start_training(self, categories: Iterable[str] = (), *, timeout_s: float | None = None) -> int:
        return await self._run(wire.start_training(categories), timeout_s)

    async def cancel_training(self, *, timeout_s: float | None = None) -> int:
        return await self._run(wire.cancel_training(), timeout_s)

    async def watch(self, *, timeout_s: float | None = None) -> AsyncIterator[Event]:
        invoke: Any = self._channel().unary_stream(wire.WATCH_PATH)
        request = id_of_call()
        call = invoke(wire.WATCH_REQUEST, timeout=timeout_s, metadata=self._with(request))
        try:
            async for message in call:
                yield wire.event(message)
        except grpc.aio.AioRpcError as failed:
            raise from_rpc_error(failed, request) from None
        except asyncio.CancelledError:
            self._raise_if_closed()
            raise
        finally:
            call.cancel()

    def _with(self, request: str) -> tuple[tuple[str, str], ...]:
        """What goes with a call of this id."""
        return (*self._metadata, (REQUEST_ID, request))

    def _channel(self) -> grpc.aio.Channel:
        if self._closed:
            raise Cancelled("this client is closed")
        if self._opened is None:
            target, tls = self._connection.target, self._connection.tls
            self._opened = (
                grpc.aio.secure_channel(target, tls.credentials(), CHANNEL_OPTIONS)
                if tls is not None
                else grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
            )
        return self._opened

    def _raise_if_closed(self) -> None:
        """Errors: Cancelled when it was `close` that cancelled a call, and not the caller."""
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise Cancelled("this client was closed during the call") from None

    async def _run(self, call: wire.Call[T], timeout_s: float | None) -> T:
        deadline_s = max(self._timeout_s, call.patience_s) if timeout_s is None else timeout_s
        attempts, request = Attempts(ONCE if call.once else self._retries, deadline_s), id_of_call()
        while True:
            try:
                invoke: Any = self._channel().unary_unary(call.path)
                answer = await invoke(call.request, timeout=attempts.remaining_s, metadata=self._with(request))
                return call.answer(answer)
            except grpc.aio.AioRpcError as failed:
                error = from_rpc_error(failed, request)
            except asyncio.CancelledError:
                self._raise_if_closed()
                raise
            if call.when_gone is not None and attempts.maybe_done and isinstance(error, NotFound):
                return call.when_gone()
            await asyncio.sleep(attempts.pause_s(error))
