"""A server that the tests of one file share, and an engine for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.engine import Engine
from tests.server.running import Running, engine_in, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running server with an empty catalogue at first."""
    with running(tmp_path_factory.mktemp("data")) as server:
        yield server


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine over an empty catalogue."""
    with engine_in(tmp_path) as engine:
        yield engine
