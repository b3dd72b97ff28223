"""What a model says that it has learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from indexer.errors import ModelDamaged
from indexer.lineage import Lineage, load_lineage

LINEAGE = Lineage("a" * 64, 3, (("Äpfel", "pears"), ("kiwi",)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(LINEAGE.to_json(), encoding="utf-8")
    assert load_lineage(tmp_path) == LINEAGE


def test_the_file_says_it_plainly() -> None:
    assert json.loads(LINEAGE.to_json()) == {
        "format": 1,
        "base": "a" * 64,
        "training": 3,
        "cohorts": [["Äpfel", "pears"], ["kiwi"]],
    }


def test_model_0_has_learned_nothing(tmp_path: Path) -> None:
    assert load_lineage(tmp_path) == Lineage("", 0, ())


def test_each_category_has_the_stage_that_taught_it() -> None:
    assert LINEAGE.cohort_of() == {"Äpfel": 0, "pears": 0, "kiwi": 1}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        '{"format": 2, "base": "", "training": 1, "cohorts": []}',
        '{"format": 1, "training": 1, "cohorts": []}',
        '{"format": 1, "base": "", "training": "x", "cohorts": []}',
        '{"format": 1, "base": "", "training": 1, "cohorts": [1]}',
        '{"format": 1, "base": "", "training": 1, "cohorts": ["apples"]}',
    ],
)
def test_another_content_is_refused_with_the_files_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(content)
    with pytest.raises(ModelDamaged, match=r"lineage\.json cannot be read"):
        load_lineage(tmp_path)
