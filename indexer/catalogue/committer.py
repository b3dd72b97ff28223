"""The one thread that writes to the catalogue: group commit, so that many callers share one fsync.

It never waits for company: whatever is queued when the disk is free becomes one transaction. One caller alone waits for
its own fsync only; many at once fill bigger and bigger transactions, by themselves.

| crash at this step                   | found so at restart                                                          |
|--------------------------------------|------------------------------------------------------------------------------|
| while a change waits                 | nothing of it; its caller was told nothing                                   |
| inside the transaction               | nothing of all its changes; their callers were told nothing                  |
| after the commit, before `on_commit` | all its changes, for the index to be built from; their callers know nothing  |
| after `on_commit`                    | all its changes; some callers know                                           |

A caller that was told nothing sends its change again, and is answered UNCHANGED where it had been written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue.store import Catalogue
from indexer.catalogue.values import Applied, Change, Delete, Outcome
from indexer.errors import EverlookError, ItemNotFound, NotServing, QueueFull

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_ROW_BYTES = 1024  # what a change holds in memory beside photo and vector, roughly


@dataclass(frozen=True)
class Capacity:
    """How much may be accepted and not yet answered, and how much of it goes into one transaction."""

    max_changes: int = 4096
    max_bytes: int = 256 << 20  # a photo bigger than this is still accepted when nothing else waits
    max_transaction_changes: int = 256
    max_transaction_bytes: int = 32 << 20  # keeps a transaction, and the wait of the next one, well below a second


@dataclass(slots=True)
class _Write:
    change: Change
    size: int
    future: Future[Applied] = field(default_factory=Future)


@dataclass(slots=True)
class _Call:
    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class Committer:
    """`with Committer(...)` starts and closes it. `submit` and `run` may be called from any thread.

    `on_commit` gets what a transaction changed, in the order of `seq`, in the writer thread, after the commit and
    before any of its futures resolves: so what is acknowledged can be found. It gets no unchanged items. When it
    raises, or when the database is lost in the middle of a commit, memory and disk may differ: the committer stops,
    `failed` tells why, `on_failure` is called with it in the writer thread, and every waiter and later caller gets
    NotServing. Opening the catalogue again heals it.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        capacity: Capacity,
        on_commit: Callable[[list[Applied]], None],
        on_failure: Callable[[BaseException], None] | None = None,
        models: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`models` says, in the writer thread, whose vectors `on_commit` is to get, where the catalogue has them."""
        self._catalogue = catalogue
        self._capacity = capacity
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._models = models
        self._queue: deque[_Write | _Call] = deque()
        self._changed = threading.Condition()  # guards the queue and all below
        self._changes = 0
        self._bytes = 0
        self._seconds_per_change = 0.001
        self._closing = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="committer", daemon=True)

    def start(self) -> None:
        """Starts the thread. What was submitted before has waited."""
        self._thread.start()

    def close(self, timeout_s: float | None = None) -> None:
        """Refuses new work, finishes what waits, ends the thread. After `timeout_s` the rest fails with NotServing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._refuse_waiting()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def failed(self) -> BaseException | None:
        """Why it has stopped; None while it works."""
        return self._failed

    @property
    def depth(self) -> int:
        """Changes accepted and not yet answered."""
        return self._changes

    def submit(self, change: Change) -> Future[Applied]:
        """Queues a change; never waits. A future cancelled while it waits is dropped unwritten.

        Errors, at once: QueueFull with a hint when to try again, NotServing when closed or failed. Errors of the
        future: ItemNotFound, StorageFull, CatalogueDamaged (nothing was changed); NotServing (perhaps it was); what the
        database raised, where that is none of these and this change alone brings it about (nothing was changed).
        """
        write = _Write(change, _size(change))
        with self._changed:
            self._check_serving()
            full = self._changes >= self._capacity.max_changes
            if full or (self._changes and self._bytes + write.size > self._capacity.max_bytes):
                raise QueueFull(
                    "too many changes wait to be written",
                    got=f"{self._changes} changes, {self._bytes} bytes",
                    expected=f"at most {self._capacity.max_changes} changes, {self._capacity.max_bytes} bytes",
                    retry_after_s=min(max(self._changes * self._seconds_per_change, 0.05), 5.0),
                )
            self._changes += 1
            self._bytes += write.size
            self._queue.append(write)
            self._changed.notify()
        return write.future

    def run(self, function: Callable[[], _T]) -> Future[_T]:
        """Queues a function for the writer thread: it runs between two transactions, with no change in flight.

        All changes submitted before are done by then. Errors: NotServing when closed or failed; the future has what the
        function raised. Waiting for the future in `on_commit` or in another such function would wait for ever.
        """
        call = _Call(function)
        with self._changed:
            self._check_serving()
            self._queue.append(call)
            self._changed.notify()
        return call.future

    def store_vectors(self, model: str, of_photo: dict[str, NDArray[np.float32]]) -> Future[int]:
        """`Catalogue.store_vectors` in the writer thread."""
        return self.run(lambda: self._catalogue.store_vectors(model, of_photo))

    def drop_vectors(self, model: str) -> int:
        """Removes all vectors of a model, some at a time between transactions; waits, and returns how many."""
        removed = 0
        while some := self.run(lambda: self._catalogue.drop_vectors(model)).result():
            removed += some
        return removed

    # --------------------------------------------------------------------------------------------- writer thread

    def _work(self) -> None:
        try:
            while work := self._take():
                if isinstance(work, _Call):
                    _call(work)
                else:
                    self._write(work)
                self._keep_up()
        except BaseException as error:
            self._stop(error)

    def _take(self) -> _Call | list[_Write] | None:
        """Waits for work, and takes the next call, or as many writes as go into one transaction. None at the end."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            if not self._queue or self._failed:
                return None
            first = self._queue.popleft()
            if isinstance(first, _Call):
                return first
            return [first, *self._take_more(first.size)]

    def _take_more(self, size: int) -> list[_Write]:
        taken: list[_Write] = []
        while self._queue and len(taken) + 1 < self._capacity.max_transaction_changes:
            following = self._queue[0]
            if isinstance(following, _Call) or size + following.size > self._capacity.max_transaction_bytes:
                break
            size += following.size
            taken.append(following)
            self._queue.popleft()
        return taken

    def _write(self, taken: list[_Write]) -> None:
        began = time.perf_counter()
        writes = [write for write in taken if write.future.set_running_or_notify_cancel()]
        answers = self._commit(writes) if writes else []
        with self._changed:  # before anyone is answered, so that who is answered finds room for the next
            self._changes -= len(taken)
            self._bytes -= sum(write.size for write in taken)
            self._seconds_per_change += 0.2 * ((time.perf_counter() - began) / len(taken) - self._seconds_per_change)
        for write, answer in zip(writes, answers, strict=True):
            if isinstance(answer, Applied):
                write.future.set_result(answer)
            else:
                write.future.set_exception(answer)

    def _commit(self, writes: Sequence[_Write]) -> Sequence[Applied | BaseException]:
        """One transaction, and the index told of it. Returns each write's answer."""
        if self._failed:
            return [_not_serving(self._failed)] * len(writes)
        try:
            answers: Sequence[Applied | ItemNotFound] = self._catalogue.apply(
                [write.change for write in writes], self._models()
            )
        except NotServing as error:
            self._stop(error)
            return [error] * len(writes)
        except EverlookError as error:
            return [error] * len(writes)
        except Exception as error:
            if len(writes) == 1:
                return [error]
            # Something that no check foresaw. The others shall not fail with the one that has it.
            return [answer for write in writes for answer in self._commit([write])]
        changed = [each for each in answers if isinstance(each, Applied) and each.outcome is not Outcome.UNCHANGED]
        try:
            if changed:
                self._on_commit(changed)
        except BaseException as error:
            self._stop(error)
            return [_not_serving(error)] * len(writes)
        return answers

    def _keep_up(self) -> None:
        """Housekeeping: one step after each transaction, and more while nobody waits."""
        try:
            while self._catalogue.upkeep() and not self._queue and not self._closing:
                pass
        except EverlookError as error:
            _log.warning("the catalogue's housekeeping did not get on: %s", error)

    def _stop(self, error: BaseException) -> None:
        _log.error("the committer has stopped: %s", error, exc_info=error)
        with self._changed:
            self._failed = self._failed or error
        self._refuse_waiting()
        if self._on_failure is not None:
            try:
                self._on_failure(error)
            except Exception:  # the waiters of this transaction still have to be told
                _log.exception("the callback for failures failed")

    def _check_serving(self) -> None:
        if self._failed:
            raise _not_serving(self._failed)
        if self._closing:
            raise NotServing("the catalogue is closing", retry_after_s=1.0)

    def _refuse_waiting(self) -> None:
        with self._changed:
            waiting = list(self._queue)
            self._queue.clear()
            self._changes -= sum(isinstance(work, _Write) for work in waiting)
            self._bytes -= sum(work.size for work in waiting if isinstance(work, _Write))
        for work in waiting:
            if work.future.set_running_or_notify_cancel():
                work.future.set_exception(NotServing("the catalogue closed before this was written", retry_after_s=1.0))


def _call(call: _Call) -> None:
    if not call.future.set_running_or_notify_cancel():
        return
    try:
        result = call.function()
    except BaseException as error:
        call.future.set_exception(error)
    else:
        call.future.set_result(result)


def _not_serving(cause: BaseException) -> NotServing:
    refused = NotServing("the catalogue's writer has stopped; restart the server", retry_after_s=5.0)
    refused.__cause__ = cause
    return refused


def _size(change: Change) -> int:
    if isinstance(change, Delete):
        return _ROW_BYTES
    photo = len(change.photo.data) if change.photo else 0
    return _ROW_BYTES + photo + sum(vector.nbytes for vector in change.vectors.values())
