"""How far a bench is, and how that is shown: bars on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from trainer.bench.config import Bench
from trainer.bench.plan import Stage, Task, tasks
from trainer.bench.run import News, results

LINE_EVERY_S: Final = 30.0


class Bar(NamedTuple):
    """So much done of something."""

    name: str
    done: int
    total: int
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.done:,} of {self.total:,}" + (f", {self.note}" if self.note else "")


class Display(Protocol):
    """What a person sees."""

    def line(self, text: str) -> None:
        """Something that happened; it stays."""
        ...

    def show(self, bars: Sequence[Bar]) -> None:
        """How far things are; it replaces what was shown before."""
        ...


@contextlib.contextmanager
def display(console: Console | None = None) -> Iterator[Display]:
    """On standard error: bars where that is a terminal, else lines."""
    console = console or Console(stderr=True)
    if not console.is_interactive:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        yield Bars(progress)


class Bars:
    """One bar below the other, under the lines."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._shown: dict[str, TaskID] = {}

    def line(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, bars: Sequence[Bar]) -> None:
        for name in self._shown.keys() - {bar.name for bar in bars}:
            self.progress.remove_task(self._shown.pop(name))
        for bar in bars:
            if bar.name not in self._shown:
                self._shown[bar.name] = self.progress.add_task(bar.name, total=bar.total, note=bar.note)
            self.progress.update(self._shown[bar.name], completed=bar.done, total=bar.total, note=bar.note)


class Lines:
    """The bars as one line every 30 seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._said_at = clock, clock()

    def line(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, bars: Sequence[Bar]) -> None:
        if self._clock() - self._said_at >= LINE_EVERY_S:
            self._said_at = self._clock()
            self.line("; ".join(map(str, bars)))


class Overview:
    """What all tasks have done and have to do, and how long that may take."""

    def __init__(self, bench: Bench, out: Path, jobs: int) -> None:
        self._tasks, self._jobs, self._every = tasks(bench), jobs, bench.evaluate_every
        self._several = len(bench.backbones) > 1
        self._stages = [stage for task in self._tasks for stage in task]
        self._news: dict[Stage, News] = {}  # the latest
        self._ended = {stage for stage in self._stages if stage.done(out)}
        self._step_s: dict[tuple[str, str], float] = {
            (result["backbone"], result["method"]): result["seconds_per_step"]
            for result in results(bench, out)
            if result["steps"]
        }
        self._evaluation_s = 0.0
        self._start_s = 0.0  # of a process: torch is imported, photos are decoded

    def __str__(self) -> str:
        left = [stage for stage in self._stages if stage not in self._ended]
        return (
            f"{len(left)} of {len(self._stages)} stages are left to learn, in {sum(stage.steps for stage in left):,} "
            f"steps; runs side by side: {self._jobs}"
        )

    def hear(self, news: News) -> None:
        self._news[news.stage] = news
        if news.step_s:
            self._step_s[_kind(news.stage)] = news.step_s
        self._evaluation_s = news.evaluation_s or self._evaluation_s
        if news.recalls is not None:
            self._ended.add(news.stage)

    def started_in(self, seconds: float) -> None:
        """A process began its work so many seconds after it was started."""
        self._start_s = seconds

    def gave_up(self, task: Task) -> None:
        """Nothing more is to be done for the task."""
        self._tasks.remove(task)
        for stage in task:
            self._news.pop(stage, None)

    def bars(self) -> list[Bar]:
        """All steps, and the stages at work."""
        left = self.seconds_left()
        note = "" if left is None else f"{duration(left)} left"
        done = sum(stage.steps for stage in self._ended) + sum(news.step for news in self._at_work())
        total = sum(stage.steps for stage in self._stages)
        return [Bar("all steps", done, total, note), *map(self._bar, self._at_work())]

    def name(self, stage: Stage) -> str:
        """With its backbone where there are several."""
        return f"{stage}, {stage.run.backbone}" if self._several else str(stage)

    def seconds_left(self) -> float | None:
        """None before a step's time is known. Of steps that none was measured of, the mean of the others is assumed."""
        if not self._step_s:
            return None
        each = [self._left(task) for task in self._tasks]
        return max(sum(each) / self._jobs, max(each, default=0.0))

    def _bar(self, news: News) -> Bar:
        note = "" if news.loss is None else f"loss {news.loss:.3f}, {news.step_s:.2f} s a step"
        return Bar(self.name(news.stage), news.step, news.stage.steps, note)

    def _at_work(self) -> list[News]:
        return [news for stage, news in self._news.items() if stage not in self._ended]

    def _left(self, task: Task) -> float:
        stages = [stage for stage in task if stage not in self._ended]
        starts = bool(stages) and not any(stage in self._news for stage in task)
        return sum(map(self._left_of, stages)) + starts * self._start_s

    def _left_of(self, stage: Stage) -> float:
        """Steps, measurements of recall, and the memory at the end, which passes over photos as they do."""
        step_s = self._step_s.get(_kind(stage), statistics.fmean(self._step_s.values()))
        step = self._news[stage].step if stage in self._news else 0
        measurements = -(-stage.steps // self._every) - step // self._every if self._every and stage.steps else 1
        return (stage.steps - step) * step_s + (measurements + 1) * self._evaluation_s


def duration(seconds: float) -> str:
    """A length of time, in words, to the minute."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else "less than a minute"


def _kind(stage: Stage) -> tuple[str, str]:
    """What has steps of about the same length."""
    return stage.run.backbone, stage.run.method
