from __future__ import annotations

import asyncio
import hashlib
import io
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from clients import (
    AnyOf,
    AsyncClient,
    Client,
    Filter,
    ImageLike,
    Item,
    MetadataValue,
    Query,
    Range,
    Tls,
    errors,
    wire,
)
from clients import status as mirrored
from clients.images import image_bytes
from everlook.v1 import everlook_pb2 as pb
from tests.clients.conftest import COLOURS, QUICK, photo
from tests.clients.fake_server import MODEL, FakeServer


@pytest.fixture
def stocked(client: Client) -> Client:
    for number, colour in enumerate(COLOURS):
        metadata: dict[str, MetadataValue] = {"price": float(number), "sale": number % 2 == 0, "colour": colour}
        client.put(Item(colour, colour, metadata), photo(colour))
    return client


def ids(client: Client, **query: Any) -> list[str]:
    return sorted(hit.id for hit in client.search(image=photo("red"), **query).hits)


def test_the_nearest_item_comes_first_with_its_generation(stocked: Client) -> None:
    result = stocked.search(image=photo("blue"), k=2, include_metadata=True)
    assert result.hits[0].id == "blue"
    assert result.hits[0].score == pytest.approx(1.0)
    assert result.hits[0].metadata == {"price": 2.0, "sale": True, "colour": "blue"}
    assert (result.generation.number, result.generation.model) == (1, MODEL)
    assert len(result.hits) == 2


def test_a_vector_finds_what_its_photo_finds(stocked: Client) -> None:
    vector = stocked.embed(photo("green"))
    assert vector.values.dtype == np.float32
    assert np.linalg.norm(vector.values) == pytest.approx(1)
    assert stocked.search(vector=vector, k=1).hits[0].id == "green"


def test_an_item_finds_others_and_not_itself(stocked: Client) -> None:
    assert len(stocked.search(item_id="red").hits) == len(COLOURS) - 1


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(categories=["red", "blue"]), ["blue", "red"]),
        (Filter(exclude_categories=["red"]), ["blue", "green", "orange", "purple"]),
        (Filter(where={"colour": "red"}), ["red"]),
        (Filter(where={"colour": AnyOf("red", "green")}), ["green", "red"]),
        (Filter(where={"price": Range(min=1, max=2)}), ["blue", "green"]),
        (Filter(where={"price": Range(max=0)}), ["red"]),
        (Filter(where={"price": 3}), ["orange"]),
        (Filter(where={"sale": False, "price": Range(min=2)}), ["orange"]),
        (Filter(where={"sale": 1}), []),
        (Filter(), sorted(COLOURS)),
    ],
    ids=["categories", "exclude", "text", "any of", "range", "open range", "number", "two", "type counts", "empty"],
)
def test_a_filter_keeps_what_matches(stocked: Client, wanted: Filter, found: list[str]) -> None:
    assert ids(stocked, filter=wanted) == found


def test_a_minimum_score_leaves_out_the_rest(stocked: Client) -> None:
    assert ids(stocked, min_score=0.999) == ["red"]


def test_what_was_put_is_what_is_got(client: Client) -> None:
    data = photo("red")
    acknowledged = client.put(Item("ä/1", "rot", {"n": 1, "b": True, "s": "x"}), data)
    stored = client.get("ä/1")
    assert (stored.id, stored.category, stored.seq) == ("ä/1", "rot", acknowledged.seq)
    assert stored.metadata == {"n": 1.0, "b": True, "s": "x"}
    assert stored.metadata["b"] is True
    assert (stored.width, stored.height, stored.format, stored.image_bytes) == (64, 48, "JPEG", len(data))
    image = client.get_image("ä/1")
    assert image.data == data
    assert image.media_type == "image/jpeg"
    assert image.sha256 == stored.image_sha256 == hashlib.sha256(data).hexdigest()
    assert client.put(Item("ä/1", "rot", {"n": 1, "b": True, "s": "x"}), data).outcome == "unchanged"
    assert client.put(Item("ä/1", "rouge"), None).outcome == "updated"
    assert client.get_image("ä/1").data == data


def test_many_items_are_got_in_as_many_calls_as_it_takes(client: Client, server: FakeServer) -> None:
    client.put(Item("a", "red"), photo("red"))
    client.put(Item("b", "red"), photo("red"))
    found = client.get_many(["b", *(f"missing {n}" for n in range(250)), "a"])
    assert [item.id for item in found] == ["b", "a"]
    assert server.calls["BatchGet"] == 3


def test_categories_are_listed_over_all_pages(stocked: Client, server: FakeServer) -> None:
    assert [(c.name, c.items, c.state) for c in stocked.categories()] == [(c, 1, "new") for c in sorted(COLOURS)]
    assert server.calls["ListCategories"] == 3


def test_the_asyncio_client_has_the_same_methods(stocked: Client, server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncClient(server.target, retries=QUICK) as client:
            assert (await client.search(image=photo("blue"), k=1)).hits[0].id == "blue"
            assert [c.name async for c in client.categories()] == sorted(COLOURS)
            assert (await client.get("red")).category == "red"
            assert len(await client.get_many(COLOURS)) == len(COLOURS)
            assert (await client.status()).serving
            assert (await client.embed(photo("red"))).model == MODEL
            assert len(await client.search_batch([Query(item_id="red")] * 3)) == 3
            assert (await client.get_image("red")).data == photo("red")

    asyncio.run(main())
    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public == {name for name in dir(AsyncClient) if not name.startswith("_")}


@pytest.fixture
def deaf() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_closing_the_asyncio_client_raises_cancelled_in_its_calls(deaf: str) -> None:
    async def main() -> None:
        client = AsyncClient(deaf, retries=QUICK)
        call = asyncio.create_task(client.status())
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(errors.Cancelled):
            await call
        with pytest.raises(errors.Cancelled):
            await client.status()

    asyncio.run(main())


def test_closing_the_client_raises_cancelled_in_the_call_of_another_thread(deaf: str) -> None:
    client = Client(deaf, retries=QUICK)
    with ThreadPoolExecutor(1) as caller:
        call = caller.submit(client.status)
        time.sleep(0.1)
        client.close()
        assert isinstance(call.exception(), errors.Cancelled)


def test_a_client_that_is_closed_just_before_its_call_begins_says_so(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (
        lambda client: client.status(),
        lambda client: list(client.watch()),
        lambda client: list(client.ingest([(Item("a", "b"), photo("red"))])),
    ):
        client = Client(server.target, retries=QUICK)
        channel = client._open_channel()

        def closed_meanwhile(client: Client = client, channel: grpc.Channel = channel) -> grpc.Channel:
            client.close()
            return channel

        monkeypatch.setattr(client, "_open_channel", closed_meanwhile)
        with pytest.raises(errors.Cancelled, match="closed"):
            call(client)


def test_a_closed_client_says_so(server: FakeServer) -> None:
    client = Client(server.target)
    client.close()
    with pytest.raises(errors.Cancelled, match="closed"):
        client.status()
    with pytest.raises(errors.Cancelled, match="closed"):
        list(client.ingest([(Item("a", "b"), photo("red"))]))


def _array() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((8, 6, 3), (200, 10, 10), np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F", "HSV"])
def test_a_pillow_image_of_any_mode_is_sent_as_png(mode: str) -> None:
    image = Image.new("RGB", (5, 4), "red").convert("L" if mode in ("I;16", "LA", "F") else "RGB").convert(mode)
    with Image.open(io.BytesIO(image_bytes(image))) as sent:
        assert (sent.format, sent.size) == ("PNG", (5, 4))


@pytest.mark.parametrize("kind", ["bytes", "path", "pillow", "array", "grey array", "alpha array"])
def test_a_photo_comes_in_any_form(client: Client, tmp_path: Path, kind: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo("red"))
    forms: dict[str, ImageLike] = {
        "bytes": photo("red"),
        "path": tmp_path / "photo.jpg",
        "pillow": Image.fromarray(_array()),
        "array": _array(),
        "grey array": _array()[:, :, 0],
        "alpha array": np.dstack([_array(), _array()[:, :, :1]]),
    }
    image = forms[kind]
    client.put(Item("a", "red"), image)
    assert client.search(image=image, k=1).hits[0].score == pytest.approx(1.0)


@pytest.mark.parametrize(
    "image",
    [b"", _array().astype(np.float32), np.zeros((2, 3, 5), np.uint8), np.zeros((0, 3, 3), np.uint8), "photo.jpg"],
    ids=["empty", "floats", "five channels", "no pixels", "a str"],
)
def test_what_is_no_photo_is_refused_before_it_is_sent(server: FakeServer, client: Client, image: Any) -> None:
    with pytest.raises(errors.InvalidRequest) as raised:
        client.put(Item("a", "red"), image)
    assert (raised.value.reason, raised.value.field) == ("IMAGE_UNREADABLE", "image")
    assert server.calls["Put"] == 0


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"image": b"x", "item_id": "a"},
        {"item_id": "a", "k": -1},
        {"item_id": "\ud800"},
        {"item_id": "a", "filter": Filter(categories="red")},
        {"item_id": "a", "filter": Filter(where={"n": 2**60 + 1})},
        {"item_id": "a", "filter": Filter(where={"n": None})},  # type: ignore[dict-item]  # what it refuses
    ],
    ids=["none", "two", "negative k", "lone surrogate", "a str of categories", "inexact number", "None"],
)
def test_what_no_message_can_hold_is_an_invalid_request(
    server: FakeServer, client: Client, query: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidRequest):
        client.search(**query)
    assert server.calls["Search"] == 0


@pytest.mark.parametrize("value", [float("nan"), 10**400, object()], ids=["nan", "huge", "object"])
def test_metadata_that_is_no_value_is_refused_by_client_or_server(client: Client, value: Any) -> None:
    if isinstance(value, float):
        assert wire.put(Item("a", "b", {"n": value}), b"x").request  # the server's rule, and its words
        return
    with pytest.raises(errors.InvalidRequest, match="n"):
        client.put(Item("a", "b", {"n": value}), photo("red"))


def test_a_token_goes_with_every_call(server: FakeServer) -> None:
    with Client(server.target, token="secret") as client:  # noqa: S106 - no secret
        client.status()
    assert server.metadata["authorization"] == "Bearer secret"


@pytest.mark.parametrize("target", ["shop.example:50051", "10.1.2.3:50051", "dns:///shop.example:50051"])
def test_a_token_never_crosses_a_network_unencrypted(target: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="unencrypted"):
        Client(target, token="secret")  # noqa: S106 - no secret
    Client(target, token="secret", tls=Tls()).close()  # noqa: S106 - no secret


@pytest.mark.parametrize("target", ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:///run/x"])
def test_a_token_may_stay_on_this_machine(target: str) -> None:
    Client(target, token="secret").close()  # noqa: S106 - no secret


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (mirrored.Status, pb.StatusResponse),
        (mirrored.Generation, pb.Generation),
        (mirrored.Model, pb.Model),
        (mirrored.CohortRecall, pb.CohortRecall),
        (mirrored.Gate, pb.Gate),
        (mirrored.CatalogueStatus, pb.CatalogueStatus),
        (mirrored.Device, pb.Device),
        (mirrored.Queue, pb.Queue),
        (mirrored.Limits, pb.Limits),
        (mirrored.Program, pb.Program),
        (mirrored.TrainingStatus, pb.TrainingStatus),
        (mirrored.Event, pb.WatchStatusResponse),
    ],
    ids=lambda value: value.__name__,
)
def test_the_status_mirrors_the_protocol_field_by_field(kind: Any, message: Any) -> None:
    assert list(kind.__dataclass_fields__) == [field.name for field in message.DESCRIPTOR.fields]


def test_a_status_is_read_with_everything_in_it(client: Client) -> None:
    message = pb.StatusResponse(
        serving=True,
        generation=pb.Generation(
            state=pb.GENERATION_STATE_READY,
            index_recall=0.5,
            recall=[pb.CohortRecall(cohort=1)],
            gates=[pb.Gate(name="parity", passed=True)],
        ),
        training=pb.TrainingStatus(stage=3),
    )
    read = wire.status().answer(message.SerializeToString())
    assert read.generation is not None
    assert read.generation.state is mirrored.GenerationState.READY
    assert (read.generation.index_recall, read.generation.recall[0].cohort) == (0.5, 1)
    assert read.generation.gates[0].passed
    assert read.training is not None
    assert client.status().training is None


def test_a_deadline_that_passes_is_an_error_of_its_own(deaf: str) -> None:
    with Client(deaf) as client, pytest.raises(errors.DeadlineExceeded):
        client.status(timeout_s=0.2)
