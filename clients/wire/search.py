"""The calls of the service Search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clients.errors import EverlookClientError, InvalidRequest
from clients.images import image_bytes
from clients.types import AnyOf, Embedding, Filter, Hit, ImageLike, MetadataValue, Query, Range, SearchResult, Timing
from clients.wire.call import Call, in_band_error, method_path, refusing, texts
from clients.wire.values import generation_ref, metadata_of, metadata_value
from everlook.v1 import everlook_pb2 as pb


def search(query: Query) -> Call[SearchResult]:
    """Errors: InvalidRequest."""
    message = _search_request(query)
    return Call(
        method_path("Search", "Search"), message, lambda data: _search_result(pb.SearchResponse.FromString(data))
    )


def search_batch(queries: Sequence[Query]) -> Call[list[SearchResult | EverlookClientError]]:
    """Errors: InvalidRequest, for the whole batch when one query cannot be sent at all."""
    message = pb.BatchSearchRequest(requests=[_search_request(query) for query in queries])
    return Call(method_path("Search", "BatchSearch"), message, _batch_results)


def embed(image: ImageLike) -> Call[Embedding]:
    """Errors: InvalidRequest."""
    message = pb.EmbedRequest(image=image_bytes(image))
    return Call(
        method_path("Search", "Embed"), message, lambda data: _embedding(pb.EmbedResponse.FromString(data).vector)
    )


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
        with refusing("vector", query.vector.values):
            values = np.asarray(query.vector.values, np.float32).tolist()
            message.vector.CopyFrom(pb.Vector(values=values, model=query.vector.model))
    with refusing("query", (query.item_id, query.k, query.min_score)):
        if query.item_id is not None:
            message.item_id = query.item_id
        if query.k is not None:
            message.k = query.k
        if query.min_score is not None:
            message.min_score = query.min_score
    if query.filter is not None:
        message.filter.CopyFrom(_filter(query.filter))
    return message


def _filter(filter_: Filter) -> pb.Filter:
    for name in ("categories", "exclude_categories"):
        texts(f"filter.{name}", getattr(filter_, name))
    with refusing("filter", filter_):
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
    return pb.MetadataCondition(key=key, any_of=pb.MetadataValues(values=[metadata_value(field, v) for v in values]))


def _search_result(response: pb.SearchResponse) -> SearchResult:
    timing = response.timing
    return SearchResult(
        hits=tuple(Hit(hit.id, hit.score, hit.category, hit.seq, metadata_of(hit.metadata)) for hit in response.hits),
        generation=generation_ref(response.generation),
        timing=Timing(timing.queue_s, timing.decode_s, timing.encode_s, timing.search_s),
    )


def _batch_results(data: bytes) -> list[SearchResult | EverlookClientError]:
    return [
        in_band_error(result.error) if result.WhichOneof("result") == "error" else _search_result(result.response)
        for result in pb.BatchSearchResponse.FromString(data).results
    ]


def _embedding(vector: pb.Vector) -> Embedding:
    return Embedding(np.array(vector.values, np.float32), vector.model)
