"""`python -m indexer`: embeds the gallery by each candidate model, makes a generation of it, and removes what is stale.

Exit codes: 0 done, or stopped by SIGTERM; 1 failed; 2 the arguments cannot be used; 130 interrupted. An error is one
line on stderr. A backfill that fails is tried again, later and later; with --once it ends the program.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from indexer import logs
from indexer.backfill import Backfill
from indexer.candidate import refuse
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir, Lock
from indexer.errors import EverlookError, InvalidInput, ModelDamaged
from indexer.generation import candidate_model, models_with_generation, sweep_generations
from indexer.housekeeping import tidy
from indexer.model import Manifest
from indexer.parent import end_with_parent
from indexer.priority import session_gives_way
from indexer.programs import Activity, Reporter
from indexer.worker import Effort, StartWorker, Worker

log = logging.getLogger("indexer")

_TIDY_EVERY_S: Final = 60.0
_LOOK_S: Final = 1.0  # between two looks at whether the candidate is still the one
_NAP_S: Final = 0.2  # within which a signal is heard
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_MODEL_TRIES: Final = 3  # a GPU without memory looks like a damaged model, for a while


class Interrupted(Exception):
    """A backfill is to end: the program was told to stop, or another model is the candidate."""


@dataclass
class Program:
    """Does what there is to do until `stop` is set; `once`: until there is nothing."""

    data: DataDir
    catalogue: Catalogue
    database_url: str
    effort: Effort
    poll_s: float
    once: bool
    reporter: Reporter
    start_worker: StartWorker = Worker
    stop: int = 0
    """The number of the signal that asked for it."""
    _candidate: Manifest | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    """Of the candidate, in a row; the next too."""
    _damages: int = field(default=0, init=False)
    _look_at: float = field(default=0.0, init=False)
    _tidy_at: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Errors, with `once`: EverlookError, OSError."""
        sweep_generations(self.data)
        while not self.stop:
            try:
                self._tidy_if_due()
                if not self._backfill() and self.once:
                    return
                self._nap(0 if self._candidate else self.poll_s)
            except Interrupted:
                continue
            except (EverlookError, OSError) as error:
                if self.once:
                    raise
                self._failed(error)

    def _backfill(self) -> bool:
        """Backfills the model that there is to backfill; False when there is none."""
        candidate = candidate_model(self.data)
        if candidate is None or self._candidate is None or candidate.id != self._candidate.id:
            self._failures = self._damages = 0
        self._candidate = candidate
        if candidate is None:
            self.reporter.say(Activity("waits for a model to embed the gallery by"))
            return False
        self._tidy_at = 0.0  # there may be more to remove, however this ends
        backfill = Backfill(
            self.data,
            self.catalogue,
            self.database_url,
            candidate,
            self.effort,
            self.reporter.say,
            self._pause_backfill,
            self.start_worker,
        )
        backfill.run()
        return True

    def _pause(self, seconds: float) -> None:
        """Sleeps. Errors: Interrupted when told to stop."""
        self._nap(seconds)
        if self.stop:
            raise Interrupted

    def _pause_backfill(self, seconds: float) -> None:
        """Sleeps. Errors: Interrupted also when its model is no candidate any more; GenerationDamaged."""
        self._pause(seconds)
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_S
            if not self._wanted():
                log.info("a backfill is given up: its model is no candidate any more")
                raise Interrupted

    def _wanted(self) -> bool:
        """Whether the candidate is the one still, or has its generation already."""
        candidate = candidate_model(self.data)
        if self._candidate is None or (candidate is not None and candidate.id == self._candidate.id):
            return True
        return self._candidate.id in models_with_generation(self.data)

    def _nap(self, seconds: float) -> None:
        """Sleeps, until told to stop."""
        until = time.monotonic() + seconds
        while not self.stop and (left := until - time.monotonic()) > 0:
            time.sleep(min(_NAP_S, left))

    def _tidy_if_due(self) -> None:
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + _TIDY_EVERY_S
        try:
            tidy(self.data, self.catalogue, self._pause)
        except (EverlookError, OSError) as error:
            log.warning("housekeeping did not get on: %s", error)

    def _failed(self, error: EverlookError | OSError) -> None:
        """Says so and waits; refuses a model that is damaged."""
        self._failures += 1
        self._damages = self._damages + 1 if isinstance(error, ModelDamaged) else 0
        if self._candidate is not None and self._damages >= _MODEL_TRIES:
            try:
                refuse(self.data, self._candidate, str(error))
            except OSError as full:
                log.error("the refusal of model %s cannot be recorded: %s", self._candidate.id, full)
            else:
                log.error("model %s is refused: %s", self._candidate.id, error)
                return
        wait_s = min(_FIRST_RETRY_S * 2 ** (self._failures - 1), _LAST_RETRY_S)
        log.error("the backfill failed, and is tried again in %.0f s: %s", wait_s, error)
        self.reporter.say(Activity(f"the backfill failed, and is tried again in {wait_s:.0f} s: {error}"))
        self._nap(wait_s)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _seconds(text: str) -> float:
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return float(text)


def parser() -> argparse.ArgumentParser:
    """Every option, with its help."""
    root = _Parser(
        prog="python -m indexer",
        description="Everlook's backfill of candidate models.",
        epilog=f"Its log is for people, or JSON: ${logs.STYLE}=json.",
    )
    root.add_argument("--data", type=Path, required=True, metavar="DIR", help="the server's data directory")
    root.add_argument(
        "--database-url",
        default=os.environ.get("EVERLOOK_DATABASE_URL"),
        metavar="URL",
        help="the catalogue's database ($EVERLOOK_DATABASE_URL, or SQLite in the data directory)",
    )
    root.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="photos embedded at once (%(default)s)")
    root.add_argument("--share", type=float, default=1.0, help="of the time that each thread works (%(default)s)")
    root.add_argument("--batch", type=int, default=32, help="photos embedded and stored together (%(default)s)")
    root.add_argument("--poll-s", type=_seconds, default=1.0, help="seconds between two looks for work (%(default)s)")
    root.add_argument("--once", action="store_true", help="end when there is nothing to do, or at the first failure")
    root.add_argument("--no-give-way", action="store_true", help="work at ordinary priority")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    options = parser().parse_args(arguments)
    end_with_parent(os.environ)
    data = DataDir(options.data)
    url = options.database_url or data.catalogue_url
    try:
        logs.configure("indexer", logs.style_of(os.environ), logging.INFO)
        effort = Effort(options.threads, options.share, options.batch, not options.no_give_way)
        if effort.give_way:
            session_gives_way()  # which the process that embeds is of, and does not lead
        with Lock(data, "indexer.lock"):
            data.create()
            with Catalogue.open(url) as catalogue:
                return _run(
                    Program(data, catalogue, url, effort, options.poll_s, options.once, Reporter(data, "indexer"))
                )
    except (EverlookError, OSError) as error:
        print(f"python -m indexer: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1


def _run(program: Program) -> int:
    def stop(number: int, frame: FrameType | None) -> None:
        program.stop = number

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with program.reporter:
            program.run()
            program.reporter.say(Activity("stopped"))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 130 if program.stop == signal.SIGINT else 0


if __name__ == "__main__":
    sys.exit(main())
