from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from clients import Client, RetryPolicy
from tests.clients.fake_server import FakeServer

QUICK = RetryPolicy(initial_s=0.01, max_s=0.05)
COLOURS = ("red", "green", "blue", "orange", "purple")


def photo(colour: str, number: int = 0) -> bytes:
    """A JPEG whose colour is its category, with a spot that makes each one different."""
    image = Image.new("RGB", (64, 48), colour)
    image.paste(
        (240, 240, 240), (4 * number % 60, 4 * (number // 15) % 44, 4 * number % 60 + 4, 4 * (number // 15) % 44 + 4)
    )
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.target, timeout_s=10, retries=QUICK) as client:
        yield client


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder for each of three colours, with four photos in each."""
    for colour in COLOURS[:3]:
        (tmp_path / "shop" / colour).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "shop" / colour / f"{number}.jpg").write_bytes(photo(colour, number))
    return tmp_path / "shop"
