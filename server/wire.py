"""Between the protocol's messages and the engine's values. The only module of the server that touches the stubs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from everlook.v1 import everlook_pb2 as pb
from everlook.v1 import everlook_pb2_grpc as pb_grpc
from indexer.catalogue import CategoryCount, MetadataValue, Outcome, StoredItem
from indexer.engine import Serving
from indexer.errors import EverlookError, InvalidField
from indexer.gates import Gate
from indexer.index import AnyOf, Filter, Range, SearchParams
from indexer.model import Manifest
from indexer.validate import Limits, check_category, check_id, check_k, check_metadata, check_score
from server.jobs import Answer, ImageQuery, ItemQuery, Timing, VectorQuery, Written
from server.status import code_of

__all__ = ["pb", "pb_grpc"]

DEFAULT_K = 10
_YEAR_1, _YEAR_9999 = -62_135_596_800, 253_402_300_799  # the seconds that a Timestamp may have

_OUTCOMES = {
    Outcome.CREATED: pb.PUT_OUTCOME_CREATED,
    Outcome.UPDATED: pb.PUT_OUTCOME_UPDATED,
    Outcome.UNCHANGED: pb.PUT_OUTCOME_UNCHANGED,
}


# ---------------------------------------------------------------------------------------------------- requests


def query_of(request: pb.SearchRequest, limits: Limits) -> ImageQuery | VectorQuery | ItemQuery:
    """What a search request looks for. Errors: InvalidField when it is missing or cannot be an id."""
    kind = request.WhichOneof("query")
    if kind == "image":
        return ImageQuery(request.image)
    if kind == "vector":
        return VectorQuery(np.array(request.vector.values, dtype=np.float32), request.vector.model)
    if kind == "item_id":
        check_id(request.item_id, limits, field="item_id")
        return ItemQuery(request.item_id)
    raise InvalidField("a search needs a query", field="query", got="none", expected="image, vector or item_id")


def search_params(request: pb.SearchRequest, limits: Limits) -> SearchParams:
    """How a search request wants to be answered. Errors: InvalidField."""
    k = request.k or DEFAULT_K
    check_k(k, limits)
    min_score = request.min_score if request.HasField("min_score") else None
    if min_score is not None:
        check_score(min_score)
    return SearchParams(
        k=k,
        filter=_filter(request.filter),
        exact=request.exact,
        min_score=min_score,
        exclude_id=request.item_id if request.WhichOneof("query") == "item_id" else None,
    )


def _filter(message: pb.Filter) -> Filter:
    conditions: list[AnyOf | Range] = []
    for i, condition in enumerate(message.metadata):
        field = f"filter.metadata[{i}]"
        if not condition.key:
            raise InvalidField("a condition needs a key", field=f"{field}.key", got="", expected="a metadata key")
        kind = condition.WhichOneof("condition")
        if kind == "any_of":
            values = [metadata_value(value, f"{field}.any_of") for value in condition.any_of.values]
            conditions.append(AnyOf(condition.key, tuple(values)))
        elif kind == "range":
            low = condition.range.min if condition.range.HasField("min") else None
            high = condition.range.max if condition.range.HasField("max") else None
            if any(bound is not None and np.isnan(bound) for bound in (low, high)):
                raise InvalidField("a range needs numbers", field=f"{field}.range", got="nan", expected="numbers")
            conditions.append(Range(condition.key, low, high))
        else:
            raise InvalidField("a condition is missing", field=field, got="none", expected="any_of or range")
    return Filter(frozenset(message.categories), frozenset(message.exclude_categories), tuple(conditions))


def metadata_value(message: pb.MetadataValue, field: str) -> MetadataValue:
    """One metadata value. Errors: InvalidField when none is set."""
    kind = message.WhichOneof("kind")
    if kind == "string":
        return message.string
    if kind == "number":
        return message.number
    if kind == "bool":
        return message.bool
    raise InvalidField("a metadata value is missing", field=field, got="none", expected="string, number or bool")


def item_of(message: pb.Item, limits: Limits) -> tuple[str, str, dict[str, MetadataValue]]:
    """Id, category and metadata of an item, checked. Errors: InvalidField."""
    check_id(message.id, limits, field="item.id")
    check_category(message.category, limits, field="item.category")
    metadata = {key: metadata_value(value, f"item.metadata[{key!r}]") for key, value in message.metadata.items()}
    check_metadata(metadata, limits, field="item.metadata")
    return message.id, message.category, metadata


# ---------------------------------------------------------------------------------------------------- responses


def generation_ref(serving: Serving) -> pb.GenerationRef:
    """Names the generation that made an answer."""
    return pb.GenerationRef(number=serving.generation.number, model=serving.generation.model.id)


def search_response(answer: Answer, *, include_metadata: bool) -> pb.SearchResponse:
    """The hits of one query."""
    response = pb.SearchResponse(generation=generation_ref(answer.serving), timing=_timing(answer.timing))
    if answer.hits is not None:
        hits = answer.hits
        for id, score, category, seq in zip(
            hits.ids, hits.scores.tolist(), hits.categories, hits.seqs.tolist(), strict=True
        ):
            response.hits.add(id=id, score=score, category=category, seq=seq)
        if include_metadata:
            for hit, metadata in zip(response.hits, hits.metadata, strict=True):
                _fill_metadata(hit.metadata, metadata)
    return response


def embed_response(answer: Answer) -> pb.EmbedResponse:
    """The vector of a photo."""
    model = answer.serving.generation.model.id
    return pb.EmbedResponse(
        vector=pb.Vector(values=answer.vector.tolist(), model=model), generation=generation_ref(answer.serving)
    )


def put_response(written: Written) -> pb.PutResponse:
    """The acknowledgement of a write."""
    return pb.PutResponse(
        seq=written.applied.seq,
        outcome=_OUTCOMES[written.applied.outcome],
        generation=generation_ref(written.serving),
    )


def stored_item(item: StoredItem) -> pb.StoredItem:
    """What the server holds of an item."""
    message = pb.StoredItem(
        item=pb.Item(id=item.id, category=item.category),
        seq=item.seq,
        updated_at=timestamp(item.updated_at),
        image_sha256=item.image_sha256,
        image_bytes=item.image_bytes,
        width=item.width,
        height=item.height,
        format=item.format,
    )
    _fill_metadata(message.item.metadata, item.metadata)
    return message


def category_message(count: CategoryCount, cohort: int | None, *, training: bool) -> pb.Category:
    """One line of the list of categories. `cohort` is the stage that taught it; None while no stage has."""
    if cohort is not None:
        return pb.Category(name=count.name, items=count.items, state=pb.CATEGORY_STATE_TRAINED, cohort=cohort)
    state = pb.CATEGORY_STATE_TRAINING if training else pb.CATEGORY_STATE_NEW
    return pb.Category(name=count.name, items=count.items, state=state)


def gate(measured: Gate) -> pb.Gate:
    """One condition, and what was measured of it."""
    return pb.Gate(
        name=measured.name,
        passed=measured.passed,
        measured=measured.measured,
        required=measured.required,
        reason=measured.reason,
    )


def model(manifest: Manifest) -> pb.Model:
    """A model's identity and shape."""
    return pb.Model(
        id=manifest.id,
        backbone=manifest.backbone,
        dimension=manifest.dimension,
        image_size=manifest.preprocessing.image_size,
        precision=manifest.precision,
        stages=manifest.stages,
    )


def error(cause: EverlookError) -> pb.Error:
    """The in-band form of an error, for one item of a stream or one query of a batch."""
    message = pb.Error(
        code=code_of(cause).value[0],
        message=cause.message,
        reason=pb.ErrorReason.Value(f"ERROR_REASON_{cause.reason}"),
        field=cause.field,
        got=cause.got,
        expected=cause.expected,
    )
    if cause.retry_after_s is not None:
        message.retry_after_s = cause.retry_after_s
    return message


def timestamp(seconds: float) -> Timestamp:
    """A protobuf timestamp from unix seconds."""
    made = Timestamp()
    made.FromNanoseconds(int(seconds * 1e9))
    return made


def seconds_of(message: Timestamp, field: str) -> float:
    """Unix seconds of a protobuf timestamp. Errors: InvalidField when it is none."""
    if not (_YEAR_1 <= message.seconds <= _YEAR_9999 and 0 <= message.nanos < 1_000_000_000):
        raise InvalidField(
            "a timestamp is out of range",
            field=field,
            got=f"{message.seconds} s, {message.nanos} ns",
            expected="a time in the years 1 to 9999, and 0 to 999999999 ns",
        )
    return float(message.seconds + message.nanos / 1e9)


def _timing(timing: Timing) -> pb.Timing:
    return pb.Timing(
        queue_s=timing.queue_s, decode_s=timing.decode_s, encode_s=timing.encode_s, search_s=timing.search_s
    )


def _fill_metadata(target: Mapping[str, pb.MetadataValue], metadata: Mapping[str, MetadataValue]) -> None:
    for key, value in metadata.items():
        if isinstance(value, bool):
            target[key].bool = value
        elif isinstance(value, str):
            target[key].string = value
        else:
            target[key].number = value
