"""grpc.health.v1, with watches that end when the server stops."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2

_LAST_WORD_S = 0.1  # for a watch to send the status that it was just told of


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The stock servicer. Its watches never end by themselves, so that one of them would make every stop take all of
    the time that calls under way are given."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = asyncio.Event()

    async def Watch(  # noqa: N802  # gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: aio.ServicerContext[Any, Any]
    ) -> None:
        watch = asyncio.create_task(super().Watch(request, context))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({watch, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watch}, timeout=_LAST_WORD_S)
        finally:
            watch.cancel()
            stopping.cancel()

    async def stop(self) -> None:
        """Says NOT_SERVING for good, and ends the watches."""
        await self.enter_graceful_shutdown()
        self._stopping.set()
