"""`everlook watch`: what happens, as it happens."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from clients.cli.app import App, connected
from clients.status import Event, Status, TrainingStatus


@click.command()
@connected
def watch(app: App) -> None:
    """Show what happens, a line for each event, and how far the work is that is under way, until Ctrl-C."""
    try:
        with Screen(app) as screen:
            for seen in app.client.watch():
                screen.show(seen)
    except KeyboardInterrupt:
        return


class Screen:
    """`with Screen(app) as screen:` shows events as lines, and on a terminal a bar for the phase that is under way.

    With `--json`, every message is a line.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=app.out,
            transient=True,
            disable=app.json or not app.out.is_terminal,
        )
        """What shows the phase."""
        self._task: TaskID = self.bar.add_task("", visible=False, total=None)
        self._phase = ""
        self._began = False

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def show(self, seen: Event) -> None:
        """Shows one message of a watch."""
        if self._app.json:
            self._app.emit(seen)
            return
        self._advance(seen.status.training)
        for line in [seen.event] if self._began else _first(seen.status):
            if line:
                self._app.out.print(f"{datetime.datetime.now():%H:%M:%S}  {line}", markup=False, soft_wrap=True)
        self._began = True

    def _advance(self, training: TrainingStatus | None) -> None:
        if training is None:
            self.bar.update(self._task, visible=False)
            self.bar.refresh()
            return
        if (phase := _words(training)) != self._phase:
            self._phase = phase
            self.bar.remove_task(self._task)
            self._task = self.bar.add_task(phase, total=training.total or None)
        self.bar.update(self._task, visible=True, completed=training.done, total=training.total or None)


def _first(status: Status) -> Iterable[str]:
    """What there is to say when the watch begins."""
    if status.generation is not None:
        yield f"generation {status.generation.number} is live, {status.catalogue.items:,} items"
    if status.training is not None:
        yield f"{_words(status.training)}, {status.training.done:,} of {status.training.total:,}"


def _words(training: TrainingStatus) -> str:
    return f"stage {training.stage}: {training.phase}"
