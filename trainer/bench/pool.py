"""All runs of a bench, several processes side by side; broken off at any time, and taken up again where they were."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from indexer.files import write_json
from trainer.allocator import keep_freed_memory
from trainer.bench import run
from trainer.bench.config import Bench
from trainer.bench.machine import describe
from trainer.bench.run import FIRST, Run, Runner
from trainer.stage import Progress

RESULTS: Final = "results.json"
_PACKAGES: Final = ("torch", "numpy", "pillow")
_TOLD_EVERY_S: Final = 1.0


class Told(NamedTuple):
    """How far one stage of a run is."""

    run: Run
    stage: int
    step: int
    steps: int
    seconds_per_step: float


class Interrupted(Exception):
    """The bench is being broken off; what is done is kept."""


def run_all(bench: Bench, out: Path, *, jobs: int, threads: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Does every run that is not done, `jobs` at a time with `threads` each; returns the results, which it also writes.

    say  hears a line on each stage's end, and every so often how far all is

    Errors: KeyboardInterrupt once all processes have kept what they had; those of `Runner`.
    """
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.SimpleQueue()
    overview = _Overview(bench, out, jobs, say)
    listener = threading.Thread(target=_listen, args=(told, overview), daemon=True)
    listener.start()
    # A process for each run, so that its peak memory is its own.
    pool = ProcessPoolExecutor(
        jobs, context, initializer=_start, initargs=(bench, out, threads, stop, told), max_tasks_per_child=1
    )
    try:
        pairs = [(seed, backbone) for backbone in bench.backbones for seed in bench.seeds]
        first = [pool.submit(_do, Run(FIRST, *pair), first=True) for pair in pairs]
        _until_done(first)
        later = [pool.submit(_do, Run(method, *pair), first=False) for pair in pairs for method in bench.methods]
        _until_done(later, lambda: _write(bench, out))
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        told.put(None)
        listener.join()
        found = _write(bench, out)
    return found


def _write(bench: Bench, out: Path) -> dict[str, Any]:
    found = {
        "format": 1,
        "config": bench.described(),
        "machine": describe(_PACKAGES) | {"device": _device_name(bench.device)},
        "runs": list(run.results(bench, out)),
    }
    write_json(out / RESULTS, found)
    if found["runs"]:
        with suppress(ImportError):
            from trainer.bench import report
            report.write(found, out)
    return found


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _until_done(futures: Iterable[Future[None]], after_each: Callable[[], object] = lambda: None) -> None:
    for future in concurrent.futures.as_completed(futures):
        future.result()
        after_each()


def _listen(told: SimpleQueue[Told | None], overview: _Overview) -> None:
    while (news := told.get()) is not None:
        overview.hear(news)


class _Overview:
    """What all runs together have done and have to do."""

    def __init__(self, bench: Bench, out: Path, jobs: int, say: Callable[[str], None]) -> None:
        self._jobs, self._say = jobs, say
        self._left: dict[tuple[Run, int], int] = {}  # steps
        self._cost: dict[str, float] = {}  # seconds a step, by method
        self._said_at = 0.0
        for backbone in bench.backbones:
            for seed in bench.seeds:
                stages = [(Run(FIRST, seed, backbone), 0, bench.first.steps)]
                stages += [
                    (Run(method, seed, backbone), stage, bench.later.steps)
                    for method in bench.methods
                    if method != FIRST
                    for stage in range(1, len(bench.protocol.stages))
                ]
                for each, stage, steps in stages:
                    if not (each.folder(out, stage) / run.RESULT).exists():
                        self._left[each, stage] = steps
        say(f"{len(self._left)} stages to train, {sum(self._left.values())} steps")

    def hear(self, news: Told) -> None:
        self._left[news.run, news.stage] = news.steps - news.step
        self._cost[news.run.method] = news.seconds_per_step
        ended = news.step == news.steps
        if ended or time.monotonic() - self._said_at > 10:
            self._said_at = time.monotonic()
            self._say(
                f"{news.run.method} seed {news.run.seed} stage {news.stage}: step {news.step} of {news.steps}, "
                f"{news.seconds_per_step:.2f} s each; all: {_duration(self._seconds_left())} left"
            )

    def _seconds_left(self) -> float:
        """Of steps that no method has shown the cost of yet, the mean of the others is assumed."""
        mean = sum(self._cost.values()) / len(self._cost)
        return sum(steps * self._cost.get(each.method, mean) for (each, _), steps in self._left.items()) / self._jobs


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


# What a process does its runs with.
_runner: Runner
_stop: Any


def _start(bench: Bench, out: Path, threads: int, stop: Any, told: SimpleQueue[Told | None]) -> None:
    global _runner
    # The terminal interrupts every process; this one ends at its next step, with a checkpoint.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    torch.set_num_threads(threads)
    keep_freed_memory()
    parent, said_at = os.getppid(), 0.0

    def tell(each: Run, stage: int, progress: Progress) -> None:
        nonlocal said_at
        if stop.is_set() or os.getppid() != parent:
            raise Interrupted
        if progress.step == progress.steps or time.monotonic() - said_at > _TOLD_EVERY_S:
            said_at = time.monotonic()
            told.put(Told(each, stage, progress.step, progress.steps, progress.seconds))

    _runner = Runner(bench, out, tell)


def _do(each: Run, *, first: bool) -> None:
    with suppress(Interrupted):
        _runner.first(each.seed, each.backbone) if first else _runner.later(each)
