from __future__ import annotations

import dataclasses

import grpc
import pytest

from clients import errors, wire
from clients.client import Client
from clients.retry import RetryPolicy
from clients.types import Embedding, Item, Query
from tests.clients.conftest import photo
from tests.clients.fake_server import MODEL, Failure, FakeServer

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, errors.InvalidRequest),
        (Code.OUT_OF_RANGE, errors.InvalidRequest),
        (Code.NOT_FOUND, errors.NotFound),
        (Code.FAILED_PRECONDITION, errors.ModelMismatch),
        (Code.UNAUTHENTICATED, errors.Unauthorized),
        (Code.PERMISSION_DENIED, errors.Unauthorized),
        (Code.RESOURCE_EXHAUSTED, errors.Overloaded),
        (Code.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Code.UNIMPLEMENTED, errors.Unimplemented),
        (Code.DATA_LOSS, errors.DataDamaged),
        (Code.INTERNAL, errors.ServerFault),
        (Code.ABORTED, errors.ServerFault),
    ],
    ids=lambda value: value.name if isinstance(value, Code) else None,
)
def test_each_code_has_its_error(
    server: FakeServer, client: Client, code: Code, kind: type[errors.EverlookClientError]
) -> None:
    server.fail("Get", Failure(code, "said so"))
    with pytest.raises(kind, match="said so") as raised:
        client.get("a")
    assert type(raised.value) is kind


def test_what_a_stopping_server_cancels_is_unavailable_and_tried_again(server: FakeServer, client: Client) -> None:
    server.fail("Status", Failure(Code.CANCELLED, "said so"))
    with Client(server.target, retries=RetryPolicy(attempts=1)) as once, pytest.raises(errors.Unavailable):
        once.status()
    server.fail("Status", Failure(Code.CANCELLED, "said so"))
    assert client.status().serving


def test_the_details_of_a_failed_call_become_facts(server: FakeServer, client: Client) -> None:
    failure = Failure(
        Code.RESOURCE_EXHAUSTED, reason="STORAGE_FULL", field="image", got="9", expected="8", retry_after_s=3600.5
    )
    server.fail("Get", failure)
    with pytest.raises(errors.Overloaded) as raised:
        client.get("a")
    error = raised.value
    assert (error.reason, error.field, error.got, error.expected) == ("STORAGE_FULL", "image", "9", "8")
    assert error.retry_after_s == 3600.5


def test_a_resource_info_names_what_was_not_found(client: Client) -> None:
    with pytest.raises(errors.NotFound) as raised:
        client.get("nobody")
    assert (raised.value.reason, raised.value.got) == ("ITEM_NOT_FOUND", "nobody")


class _Failed:
    def __init__(self, *trailers: tuple[str, bytes]) -> None:
        self._trailers = trailers

    def code(self) -> Code:
        return Code.INVALID_ARGUMENT

    def details(self) -> str:
        return ""

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return self._trailers


@pytest.mark.parametrize(
    "trailers",
    [(), (("grpc-status-details-bin", b"\xff\xff"),), (("other-bin", b"x"),)],
    ids=["none", "damaged", "another"],
)
def test_details_that_cannot_be_read_still_leave_a_typed_error(trailers: tuple[tuple[str, bytes], ...]) -> None:
    error = errors.from_rpc_error(_Failed(*trailers))
    assert type(error) is errors.InvalidRequest
    assert str(error) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (Code.FAILED_PRECONDITION, "MODEL_MISMATCH", errors.ModelMismatch),
        (Code.FAILED_PRECONDITION, "NOT_READY", errors.NotReady),
        (Code.FAILED_PRECONDITION, "OTHER", errors.PreconditionFailed),
        (Code.NOT_FOUND, "GENERATION_NOT_FOUND", errors.GenerationNotFound),
        (Code.NOT_FOUND, "ITEM_NOT_FOUND", errors.NotFound),
        (Code.INTERNAL, "NOT_READY", errors.ServerFault),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_of_one_code_the_reason_says_which_error(
    code: Code, reason: str, kind: type[errors.EverlookClientError]
) -> None:
    assert errors.error_class(code, reason) is kind


def test_an_unknown_code_number_is_a_fault_of_the_server() -> None:
    assert errors.error_class(99, "") is errors.ServerFault


def test_a_query_of_a_batch_fails_alone(client: Client) -> None:
    client.put(Item("a", "red"), photo("red"))
    found, missing, mismatch = client.search_batch(
        [Query(item_id="a"), Query(item_id="b"), Query(vector=_embedding_of_another_model(client))]
    )
    assert not isinstance(found, errors.EverlookClientError)
    assert isinstance(missing, errors.NotFound)
    assert isinstance(mismatch, errors.ModelMismatch)
    assert (mismatch.got, mismatch.expected, mismatch.reason) == ("another", MODEL, "MODEL_MISMATCH")


def _embedding_of_another_model(client: Client) -> Embedding:
    return dataclasses.replace(client.embed(photo("red")), model="another")


def test_a_response_that_is_no_message_is_a_fault_of_the_server() -> None:
    with pytest.raises(errors.ServerFault, match="cannot be read"):
        wire.get("a").answer(b"\xff\xff\xff")
    with pytest.raises(errors.ServerFault, match="cannot be read"):
        wire.acknowledgement(b"\xff\xff\xff")


def test_an_error_says_its_facts() -> None:
    assert str(errors.InvalidRequest("too large", field="k", got="7", expected="5")) == (
        "too large (field k; got 7; expected 5)"
    )
    assert str(errors.Unavailable("down")) == "down"
