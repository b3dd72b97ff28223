"""A data directory whose model 0 is live, and what reads metrics from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from indexer.datadir import DataDir
from indexer.generation import set_live
from tests.indexer.tiny_model import write_tiny_model
from tests.server.test_learning import generation


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    """A data directory with empty folders."""
    made = DataDir(tmp_path)
    made.create()
    return made


@pytest.fixture
def base(data: DataDir) -> str:
    """The id of model 0, of which generation 1 is live."""
    model = write_tiny_model(data.models).id
    set_live(data, generation(data, model).number)
    return model


def values_of(families: Iterable[Metric]) -> dict[str, dict[str, float]]:
    """By name of the family, its samples by the values of their labels, joined."""
    return {family.name: {",".join(each.labels.values()): each.value for each in family.samples} for family in families}
