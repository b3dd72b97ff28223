"""The calls of the service Catalog, and the messages of an ingest stream."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from clients.errors import ServerFault
from clients.images import image_bytes
from clients.mirror import enum_member
from clients.types import (
    Acknowledgement,
    Category,
    CategoryState,
    ImageLike,
    Item,
    Outcome,
    StoredImage,
    StoredItem,
)
from clients.wire.call import Call, in_band_error, method_path, refusing
from clients.wire.values import generation_ref, metadata_of, metadata_value
from everlook.v1 import everlook_pb2 as pb

INGEST_PATH = "/everlook.v1.Catalog/Ingest"


def put(item: Item, image: ImageLike | None) -> Call[Acknowledgement]:
    """Errors: InvalidRequest."""
    message = pb.PutRequest(item=_item(item), image=None if image is None else image_bytes(image))
    return Call(
        method_path("Catalog", "Put"), message, lambda data: _acknowledged(item.id, pb.PutResponse.FromString(data))
    )


def delete(item_id: str) -> Call[int | None]:
    """Errors: InvalidRequest."""
    with refusing("id", item_id):
        message = pb.DeleteRequest(id=item_id)
    path = method_path("Catalog", "Delete")
    return Call(path, message, lambda data: pb.DeleteResponse.FromString(data).seq, lambda: None)


def get(item_id: str) -> Call[StoredItem]:
    """Errors: InvalidRequest."""
    with refusing("id", item_id):
        message = pb.GetRequest(id=item_id)
    return Call(method_path("Catalog", "Get"), message, lambda data: _stored_item(pb.GetResponse.FromString(data).item))


def get_many(ids: Iterable[str]) -> Iterator[Call[list[StoredItem]]]:
    """One call for each 100 ids, which is below what any server refuses. Errors: InvalidRequest."""
    ids = iter(ids)
    while some := list(itertools.islice(ids, 100)):
        with refusing("ids", some):
            message = pb.BatchGetRequest(ids=some)
        yield Call(method_path("Catalog", "BatchGet"), message, _stored_items)


def get_image(item_id: str) -> Call[StoredImage]:
    """Errors: InvalidRequest."""
    with refusing("id", item_id):
        message = pb.GetImageRequest(id=item_id)
    return Call(method_path("Catalog", "GetImage"), message, _stored_image)


def categories_page(page_token: str) -> Call[tuple[list[Category], str | None]]:
    """One page of categories from the token on ("" is the first), and the token of the next; None after the last."""
    message = pb.ListCategoriesRequest(page_token=page_token)
    return Call(method_path("Catalog", "ListCategories"), message, _categories)


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
        return Acknowledgement(response.id, error=in_band_error(response.error))
    return _acknowledged(response.id, response.acknowledged)


def _item(item: Item) -> pb.Item:
    with refusing("item", item):
        metadata = {key: metadata_value(f"item.metadata[{key!r}]", value) for key, value in item.metadata.items()}
        return pb.Item(id=item.id, category=item.category, metadata=metadata)


def _acknowledged(item_id: str, response: pb.PutResponse) -> Acknowledgement:
    outcome = enum_member(Outcome, pb.PutOutcome.DESCRIPTOR, response.outcome)
    return Acknowledgement(item_id, response.seq, outcome, generation_ref(response.generation))


def _stored_item(message: pb.StoredItem) -> StoredItem:
    return StoredItem(
        id=message.item.id,
        category=message.item.category,
        metadata=metadata_of(message.item.metadata),
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
