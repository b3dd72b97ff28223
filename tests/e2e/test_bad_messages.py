"""Promise 10 over the wire, bad messages and connections: a typed error each, and nothing changes.

Each refusal is seen as any app sees it, by code and details, and as the Python client's typed error.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

import clients
from clients import Item
from everlook.v1 import everlook_pb2 as pb
from tests.e2e.photos import photo
from tests.e2e.raw import TIMEOUT_S, Stubs, refusal
from tests.e2e.shop import MAX_MESSAGE_BYTES, Shop, check


def field_of(number: int, content: bytes) -> bytes:
    """A length-delimited field, as protobuf encodes it; `content` below 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


NOT_UTF8 = b"\xff\xfe\xc0"
MALFORMED = {
    "id of a put": ("Catalog/Put", field_of(1, field_of(1, NOT_UTF8) + field_of(2, b"shelf")) + field_of(2, b"x")),
    "category of a put": ("Catalog/Put", field_of(1, field_of(1, b"new") + field_of(2, NOT_UTF8))),
    "metadata key": ("Catalog/Put", field_of(1, field_of(1, b"new") + field_of(3, field_of(1, NOT_UTF8)))),
    "id of a get": ("Catalog/Get", field_of(1, NOT_UTF8)),
    "id of a delete": ("Catalog/Delete", field_of(1, NOT_UTF8)),
    "one of many ids": ("Catalog/BatchGet", field_of(1, b"item-0") + field_of(1, NOT_UTF8)),
    "item of a search": ("Search/Search", field_of(3, NOT_UTF8)),
    "surrogate": ("Catalog/Get", field_of(1, b"\xed\xa0\x80")),
    "garbage": ("Search/Search", b"\x07\xff\xff\xff garbage"),
    "a field cut off": ("Search/Search", field_of(1, bytes(100))[:50]),
}


@pytest.mark.parametrize("bad", MALFORMED)
def test_a_message_that_does_not_parse_is_the_callers_error(shop: Shop, bad: str) -> None:
    path, request = MALFORMED[bad]
    found = refusal(lambda: shop.raw.call(f"/everlook.v1.{path}", request))
    check(found, "INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def test_a_message_that_does_not_parse_ends_its_stream(shop: Shop) -> None:
    found = refusal(lambda: shop.raw.stream("/everlook.v1.Catalog/Ingest", field_of(1, field_of(1, NOT_UTF8))))
    check(found, "INVALID_ARGUMENT", "MALFORMED_MESSAGE")


def test_the_client_refuses_a_lone_surrogate_before_it_sends(shop: Shop) -> None:
    with pytest.raises(clients.InvalidRequest) as caught:
        shop.client.put(Item("\ud800", "shelf"), photo(0))
    assert caught.value.reason == "INVALID_FIELD"


def test_a_message_over_the_size_limit_is_refused_without_a_retry(shop: Shop) -> None:
    data = photo(0) + bytes(MAX_MESSAGE_BYTES)
    found = refusal(lambda: shop.raw.search.Search(pb.SearchRequest(image=data), timeout=TIMEOUT_S))
    assert (found.code, found.retry_after_s) == ("RESOURCE_EXHAUSTED", None)
    with pytest.raises(clients.Overloaded) as caught:
        shop.client.put(Item("new", "shelf"), data)
    assert caught.value.retry_after_s is None


def test_what_is_not_built_says_so(shop: Shop) -> None:
    found = refusal(lambda: shop.raw.admin.Backup(pb.BackupRequest(path="copy"), timeout=TIMEOUT_S))
    check(found, "UNIMPLEMENTED", "UNIMPLEMENTED")
    assert found.got == "Admin.Backup"


# With one generation, no trainer and no training, by what is asked and how it is refused.
LEVERS: dict[str, tuple[Callable[[Stubs], object], str, str]] = {
    "Promote nothing": (
        lambda raw: raw.admin.Promote(pb.PromoteRequest(), timeout=TIMEOUT_S),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
    ),
    "Promote an unknown one": (
        lambda raw: raw.admin.Promote(pb.PromoteRequest(number=99), timeout=TIMEOUT_S),
        "NOT_FOUND",
        "GENERATION_NOT_FOUND",
    ),
    "Promote the live one": (
        lambda raw: raw.admin.Promote(pb.PromoteRequest(number=1), timeout=TIMEOUT_S),
        "FAILED_PRECONDITION",
        "NOT_READY",
    ),
    "Rollback": (
        lambda raw: raw.admin.Rollback(pb.RollbackRequest(), timeout=TIMEOUT_S),
        "FAILED_PRECONDITION",
        "NOT_READY",
    ),
    "StartTraining": (
        lambda raw: raw.admin.StartTraining(pb.StartTrainingRequest(), timeout=TIMEOUT_S),
        "FAILED_PRECONDITION",
        "NOT_READY",
    ),
    "CancelTraining": (
        lambda raw: raw.admin.CancelTraining(pb.CancelTrainingRequest(), timeout=TIMEOUT_S),
        "FAILED_PRECONDITION",
        "NOT_READY",
    ),
}


@pytest.mark.parametrize("lever", LEVERS)
def test_a_lever_that_cannot_be_pulled_says_why_and_changes_nothing(shop: Shop, lever: str) -> None:
    pull, code, reason = LEVERS[lever]
    found = refusal(lambda: pull(shop.raw))
    assert (found.code, found.domain, found.reason) == (code, "everlook", reason), found
    assert found.message


@pytest.mark.parametrize("path", ["/everlook.v1.Search/Guess", "/everlook.v2.Search/Search", "/nobody/knows"])
def test_an_unknown_call_is_unimplemented(shop: Shop, path: str) -> None:
    assert refusal(lambda: shop.raw.call(path, b"")).code == "UNIMPLEMENTED"


@pytest.mark.parametrize("token", ["!!!", "_w==", "ä", "YQ"], ids=["no base64", "no utf-8", "no ascii", "cut off"])
def test_a_page_token_of_somebody_else_is_refused(shop: Shop, token: str) -> None:
    request = pb.ListCategoriesRequest(page_token=token)
    found = refusal(lambda: shop.raw.catalog.ListCategories(request, timeout=TIMEOUT_S))
    check(found, "INVALID_ARGUMENT", "INVALID_FIELD", "page_token")


def test_a_page_or_a_list_of_ids_over_the_limit_is_refused(shop: Shop) -> None:
    page = pb.ListCategoriesRequest(page_size=1001)
    check(
        refusal(lambda: shop.raw.catalog.ListCategories(page, timeout=TIMEOUT_S)),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "page_size",
    )
    ids = pb.BatchGetRequest(ids=["item-0"] * 1001)
    check(
        refusal(lambda: shop.raw.catalog.BatchGet(ids, timeout=TIMEOUT_S)),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "ids",
    )


def test_a_call_whose_deadline_has_passed_does_nothing(shop: Shop) -> None:
    late: list[Callable[[], object]] = [
        lambda: shop.raw.catalog.Put(
            pb.PutRequest(item=pb.Item(id="late", category="shelf"), image=photo(0)), timeout=-1.0
        ),
        lambda: shop.raw.catalog.Delete(pb.DeleteRequest(id="item-0"), timeout=-1.0),
        lambda: shop.raw.search.Search(pb.SearchRequest(image=photo(0)), timeout=-1.0),
    ]
    assert [refusal(call).code for call in late] == ["DEADLINE_EXCEEDED"] * 3


def test_bytes_that_are_no_http2_close_their_connection_only(shop: Shop) -> None:
    host, port = shop.process.target.rsplit(":", 1)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(5000), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(garbage)
    assert shop.client.search(image=photo(5), k=1).hits[0].id == "item-5"


CUT_OFF = 'everlook_calls_total{code="CANCELLED",rpc="Catalog/Ingest"}'
BEGUN, COMMITTED = (f'everlook_stage_seconds_count{{lane="ingest",stage="{stage}"}}' for stage in ("queue", "commit"))


def settle(shop: Shop, cut_off: float) -> None:
    """Waits until so many streams are cut off, and what they had under way is written, as photos are whose embedding
    had begun when their caller left. For a server whose photos can all be read."""
    wait_for(lambda: shop.process.metric(CUT_OFF) == cut_off)
    shop.client.put(Item("behind them", "shelf"), photo(500))  # what waited before it was taken, or dropped
    wait_for(lambda: (now := shop.process.metrics())[BEGUN] == now[COMMITTED])
    shop.client.delete("behind them")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


@pytest.mark.parametrize(("cut", "first"), [("cancelled", 200), ("disconnected", 400)])
def test_a_stream_cut_off_in_the_middle_leaves_whole_items_only(changing_shop: Shop, cut: str, first: int) -> None:
    ids = {f"{cut}-{seed}": seed for seed in range(first, first + 60)}
    acknowledged = []
    cut_off, over = changing_shop.process.metric(CUT_OFF), threading.Event()

    def requests() -> Iterator[pb.IngestRequest]:
        for id, seed in ids.items():
            yield pb.IngestRequest(item=pb.Item(id=id, category=cut), image=photo(seed))
        over.wait(TIMEOUT_S)  # the stream does not end by itself

    with grpc.insecure_channel(changing_shop.process.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = Stubs(channel).catalog.Ingest(requests(), timeout=TIMEOUT_S)
        acknowledged.append(next(call).id)
        if cut == "cancelled":
            call.cancel()
    settle(changing_shop, cut_off + 1)
    over.set()
    written = {item.id: item for item in changing_shop.client.get_many(ids)}
    assert set(acknowledged) <= set(written)
    for id in written:
        assert changing_shop.client.get_image(id).data == photo(ids[id])
        assert changing_shop.client.search(image=photo(ids[id]), k=1).hits[0].id == id
        changing_shop.client.delete(id)
    answers = list(changing_shop.client.ingest([(Item(cut, "shelf"), photo(300))]))
    assert [answer.error for answer in answers] == [None]
    changing_shop.client.delete(cut)
