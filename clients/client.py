"""The sync client. Safe to share between threads; `clients.aio` has the same methods for asyncio."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from clients import wire
from clients.connection import CHANNEL_OPTIONS, DEFAULT_TARGET, DEFAULT_TIMEOUT_S, Connection, Tls
from clients.errors import Cancelled, EverlookClientError, NotFound, from_rpc_error
from clients.ingest import IngestStream
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


class Client:
    """One server. Connects with the first call, reconnects by itself, and closes at the end of a `with` block.

    timeout_s: the deadline of each call, all its attempts together; each method takes its own. retries: when a failed
    call is tried again; unless it is set, an ingest is more patient than other calls. Every method raises
    EverlookClientError and nothing else of the network.
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
        connection = Connection(target, tls, token)
        self._timeout_s = timeout_s
        self._retries = retries or RetryPolicy()
        self._ingest_retries = retries or PATIENT
        self._metadata = connection.metadata
        self._closed = False
        self._channel = (
            grpc.secure_channel(target, tls.credentials(), CHANNEL_OPTIONS)
            if tls is not None
            else grpc.insecure_channel(target, CHANNEL_OPTIONS)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls that are under way raise Cancelled."""
        self._closed = True
        self._channel.close()

    # ---- search

    def search(
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
        """The items that look most like one photo, vector or item; `clients.types.Query` explains the arguments."""
        query = Query(image, vector, item_id, k, filter, exact, min_score, include_metadata)
        return self._run(wire.search(query), timeout_s)

    def search_batch(
        self, queries: Sequence[Query], *, timeout_s: float | None = None
    ) -> list[SearchResult | EverlookClientError]:
        """Several searches in one call, in their order; a query that fails has its error in its place."""
        return self._run(wire.search_batch(queries), timeout_s)

    def embed(self, image: ImageLike, *, timeout_s: float | None = None) -> Embedding:
        """The vector of a photo, and the model that made it."""
        return self._run(wire.embed(image), timeout_s)

    # ---- catalogue

    def put(self, item: Item, image: ImageLike | None, *, timeout_s: float | None = None) -> Acknowledgement:
        """Adds or replaces one item; it is on disk and found once this returns. `image` None keeps the item's photo."""
        return self._run(wire.put(item, image), timeout_s)

    def delete(self, item_id: str, *, timeout_s: float | None = None) -> int | None:
        """Removes one item; returns the removal's `seq`, or None when a repeated attempt found it gone already.

        Errors: NotFound when there was no such item.
        """
        return self._run(wire.delete(item_id), timeout_s)

    def get(self, item_id: str, *, timeout_s: float | None = None) -> StoredItem:
        """What the server holds of one item. Errors: NotFound."""
        return self._run(wire.get(item_id), timeout_s)

    def get_many(self, ids: Iterable[str], *, timeout_s: float | None = None) -> list[StoredItem]:
        """Those of the items that exist, in the order of `ids`; as many calls as that takes, each with its deadline."""
        return [item for call in wire.get_many(ids) for item in self._run(call, timeout_s)]

    def get_image(self, item_id: str, *, timeout_s: float | None = None) -> StoredImage:
        """The photo of one item, the bytes that were sent. Errors: NotFound."""
        return self._run(wire.get_image(item_id), timeout_s)

    def categories(self, *, timeout_s: float | None = None) -> Iterator[Category]:
        """All categories by name, fetched a page at a time; the deadline is each page's."""
        token: str | None = ""
        while token is not None:
            page, token = self._run(wire.categories_page(token), timeout_s)
            yield from page

    def ingest(
        self, items: Iterable[tuple[Item, ImageLike]], *, limits: IngestLimits | None = None
    ) -> Iterator[Acknowledgement]:
        """Adds many items; yields one acknowledgement or error for each, not always in their order.

        `items` may be endless: it is read in another thread, only as far ahead as `limits` allows. A broken stream is
        opened again and what was not acknowledged sent again. What `items` raises is raised here, once everything
        before it has been answered. Closing the iterator, or leaving its loop, cancels the rest.
        """
        window, request = Window(limits or IngestLimits(), self._ingest_retries), id_of_call()

        def open_stream(requests: Iterator[bytes]) -> Any:
            with self._closing():
                call: Any = self._open_channel().stream_stream(wire.INGEST_PATH)
                return call(requests, timeout=window.limits.stream_s, metadata=self._with(request))

        return iter(IngestStream(open_stream, items, window, request))

    # ---- operation

    def status(self, *, timeout_s: float | None = None) -> Status:
        """What the server is doing now."""
        return self._run(wire.status(), timeout_s)

    def generations(self, *, timeout_s: float | None = None) -> list[Generation]:
        """The generations that are kept, and models that failed a gate before they had one, newest first."""
        return self._run(wire.generations(), timeout_s)

    def recall_history(
        self,
        *,
        since: datetime.datetime | None = None,
        max_measurements: int = 0,
        timeout_s: float | None = None,
    ) -> RecallHistory:
        """What the probes of every cohort measured, and when other models went live.

        since: only what was measured at this time (with a zone) or later. max_measurements: where there are more, those
        after swaps stay, and of the others every n-th; 0 leaves it to the server (1000), which lowers it where there
        are many cohorts. Errors: InvalidRequest.
        """
        return self._run(wire.recall_history(since, max_measurements), timeout_s)

    def confusions(
        self, *, max_categories: int = 0, max_examples: int = 0, timeout_s: float | None = None
    ) -> Confusions:
        """The categories that are found worst, and what is found in their place; 0 leaves it to the server (10, 3).

        Errors: NotReady when nothing has been measured yet.
        """
        return self._run(wire.confusions(max_categories, max_examples), timeout_s)

    def promote(self, number: int, *, timeout_s: float | None = None) -> Generation:
        """Makes a generation live, and returns it when it is: at most ten minutes, unless `timeout_s` says otherwise.

        It goes on when the deadline passes. Errors: GenerationNotFound; NotReady when it fails a gate, is live already,
        or another generation is being made live.
        """
        return self._run(wire.promote(number), timeout_s)

    def rollback(self, number: int = 0, *, timeout_s: float | None = None) -> Generation:
        """Makes a generation live again that was live before; 0 is that of the model before. Otherwise as `promote`."""
        return self._run(wire.rollback(number), timeout_s)

    def start_training(self, categories: Iterable[str] = (), *, timeout_s: float | None = None) -> int:
        """Has these new categories trained, or all that wait; returns the stage, once its training has begun.

        Errors: InvalidRequest for categories that are no stage; NotReady when something is being learned already, or no
        trainer runs; Unavailable when the trainer did not begin in time, and then it will not.
        """
        return self._run(wire.start_training(categories), timeout_s)

    def cancel_training(self, *, timeout_s: float | None = None) -> int:
        """Stops the training that is under way; returns its stage, once it has stopped. Errors: NotReady."""
        return self._run(wire.cancel_training(), timeout_s)

    def watch(self, *, timeout_s: float | None = None) -> Iterator[Event]:
        """The status at once, and again whenever something happens, until the iterator is closed.

        timeout_s: after so many seconds it raises DeadlineExceeded; None is never. Errors: Unavailable, too, when the
        server stops; it is not tried again.
        """
        request = id_of_call()
        with self._closing():
            invoke: Any = self._open_channel().unary_stream(wire.WATCH_PATH)
            call = invoke(wire.WATCH_REQUEST, timeout=timeout_s, metadata=self._with(request))
        try:
            for message in call:
                yield wire.event(message)
        except grpc.RpcError as failed:
            if self._closed:
                raise Cancelled("this client was closed during the call") from None
            raise from_rpc_error(failed, request) from None
        finally:
            call.cancel()

    def _with(self, request: str) -> tuple[tuple[str, str], ...]:
        """What goes with a call of this id."""
        return (*self._metadata, (REQUEST_ID, request))

    def _open_channel(self) -> grpc.Channel:
        if self._closed:
            raise Cancelled("this client is closed")
        return self._channel

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """Where a call begins on a channel that another thread may close: gRPC raises a ValueError then."""
        try:
            yield
        except ValueError:
            if not self._closed:
                raise
            raise Cancelled("this client is closed") from None

    def _run(self, call: wire.Call[T], timeout_s: float | None) -> T:
        deadline_s = max(self._timeout_s, call.patience_s) if timeout_s is None else timeout_s
        attempts, request = Attempts(ONCE if call.once else self._retries, deadline_s), id_of_call()
        while True:
            try:
                with self._closing():
                    invoke: Any = self._open_channel().unary_unary(call.path)
                    answer = invoke(call.request, timeout=attempts.remaining_s, metadata=self._with(request))
                return call.answer(answer)
            except grpc.RpcError as failed:
                if self._closed:
                    raise Cancelled("this client was closed during the call") from None
                error = from_rpc_error(failed, request)
            if call.when_gone is not None and attempts.maybe_done and isinstance(error, NotFound):
                return call.when_gone()
            time.sleep(attempts.pause_s(error))
