"""The calls of the service Admin, and the messages of a watch."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from clients.errors import InvalidRequest, ServerFault
from clients.mirror import mirror
from clients.recall import Confusions, RecallHistory
from clients.status import Event, Generation, Status
from clients.wire.call import Call, method_path, refusing, texts
from everlook.v1 import everlook_pb2 as pb

TEACHING_PATIENCE_S = 150.0  # a trainer that gives way on a busy machine takes its time to begin, and to stop
SWAP_PATIENCE_S = 600.0  # a generation that is made live has first to catch up with what came since

WATCH_PATH = "/everlook.v1.Admin/WatchStatus"
WATCH_REQUEST = pb.WatchStatusRequest().SerializeToString()


def status() -> Call[Status]:
    """What the server is doing now."""
    return Call(
        method_path("Admin", "Status"),
        pb.StatusRequest(),
        lambda data: mirror(Status, pb.StatusResponse.FromString(data)),
    )


def generations() -> Call[list[Generation]]:
    """The generations that are kept, and models that were rejected before they had one, newest first."""
    return Call(method_path("Admin", "ListGenerations"), pb.ListGenerationsRequest(), _generations)


def promote(number: int) -> Call[Generation]:
    """Errors: InvalidRequest."""
    with refusing("number", number):
        message = pb.PromoteRequest(number=number)
    return Call(
        method_path("Admin", "Promote"),
        message,
        lambda data: mirror(Generation, pb.PromoteResponse.FromString(data).generation),
        once=True,
        patience_s=SWAP_PATIENCE_S,
    )


def rollback(number: int) -> Call[Generation]:
    """Errors: InvalidRequest."""
    with refusing("number", number):
        message = pb.RollbackRequest(number=number)
    return Call(
        method_path("Admin", "Rollback"),
        message,
        lambda data: mirror(Generation, pb.RollbackResponse.FromString(data).generation),
        once=True,
        patience_s=SWAP_PATIENCE_S,
    )


def start_training(categories: Iterable[str]) -> Call[int]:
    """Errors: InvalidRequest."""
    chosen = texts("categories", categories)
    with refusing("categories", chosen):
        message = pb.StartTrainingRequest(categories=chosen)
    path = method_path("Admin", "StartTraining")
    return Call(
        path,
        message,
        lambda data: pb.StartTrainingResponse.FromString(data).stage,
        once=True,
        patience_s=TEACHING_PATIENCE_S,
    )


def cancel_training() -> Call[int]:
    """The stage whose training was stopped."""
    path = method_path("Admin", "CancelTraining")
    message = pb.CancelTrainingRequest()
    return Call(
        path,
        message,
        lambda data: pb.CancelTrainingResponse.FromString(data).stage,
        once=True,
        patience_s=TEACHING_PATIENCE_S,
    )


def recall_history(since: datetime.datetime | None, max_measurements: int) -> Call[RecallHistory]:
    """Errors: InvalidRequest, for a time without a zone too: whose clock it is read from would be a guess."""
    with refusing("max_measurements", max_measurements):
        message = pb.GetRecallHistoryRequest(max_measurements=max_measurements)
    if since is not None:
        if since.tzinfo is None:
            raise InvalidRequest("since has no time zone", field="since", got=str(since), expected="a time with a zone")
        with refusing("since", since):
            message.since.FromDatetime(since)
    return Call(
        method_path("Admin", "GetRecallHistory"),
        message,
        lambda data: mirror(RecallHistory, pb.GetRecallHistoryResponse.FromString(data)),
    )


def confusions(max_categories: int, max_examples: int) -> Call[Confusions]:
    """Errors: InvalidRequest."""
    with refusing("max_categories, max_examples", (max_categories, max_examples)):
        message = pb.ListConfusionsRequest(max_categories=max_categories, max_examples=max_examples)
    return Call(
        method_path("Admin", "ListConfusions"),
        message,
        lambda data: mirror(Confusions, pb.ListConfusionsResponse.FromString(data)),
    )


def event(data: bytes) -> Event:
    """One message of a watch. Errors: ServerFault when it cannot be read."""
    try:
        return mirror(Event, pb.WatchStatusResponse.FromString(data))
    except DecodeError as error:
        raise ServerFault(f"a status cannot be read: {error}") from error


def _generations(data: bytes) -> list[Generation]:
    return [mirror(Generation, message) for message in pb.ListGenerationsResponse.FromString(data).generations]
