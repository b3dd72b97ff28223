"""A call as it is observed, also when it is over before its method is."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from server.metrics import Metrics
from server.observed import Observed


class Context:
    """gRPC's, which crashes the process when it is asked of a call that is over; this one raises."""

    def __init__(self) -> None:
        self.over = False

    def peer(self) -> str:
        assert not self.over
        return "ipv4:10.0.0.7:41180"

    def set_trailing_metadata(self, metadata: object) -> None:
        assert not self.over

    def time_remaining(self) -> float | None:
        return None  # which gRPC keeps beside the call


def test_a_stream_whose_caller_has_hung_up_is_logged_without_asking_grpc(caplog: pytest.LogCaptureFixture) -> None:
    context: Any = Context()
    metrics = Metrics(CollectorRegistry())

    def hang_up() -> None:
        observed = Observed("Admin/WatchStatus", (), metrics, None)
        with observed.serving(context):
            context.over = True
            raise asyncio.CancelledError

    with caplog.at_level("INFO", "server.calls"), pytest.raises(asyncio.CancelledError):
        contextvars.copy_context().run(hang_up)  # in a context of its own, as gRPC runs each call
    (line,) = caplog.records
    assert vars(line)["peer"] == "ipv4:10.0.0.7:41180"
    assert vars(line)["code"] == grpc.StatusCode.CANCELLED.name
