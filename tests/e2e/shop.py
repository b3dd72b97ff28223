"""A running server that holds a few items, for tests of what it answers; and what a refusal has to say."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from clients import Client, EverlookClientError, Item
from tests.e2e.folders import tiny_data
from tests.e2e.photos import photo
from tests.e2e.process import ServerProcess
from tests.e2e.raw import Refusal, Stubs

ITEMS = 12
DIMENSION = 32
MAX_IMAGE_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 2 << 20


@dataclass(frozen=True)
class Shop:
    """A server with the items `item-0` to `item-11`, which show `photo(0)` to `photo(11)`; two ways to talk to it."""

    process: ServerProcess
    client: Client
    raw: Stubs
    model: str


@contextlib.contextmanager
def open_shop(parent: Path) -> Iterator[Shop]:
    """A shop over a fresh data folder below `parent`."""
    flags = ("--max-image-bytes", str(MAX_IMAGE_BYTES), "--max-message-bytes", str(MAX_MESSAGE_BYTES))
    with (
        ServerProcess(tiny_data(parent), *flags) as process,
        process.client() as client,
        grpc.insecure_channel(process.target) as channel,
    ):
        items = [(Item(f"item-{seed}", "shelf", {"place": float(seed)}), photo(seed)) for seed in range(ITEMS)]
        assert all(answer.error is None for answer in client.ingest(items))
        yield Shop(process, client, Stubs(channel), client.embed(photo(0)).model)


def check(found: Refusal, code: str, reason: str, field: str = "") -> None:
    """The refusal says what it has to, for people and for programs."""
    assert (found.code, found.domain, found.reason, found.field) == (code, "everlook", reason, field), found
    assert found.message
    if code == "INVALID_ARGUMENT":
        assert {"ErrorInfo", "BadRequest"} <= found.details
        assert found.expected
    assert found.retry_after_s is None


def check_same(error: EverlookClientError, found: Refusal) -> None:
    """The typed error holds the same facts."""
    facts = (error.message, error.reason, error.field, error.got, error.expected, error.retry_after_s)
    assert facts == (found.message, found.reason, found.field, found.got, found.expected, found.retry_after_s)
