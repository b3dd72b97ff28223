"""Promise 10 over the wire, photos: a typed error says what was got and expected, and nothing changes.

Each refusal is seen as any app sees it, by code and details, and as the Python client's typed error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

import clients
from clients import Client, Item
from everlook.v1 import everlook_pb2 as pb
from tests.e2e.folders import tiny_data
from tests.e2e.photos import photo
from tests.e2e.process import ServerProcess
from tests.e2e.raw import TIMEOUT_S, Stubs, refusal
from tests.e2e.shop import MAX_IMAGE_BYTES, Shop, check, check_same
from tests.indexer.image_files import gif_bomb, jpeg_of_many_scans, png_bomb, saved, tiff_of_huge_tiles, webp_header

BAD_PHOTOS = {
    "empty": (b"", "IMAGE_UNREADABLE"),
    "truncated": (photo(0)[: len(photo(0)) // 2], "IMAGE_UNREADABLE"),
    "cut in its header": (photo(0)[:10], "IMAGE_UNREADABLE"),
    "corrupt png": (
        (png := saved(Image.new("RGB", (64, 64), "red"), "PNG"))[:50] + b"\xff" * 30 + png[80:],
        "IMAGE_UNREADABLE",
    ),
    "text named .jpg": (b"I am a shopping list: milk, bread, eggs.\n" * 20, "IMAGE_UNREADABLE"),
    "pdf": (b"%PDF-1.7\n" + bytes(1000), "IMAGE_UNREADABLE"),
    "20,000 x 20,000 png": (png_bomb(20_000, 20_000), "IMAGE_TOO_LARGE"),
    "gif with a frame beyond its screen": (gif_bomb(), "IMAGE_TOO_LARGE"),
    "tiff of huge tiles": (tiff_of_huge_tiles(), "IMAGE_TOO_LARGE"),
    "jpeg of many scans": (jpeg_of_many_scans()[:MAX_IMAGE_BYTES], "IMAGE_TOO_LARGE"),
    "webp of a huge canvas": (webp_header(16_000, 16_000), "IMAGE_TOO_LARGE"),
    "file over the limit": (photo(0) + bytes(MAX_IMAGE_BYTES), "IMAGE_TOO_LARGE"),
}
RAW_CALLS: dict[str, Callable[[Stubs, bytes], object]] = {
    "search": lambda raw, data: raw.search.Search(pb.SearchRequest(image=data), timeout=TIMEOUT_S),
    "embed": lambda raw, data: raw.search.Embed(pb.EmbedRequest(image=data), timeout=TIMEOUT_S),
    "put new": lambda raw, data: raw.catalog.Put(
        pb.PutRequest(item=pb.Item(id="new", category="shelf"), image=data), timeout=TIMEOUT_S
    ),
    "put known": lambda raw, data: raw.catalog.Put(
        pb.PutRequest(item=pb.Item(id="item-0", category="shelf"), image=data), timeout=TIMEOUT_S
    ),
}
CLIENT_CALLS: dict[str, Callable[[Client, bytes], object]] = {
    "search": lambda client, data: client.search(image=data),
    "embed": lambda client, data: client.embed(data),
    "put new": lambda client, data: client.put(Item("new", "shelf"), data),
    "put known": lambda client, data: client.put(Item("item-0", "shelf"), data),
}


@pytest.mark.parametrize("call", RAW_CALLS)
@pytest.mark.parametrize("bad", BAD_PHOTOS)
def test_a_bad_photo_is_refused(shop: Shop, bad: str, call: str) -> None:
    data, reason = BAD_PHOTOS[bad]
    found = refusal(lambda: RAW_CALLS[call](shop.raw, data))
    check(found, "INVALID_ARGUMENT", reason, "image")
    assert found.got
    with pytest.raises(clients.InvalidRequest) as caught:
        CLIENT_CALLS[call](shop.client, data)
    if data:
        check_same(caught.value, found)
    else:  # no need to ask the server
        assert (caught.value.reason, caught.value.field) == (reason, "image")


def test_a_stream_of_bad_photos_answers_each_with_its_error(shop: Shop) -> None:
    answers = list(shop.client.ingest((Item(bad, "shelf"), data) for bad, (data, _) in BAD_PHOTOS.items()))
    assert {answer.id: answer.error and answer.error.reason for answer in answers} == {
        bad: reason for bad, (_, reason) in BAD_PHOTOS.items()
    }
    assert all(isinstance(each.error, clients.InvalidRequest) and each.error.field == "image" for each in answers)


def test_bombs_are_refused_before_they_cost_memory(shop: Shop) -> None:
    process = psutil.Process(shop.process.pid)
    before = process.memory_info().rss
    for data, reason in BAD_PHOTOS.values():
        if reason == "IMAGE_TOO_LARGE":
            for _ in range(4):
                with pytest.raises(clients.InvalidRequest):
                    shop.client.search(image=data)
    assert process.memory_info().rss - before < 64 << 20


def test_the_server_stops_well_after_all_this(tmp_path: Path) -> None:
    with ServerProcess(tiny_data(tmp_path)) as server, server.client() as client:
        for data, _ in BAD_PHOTOS.values():
            if len(data) <= MAX_IMAGE_BYTES:
                with pytest.raises(clients.InvalidRequest):
                    client.search(image=data)
        assert server.stop() == 0
        assert "Traceback" not in server.log
