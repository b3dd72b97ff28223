"""docs/models.md says what was measured and what is built."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from indexer.model import Preprocessing
from tests.bench.heads import BACKBONE, DATA, EXPONENTS, PAGE, RESULTS, SHRINKAGE, SIZES, with_tables
from trainer import backbones, first_model
from trainer.__main__ import main

RESULT = json.loads(RESULTS.read_text())


PHOTOS = f"{first_model.PCA_PHOTOS:,} photos like the gallery's"


def row(head: str, size: Preprocessing = SIZES[0]) -> dict[str, Any]:
    (found,) = (
        row
        for row in RESULT["rows"]
        if (row["head"], row["image_size"], row["resize_size"]) == (head, size.image_size, size.resize_size)
    )
    return dict(found)


def mean_recall(head: str, size: Preprocessing = SIZES[0]) -> float:
    return sum(float(row(head, size)[name]["recall_at_1"]) for name in DATA) / len(DATA)


def fitted(said: str) -> list[str]:
    return [f"pca, exponent {exponent}; {said}" for exponent in EXPONENTS]


def test_its_tables_are_those_of_the_stored_figures() -> None:
    page = PAGE.read_text()
    assert with_tables(page, RESULT) == page


def test_the_default_is_what_was_measured() -> None:
    default = first_model.FirstModel()
    assert default.backbone == BACKBONE == RESULT["backbone"]
    assert first_model.preprocessing(default.image_size) == SIZES[0]
    assert first_model.PCA_SHRINKAGE == SHRINKAGE == RESULT["shrinkage"]


def test_the_default_image_size_has_the_highest_recall() -> None:
    assert max(SIZES, key=lambda size: mean_recall("orthogonal", size)) == SIZES[0]


@pytest.mark.parametrize("chooser", DATA)
def test_the_fitted_head_has_the_highest_recall_on_each_data_set(chooser: str) -> None:
    best = max(fitted(PHOTOS), key=lambda head: float(row(head)[chooser]["recall_at_1"]))
    assert best == f"pca, exponent {first_model.PCA_EXPONENT}; {PHOTOS}"


def test_only_the_fitted_head_passes_the_rule_and_only_with_enough_photos() -> None:
    plain = row("orthogonal")

    def passes(head: str) -> bool:
        return all(
            row(head)[name]["recall_at_1"] - plain[name]["recall_at_1"]
            > 2 * max(row(head)[name]["recall_at_1_std"], plain[name]["recall_at_1_std"])
            for name in DATA
        )

    few = f"{first_model.LEAST_PCA_PHOTOS} photos like the gallery's"
    assert [head for head in fitted(PHOTOS) if passes(head)] == [f"pca, exponent {first_model.PCA_EXPONENT}; {PHOTOS}"]
    assert not any(passes(head) for head in fitted(few))


def test_without_photos_of_the_gallery_nothing_beats_the_orthogonal_head() -> None:
    assert all(mean_recall("orthogonal") > mean_recall(head) for head in fitted("1,000 photos of the other data"))


def test_it_names_every_backbone_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = PAGE.read_text()
    assert {f"`{name}`" for name in backbones.names()} <= set(re.findall(r"`[a-z0-9_]+`", page))
    assert options == set(re.findall(r"--[a-z][a-z-]+", page))
