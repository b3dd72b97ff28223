"""The README quotes the stored figures, and the stored figures carry what aims are held against."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bench import learning
from tests.bench.demo import PAGE, with_tables
from tests.bench.machine import RESULTS
from trainer.bench import report

MACHINE = {"processor", "cores", "python"}


def stored(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return figures


def test_the_readmes_tables_are_those_of_the_stored_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page


@pytest.mark.parametrize("name", learning.kept())
def test_a_learning_benchs_page_is_that_of_its_kept_results(name: str) -> None:
    assert learning.page(name).read_text(encoding="utf-8").startswith(report.markdown(learning.kept()[name]))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: str(path.stem))
def test_stored_figures_say_which_machine_they_are_from(path: Any) -> None:
    assert set(stored(path.stem)["machine"]) >= MACHINE
