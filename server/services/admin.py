"""The Admin service."""

from __future__ import annotations

from collections.abc import AsyncIterator

from indexer.errors import Unsupported
from server.services.calls import Calls, Context
from server.state import ServerState
from server.wire import pb, pb_grpc


class AdminService(pb_grpc.AdminServicer):
    """For operators. What this server cannot do is refused by name, never silently ignored."""

    def __init__(self, calls: Calls, state: ServerState) -> None:
        self._calls = calls
        self._state = state

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        return await self._calls.read(self._state.status)

    async def ListGenerations(self, request: pb.ListGenerationsRequest, context: Context) -> pb.ListGenerationsResponse:
        return pb.ListGenerationsResponse(generations=await self._calls.read(self._state.generations))

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        raise _unsupported("WatchStatus")
        yield  # makes this the asynchronous generator that the method must be

    async def Promote(self, request: pb.PromoteRequest, context: Context) -> pb.PromoteResponse:
        raise _unsupported("Promote")

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:
        raise _unsupported("Rollback")

    async def StartTraining(self, request: pb.StartTrainingRequest, context: Context) -> pb.StartTrainingResponse:
        raise _unsupported("StartTraining")

    async def CancelTraining(self, request: pb.CancelTrainingRequest, context: Context) -> pb.CancelTrainingResponse:
        raise _unsupported("CancelTraining")

    async def Backup(self, request: pb.BackupRequest, context: Context) -> pb.BackupResponse:
        raise _unsupported("Backup")


def _unsupported(rpc: str) -> Unsupported:
    return Unsupported(f"this server does not have Admin.{rpc}", got=f"Admin.{rpc}", expected="Status, ListGenerations")
