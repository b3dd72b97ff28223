"""The three services over real gRPC, by raw stubs: what each method of the protocol promises."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from everlook.v1 import everlook_pb2 as pb
from indexer.validate import Limits
from tests.server.running import (
    TIMEOUT_S,
    Running,
    details_of,
    item,
    metadata_value,
    photo,
    settings_of,
    status_of,
)

FRUIT = {"apple-1": 1, "apple-2": 2, "pear-1": 3, "pear-2": 4, "plum-1": 5}
Value = str | float | bool


@pytest.fixture(scope="module")
def fruit(server: Running) -> Running:
    """Five items in three categories, each with its own photo."""
    for price, (id, seed) in enumerate(FRUIT.items(), start=1):
        metadata: dict[str, Value] = {"price": float(price), "colour": "red" if price % 2 else "green"}
        if id.startswith("apple"):
            metadata["ripe"] = True
        if id == "plum-1":
            metadata["ripe"] = 1.0
        server.put(item(id, id.split("-")[0], **metadata), photo(seed))
    return server


@pytest.fixture
def spare(server: Running) -> Iterator[str]:
    """An id for one test, deleted when the test is over."""
    yield "spare"
    with contextlib.suppress(grpc.RpcError):
        server.catalog.Delete(pb.DeleteRequest(id="spare"), timeout=TIMEOUT_S)


def search(server: Running, **fields: Any) -> pb.SearchResponse:
    return server.search.Search(pb.SearchRequest(**fields), timeout=TIMEOUT_S)


def ids(response: pb.SearchResponse) -> list[str]:
    return [hit.id for hit in response.hits]


def failure(call: Any, request: Any) -> Any:
    """The error that a call ends with."""
    with pytest.raises(grpc.RpcError) as failed:
        call(request, timeout=TIMEOUT_S)
    return failed.value


def reason_and_field(error: Any) -> tuple[str, str]:
    info: Any = details_of(status_of(error))["ErrorInfo"]
    return info.reason, info.metadata["field"]


# ---------------------------------------------------------------------------------------------------- Search


def test_a_search_by_photo_finds_the_item_with_that_photo_first(fruit: Running) -> None:
    response = search(fruit, image=photo(3), k=3)
    assert len(response.hits) == 3
    assert response.hits[0].id == "pear-1"
    assert response.hits[0].category == "pear"
    assert response.hits[0].score == pytest.approx(1.0, abs=1e-5)
    assert [hit.score for hit in response.hits] == sorted((hit.score for hit in response.hits), reverse=True)
    assert response.generation.number == 1
    assert len(response.generation.model) == 64
    assert response.timing.encode_s > 0


def test_embed_and_a_search_by_its_vector_find_what_the_photo_finds(fruit: Running) -> None:
    embedded = fruit.search.Embed(pb.EmbedRequest(image=photo(4)), timeout=TIMEOUT_S)
    assert embedded.vector.model == embedded.generation.model
    assert sum(value * value for value in embedded.vector.values) == pytest.approx(1.0, abs=1e-5)
    by_vector, by_photo = search(fruit, vector=embedded.vector), search(fruit, image=photo(4))
    assert ids(by_vector) == ids(by_photo)
    assert by_vector.hits[0].id == "pear-2"
    scaled = pb.Vector(values=[3 * value for value in embedded.vector.values], model=embedded.vector.model)
    assert search(fruit, vector=scaled).hits[0].score == pytest.approx(by_vector.hits[0].score, abs=1e-5)


def test_a_search_by_item_finds_others_and_leaves_the_item_out(fruit: Running) -> None:
    others = ids(search(fruit, item_id="plum-1", k=5))
    assert sorted(others) == sorted(FRUIT.keys() - {"plum-1"})
    by_photo = ids(search(fruit, image=photo(FRUIT["plum-1"]), k=5))
    assert others == [id for id in by_photo if id != "plum-1"]


def test_exact_search_answers_the_same_where_the_index_is_exact(fruit: Running) -> None:
    assert ids(search(fruit, image=photo(9), exact=True)) == ids(search(fruit, image=photo(9)))


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (pb.Filter(categories=["apple"]), {"apple-1", "apple-2"}),
        (pb.Filter(categories=["apple", "plum"]), {"apple-1", "apple-2", "plum-1"}),
        (pb.Filter(categories=["nothing"]), set()),
        (pb.Filter(exclude_categories=["apple", "pear"]), {"plum-1"}),
        (pb.Filter(categories=["apple", "pear"], exclude_categories=["pear"]), {"apple-1", "apple-2"}),
    ],
    ids=["one category", "two categories", "unknown category", "excluded", "both"],
)
@pytest.mark.parametrize("exact", [False, True], ids=["index", "exact"])
def test_a_filter_by_category_considers_only_what_matches(
    fruit: Running, wanted: pb.Filter, found: set[str], exact: bool
) -> None:
    assert set(ids(search(fruit, image=photo(1), filter=wanted, exact=exact))) == found


def any_of(key: str, *values: Value) -> pb.MetadataCondition:
    return pb.MetadataCondition(key=key, any_of=pb.MetadataValues(values=[metadata_value(value) for value in values]))


def within(key: str, **bounds: float) -> pb.MetadataCondition:
    return pb.MetadataCondition(key=key, range=pb.NumberRange(**bounds))


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([any_of("colour", "red")], {"apple-1", "pear-1", "plum-1"}),
        ([any_of("price", 1.0, 4.0)], {"apple-1", "pear-2"}),
        ([any_of("price", "1")], set()),
        ([any_of("ripe", True)], {"apple-1", "apple-2"}),
        ([any_of("ripe", 1.0)], {"plum-1"}),
        ([any_of("ripe", True, 1.0)], {"apple-1", "apple-2", "plum-1"}),
        ([any_of("nothing", "x")], set()),
        ([any_of("colour")], set()),
        ([within("price", min=2, max=4)], {"apple-2", "pear-1", "pear-2"}),
        ([within("price", min=4)], {"pear-2", "plum-1"}),
        ([within("price", max=2)], {"apple-1", "apple-2"}),
        ([within("price")], set(FRUIT)),
        ([within("colour")], set()),
        ([any_of("colour", "red"), within("price", min=2)], {"pear-1", "plum-1"}),
    ],
    ids=[
        "text", "numbers", "the text of a number", "truth", "the number of a truth", "both kinds", "no such key",
        "none of nothing", "between", "from", "to", "any number", "no number", "all conditions hold",
    ],
)  # fmt: skip
def test_a_filter_by_metadata_considers_only_what_matches(
    fruit: Running, conditions: list[pb.MetadataCondition], found: set[str]
) -> None:
    assert set(ids(search(fruit, image=photo(1), filter=pb.Filter(metadata=conditions)))) == found


def test_a_minimum_score_leaves_out_what_is_below(fruit: Running) -> None:
    everything = search(fruit, image=photo(1))
    least = everything.hits[1].score
    assert ids(search(fruit, image=photo(1), min_score=least)) == ids(everything)[:2]
    assert ids(search(fruit, image=photo(1), min_score=-1)) == ids(everything)
    assert len(everything.hits) == len(FRUIT)


def test_metadata_comes_with_the_hits_only_where_it_is_asked_for(fruit: Running) -> None:
    assert not search(fruit, image=photo(1), k=1).hits[0].metadata
    (hit,) = search(fruit, image=photo(1), k=1, include_metadata=True).hits
    assert hit.metadata == item("", price=1.0, colour="red", ripe=True).metadata


def test_k_of_0_means_10(fruit: Running) -> None:
    for n in range(20):
        fruit.put(item(f"many-{n}", "many"), photo(100 + n))
    assert len(search(fruit, image=photo(1)).hits) == 10
    assert len(search(fruit, image=photo(1), k=25).hits) == 25
    for n in range(20):
        fruit.catalog.Delete(pb.DeleteRequest(id=f"many-{n}"), timeout=TIMEOUT_S)


def test_a_batch_answers_each_query_in_order_and_an_error_stays_with_its_query(fruit: Running) -> None:
    requests = [
        pb.SearchRequest(image=photo(1), k=1),
        pb.SearchRequest(image=b"no photo"),
        pb.SearchRequest(item_id="nobody"),
        pb.SearchRequest(),
        pb.SearchRequest(item_id="apple-1", filter=pb.Filter(categories=["apple"])),
    ]
    response = fruit.search.BatchSearch(pb.BatchSearchRequest(requests=requests), timeout=TIMEOUT_S)
    first, unreadable, unknown, empty, last = response.results
    assert ids(first.response) == ["apple-1"]
    assert unreadable.error.reason == pb.ERROR_REASON_IMAGE_UNREADABLE
    assert (unknown.error.reason, unknown.error.got) == (pb.ERROR_REASON_ITEM_NOT_FOUND, "nobody")
    assert (empty.error.reason, empty.error.field) == (pb.ERROR_REASON_INVALID_FIELD, "query")
    assert ids(last.response) == ["apple-2"]


@pytest.mark.parametrize("count", [0, Limits().max_batch + 1], ids=["none", "too many"])
def test_a_batch_of_the_wrong_size_is_refused_as_a_whole(fruit: Running, count: int) -> None:
    batch = pb.BatchSearchRequest(requests=[pb.SearchRequest(item_id="apple-1")] * count)
    error = failure(fruit.search.BatchSearch, batch)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_and_field(error) == ("INVALID_FIELD", "requests")


# ---------------------------------------------------------------------------------------------------- Catalog


def test_put_says_what_changed(server: Running, spare: str) -> None:
    outcomes = []
    for category, image in [("a", photo(1)), ("a", photo(1)), ("b", photo(1)), ("b", photo(2)), ("b", photo(2))]:
        outcomes.append(server.put(item(spare, category), image).outcome)
    created, updated, unchanged = pb.PUT_OUTCOME_CREATED, pb.PUT_OUTCOME_UPDATED, pb.PUT_OUTCOME_UNCHANGED
    assert outcomes == [created, unchanged, updated, updated, unchanged]


def test_an_absent_photo_keeps_the_one_that_the_item_has(server: Running, spare: str) -> None:
    server.put(item(spare, "a", size="s"), photo(50))
    response = server.put(item(spare, "b", size="m"), None)
    assert response.outcome == pb.PUT_OUTCOME_UPDATED
    assert server.put(item(spare, "b", size="m"), None).outcome == pb.PUT_OUTCOME_UNCHANGED
    assert server.catalog.GetImage(pb.GetImageRequest(id=spare), timeout=TIMEOUT_S).image == photo(50)
    (hit,) = search(server, image=photo(50), k=1, include_metadata=True).hits
    assert (hit.id, hit.category, hit.metadata["size"].string, hit.seq) == (spare, "b", "m", response.seq)


def test_a_photo_that_is_present_and_empty_is_unreadable_and_changes_nothing(server: Running, spare: str) -> None:
    server.put(item(spare, "a"), photo(50))
    error = failure(server.catalog.Put, pb.PutRequest(item=item(spare, "b"), image=b""))
    assert reason_and_field(error) == ("IMAGE_UNREADABLE", "image")
    assert server.catalog.Get(pb.GetRequest(id=spare), timeout=TIMEOUT_S).item.item.category == "a"


def test_an_absent_photo_of_an_unknown_item_is_not_found(server: Running) -> None:
    error = failure(server.catalog.Put, pb.PutRequest(item=item("nobody")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_delete_takes_an_item_out_of_everything_and_a_second_one_finds_nothing(server: Running, spare: str) -> None:
    put = server.put(item(spare), photo(60))
    assert ids(search(server, image=photo(60), k=1)) == [spare]
    assert server.catalog.Delete(pb.DeleteRequest(id=spare), timeout=TIMEOUT_S).seq == put.seq + 1
    assert spare not in ids(search(server, image=photo(60)))
    for call, request in [
        (server.catalog.Delete, pb.DeleteRequest(id=spare)),
        (server.catalog.Get, pb.GetRequest(id=spare)),
        (server.catalog.GetImage, pb.GetImageRequest(id=spare)),
        (server.search.Search, pb.SearchRequest(item_id=spare)),
    ]:
        error = failure(call, request)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        resource: Any = details_of(status_of(error))["ResourceInfo"]
        assert resource.resource_name == spare


def test_get_returns_what_was_sent_and_what_is_known_of_the_photo(server: Running, spare: str) -> None:
    sent = item(spare, "shoes", size=42.0, new=True, colour="blue")
    put = server.put(sent, photo(61, size=50))
    stored = server.catalog.Get(pb.GetRequest(id=spare), timeout=TIMEOUT_S).item
    assert stored.item == sent
    assert stored.seq == put.seq
    assert stored.updated_at.ToNanoseconds() / 1e9 == pytest.approx(time.time(), abs=60)
    assert stored.image_sha256 == hashlib.sha256(photo(61, size=50)).hexdigest()
    assert stored.image_bytes == len(photo(61, size=50))
    assert (stored.width, stored.height, stored.format) == (50, 50, "PNG")


def test_several_items_come_in_the_order_of_their_ids_without_those_that_do_not_exist(fruit: Running) -> None:
    wanted = ["plum-1", "nobody", "apple-1", "pear-2"]
    found = fruit.catalog.BatchGet(pb.BatchGetRequest(ids=wanted), timeout=TIMEOUT_S).items
    assert [each.item.id for each in found] == ["plum-1", "apple-1", "pear-2"]
    assert not fruit.catalog.BatchGet(pb.BatchGetRequest(), timeout=TIMEOUT_S).items


def test_the_photo_comes_back_byte_by_byte_with_its_media_type(fruit: Running) -> None:
    response = fruit.catalog.GetImage(pb.GetImageRequest(id="pear-1"), timeout=TIMEOUT_S)
    assert response.image == photo(3)
    assert response.media_type == "image/png"
    assert response.sha256 == hashlib.sha256(photo(3)).hexdigest()


def test_categories_come_by_name_a_page_at_a_time(fruit: Running) -> None:
    request = pb.ListCategoriesRequest(page_size=2)
    first = fruit.catalog.ListCategories(request, timeout=TIMEOUT_S)
    assert [(each.name, each.items) for each in first.categories] == [("apple", 2), ("pear", 2)]
    assert {each.state for each in first.categories} == {pb.CATEGORY_STATE_NEW}
    assert first.total == 3
    request.page_token = first.next_page_token
    second = fruit.catalog.ListCategories(request, timeout=TIMEOUT_S)
    assert [(each.name, each.items) for each in second.categories] == [("plum", 1)]
    assert second.next_page_token == ""
    everything = fruit.catalog.ListCategories(pb.ListCategoriesRequest(), timeout=TIMEOUT_S)
    assert [each.name for each in everything.categories] == ["apple", "pear", "plum"]


def test_a_page_that_ends_with_the_last_category_is_the_last(fruit: Running) -> None:
    assert fruit.catalog.ListCategories(pb.ListCategoriesRequest(page_size=3), timeout=TIMEOUT_S).next_page_token == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("page_size", 1001), ("page_token", "?"), ("page_token", "é"), ("page_token", "_w==")],
    ids=["too large", "no base64", "not ASCII", "not UTF-8"],
)
def test_a_page_that_cannot_be_is_refused(fruit: Running, field: str, value: Any) -> None:
    error = failure(fruit.catalog.ListCategories, pb.ListCategoriesRequest(**{field: value}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_and_field(error) == ("INVALID_FIELD", field)


def test_an_ingest_stream_acknowledges_each_item_and_the_next_search_finds_it(server: Running, spare: str) -> None:
    requests = [pb.IngestRequest(item=item(spare), image=photo(70)), pb.IngestRequest(item=item("bad"), image=b"x")]
    answers = {answer.id: answer for answer in server.catalog.Ingest(iter(requests), timeout=TIMEOUT_S)}
    assert answers[spare].acknowledged.outcome == pb.PUT_OUTCOME_CREATED
    assert answers["bad"].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert ids(search(server, image=photo(70), k=1)) == [spare]


# ---------------------------------------------------------------------------------------------------- Admin


def test_the_status_says_what_serves_and_what_is_held(fruit: Running) -> None:
    status = fruit.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S)
    assert status.serving
    assert status.version
    assert status.started_at.ToSeconds() <= time.time()
    assert (status.catalogue.items, status.catalogue.categories, status.catalogue.images) == (5, 3, 5)
    assert status.catalogue.image_bytes == sum(len(photo(seed)) for seed in FRUIT.values())
    assert status.generation.state == pb.GENERATION_STATE_LIVE
    assert status.generation.number == 1
    assert status.generation.delta_entries - status.generation.tombstones == 5
    assert status.generation.main_entries == 0
    model = status.generation.model
    assert (model.backbone, model.dimension, model.image_size, model.precision) == ("tiny", 32, 32, "fp32")
    assert {device.role for device in status.devices} == {"encode", "index"}
    assert [(queue.name, queue.depth) for queue in status.queues] == [("query", 0), ("ingest", 0)]
    programs = [(program.name, program.pid > 0) for program in status.programs]
    assert programs == [("server", True), ("trainer", False), ("indexer", False)]
    assert not status.HasField("training")


def test_the_status_names_every_limit(server: Running) -> None:
    limits = server.admin.Status(pb.StatusRequest(), timeout=TIMEOUT_S).limits
    settings, checks = settings_of(server.data), Limits()
    assert limits == pb.Limits(
        dimension=32,
        max_k=checks.max_k,
        max_batch=checks.max_batch,
        max_batch_get=checks.max_batch_get,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_message_bytes=settings.max_message_bytes,
        max_id_bytes=checks.max_id_bytes,
        max_category_bytes=checks.max_category_bytes,
        max_metadata_keys=checks.max_metadata_keys,
        max_metadata_key_bytes=checks.max_metadata_key_bytes,
        max_metadata_value_bytes=checks.max_metadata_value_bytes,
        ingest_window=settings.ingest_window,
    )
    assert all(value for _, value in limits.ListFields())
    assert len(limits.ListFields()) == len(pb.Limits.DESCRIPTOR.fields)


def test_the_generations_begin_with_the_live_one(server: Running) -> None:
    generations = server.admin.ListGenerations(pb.ListGenerationsRequest(), timeout=TIMEOUT_S).generations
    assert [(each.number, each.state) for each in generations] == [(1, pb.GENERATION_STATE_LIVE)]


def test_what_is_not_built_is_refused_by_name(server: Running) -> None:
    error = failure(server.admin.Backup, pb.BackupRequest(path="x"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "Admin.Backup" in str(error.details())
    assert reason_and_field(error)[0] == "UNIMPLEMENTED"
