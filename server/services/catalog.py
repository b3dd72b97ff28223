"""The Catalog service."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing

from indexer.errors import InvalidField
from indexer.images import media_type
from indexer.validate import check_id, check_ids
from server import wire
from server.learning import Learning
from server.services.calls import Calls, Context, deadline_of
from server.services.ingest import IngestStream
from server.wire import pb, pb_grpc

_MAX_PAGE = 1000


class CatalogService(pb_grpc.CatalogServicer):
    """Writes and reads items."""

    def __init__(self, calls: Calls, learning: Learning, ingest_window: int) -> None:
        self._calls = calls
        self._learning = learning
        self._ingest_window = ingest_window

    async def Ingest(
        self, request_iterator: AsyncIterator[pb.IngestRequest], context: Context
    ) -> AsyncIterator[pb.IngestResponse]:
        self._calls.check_serving()
        async with aclosing(IngestStream(self._calls, self._ingest_window).run(request_iterator)) as acks:
            async for ack in acks:
                yield ack

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:
        self._calls.check_serving()
        item = wire.item_of(request.item, self._calls.limits)
        size = len(request.image)
        self._calls.writes.acquire_now(size)
        try:
            image = request.image if request.HasField("image") else None
            written = await self._calls.write(*item, image, deadline=deadline_of(context))
        finally:
            self._calls.writes.release(size)
        return wire.put_response(written)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        self._calls.check_serving()
        check_id(request.id, self._calls.limits)
        return pb.DeleteResponse(seq=(await self._calls.delete(request.id)).seq)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:
        check_id(request.id, self._calls.limits)
        item = await self._calls.read(self._calls.engine.catalogue.get, request.id)
        return pb.GetResponse(item=wire.stored_item(item))

    async def BatchGet(self, request: pb.BatchGetRequest, context: Context) -> pb.BatchGetResponse:
        check_ids(request.ids, self._calls.limits)
        found = await self._calls.read(self._calls.engine.catalogue.get_many, list(request.ids))
        return pb.BatchGetResponse(items=[wire.stored_item(found[id]) for id in request.ids if id in found])

    async def GetImage(self, request: pb.GetImageRequest, context: Context) -> pb.GetImageResponse:
        check_id(request.id, self._calls.limits)
        photo = await self._calls.read(self._calls.engine.catalogue.image, request.id)
        return pb.GetImageResponse(image=photo.data, media_type=media_type(photo.format), sha256=photo.sha256)

    async def ListCategories(self, request: pb.ListCategoriesRequest, context: Context) -> pb.ListCategoriesResponse:
        if request.page_size > _MAX_PAGE:
            raise InvalidField(
                "the page is too large", field="page_size", got=request.page_size, expected=f"at most {_MAX_PAGE}"
            )
        size = request.page_size or _MAX_PAGE
        catalogue = self._calls.engine.catalogue
        counts = await self._calls.read(catalogue.categories, size + 1, _decode_token(request.page_token))
        total = (await self._calls.read(catalogue.totals)).categories
        cohort_of, training = await self._calls.read(self._learned)
        page = counts[:size]
        return pb.ListCategoriesResponse(
            categories=[
                wire.category_message(count, cohort_of.get(count.name), training=count.name in training)
                for count in page
            ],
            next_page_token=_encode_token(page[-1].name) if len(counts) > size else "",
            total=total,
        )

    def _learned(self) -> tuple[Mapping[str, int], Collection[str]]:
        """What the live model has learned, by the stage that taught it; and what is being trained."""
        running = self._learning.running()
        cohort_of = self._learning.cohort_of(self._calls.engine.live.current.generation.model.id)
        return cohort_of, frozenset(running.categories) if running is not None else frozenset()


def _encode_token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _decode_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:  # no base64, or not of UTF-8
        raise InvalidField(
            "the page token is not one of this server's", field="page_token", got=token, expected="a next_page_token"
        ) from error
