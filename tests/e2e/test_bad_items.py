"""Promise 10 over the wire, items and ids: a typed error says what was got and expected, and nothing changes.

Each refusal is seen as any app sees it, by code and details, and as the Python client's typed error.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

import clients
from clients import Client, Item
from everlook.v1 import everlook_pb2 as pb
from tests.e2e.photos import photo
from tests.e2e.raw import TIMEOUT_S, Stubs, refusal
from tests.e2e.shop import Shop, check, check_same

UNKNOWN: dict[str, tuple[Callable[[Stubs], object], Callable[[Client], object]]] = {
    "get": (lambda raw: raw.catalog.Get(pb.GetRequest(id="unknown")), lambda client: client.get("unknown")),
    "delete": (lambda raw: raw.catalog.Delete(pb.DeleteRequest(id="unknown")), lambda client: client.delete("unknown")),
    "image": (
        lambda raw: raw.catalog.GetImage(pb.GetImageRequest(id="unknown")),
        lambda client: client.get_image("unknown"),
    ),
    "search": (
        lambda raw: raw.search.Search(pb.SearchRequest(item_id="unknown")),
        lambda client: client.search(item_id="unknown"),
    ),
    "put without photo": (
        lambda raw: raw.catalog.Put(pb.PutRequest(item=pb.Item(id="unknown", category="shelf"))),
        lambda client: client.put(Item("unknown", "shelf"), None),
    ),
}


@pytest.mark.parametrize("call", UNKNOWN)
def test_an_unknown_id_is_not_found(shop: Shop, call: str) -> None:
    by_hand, by_client = UNKNOWN[call]
    found = refusal(lambda: by_hand(shop.raw))
    assert (found.code, found.reason, found.resource, found.got) == (
        "NOT_FOUND",
        "ITEM_NOT_FOUND",
        "unknown",
        "unknown",
    )
    with pytest.raises(clients.NotFound) as caught:
        by_client(shop.client)
    check_same(caught.value, found)


def test_unknown_ids_are_left_out_of_many(shop: Shop) -> None:
    assert [item.id for item in shop.client.get_many(["unknown", "item-4", "nobody", "item-1"])] == [
        "item-4",
        "item-1",
    ]


BAD_ITEMS = {
    "no id": (Item("", "shelf"), "item.id"),
    "id too long": (Item("x" * 257, "shelf"), "item.id"),
    "id too long in bytes": (Item("ä" * 129, "shelf"), "item.id"),
    "id with a line break": (Item("a\nb", "shelf"), "item.id"),
    "id with a zero": (Item("a\0b", "shelf"), "item.id"),
    "id with a C1 control": (Item("a\x85b", "shelf"), "item.id"),
    "no category": (Item("new", ""), "item.category"),
    "category too long": (Item("new", "x" * 257), "item.category"),
    "category with a tab": (Item("new", "a\tb"), "item.category"),
    "too many keys": (Item("new", "shelf", {f"key-{i}": True for i in range(65)}), "item.metadata"),
    "empty key": (Item("new", "shelf", {"": True}), "item.metadata['']"),
    "key too long": (Item("new", "shelf", {"k" * 129: True}), f"item.metadata['{'k' * 129}']"),
    "key with a control": (Item("new", "shelf", {"k\x7f": True}), r"item.metadata['k\x7f']"),
    "text too long": (Item("new", "shelf", {"k": "x" * 2049}), "item.metadata['k']"),
    "number nan": (Item("new", "shelf", {"k": float("nan")}), "item.metadata['k']"),
    "number infinite": (Item("new", "shelf", {"k": float("inf")}), "item.metadata['k']"),
}


def message_of(item: Item) -> pb.Item:
    """The item as a message, whatever it holds."""
    message = pb.Item(id=item.id, category=item.category)
    for key, value in item.metadata.items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(message.metadata[key], kind, value)
    return message


@pytest.mark.parametrize("image", [photo(0), None], ids=["with photo", "photo kept"])
@pytest.mark.parametrize("bad", BAD_ITEMS)
def test_a_bad_item_is_refused(shop: Shop, bad: str, image: bytes | None) -> None:
    item, field = BAD_ITEMS[bad]
    request = pb.PutRequest(item=message_of(item), image=image)
    found = refusal(lambda: shop.raw.catalog.Put(request, timeout=TIMEOUT_S))
    check(found, "INVALID_ARGUMENT", "INVALID_FIELD", field)
    with pytest.raises(clients.InvalidRequest) as caught:
        shop.client.put(item, image)
    check_same(caught.value, found)


def test_a_metadata_value_of_no_kind_is_refused(shop: Shop) -> None:
    item = pb.Item(id="new", category="shelf", metadata={"k": pb.MetadataValue()})
    found = refusal(lambda: shop.raw.catalog.Put(pb.PutRequest(item=item, image=photo(0)), timeout=TIMEOUT_S))
    check(found, "INVALID_ARGUMENT", "INVALID_FIELD", "item.metadata['k']")


def test_a_stream_of_bad_items_answers_each_with_its_error(shop: Shop) -> None:
    requests = [pb.IngestRequest(item=message_of(item), image=photo(0)) for item, _ in BAD_ITEMS.values()]
    answers = list(shop.raw.catalog.Ingest(iter(requests), timeout=TIMEOUT_S))
    assert len(answers) == len(BAD_ITEMS)
    assert sorted((answer.id, answer.error.field) for answer in answers) == sorted(
        (item.id, field) for item, field in BAD_ITEMS.values()
    )
    assert {pb.ErrorReason.Name(answer.error.reason) for answer in answers} == {"ERROR_REASON_INVALID_FIELD"}
    assert {answer.error.code for answer in answers} == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}


def test_a_bad_item_in_the_middle_of_a_stream_does_not_end_it(changing_shop: Shop) -> None:
    items = [
        (Item("middle-0", "shelf"), photo(100)),
        (Item("middle-1", "shelf"), photo(101)[:200]),
        (Item("middle-2", ""), photo(102)),
        (Item("middle-3", "shelf"), photo(103)),
    ]
    answers = {answer.id: answer for answer in changing_shop.client.ingest(items)}
    assert {id: answer.error is None for id, answer in answers.items()} == {
        "middle-0": True,
        "middle-1": False,
        "middle-2": False,
        "middle-3": True,
    }
    for seed in (100, 103):
        assert changing_shop.client.search(image=photo(seed), k=1).hits[0].id == f"middle-{seed - 100}"
    assert [item.id for item in changing_shop.client.get_many(sorted(answers))] == ["middle-0", "middle-3"]
    for seed in (100, 103):
        changing_shop.client.delete(f"middle-{seed - 100}")
