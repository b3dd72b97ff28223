"""The Admin service."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from indexer.errors import InvalidField, NotServing, Unsupported
from server.events import Look, happened, went_on
from server.services import recall
from server.services.calls import Calls, Context
from server.state import ServerState
from server.swapper import Swapper
from server.teaching import Teaching
from server.watching.probes import ProbeWatch
from server.wire import pb, pb_grpc

T = TypeVar("T")

_LOOK_EVERY_S = 0.5
_PROGRESS_EVERY_S = 1.0
_BEGIN_WITHIN_S = 120.0  # it looks every few seconds, and on a busy machine torch takes its time to load
_STOP_WITHIN_S = 120.0  # it looks every second, but not while it writes a model out
_TO_ANSWER_S = 0.5  # before the caller's deadline, so that it is told why


class AdminService(pb_grpc.AdminServicer):
    """For operators. What this server cannot do is refused by name, never silently ignored."""

    def __init__(
        self, calls: Calls, state: ServerState, swapper: Swapper, teaching: Teaching, probes: ProbeWatch
    ) -> None:
        self._calls = calls
        self._probes = probes
        self._state = state
        self._swapper = swapper
        self._teaching = teaching
        self._looking: asyncio.Future[Look] | None = None
        self._looked_at = 0.0

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return await self._calls.read(self._state.status)

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        before = await self._look()
        yield pb.WatchStatusResponse(status=before.status)
        sent, sent_at = before.status, time.monotonic()
        while await self._goes_on(_LOOK_EVERY_S):
            after = await self._look()
            events = happened(before, after)
            if not events and went_on(sent, after.status) and time.monotonic() - sent_at >= _PROGRESS_EVERY_S:
                events = [""]
            for event in events:
                yield pb.WatchStatusResponse(status=after.status, event=event)
                sent, sent_at = after.status, time.monotonic()
            before = after
        raise _stopping()

    async def ListGenerations(self, request: pb.ListGenerationsRequest, context: Context) -> pb.ListGenerationsResponse:
        return pb.ListGenerationsResponse(generations=await self._calls.read(self._state.generations))

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:
        if not request.number:
            raise InvalidField("a generation is missing", field="number", got=0, expected="its number")
        await self._while_serving(self._swapper.promote, request.number)
        return pb.PromoteResponse(generation=await self._calls.read(self._state.live))

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        await self._while_serving(self._swapper.rollback, request.number)
        return pb.RollbackResponse(generation=await self._calls.read(self._state.live))

    async def StartTraining(self, request: pb.StartTrainingRequest, context: Context) -> pb.StartTrainingResponse:
        names, most_s = list(request.categories), _time_left(context)
        stage = await self._while_serving(self._teaching.start, names, _BEGIN_WITHIN_S, most_s)
        return pb.StartTrainingResponse(stage=stage)

    async def CancelTraining(self, request: pb.CancelTrainingRequest, context: Context) -> pb.CancelTrainingResponse:
        patience_s = min(_STOP_WITHIN_S, _time_left(context))
        return pb.CancelTrainingResponse(stage=await self._while_serving(self._teaching.cancel, patience_s))

    async def GetRecallHistory(
        self, request: pb.GetRecallHistoryRequest, context: Context
    ) -> pb.GetRecallHistoryResponse:
        return await self._calls.read(recall.recall_history, self._calls.engine.history, request)

    async def ListConfusions(self, request: pb.ListConfusionsRequest, context: Context) -> pb.ListConfusionsResponse:
        return await self._calls.read(recall.confusions, self._calls.engine, self._probes, request)

    async def Backup(self, request: pb.BackupRequest, context: Context) -> pb.BackupResponse:
        raise Unsupported("this server does not have Admin.Backup", got="Admin.Backup", expected="any other of Admin")

    async def _look(self) -> Look:
        """What is to be seen, read at most twice a second for all who watch."""
        if self._looking is None or (self._looking.done() and time.monotonic() - self._looked_at >= _LOOK_EVERY_S):
            self._looked_at = time.monotonic()
            self._looking = asyncio.ensure_future(self._calls.read(self._state.look))
        return await asyncio.shield(self._looking)

    async def _goes_on(self, seconds: float) -> bool:
        """Waits for so long. False as soon as the server stops."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._calls.stopping.wait(), seconds)
        return not self._calls.stopping.is_set()

    async def _while_serving(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Errors: those of `work`; NotServing when the server stops first."""
        self._calls.check_serving()
        task, stopping = asyncio.create_task(work(*args)), asyncio.create_task(self._calls.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise _stopping()
            return task.result()
        finally:
            stopping.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _time_left(context: Context) -> float:
    """The seconds that the caller waits for an answer; infinite where it has set no deadline."""
    remaining = context.time_remaining()
    return math.inf if remaining is None else max(0.0, remaining - _TO_ANSWER_S)


def _stopping() -> NotServing:
    return NotServing("the server is stopping", retry_after_s=1.0)
