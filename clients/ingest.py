"""The sync ingest: threads around one `Window`, so that sending, receiving and the caller never wait in turn.

The reader pulls the source, as far as the window allows; grpc's own thread sends; the third opens streams and takes in
their answers, which `clients.streams` reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from clients import wire
from clients.connection import MAX_MESSAGE_BYTES
from clients.errors import EverlookClientError, InvalidRequest, Unavailable, from_rpc_error
from clients.streams import answers
from clients.types import Acknowledgement, ImageLike, Item
from clients.window import Window

# Opens one stream: requests in, answers out; what it returns is also the call, which can be cancelled.
OpenStream = Callable[[Iterator[bytes]], Any]

ENDED_EARLY = "the server ended the stream before it had acknowledged every item"


def encode(item: Item, image: ImageLike) -> bytes:
    """One item as it is sent. Errors: InvalidRequest, also for what is too large for any message."""
    request = wire.ingest_request(item, image)
    if len(request) > MAX_MESSAGE_BYTES:  # the transport would break the whole stream over it
        raise InvalidRequest(
            "the photo is too large for a message",
            reason="IMAGE_TOO_LARGE",
            field="image",
            got=f"{len(request)} bytes",
            expected=f"at most {MAX_MESSAGE_BYTES} bytes",
        )
    return request


def acknowledged(data: bytes, request: str) -> Acknowledgement:
    """An answer of the stream with this request id. Errors: ServerFault when it cannot be read."""
    answer = wire.acknowledgement(data)
    if answer.error is not None:
        answer.error.request_id = request
    return answer


class IngestStream:
    """Acknowledgements of the items of `source`. Iterate once; `close` at any time, from any thread."""

    def __init__(
        self, open_stream: OpenStream, source: Iterable[tuple[Item, ImageLike]], window: Window, request: str
    ) -> None:
        self._open_stream = open_stream
        self._source = source
        self._window = window
        self._request = request
        self._changed = threading.Condition()
        self._call: Any = None
        self._closed = False
        self._ended = False
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[Acknowledgement]:
        for name, work in (("read", self._read), ("converse", self._converse)):
            threading.Thread(target=self._guard, args=(work,), name=f"everlook-ingest-{name}", daemon=True).start()
        try:
            while (answer := self._next()) is not None:
                yield answer
            if self._failure is not None:
                raise self._failure
        finally:
            self.close()

    def close(self) -> None:
        """Stops sending and cancels the stream. What was sent may or may not be written."""
        with self._changed:
            self._closed = self._ended = True
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()

    def _next(self) -> Acknowledgement | None:
        with self._changed:
            while (answer := self._window.take()) is None and not self._ended:
                self._changed.wait()
            self._changed.notify_all()
            return answer

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # the caller's thread raises it
            with self._changed:
                self._failure = self._failure or error
                self._ended = self._ended or work == self._converse
        finally:
            with self._changed:
                if work == self._read:
                    self._window.end_source()  # after its failure, too: what was sent still gets its acknowledgement
                self._changed.notify_all()

    def _read(self) -> None:
        for item, image in self._source:
            refusal: EverlookClientError | None = None
            try:
                request = encode(item, image)
            except EverlookClientError as error:
                refusal = error
            with self._changed:
                while not self._closed and not self._window.has_room(item.id):
                    self._changed.wait()
                if self._closed:
                    return
                if refusal is None:
                    self._window.add(item.id, request)
                else:
                    self._window.refuse(item.id, refusal)
                self._changed.notify_all()

    def _converse(self) -> None:
        while self._begin():
            error: EverlookClientError = Unavailable(ENDED_EARLY)
            try:
                for data in answers(self._call, self._window.limits.stream_s):
                    with self._changed:
                        self._window.receive(acknowledged(data, self._request))
                        self._changed.notify_all()
            except grpc.RpcError as broken:
                error = from_rpc_error(broken)
            except EverlookClientError as lost:
                error = lost
            error.request_id = error.request_id or self._request
            with self._changed:
                if not self._closed and not self._window.drained:
                    pause_s = self._window.break_stream(error)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._closed, timeout=pause_s)

    def _begin(self) -> bool:
        """Opens a stream once there is something to send. False when there is nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._window.drained or self._window.has_unsent)
            if self._closed or self._window.drained:
                self._ended = True
                self._changed.notify_all()
                return False
            self._call = self._open_stream(self._requests(self._window.epoch))
            return True

    def _requests(self, epoch: int) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not (over := self._closed or self._window.epoch != epoch or self._window.drained):
                    if self._window.can_send:
                        break
                    self._changed.wait(self._window.pause_s or None)
                if over:
                    return
                request = self._window.next_request()
            yield request
