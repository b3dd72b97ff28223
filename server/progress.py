"""What the three programs are doing, and what is being learned: put together from what each says of itself."""

from __future__ import annotations

import contextlib
import os
import time

from indexer.datadir import DataDir
from indexer.errors import Damaged
from indexer.generation import candidate_generation, candidate_model, load_info
from indexer.programs import Activity, read_activity
from server.learning import Learning
from server.remembered import Remembered
from server.supervisor import PROGRAMS, Supervisor
from server.swapper import Swapper
from server.wire import pb

_FRESH_S = 30.0  # after which a program that somebody else runs, and that gave no sign of life since, counts as dead


class Progress:
    """Reads the disk, the supervisor and the swapper. Every thread may call its methods, which block on the disk."""

    def __init__(self, data: DataDir, learning: Learning, swapper: Swapper, supervisor: Supervisor) -> None:
        self._data = data
        self._learning = learning
        self._swapper = swapper
        self._supervisor = supervisor
        places = (data.models, data.generations, data.verdicts, data.live)
        self._candidate_model = Remembered(lambda: candidate_model(data), places)
        self._candidate_generation = Remembered(lambda: candidate_generation(data), places)

    def runs(self, name: str) -> bool:
        """Whether a program runs: as the server's child, or somewhere, on another machine too, by its signs of
        life: it may have nothing new to say for minutes."""
        child = self._supervisor.children.get(name)
        return self.news(name) is not None if child is None else child.pid != 0

    def programs(self) -> list[pb.Program]:
        """The three programs."""
        server = pb.Program(name="server", pid=os.getpid(), activity=self._serving())
        return [server, *(self._program(name) for name in PROGRAMS)]

    def training(self) -> pb.TrainingStatus | None:
        """What is being learned, from the first step of training until the generation is live; None while nothing is.

        The disk says what, and a program's own news how far it is.
        """
        if (swap := self._swapper.current) is not None:
            with contextlib.suppress(Damaged):
                status = self._stage_of(load_info(self._data, swap.number).model, "swap")
                if status is not None:
                    status.done, status.total = swap.done, swap.total
                return status
        if (running := self._learning.running()) is not None:
            status = pb.TrainingStatus(stage=running.stage, categories=len(running.categories), phase="training")
            return self._with_news(status, "trainer")
        with contextlib.suppress(Damaged):
            if (model := self._candidate_model()) is not None:
                status = self._stage_of(model.id, "backfill")
                return None if status is None else self._with_news(status, "indexer")
            if not self._swapper.hold and (info := self._candidate_generation()) is not None:
                return self._stage_of(info.model, "swap")
        return None

    def candidate(self) -> tuple[str, bool] | None:
        """The id of the model that is to go live, and whether it still needs a generation; None when there is none.

        Errors: Damaged.
        """
        if (model := self._candidate_model()) is not None:
            return model.id, True
        info = self._candidate_generation()
        return None if info is None else (info.model, False)

    def _stage_of(self, model: str, phase: str) -> pb.TrainingStatus | None:
        """The newest stage that a model has learned; None for model 0."""
        cohorts = self._learning.lineage(model).cohorts
        if not cohorts:
            return None
        return pb.TrainingStatus(stage=len(cohorts) - 1, categories=len(cohorts[-1]), phase=phase)

    def _with_news(self, status: pb.TrainingStatus, program: str) -> pb.TrainingStatus:
        news = self.news(program)
        if news is not None and news.phase and news.stage == status.stage:
            status.phase, status.done, status.total = news.phase, news.done, news.total
            status.remaining_s = news.remaining_s
            if news.loss is not None:
                status.loss = news.loss
        return status

    def news(self, name: str) -> Activity | None:
        """What a program that runs has said last."""
        activity = read_activity(self._data, name)
        if activity is None:
            return None
        child = self._supervisor.children.get(name)
        if child is not None:
            return activity if activity.pid == child.pid else None
        return activity if time.time() - max(activity.at, activity.alive_at) < _FRESH_S else None

    def _serving(self) -> str:
        swap, failure = self._swapper.current, self._swapper.failure
        if swap is not None:
            share = f", {swap.done} of {swap.total}" if swap.total > 1 else ""
            return f"serving; making generation {swap.number} live: {swap.phase}{share}"
        if failure is not None:
            wait_s = max(0.0, failure.again_at - time.monotonic())
            return f"serving; generation {failure.number} is not live yet, again in {wait_s:.0f} s: {failure.reason}"
        return "serving"

    def _program(self, name: str) -> pb.Program:
        child, news = self._supervisor.children.get(name), self.news(name)
        if child is None:
            return pb.Program(
                name=name,
                pid=0 if news is None else news.pid,
                activity="is not run by this server" if news is None else news.words,
            )
        if child.pid:
            activity = "starting" if news is None else news.words
        else:
            wait_s = max(0.0, child.again_at - time.monotonic())
            activity = f"{child.last}; is started again in {wait_s:.0f} s" if child.last else "starting"
        return pb.Program(name=name, pid=child.pid, activity=activity, restarts=child.restarts)
