"""The trainer's program: it waits until a stage is ripe, teaches it, and waits again.

Torch, and what needs it, is loaded when a stage begins: a trainer that waits only looks at the catalogue now and then.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from indexer import stages
from indexer.allocator import give_back_memory, keep_freed_memory
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir, Lock
from indexer.errors import Damaged, EverlookError, InvalidField, NotReady
from indexer.files import sweep
from indexer.generation import candidate_generation, candidate_model, live_model
from indexer.lineage import load_lineage
from indexer.priority import give_way
from indexer.programs import Activity, Reporter
from indexer.stages import Request, StageRule, Training, Waiting
from trainer.publishing import publishing
from trainer.recipe import Recipe
from trainer.sightings import Sightings
from trainer.stopping import Cancelled, Stopped, Stopping

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0  # between two looks at whether a training is still wanted
_LOOK_SHARE: Final = 0.02  # of the time, at most, goes to looking at what waits
_WORDS: Final = {"training": "teaches", "exporting": "exports", "gates": "measures"}


@dataclass(frozen=True)
class Settings:
    """How the program works."""

    data: Path
    database_url: str | None = None  # SQLAlchemy URL; None is SQLite in the data directory
    recipe: Recipe = field(default_factory=Recipe)
    rule: StageRule = field(default_factory=StageRule)
    once: bool = False  # ends after one training, or at once when there is none
    threads: int = 0  # 0: one for each core
    device: str = "auto"
    poll_s: float = 5.0  # between two looks at the catalogue and the requests
    checkpoint_s: float = 60.0  # at most so much training is done again after a kill
    give_way: bool = True  # lets all other work of the machine go first

    def __post_init__(self) -> None:
        for name, least in (("threads", 0), ("poll_s", 0.01), ("checkpoint_s", 0.0)):
            value = getattr(self, name)
            if not value >= least:
                raise InvalidField(f"{name} is too small", field=name, got=value, expected=f"at least {least}")


def main(settings: Settings) -> int:
    """Runs until it is told to stop; returns the exit code. Errors: InvalidField for settings; others as in `run`."""
    data = DataDir(settings.data)
    if settings.give_way:
        give_way()
    with Stopping() as stopping:
        try:
            data.create()
            url = settings.database_url or data.catalogue_url
            with Lock(data, "trainer.lock"), Catalogue.open(url) as catalogue:
                Program(data, catalogue, settings, stopping).run()
        except Stopped as stopped:
            log.info("ends: %s", stopped)
            return stopped.exit_code
    return 0


class Program:
    """The loop, with the data directory locked."""

    def __init__(self, data: DataDir, catalogue: Catalogue, settings: Settings, stopping: Stopping) -> None:
        self._data, self._catalogue, self._settings, self._stopping = data, catalogue, settings, stopping
        self._reporter = Reporter(data, "trainer")
        self._refused = ""  # what became of the last request, when it was no stage
        self._sightings = Sightings(data)
        self._waiting: list[Waiting] = []
        self._damaged = set[str]()  # photos; one that is mended counts from the next start on
        self._tried: set[str] = set()
        self._cohorts = 0
        self._seen: tuple[int, str] | None = None  # the change, and the live model, of the last look
        self._look_after = 0.0
        self._ripe_since = 0.0

    def run(self) -> None:
        """Errors: Stopped; InvalidField for settings; others, such as OSError, after which a new start goes on."""
        with self._reporter:
            self._run()

    def _run(self) -> None:
        training = self._left()
        while True:
            if training is None:
                training = self._next()
            if training is not None:
                self._teach(training)
                training = None
                if not self._settings.once:
                    continue
            if self._settings.once:
                return
            time.sleep(self._settings.poll_s)

    def _left(self) -> Training | None:
        """Removes what killed trainers and ended trainings left. Returns the training that has not ended."""
        sweep(self._data.stages)
        with publishing(self._data.models):
            pass  # what a killed one left there is gone
        unfinished = None
        for number in stages.numbers(self._data):
            if stages.has_ended(self._data, number):
                stages.tidy(self._data, number)
                continue
            try:
                unfinished, _ = stages.load(self._data, number)
            except EverlookError as error:
                log.warning("%s; it is left alone", error)
        return unfinished

    def _next(self) -> Training | None:
        try:
            live = live_model(self._data)
            if live is None:
                self._idle("waits for a first generation")
                return None
            return self._requested(live) or self._ripe(live)
        except Damaged as error:
            if self._settings.once:
                raise
            self._idle(f"cannot tell what to teach: {error}")
            return None

    def _requested(self, live: str) -> Training | None:
        request = stages.requested_training(self._data)
        if request is None:
            return None
        if self._has_begun(request):
            stages.withdraw(self._data, request)
            return None
        self._look(live, at_once=True)
        self._check_settings()
        try:
            chosen = stages.requested(self._waiting, request)
            return self._begin(live, chosen, "an operator asked for it", request.id)
        except InvalidField as error:
            stages.withdraw(self._data, request)
            self._refused = f"; what was asked for is no stage: {error}"
            log.warning("a request was refused: %s", error)
            return None
        except NotReady as error:
            log.warning("no training begins: %s", error)
            return None

    def _has_begun(self, request: Request) -> bool:
        for number in reversed(stages.numbers(self._data)):
            with contextlib.suppress(EverlookError):
                if stages.load(self._data, number)[0].request == request.id:
                    return True
        return False

    def _ripe(self, live: str) -> Training | None:
        self._look(live)
        rule = self._settings.rule
        ripe = stages.ripe(self._waiting, rule, time.time(), self._tried)
        fresh_and_ripe = [each.name for each in ripe[0] if each.name not in self._tried] if ripe else []
        self._ripe_since = self._sightings.ripe_since(fresh_and_ripe, time.time())
        if ripe is None:
            fresh = [w for w in self._waiting if w.name not in self._tried and len(w.photos) >= rule.min_photos]
            photos = f"{rule.min_photos} training photos"
            self._idle(f"waits: {len(fresh)} of {rule.min_categories} new categories have {photos}{self._refused}")
            return None
        if candidate_model(self._data) or candidate_generation(self._data):
            self._idle("waits for what it taught last to go live", ripe=len(ripe[0]))
            return None
        self._idle(f"begins a stage of {len(ripe[0])} new categories", ripe=len(ripe[0]))
        self._check_settings()
        try:
            return self._begin(live, *ripe)
        except InvalidField as error:  # items were deleted, or found to be damaged, since the last look
            self._seen = None
            self._idle(f"waits: {error}")
            return None

    def _look(self, live: str, *, at_once: bool = False) -> None:
        """Brings up to date what is known of the categories that wait; cheap when nothing has changed."""
        seen, began = (self._catalogue.last_seq, live), time.monotonic()
        same_model = self._seen is not None and self._seen[1] == live
        now = time.time()
        ahead = any(each.latest > now for each in self._waiting)  # seen while the clock was ahead
        if not ahead and (seen == self._seen or (same_model and not at_once and began < self._look_after)):
            return
        cohorts = load_lineage(self._data.model(live)).cohorts
        learned = {name for cohort in cohorts for name in cohort}
        self._waiting = self._sightings.dated(stages.waiting(self._catalogue, learned, self._damaged), now)
        self._cohorts = len(cohorts)
        self._tried = stages.tried_in_vain(self._data, learned)
        self._seen = seen
        ended = time.monotonic()
        self._look_after = ended + (ended - began) / _LOOK_SHARE

    def _check_settings(self) -> None:
        """What can only be known with torch, before anything is begun. Errors: InvalidField."""
        from trainer import teach

        teach.check(self._settings.recipe, self._settings.device)

    def _begin(self, live: str, chosen: Sequence[Waiting], reason: str, request: str = "") -> Training:
        """Errors: InvalidField when no stage is left of it; NotReady when the request was withdrawn; OSError."""
        self._refused = ""
        words = f"{stages.GATHERS} {len(chosen)} new categories"
        training = stages.begin(
            self._data,
            self._catalogue,
            chosen,
            stage=self._cohorts,
            base=live,
            reason=reason,
            request=request,
            damaged=self._damaged,
            tick=lambda done, total: self._idle(words, len(chosen), done, total),
        )
        log.info("training %d of stage %d begins: %s", training.number, training.stage, reason)
        return training

    def _teach(self, training: Training) -> None:
        """Teaches it, or what is left to be taught, and records what came of it."""
        from trainer import teach  # and torch with it

        settings = self._settings
        if (request := stages.requested_training(self._data)) and request.id == training.request:
            stages.withdraw(self._data, request)
        keep_freed_memory()
        place = teach.prepare(settings.device, settings.threads or os.cpu_count() or 1, settings.checkpoint_s)
        watcher = _Watcher(self._data, training, self._reporter, self._stopping)
        outcome = teach.teach(self._data, self._catalogue, training, settings.recipe, place, watcher)
        stages.end(self._data, training, outcome)
        log.info("training %d: %s: %s", training.number, outcome.state, outcome.reason)
        gc.collect()
        give_back_memory()
        self._seen = None

    def _idle(self, words: str, ripe: int = 0, done: int = 0, total: int = 0) -> None:
        since = (self._ripe_since or time.time()) if ripe else 0.0  # what an operator asked for need not be ripe
        self._reporter.say(Activity(words, done=done, total=total, ripe=ripe, ripe_since=since))


class _Watcher:
    """Says how far a training is, and ends it when someone wants that."""

    def __init__(self, data: DataDir, training: Training, reporter: Reporter, stopping: Stopping) -> None:
        self._data, self._training, self._reporter, self._stopping = data, training, reporter, stopping
        self._looked = -_LOOK_S

    def check(self) -> None:
        """Errors: Stopped, Cancelled."""
        self._stopping.check()
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            if stages.cancel_requested(self._data, self._training.number):
                raise Cancelled("an operator asked for it")
            if self._overtaken():
                raise Cancelled(stages.OVERTAKEN)

    def tell(
        self, phase: str, done: int, total: int, *, remaining_s: float = 0.0, losses: Mapping[str, float] | None = None
    ) -> None:
        """Errors: Stopped, Cancelled."""
        self.check()
        stage, count = self._training.stage, len(self._training.categories)
        words = f"{_WORDS[phase]} stage {stage}: {count} categories"
        loss = sum(losses.values()) if losses else None
        self._reporter.say(
            Activity(words, phase, stage, count, done, total, remaining_s, loss, losses=dict(losses or {}))
        )

    def _overtaken(self) -> bool:
        """Whether it can never go live. What cannot be read is told when the training ends."""
        with contextlib.suppress(Damaged, OSError):
            return live_model(self._data) != self._training.base
        return False

    def gently(self) -> contextlib.AbstractContextManager[None]:
        return self._stopping.gently()
