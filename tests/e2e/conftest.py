from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.folders import data_with, tiny_data
from tests.e2e.photos import photo
from tests.e2e.shop import Shop, open_shop


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with the tiny model and nothing else."""
    return tiny_data(tmp_path)


@pytest.fixture
def real_data(tmp_path: Path, model_folder: Path) -> Path:
    """A data folder with a real model 0 of 128 px and nothing else."""
    return data_with(tmp_path, model_folder)


@pytest.fixture(scope="module")
def changing_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A running server with a few items, shared by the tests of a module; they undo what they change."""
    with open_shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def shop(changing_shop: Shop) -> Iterator[Shop]:
    """A running server with a few items, which has to be after the test as it was before, and to answer as it did."""
    before = changing_shop.raw.state()
    yield changing_shop
    assert changing_shop.raw.state() == before
    assert changing_shop.client.search(image=photo(3), k=1).hits[0].id == "item-3"
    assert "internal error" not in changing_shop.process.log
