"""Every error of the engine becomes a status that says what the caller can do; no other error says anything."""

from __future__ import annotations

import contextvars
import logging
import re
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2

from everlook.v1 import everlook_pb2 as pb
from indexer import errors
from server import wire
from server.logs import new_request
from server.status import CODES, DOMAIN, code_of, known, to_status
from tests.server.running import details_of

Code = grpc.StatusCode


def leaves(kind: type[errors.EverlookError] = errors.EverlookError) -> Iterator[type[errors.EverlookError]]:
    if not kind.__subclasses__():
        yield kind
    for below in kind.__subclasses__():
        yield from leaves(below)


LEAVES = [pytest.param(kind, id=kind.__name__) for kind in leaves()]

EXPECTED = {
    errors.MalformedMessage: Code.INVALID_ARGUMENT,
    errors.InvalidField: Code.INVALID_ARGUMENT,
    errors.ImageUnreadable: Code.INVALID_ARGUMENT,
    errors.ImageTooLarge: Code.INVALID_ARGUMENT,
    errors.InvalidVector: Code.INVALID_ARGUMENT,
    errors.ModelMismatch: Code.FAILED_PRECONDITION,
    errors.ItemNotFound: Code.NOT_FOUND,
    errors.GenerationNotFound: Code.NOT_FOUND,
    errors.NotReady: Code.FAILED_PRECONDITION,
    errors.GateFailed: Code.FAILED_PRECONDITION,
    errors.QueueFull: Code.RESOURCE_EXHAUSTED,
    errors.StorageFull: Code.RESOURCE_EXHAUSTED,
    errors.NotServing: Code.UNAVAILABLE,
    errors.DeadlinePassed: Code.DEADLINE_EXCEEDED,
    errors.Unsupported: Code.UNIMPLEMENTED,
    errors.ModelDamaged: Code.DATA_LOSS,
    errors.GenerationDamaged: Code.DATA_LOSS,
    errors.PhotoDamaged: Code.DATA_LOSS,
}


@pytest.mark.parametrize("kind", LEAVES)
def test_every_leaf_of_the_error_tree_has_the_code_that_the_protocol_describes(
    kind: type[errors.EverlookError],
) -> None:
    assert code_of(kind("no")) is EXPECTED[kind]


def test_every_entry_of_the_table_is_a_part_of_the_tree() -> None:
    assert all(any(issubclass(leaf, kind) for leaf in leaves()) for kind in CODES)


@pytest.mark.parametrize("kind", LEAVES)
def test_every_reason_is_one_of_the_protocols(kind: type[errors.EverlookError]) -> None:
    assert pb.ErrorReason.Value(f"ERROR_REASON_{kind.reason}") > 0


@pytest.mark.parametrize("kind", LEAVES)
def test_the_details_hold_field_got_expected_and_the_retry_hint(kind: type[errors.EverlookError]) -> None:
    error = kind("it is wrong", field="item.id", got="this", expected="that", retry_after_s=1.5)
    status = to_status(error)
    assert (status.code, status.message) == (EXPECTED[kind].value[0], "it is wrong")
    details = details_of(status)
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == (DOMAIN, kind.reason)
    assert dict(info.metadata) == {"field": "item.id", "got": "this", "expected": "that"}
    retry = details["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500


@pytest.mark.parametrize("kind", LEAVES)
def test_an_error_in_a_stream_or_batch_holds_the_same_facts(kind: type[errors.EverlookError]) -> None:
    error = kind("it is wrong", field="item.id", got="this", expected="that", retry_after_s=1.5)
    assert wire.error(error) == pb.Error(
        code=EXPECTED[kind].value[0],
        message="it is wrong",
        reason=pb.ErrorReason.Value(f"ERROR_REASON_{kind.reason}"),
        field="item.id",
        got="this",
        expected="that",
        retry_after_s=1.5,
    )


def test_bad_input_names_the_field_in_words() -> None:
    error = errors.InvalidField("k is out of range", field="k", got=0, expected="1 to 1000")
    bad = details_of(to_status(error))["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    (violation,) = bad.field_violations
    assert violation.field == "k"
    assert violation.description == "k is out of range: got 0, expected 1 to 1000"


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (errors.ItemNotFound("no such item", got="shoe-1"), "everlook.v1.Item", "shoe-1"),
        (errors.GenerationNotFound("no such generation", got=7), "everlook.v1.Generation", "7"),
    ],
    ids=["item", "generation"],
)
def test_what_is_not_found_is_named_as_the_resource(error: errors.EverlookError, kind: str, name: str) -> None:
    resource = details_of(to_status(error))["ResourceInfo"]
    assert isinstance(resource, error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == (kind, name)


def test_no_retry_hint_where_trying_again_does_not_help() -> None:
    error = errors.ImageTooLarge("too large")
    assert "RetryInfo" not in details_of(to_status(error))
    assert not wire.error(error).HasField("retry_after_s")


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("secret"), MemoryError("secret")], ids=repr)
def test_an_unknown_error_tells_only_where_the_log_has_it(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    status = to_status(known(error))
    assert status.code == Code.INTERNAL.value[0]
    assert b"secret" not in status.SerializeToString()
    reference = re.search(r"[0-9a-f]{16}$", status.message)
    assert reference is not None
    (record,) = caplog.records
    assert vars(record)["request_id"] == reference.group()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_within_a_call_its_id_is_the_reference_and_a_detail_of_every_error(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        new_request("order-7")
        unknown, foreseen = to_status(known(ValueError("secret"))), to_status(errors.InvalidField("no"))
        assert unknown.message.endswith(" order-7")
        for status in (unknown, foreseen):
            info = details_of(status)["RequestInfo"]
            assert isinstance(info, error_details_pb2.RequestInfo)
            assert info.request_id == "order-7"

    contextvars.copy_context().run(fail)
    assert vars(caplog.records[0])["request_id"] == "order-7"
    assert "RequestInfo" not in details_of(to_status(errors.InvalidField("no")))


@pytest.mark.parametrize(
    ("error", "logged"),
    [(errors.CatalogueDamaged("bytes have changed"), True), (errors.InvalidField("too long"), False)],
    ids=["damage", "bad input"],
)
def test_damage_is_logged_and_the_callers_own_mistakes_are_not(
    error: errors.EverlookError, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert known(error) is error
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * logged
