"""Promise 10 over the wire, vectors and queries: a typed error says what was got and expected, and nothing changes.

Each refusal is seen as any app sees it, by code and details, and as the Python client's typed error.
"""

from __future__ import annotations

import numpy as np
import pytest

import clients
from clients import Embedding, Filter, Query, Range
from everlook.v1 import everlook_pb2 as pb
from tests.e2e.photos import photo
from tests.e2e.raw import TIMEOUT_S, refusal
from tests.e2e.shop import DIMENSION, Shop, check, check_same

GOOD = np.full(DIMENSION, DIMENSION**-0.5, np.float32)
BAD_VECTORS = {
    "none": (GOOD[:0], "vector.values"),
    "one too few": (GOOD[1:], "vector.values"),
    "one too many": (np.append(GOOD, np.float32(0)), "vector.values"),
    "of another common length": (np.ones(512, np.float32), "vector.values"),
    "nan": (np.where(np.arange(DIMENSION) == 7, np.nan, GOOD), "vector.values[7]"),
    "infinite": (np.where(np.arange(DIMENSION) == 8, np.inf, GOOD), "vector.values[8]"),
    "minus infinite": (np.where(np.arange(DIMENSION) == 0, -np.inf, GOOD), "vector.values[0]"),
    "all zero": (np.zeros(DIMENSION, np.float32), "vector.values"),
}


@pytest.mark.parametrize("bad", BAD_VECTORS)
def test_a_bad_vector_is_refused(shop: Shop, bad: str) -> None:
    values, field = BAD_VECTORS[bad]
    message = pb.SearchRequest(vector=pb.Vector(values=values.tolist(), model=shop.model))
    found = refusal(lambda: shop.raw.search.Search(message, timeout=TIMEOUT_S))
    check(found, "INVALID_ARGUMENT", "INVALID_VECTOR", field)
    with pytest.raises(clients.InvalidRequest) as caught:
        shop.client.search(vector=Embedding(values.astype(np.float32), shop.model))
    check_same(caught.value, found)


@pytest.mark.parametrize("model", ["", "f" * 64, "the one before"])
def test_a_vector_of_another_model_is_refused_with_both_ids(shop: Shop, model: str) -> None:
    message = pb.SearchRequest(vector=pb.Vector(values=GOOD.tolist(), model=model))
    found = refusal(lambda: shop.raw.search.Search(message, timeout=TIMEOUT_S))
    check(found, "FAILED_PRECONDITION", "MODEL_MISMATCH", "vector.model")
    assert (found.got, found.expected) == (model, shop.model)
    with pytest.raises(clients.ModelMismatch) as caught:
        shop.client.search(vector=Embedding(GOOD, model))
    check_same(caught.value, found)


def test_a_vector_of_another_length_and_model_is_told_of_the_model(shop: Shop) -> None:
    with pytest.raises(clients.ModelMismatch):
        shop.client.search(vector=Embedding(np.ones(512, np.float32), "f" * 64))


def _condition(**condition: pb.MetadataValues | pb.NumberRange) -> pb.SearchRequest:
    condition_message = pb.MetadataCondition(key="place", **condition)  # type: ignore[arg-type]  # one of the two kinds
    return pb.SearchRequest(item_id="item-0", filter=pb.Filter(metadata=[condition_message]))


BAD_QUERIES = {
    "nothing to look for": (pb.SearchRequest(), "query"),
    "k of a million": (pb.SearchRequest(item_id="item-0", k=1_000_000), "k"),
    "k above the limit": (pb.SearchRequest(item_id="item-0", k=1001), "k"),
    "k of all bits": (pb.SearchRequest(item_id="item-0", k=(1 << 32) - 1), "k"),
    "minimum score above 1": (pb.SearchRequest(item_id="item-0", min_score=1.5), "min_score"),
    "minimum score nan": (pb.SearchRequest(item_id="item-0", min_score=float("nan")), "min_score"),
    "empty item id": (pb.SearchRequest(item_id=""), "item_id"),
    "item id too long": (pb.SearchRequest(item_id="x" * 257), "item_id"),
    "condition without condition": (_condition(), "filter.metadata[0]"),
    "condition of an unset value": (
        _condition(any_of=pb.MetadataValues(values=[pb.MetadataValue()])),
        "filter.metadata[0].any_of",
    ),
    "range of nan": (_condition(range=pb.NumberRange(min=float("nan"))), "filter.metadata[0].range"),
    "condition without key": (
        pb.SearchRequest(item_id="item-0", filter=pb.Filter(metadata=[pb.MetadataCondition()])),
        "filter.metadata[0].key",
    ),
}


@pytest.mark.parametrize("bad", BAD_QUERIES)
def test_a_bad_query_is_refused(shop: Shop, bad: str) -> None:
    message, field = BAD_QUERIES[bad]
    found = refusal(lambda: shop.raw.search.Search(message, timeout=TIMEOUT_S))
    check(found, "INVALID_ARGUMENT", "INVALID_FIELD", field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        pytest.param(Query(item_id="item-0", k=1_000_000), "k", id="k of a million"),
        pytest.param(Query(item_id="item-0", min_score=-2.0), "min_score", id="minimum score"),
        pytest.param(
            Query(item_id="item-0", filter=Filter(where={"place": Range(min=float("nan"))})),
            "filter.metadata[0].range",
            id="range of nan",
        ),
    ],
)
def test_the_client_names_the_bad_field_of_a_query(shop: Shop, query: Query, field: str) -> None:
    (found,) = shop.client.search_batch([query])
    assert isinstance(found, clients.InvalidRequest)
    assert (found.reason, found.field) == ("INVALID_FIELD", field)


def test_k_of_0_means_10(shop: Shop) -> None:
    assert len(shop.client.search(image=photo(0), k=0).hits) == 10
    assert len(shop.client.search(image=photo(0)).hits) == 10


def test_one_bad_query_of_a_batch_fails_alone(shop: Shop) -> None:
    queries = [Query(image=photo(1), k=1), Query(image=b"no photo"), Query(item_id="unknown"), Query(item_id="item-2")]
    first, second, third, fourth = shop.client.search_batch(queries)
    assert isinstance(first, clients.SearchResult)
    assert first.hits[0].id == "item-1"
    assert isinstance(second, clients.InvalidRequest)
    assert (second.reason, second.field) == ("IMAGE_UNREADABLE", "image")
    assert isinstance(third, clients.NotFound)
    assert third.got == "unknown"
    assert isinstance(fourth, clients.SearchResult)


@pytest.mark.parametrize("size", [0, 65])
def test_a_batch_of_the_wrong_size_is_refused_whole(shop: Shop, size: int) -> None:
    message = pb.BatchSearchRequest(requests=[pb.SearchRequest(item_id="item-0")] * size)
    found = refusal(lambda: shop.raw.search.BatchSearch(message, timeout=TIMEOUT_S))
    check(found, "INVALID_ARGUMENT", "INVALID_FIELD", "requests")
    assert (found.got, found.expected) == (str(size), "1 to 64")
