"""Between the client's values and the protocol's messages: pure functions, shared by the sync and the asyncio client.

The only module of the client that touches the stubs. Each function that makes a `Call` checks what only the client can
know (a lone surrogate, an integer that a double cannot hold); all other rules are the server's.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from clients.errors import EverlookClientError, InvalidRequest, ServerFault, error_class
from clients.images import image_bytes
from clients.mirror import enum_member, mirror
from clients.status import Event, Generation, Status
from clients.types import (
    Acknowledgement,
    AnyOf,
    Category,
    CategoryState,
    Embedding,
    Filter,
    GenerationRef,
    Hit,
    ImageLike,
    Item,
    MetadataValue,
    Outcome,
    Query,
    Range,
    SearchResult,
    StoredImage,
    StoredItem,
    Timing,
)
from everlook.v1 import everlook_pb2 as pb

T = TypeVar("T")

TEACHING_PATIENCE_S = 150.0  # a trainer that gives way on a busy machine takes its time to begin, and to stop
SWAP_PATIENCE_S = 600.0  # a generation that is made live has first to catch up with what came since


@dataclass(frozen=True)
class Call(Generic[T]):
    """One unary call, ready to send: its path, message, and how the response's bytes become the answer.

    when_gone: the answer when a repeated attempt ends in NOT_FOUND, because then an earlier one did the work; None when
    NOT_FOUND is an error like any other. once: it is not safe to repeat. patience_s: its deadline at the least, unless
    the caller sets one.
    """

    path: str
    message: Message
    parse: Callable[[bytes], T]
    when_gone: Callable[[], T] | None = None
    once: bool = False
    patience_s: float = 0.0

    @property
    def request(self) -> bytes:
        return self.message.SerializeToString()

    def answer(self, response: bytes) -> T:
        """Errors: ServerFault when the response is not the message that the call expects."""
        try:
            return self.parse(response)
        except DecodeError as error:
            raise ServerFault(f"the answer to {self.path} cannot be read: {error}") from error


# ---------------------------------------------------------------------------------------------------- calls


def search(query: Query) -> Call[SearchResult]:
    """Errors: InvalidRequest."""
    message = _search_request(query)
    return Call(_path("Search", "Search"), message, lambda data: _search_result(pb.SearchResponse.FromString(data)))


def search_batch(queries: Sequence[Query]) -> Call[list[SearchResult | EverlookClientError]]:
    """Errors: InvalidRequest, for the whole batch when one query cannot be sent at all."""
    message = pb.BatchSearchRequest(requests=[_search_request(query) for query in queries])
    return Call(_path("Search", "BatchSearch"), message, _batch_results)


def embed(image: ImageLike) -> Call[Embedding]:
    """Errors: InvalidRequest."""
    message = pb.EmbedRequest(image=image_bytes(image))
    return Call(_path("Search", "Embed"), message, lambda data: _embedding(pb.EmbedResponse.FromString(data).vector))


def put(item: Item, image: ImageLike | None) -> Call[Acknowledgement]:
    """Errors: InvalidRequest."""
    message = pb.PutRequest(item=_item(item), image=None if image is None else image_bytes(image))
    return Call(_path("Catalog", "Put"), message, lambda data: _acknowledged(item.id, pb.PutResponse.FromString(data)))


def delete(item_id: str) -> Call[int | None]:
    """Errors: InvalidRequest."""
    with _refusing("id", item_id):
        message = pb.DeleteRequest(id=item_id)
    path = _path("Catalog", "Delete")
    return Call(path, message, lambda data: pb.DeleteResponse.FromString(data).seq, lambda: None)


def get(item_id: str) -> Call[StoredItem]:
    """Errors: InvalidRequest."""
    with _refusing("id", item_id):
        message = pb.GetRequest(id=item_id)
    return Call(_path("Catalog", "Get"), message, lambda data: _stored_item(pb.GetResponse.FromString(data).item))


def get_many(ids: Iterable[str]) -> Iterator[Call[list[StoredItem]]]:
    """One call for each 100 ids, which is below what any server refuses. Errors: InvalidRequest."""
    ids = iter(ids)
    while some := list(itertools.islice(ids, 100)):
        with _refusing("ids", some):
            message = pb.BatchGetRequest(ids=some)
        yield Call(_path("Catalog", "BatchGet"), message, _stored_items)


def get_image(item_id: str) -> Call[StoredImage]:
    """Errors: InvalidRequest."""
    with _refusing("id", item_id):
        message = pb.GetImageRequest(id=item_id)
    return Call(_path("Catalog", "GetImage"), message, _stored_image)


def categories_page(page_token: str) -> Call[tuple[list[Category], str | None]]:
    """One page of categories from the token on ("" is the first), and the token of the next; None after the last."""
    message = pb.ListCategoriesRequest(page_token=page_token)
    return Call(_path("Catalog", "ListCategories"), message, _categories)


def status() -> Call[Status]:
    """What the server is doing now."""
    return Call(
        _path("Admin", "Status"), pb.StatusRequest(), lambda data: mirror(Status, pb.StatusResponse.FromString(data))
    )


def generations() -> Call[list[Generation]]:
    """The generations that are kept, and models that were rejected before they had one, newest first."""
    return Call(_path("Admin", "ListGenerations"), pb.ListGenerationsRequest(), _generations)


def promote(number: int) -> Call[Generation]:
    """Errors: InvalidRequest."""
    with _refusing("number", number):
        message = pb.PromoteRequest(number=number)
    return Call(
        _path("Admin", "Promote"),
        message,
        lambda data: mirror(Generation, pb.PromoteResponse.FromString(data).generation),
        once=True,
        patience_s=SWAP_PATIENCE_S,
    )


def rollback(number: int) -> Call[Generation]:
    """Errors: InvalidRequest."""
    with _refusing("number", number):
        message = pb.RollbackRequest(number=number)
    return Call(
        _path("Admin", "Rollback"),
        message,
        lambda data: mirror(Generation, pb.RollbackResponse.FromString(data).generation),
        once=True,
        patience_s=SWAP_PATIENCE_S,
    )


def start_training(categories: Iterable[str]) -> Call[int]:
    """Errors: InvalidRequest."""
    chosen = _texts("categories", categories)
    with _refusing("categories", chosen):
        message = pb.StartTrainingRequest(categories=chosen)
    path = _path("Admin", "StartTraining")
    return Call(
        path,
        message,
        lambda data: pb.StartTrainingResponse.FromString(data).stage,
        once=True,
        patience_s=TEACHING_PATIENCE_S,
    )


def cancel_training() -> Call[int]:
    """The stage whose training was stopped."""
    path = _path("Admin", "CancelTraining")
    message = pb.CancelTrainingRequest()
    return Call(
        path,
        message,
        lambda data: pb.CancelTrainingResponse.FromString(data).stage,
        once=True,
        patience_s=TEACHING_PATIENCE_S,
    )


# ---------------------------------------------------------------------------------------------------- watch

WATCH_PATH = "/everlook.v1.Admin/WatchStatus"
WATCH_REQUEST = pb.WatchStatusRequest().SerializeToString()


def event(data: bytes) -> Event:
    """One message of a watch. Errors: ServerFault when it cannot be read."""
    try:
        return mirror(Event, pb.WatchStatusResponse.FromString(data))
    except DecodeError as error:
        raise ServerFault(f"a status cannot be read: {error}") from error


# ---------------------------------------------------------------------------------------------------- ingest

INGEST_PATH = "/everlook.v1.Catalog/Ingest"


def ingest_request(item: Item, image: ImageLike) -> bytes:
    """One item of an ingest stream, as it is sent. Errors: InvalidRequest."""
    return pb.IngestRequest(item=_item(item), image=image_bytes(image)).SerializeToString()


def acknowledgement(data: bytes) -> Acknowledgement:
    """The server's word on one item of an ingest stream. Errors: ServerFault when it cannot be read."""
    try:
        response = pb.IngestResponse.FromString(data)
    except DecodeError as error:
        raise ServerFault(f"an acknowledgement cannot be read: {error}") from error
    if response.WhichOneof("result") == "error":
        return Acknowledgement(response.id, error=_error(response.error))
    return _acknowledged(response.id, response.acknowledged)


# ---------------------------------------------------------------------------------------------------- requests


def _path(service: str, method: str) -> str:
    return f"/everlook.v1.{service}/{method}"


@contextlib.contextmanager
def _refusing(field: str, got: object) -> Iterator[None]:
    """Turns what protobuf says of a value that a message cannot hold into InvalidRequest."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:  # ValueError: text with a lone surrogate, too
        raise InvalidRequest(
            f"{field} cannot be sent: {error}", reason="INVALID_FIELD", field=field, got=ascii(got)[:200]
        ) from error


def _search_request(query: Query) -> pb.SearchRequest:
    given = [name for name in ("image", "vector", "item_id") if getattr(query, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            "a search needs exactly one query",
            reason="INVALID_FIELD",
            field="query",
            got=" and ".join(given) or "none",
            expected="one of image, vector and item_id",
        )
    message = pb.SearchRequest(exact=query.exact, include_metadata=query.include_metadata)
    if query.image is not None:
        message.image = image_bytes(query.image)
    elif query.vector is not None:
        with _refusing("vector", query.vector.values):
            values = np.asarray(query.vector.values, np.float32).tolist()
            message.vector.CopyFrom(pb.Vector(values=values, model=query.vector.model))
    with _refusing("query", (query.item_id, query.k, query.min_score)):
        if query.item_id is not None:
            message.item_id = query.item_id
        if query.k is not None:
            message.k = query.k
        if query.min_score is not None:
            message.min_score = query.min_score
    if query.filter is not None:
        message.filter.CopyFrom(_filter(query.filter))
    return message


def _texts(field: str, values: Iterable[str]) -> list[str]:
    if isinstance(values, str):  # which is iterable, too
        raise InvalidRequest(f"{field} is one text", field=field, got=values, expected="a list of texts")
    return list(values)


def _filter(filter_: Filter) -> pb.Filter:
    for name in ("categories", "exclude_categories"):
        _texts(f"filter.{name}", getattr(filter_, name))
    with _refusing("filter", filter_):
        return pb.Filter(
            categories=filter_.categories,
            exclude_categories=filter_.exclude_categories,
            metadata=[_condition(key, wanted) for key, wanted in filter_.where.items()],
        )


def _condition(key: str, wanted: MetadataValue | AnyOf | Range) -> pb.MetadataCondition:
    if isinstance(wanted, Range):
        return pb.MetadataCondition(key=key, range=pb.NumberRange(min=wanted.min, max=wanted.max))
    values = wanted.values if isinstance(wanted, AnyOf) else (wanted,)
    field = f"filter.where[{key!r}]"
    return pb.MetadataCondition(key=key, any_of=pb.MetadataValues(values=[_value(field, v) for v in values]))


def _item(item: Item) -> pb.Item:
    with _refusing("item", item):
        metadata = {key: _value(f"item.metadata[{key!r}]", value) for key, value in item.metadata.items()}
        return pb.Item(id=item.id, category=item.category, metadata=metadata)


def _value(field: str, value: object) -> pb.MetadataValue:
    if isinstance(value, str):
        return pb.MetadataValue(string=value)
    if isinstance(value, bool | np.bool_):
        return pb.MetadataValue(bool=bool(value))
    if isinstance(value, numbers.Real) and (not isinstance(value, numbers.Integral) or float(value) == int(value)):
        return pb.MetadataValue(number=float(value))
    raise InvalidRequest(
        f"{field} cannot be sent exactly",
        reason="INVALID_FIELD",
        field=field,
        got=ascii(value)[:200],
        expected="text, a number that a double holds exactly, or a truth value",
    )


# ---------------------------------------------------------------------------------------------------- responses


def _search_result(response: pb.SearchResponse) -> SearchResult:
    timing = response.timing
    return SearchResult(
        hits=tuple(Hit(hit.id, hit.score, hit.category, hit.seq, _metadata(hit.metadata)) for hit in response.hits),
        generation=_generation(response.generation),
        timing=Timing(timing.queue_s, timing.decode_s, timing.encode_s, timing.search_s),
    )


def _batch_results(data: bytes) -> list[SearchResult | EverlookClientError]:
    return [
        _error(result.error) if result.WhichOneof("result") == "error" else _search_result(result.response)
        for result in pb.BatchSearchResponse.FromString(data).results
    ]


def _error(error: pb.Error) -> EverlookClientError:
    known = pb.ErrorReason.DESCRIPTOR.values_by_number.get(error.reason)
    reason = known.name.removeprefix("ERROR_REASON_") if known is not None and error.reason else ""
    return error_class(error.code, reason)(
        error.message,
        reason=reason,
        field=error.field,
        got=error.got,
        expected=error.expected,
        retry_after_s=error.retry_after_s if error.HasField("retry_after_s") else None,
    )


def _acknowledged(item_id: str, response: pb.PutResponse) -> Acknowledgement:
    outcome = enum_member(Outcome, pb.PutOutcome.DESCRIPTOR, response.outcome)
    return Acknowledgement(item_id, response.seq, outcome, _generation(response.generation))


def _generation(message: pb.GenerationRef) -> GenerationRef:
    return GenerationRef(message.number, message.model)


def _embedding(vector: pb.Vector) -> Embedding:
    return Embedding(np.array(vector.values, np.float32), vector.model)


def _stored_item(message: pb.StoredItem) -> StoredItem:
    return StoredItem(
        id=message.item.id,
        category=message.item.category,
        metadata=_metadata(message.item.metadata),
        seq=message.seq,
        updated_at=message.updated_at.ToDatetime(datetime.UTC),
        image_sha256=message.image_sha256,
        image_bytes=message.image_bytes,
        width=message.width,
        height=message.height,
        format=message.format,
    )


def _stored_items(data: bytes) -> list[StoredItem]:
    return [_stored_item(item) for item in pb.BatchGetResponse.FromString(data).items]


def _stored_image(data: bytes) -> StoredImage:
    response = pb.GetImageResponse.FromString(data)
    return StoredImage(response.image, response.media_type, response.sha256)


def _categories(data: bytes) -> tuple[list[Category], str | None]:
    response = pb.ListCategoriesResponse.FromString(data)
    page = [
        Category(
            name=message.name,
            items=message.items,
            state=enum_member(CategoryState, pb.CategoryState.DESCRIPTOR, message.state),
            cohort=message.cohort if message.HasField("cohort") else None,
        )
        for message in response.categories
    ]
    return page, response.next_page_token or None


def _generations(data: bytes) -> list[Generation]:
    return [mirror(Generation, message) for message in pb.ListGenerationsResponse.FromString(data).generations]


def _metadata(metadata: Mapping[str, pb.MetadataValue]) -> dict[str, MetadataValue]:
    kinds = {key: value.WhichOneof("kind") for key, value in metadata.items()}
    return {key: getattr(metadata[key], kind) for key, kind in sorted(kinds.items()) if kind is not None}
