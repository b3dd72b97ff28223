"""The Search service."""

from __future__ import annotations

import asyncio

from indexer.errors import InvalidField
from server import wire
from server.jobs import ImageQuery
from server.observed import part_failed
from server.services.calls import Calls, Context
from server.wire import pb, pb_grpc


class SearchService(pb_grpc.SearchServicer):
    """Finds items by how they look."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        query = wire.query_of(request, self._calls.limits)
        params = wire.search_params(request, self._calls.limits)
        answer = await self._calls.ask(query, params, context)
        return wire.search_response(answer, include_metadata=request.include_metadata)

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> pb.BatchSearchResponse:
        most = self._calls.limits.max_batch
        if not 1 <= len(request.requests) <= most:
            raise InvalidField(
                "a batch has the wrong number of queries",
                field="requests",
                got=len(request.requests),
                expected=f"1 to {most}",
            )
        results = await asyncio.gather(*(self._one(each, context) for each in request.requests))
        return pb.BatchSearchResponse(results=results)

    async def _one(self, request: pb.SearchRequest, context: Context) -> pb.SearchResult:
        rpc, metrics = "Search/BatchSearch", self._calls.metrics
        try:
            result = pb.SearchResult(response=await self.Search(request, context))
        except Exception as error:  # one query of a batch fails by itself
            return pb.SearchResult(error=wire.error(part_failed(rpc, error, metrics)))
        metrics.parts.labels(rpc=rpc, code="OK").inc()
        return result

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        return wire.embed_response(await self._calls.ask(ImageQuery(request.image), None, context))
