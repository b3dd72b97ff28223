"""All tasks of a bench, several processes side by side; broken off at any time, and taken up again where they were.

| what dies or is stopped  | what becomes of the others                                                         |
|--------------------------|------------------------------------------------------------------------------------|
| a worker                 | they go on; the bench fails at its end, and says why at once                       |
| a worker, of a full disk | they end at their next step                                                        |
| the parent, by Ctrl-C    | they end at their next step, with a checkpoint, or are killed after `GRACE_S`      |
| the parent, by kill -9   | they end at their next step, with a checkpoint, for their pipe to it has ended     |
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Final, cast

import torch

from indexer.errors import EverlookError, InvalidField, StorageFull
from indexer.files import sweep, write_json
from trainer.bench.config import Bench
from trainer.bench.machine import describe
from trainer.bench.plan import Task, alone, needs, tasks
from trainer.bench.progress import Display, Overview
from trainer.bench.run import News, results, tidy
from trainer.bench.worker import work

RESULTS: Final = "results.json"
GRACE_S: Final = 30.0  # for a step and its checkpoint

_PACKAGES: Final = ("torch", "numpy", "pillow")
_SHOWN_EVERY_S: Final = 1.0


_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def only_bench(out: Path) -> Iterator[None]:
    """Makes the folder of results and holds it. Errors: InvalidField when another bench does, or it is no folder."""
    with contextlib.ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(out, wait=False))
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidField(f"{out} is no folder", field="out", got=out, expected="a folder for results") from error
        except BlockingIOError as error:
            raise InvalidField(
                f"another bench is at work in {out}", field="out", got=out, expected="a folder of one bench"
            ) from error
        yield


def run_all(bench: Bench, out: Path, *, jobs: int, threads: int, display: Display) -> Path:
    """Does every task that is not done, `jobs` at a time with `threads` each; returns the page of the results.

    Errors: KeyboardInterrupt once all processes have ended, StorageFull, and EverlookError when tasks failed.
    """
    sweep(out)
    for stage in itertools.chain(*tasks(bench)):
        if stage.done(out):
            tidy(stage.folder(out))
    pool = _Pool(bench, out, jobs, threads, display)
    try:
        pool.run()
        return write_page(bench, out)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(
            f"{error}; what is done is kept, and the same command goes on", field="out", got=out
        ) from error
    finally:
        pool.stop()


def write(bench: Bench, out: Path) -> dict[str, Any]:
    """Writes the results of all stages that are done, which it also returns. Errors: OSError."""
    found = {
        "format": 1,
        "config": bench.described(),
        "machine": describe(_PACKAGES) | {"device": _device_name(bench.device)},
        "runs": list(results(bench, out)),
    }
    write_json(out / RESULTS, found)
    return found


def write_page(bench: Bench, out: Path) -> Path:
    """Writes the results and their page, whose path it returns. Errors: OSError."""
    from trainer.bench import report  # and matplotlib with it, which workers, importing this module, would wait for

    return report.write(write(bench, out), out)[0]


@dataclass
class _Worker:
    task: Task
    process: SpawnProcess
    started_at: float
    begun: bool = False
    error: Exception | None = None


class _Pool:
    def __init__(self, bench: Bench, out: Path, jobs: int, threads: int, display: Display) -> None:
        self._bench, self._out, self._jobs, self._threads, self._display = bench, out, jobs, threads, display
        self._waiting = [task for task in tasks(bench) if not self._done(task)]
        self._workers: dict[Connection, _Worker] = {}
        self._failed: list[str] = []
        self._overview = Overview(bench, out, jobs)

    def run(self) -> None:
        self._display.line(str(self._overview))
        self._begin_ready()
        while self._workers:
            for each in connection.wait(list(self._workers), _SHOWN_EVERY_S):
                self._hear(cast(Connection, each))
            self._begin_ready()
            self._display.show(self._overview.bars())
        if self._failed:
            count, waiting = len(tasks(self._bench)), len(self._waiting)
            waits = f", and {waiting} that need them could not begin" if waiting else ""
            raise EverlookError(
                f"{len(self._failed)} of {count} runs failed{waits}; what is done is kept, and the same command "
                f"goes on from there. {self._failed[0]}"
            )

    def stop(self) -> None:
        """Ends the workers: at their next step, or as kill -9 does when that takes long or a second interrupt comes."""
        if self._workers:
            self._display.line("stopping; the runs end at their next step (interrupt again to end them at once)")
        try:
            for each in self._workers:
                with contextlib.suppress(OSError):
                    each.send(None)
            end = time.monotonic() + GRACE_S
            for worker in self._workers.values():
                worker.process.join(max(0.0, end - time.monotonic()))
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.join()

    def _done(self, task: Task) -> bool:
        return all(stage.done(self._out) for stage in task)

    def _begin_ready(self) -> None:
        for task in list(self._waiting):
            first = needs(self._bench, task)
            if len(self._workers) < self._jobs and (first is None or first.done(self._out)):
                self._waiting.remove(task)
                self._begin(task)

    def _begin(self, task: Task) -> None:
        resource_tracker.ensure_running()  # else the first start brings it up, and unblocks signals after it
        # Blocked in the child for good: a terminal interrupts every process, and only this one is to hear it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process, pipe = start(self._bench, self._out, task, self._threads)
            self._workers[pipe] = _Worker(task, process, time.monotonic())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _hear(self, source: Connection) -> None:
        worker = self._workers[source]
        try:
            news = source.recv()
        except (EOFError, OSError):
            source.close()
            del self._workers[source]
            worker.process.join()
            self._ended(worker)
            return
        if not isinstance(news, News):
            worker.error = news
            return
        if not worker.begun:
            worker.begun = True
            self._overview.started_in(time.monotonic() - worker.started_at)
        self._overview.hear(news)
        if news.recalls is not None:
            self._display.line(f"{self._overview.name(news.stage)}: done{_validation(news.recalls)}")
            write(self._bench, self._out)

    def _ended(self, worker: _Worker) -> None:
        if self._done(worker.task):
            write_page(self._bench, self._out)
            return
        error = worker.error
        if isinstance(error, OSError) and error.errno in _FULL:
            raise error
        stage = next(stage for stage in worker.task if not stage.done(self._out))
        self._failed.append(f"{self._overview.name(stage)}: {error or _how(worker.process.exitcode)}")
        self._display.line(self._failed[-1])
        self._overview.gave_up(worker.task)


def start(bench: Bench, out: Path, task: Task, threads: int) -> tuple[SpawnProcess, Connection]:
    """The task in a process of its own, so that its peak memory is its own; and the pipe, which ends when it dies."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(bench, out, task, threads, there), daemon=True)
    process.start()
    there.close()
    return process, here


def _how(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "its process was killed, which is what happens when the machine's memory runs out"
    if exitcode is not None and exitcode < 0:
        return f"its process ended by {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode}"


def _validation(milestone: Mapping[str, Any]) -> str:
    found = {name: milestone["validation"][name] for name in ("old", "new", "all")}
    shares = [f"{name} {recall['1']:.1%}" for name, recall in found.items() if recall and recall["queries"]]
    return f"; Recall@1 of validation photos: {', '.join(shares)}" if shares else ""


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
