"""StartTraining and CancelTraining: requests that are left for the trainer, which runs by itself, and its answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from indexer import stages
from indexer.engine import Engine
from indexer.errors import NotReady, NotServing
from indexer.stages import Outcome, Request, Training
from server.learning import Learning
from server.progress import Progress

_LOOK_EVERY_S = 0.2

Read = Callable[..., Awaitable[Any]]
"""Runs a function that blocks, with its arguments, off the event loop."""


class Teaching:
    """Asks the trainer, and waits until the disk shows that it has done so. For one event loop."""

    def __init__(self, engine: Engine, learning: Learning, progress: Progress, read: Read) -> None:
        self._engine = engine
        self._learning = learning
        self._progress = progress
        self._read = read
        self._one = asyncio.Lock()

    async def start(self, categories: Sequence[str], patience_s: float, most_s: float) -> int:
        """Has the trainer train these categories, or all that wait, and returns the stage when that has begun.

        Errors, with no training begun: InvalidField for categories that are no stage; NotReady when something is being
        learned already or no trainer runs; NotServing when the trainer has not begun within `patience_s` seconds and
        does not gather photos then, or not within `most_s`. Ends without a training, too, when the caller is cancelled.
        """
        async with self._one:
            asking = asyncio.ensure_future(self._read(self._request, tuple(categories)))
            stage: int | None = None
            try:
                request: Request = await asyncio.shield(asking)
                async with asyncio.timeout(most_s):
                    stage = await self._until_begun(request, patience_s)
            except TimeoutError:
                pass
            finally:
                await asyncio.wait({asking})  # also when the caller is cancelled while the request is being left
                if asking.exception() is None:
                    await self._read(stages.withdraw, self._engine.data, asking.result())
            if stage is None:
                await asyncio.sleep(_LOOK_EVERY_S)  # for a trainer that saw the request stand a moment ago
                stage = await self._read(self._begun, request)
            if stage is None:
                raise NotServing("the trainer did not begin in time, and is not asked any more", retry_after_s=5.0)
            return stage

    async def _until_begun(self, request: Request, patience_s: float) -> int | None:
        """The stage, once the trainer has begun it; None when it has not within its time and gathers no photos."""
        asked = time.monotonic()
        while True:
            stage: int | None = await self._read(self._begun, request)
            if stage is not None:
                return stage
            if time.monotonic() - asked >= patience_s and not await self._read(self._gathers):
                return None
            await asyncio.sleep(_LOOK_EVERY_S)

    async def cancel(self, patience_s: float) -> int:
        """Has the training that is under way stopped, and returns its stage when it has.

        Errors: NotReady when none is under way, or when it was over before it could be stopped; NotServing when no
        trainer runs, or it has not stopped within `patience_s` seconds. The request waits then, for the trainer to heed
        it: one that this training kills each time finds it at its next start.
        """
        found: tuple[Training, bool] = await self._read(self._to_cancel)
        training, runs = found
        if not runs:
            raise NotServing(f"no trainer runs; the training of stage {training.stage} is stopped when one starts")
        try:
            async with asyncio.timeout(patience_s):
                outcome: Outcome = await self._until(self._outcome, training.number)
        except TimeoutError:
            raise NotServing(
                f"the training of stage {training.stage} did not stop within {patience_s:.0f} s; it is still asked to",
                retry_after_s=5.0,
            ) from None
        if outcome.state != "cancelled":
            raise NotReady(
                f"the training of stage {training.stage} was over before it could be stopped: {outcome.state}",
                got=outcome.state,
            )
        return training.stage

    async def _until(self, shown: Callable[[Any], Any], about: Any) -> Any:
        """What `shown(about)` returns, once that is not None."""
        while True:
            found = await self._read(shown, about)
            if found is not None:
                return found
            await asyncio.sleep(_LOOK_EVERY_S)

    def _request(self, categories: tuple[str, ...]) -> Request:
        under_way = self._progress.training()
        if under_way is not None:
            raise NotReady(f"stage {under_way.stage} is being learned ({under_way.phase})", got=under_way.phase)
        if not self._progress.runs("trainer"):
            raise NotReady("no trainer runs", expected="a trainer, which this server or another machine runs")
        learned = self._learning.cohort_of(self._engine.live.current.generation.model.id)
        waiting = stages.waiting(self._engine.catalogue, learned)
        stages.requested(waiting, Request("", categories))
        return stages.request_training(self._engine.data, categories)

    def _begun(self, request: Request) -> int | None:
        for record in reversed(self._learning.records()):
            if record.training.request == request.id:
                return record.training.stage
        return None

    def _gathers(self) -> bool:
        news = self._progress.news("trainer")
        return news is not None and news.words.startswith(stages.GATHERS)

    def _to_cancel(self) -> tuple[Training, bool]:
        """The training, and whether a trainer runs."""
        training = self._learning.running()
        if training is None:
            raise NotReady("no training is under way")
        stages.request_cancel(self._engine.data, training.number)
        return training, self._progress.runs("trainer")

    def _outcome(self, number: int) -> Outcome | None:
        return next(record.outcome for record in self._learning.records() if record.training.number == number)
