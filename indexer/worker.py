"""The heavy half of a backfill, in a process of its own that gives way: photos in, vectors out; the index at the end.

It writes no vectors. One process at a time writes to SQLite, and one that gives way may have to wait for the processor
in the middle of a transaction, while the server's writes wait for it: on a busy machine for seconds. So the vectors go
back through a pipe, and are stored by the owner of the `Worker`, at ordinary priority. The generation is published
here, whole or not at all. Therefore the process can be killed at any instant; it dies with its owner.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Protocol, Self

from indexer import devices as available
from indexer import logs
from indexer.candidate import make_generation
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.devices import Devices
from indexer.embedding import Vectors, embed
from indexer.encoder import Encoder
from indexer.errors import CatalogueDamaged, EverlookError, InvalidField, InvalidInput, NotServing
from indexer.generation import GenerationInfo
from indexer.model import Manifest
from indexer.priority import give_way

log = logging.getLogger(__name__)

_SPAWN: Final = multiprocessing.get_context("spawn")  # a fork would copy whatever threads and locks there are
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of prctl(2)


@dataclass(frozen=True)
class Effort:
    """How hard a backfill works."""

    threads: int  # each decodes and encodes a batch by itself
    share: float = 1.0  # of the time that a thread works
    batch: int = 32  # photos that are decoded, encoded and stored together
    give_way: bool = True  # to everything else on the machine

    def __post_init__(self) -> None:
        """Errors: InvalidField."""
        for name, least in (("threads", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise InvalidField(f"{name} is too small", field=name, got=getattr(self, name), expected=f">= {least}")
        if not 0 < self.share <= 1:
            raise InvalidField("share is out of range", field="share", got=self.share, expected="above 0, at most 1")


@dataclass(frozen=True)
class Embed:
    """Asks for the vectors of photos, by their SHA-256."""

    shas: tuple[str, ...]


@dataclass(frozen=True)
class Embedded:
    """Answers `Embed`. A photo in neither is shown by no item any more."""

    vectors: Vectors
    unreadable: dict[str, str]  # photos of which there is no vector, and why


@dataclass(frozen=True)
class Index:
    """Asks for the generation of all entries up to a change of the catalogue."""

    boundary: int


@dataclass(frozen=True)
class Indexing:
    """Says how far that is."""

    step: str
    done: float  # a share of the step


@dataclass(frozen=True)
class Indexed:
    """Answers `Index`: the generation is published."""

    info: GenerationInfo


Job = Embed | Index
Answer = Embedded | Indexing | Indexed
StartWorker = Callable[[DataDir, str, Manifest, Effort], AbstractContextManager["Works"]]


class Works(Protocol):
    """What a backfill needs of a worker."""

    def send(self, job: Job) -> None:
        """Hands it a job; it does as many at once as it has threads. Errors: NotServing when it has died."""

    def receive(self, timeout_s: float) -> Answer | None:
        """What it says next; None when it says nothing for so long. Jobs are answered as they are done, in any order.

        Errors: those of the job, or of its start, such as ModelDamaged; NotServing when it has died.
        """


class Worker:
    """`with Worker(...) as worker:` starts the process; the end of the block kills it, wherever it is."""

    def __init__(self, data: DataDir, database_url: str, model: Manifest, effort: Effort) -> None:
        self._pipe, self._theirs = _SPAWN.Pipe()
        arguments = (self._theirs, os.getpid(), data, database_url, model.id, effort)
        self._process = _SPAWN.Process(target=_main, args=arguments, name="backfill", daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # so that the pipe ends with the process
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()

    def send(self, job: Job) -> None:
        """As `Works`."""
        try:
            self._pipe.send(job)
        except OSError as error:
            raise self._died() from error

    def receive(self, timeout_s: float) -> Answer | None:
        """As `Works`."""
        try:
            answer: Answer | Exception | None = self._pipe.recv() if self._pipe.poll(timeout_s) else None
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _died(self) -> NotServing:
        self._process.join(1.0)
        code = self._process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
        return NotServing(f"the process that embeds photos ended {how}", got=code)


# ------------------------------------------------------------------------------------------------ in the process


def _main(pipe: Connection[Any, Any], owner: int, data: DataDir, database_url: str, model: str, effort: Effort) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # control-C, and stopping a group, reach both: the owner decides
        signal.signal(number, signal.SIG_IGN)
    _die_with(owner)
    logs.configure("indexer", logs.style_of(os.environ), logging.WARNING)
    if effort.give_way:
        give_way()
    try:
        with Catalogue.open(database_url) as catalogue, ThreadPoolExecutor(effort.threads) as pool:
            devices = available.detect()
            encoder = Encoder.load(data.model(model), devices, 1)
            _serve(pipe, pool, Hand(data, catalogue, encoder, devices, effort, pipe.send))
    except Exception as error:
        pipe.send(_sendable(error))


def _serve(pipe: Connection[Any, Any], pool: ThreadPoolExecutor, hand: Hand) -> None:
    """Takes jobs until the owner is gone."""
    try:
        while True:
            pool.submit(hand.do, pipe.recv())
    except (EOFError, OSError):
        os._exit(0)  # at once: nobody waits for what is under way


def _die_with(owner: int) -> None:
    """Where the system can do so, lets it kill this process when its owner dies. Elsewhere the pipe's end tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != owner:  # it died before that
        os._exit(0)


@dataclass
class Hand:
    """Does jobs, in any number of threads at once; `answer` is called by one at a time."""

    data: DataDir
    catalogue: Catalogue
    encoder: Encoder
    devices: Devices
    effort: Effort
    answer: Callable[[Answer | Exception], None]
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    _answering: threading.Lock = field(default_factory=threading.Lock)
    _of_thread: threading.local = field(default_factory=threading.local)

    def do(self, job: Job) -> None:
        """Does a job, and answers with what came of it, or the error that it ended with."""
        answer: Answer | Exception
        try:
            answer = self._embedded(job.shas) if isinstance(job, Embed) else Indexed(self._indexed(job.boundary))
        except Exception as error:
            answer = _sendable(error)
        self._answer(answer)

    def _answer(self, answer: Answer | Exception) -> None:
        with self._answering:
            self.answer(answer)

    def _embedded(self, shas: Sequence[str]) -> Embedded:
        self.sleep(getattr(self._of_thread, "rest_s", 0.0))
        began = self.clock()
        try:
            return Embedded(embed(self.catalogue, self.encoder, shas), {})
        except (CatalogueDamaged, InvalidInput):
            return self._one_by_one(shas)
        finally:
            self._of_thread.rest_s = (self.clock() - began) * (1 / self.effort.share - 1)

    def _one_by_one(self, shas: Sequence[str]) -> Embedded:
        vectors: Vectors = {}
        unreadable = {}
        for sha256 in shas:
            try:
                vectors |= embed(self.catalogue, self.encoder, [sha256])
            except (CatalogueDamaged, InvalidInput) as error:
                unreadable[sha256] = error.message
        return Embedded(vectors, unreadable)

    def _indexed(self, boundary: int) -> GenerationInfo:
        return make_generation(
            self.data,
            self.catalogue,
            self.encoder.manifest,
            boundary,
            threads=max(1, round(self.effort.threads * self.effort.share)),
            gpus=self.devices.index_gpus,
            progress=lambda step, done: self._answer(Indexing(step, done)),
        )


def _sendable(error: Exception) -> Exception:
    """An error that the owner can read and handle, whatever library it came of."""
    if isinstance(error, EverlookError | OSError):
        return error
    log.error("the backfill's work failed", exc_info=error)
    return EverlookError(f"{type(error).__name__}: {error}", got=error)
