"""Recall in a bench: of the right photos, in the right groups, as a literal count has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import ImageUnreadable
from indexer.images import preprocess
from indexer.model import Preprocessing
from tests.trainer import photo_folders, tiny
from trainer.bench import evaluate
from trainer.bench.evaluate import Photos
from trainer.protocol import Split, build

PREPROCESSING = Preprocessing(32, 37)
COUNTS = {f"c{i}": 10 for i in range(6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folders.make(tmp_path_factory.mktemp("evaluate") / "photos", COUNTS)


def literal(vectors: NDArray[np.float32], photos: Photos, stages: set[int], k: int) -> tuple[float | None, int]:
    """Recall@K of the photos of these stages, each searched among the others, and how many could be found."""
    group = [i for i in range(len(vectors)) if photos.stages[i] in stages]
    found = queries = 0
    for query in group:
        others = [i for i in group if i != query]
        if not any(photos.categories[i] == photos.categories[query] for i in others):
            continue
        queries += 1
        nearest = sorted(others, key=lambda i: -float(vectors[i] @ vectors[query]))[:k]
        found += any(photos.categories[i] == photos.categories[query] for i in nearest)
    return (found / queries if queries else None), queries


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("each", [1, 5], ids=["one photo a category", "five"])
def test_recalls_are_those_of_a_literal_count(stage: int, each: int) -> None:
    draw = np.random.default_rng(stage)
    categories = np.repeat(np.arange(3 * (stage + 1)), each)
    stages = categories // 3
    photos = Photos(np.zeros((len(categories), 1, 1, 3), np.uint8), categories, stages)
    vectors = draw.normal(size=(len(categories), 4)) + np.eye(4)[categories % 4]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = evaluate.recalls(vectors, photos, stage)
    groups = {"new": {stage}, "all": set(range(stage + 1))} | ({"old": set(range(stage))} if stage else {})
    assert (found["old"] is None) == (stage == 0)
    assert len(found["stages"]) == stage + 1
    for recall, members in [
        *((found[name], members) for name, members in groups.items()),
        *((recall, {b}) for b, recall in enumerate(found["stages"])),
    ]:
        for k in (1, 2, 4, 8):
            assert (recall[str(k)], recall["queries"]) == literal(vectors, photos, members, k)
    if each > 1:
        assert 0 < found["all"]["1"] < 1


def test_recall_is_none_where_no_photo_could_be_found() -> None:
    nothing = Photos(np.empty((0, 1, 1, 3), np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
    found = evaluate.recalls(np.empty((0, 4), np.float32), nothing, 0)
    assert found["all"] == {"1": None, "2": None, "4": None, "8": None, "queries": 0}


@pytest.mark.parametrize("part", evaluate.PARTS)
def test_the_photos_of_a_part_are_read_as_serving_sees_them(part: str, folder: Path) -> None:
    protocol = build(folder, [2, 2, 2], split=Split(train=0.5, validation=0.4))
    photos = evaluate.read(protocol, part, PREPROCESSING, until=1)  # type: ignore[arg-type] # one of PARTS
    expected = [
        (path, category, stage)
        for stage in (0, 1)
        for path, category in protocol.photos([stage], part)  # type: ignore[arg-type] # one of PARTS
    ]
    assert len(photos.pixels) == len(expected) > 0
    for pixels, code, stage, (path, category, number) in zip(
        photos.pixels, photos.categories, photos.stages, expected, strict=True
    ):
        assert np.array_equal(pixels, preprocess(path.read_bytes(), PREPROCESSING)[0])
        assert (f"c{code}", stage) == (category, number)


def test_photos_until_a_stage_are_those_of_it_and_the_stages_before(folder: Path) -> None:
    protocol = build(folder, [2, 2, 2])
    photos = evaluate.read(protocol, "test", PREPROCESSING, until=2)
    kept = photos.until(1)
    assert set(kept.stages) == {0, 1}
    assert np.array_equal(kept.pixels, photos.pixels[: len(kept.pixels)])


def test_a_part_without_photos_is_empty(folder: Path) -> None:
    protocol = build(folder, [2, 2], split=Split(validation=0))
    photos = evaluate.read(protocol, "validation", PREPROCESSING, until=1)
    assert evaluate.embed(tiny.network(0), photos.pixels, tiny.CPU).shape[0] == 0
    assert photos.pixels.shape == (0, 32, 32, 3)


def test_a_photo_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    spoiled = photo_folders.make(tmp_path / "photos", COUNTS)
    protocol = build(spoiled, [2, 2])
    path, _ = protocol.photos([1], "test")[0]
    path.write_bytes(b"no photo")
    with pytest.raises(ImageUnreadable, match=path.name):
        evaluate.read(protocol, "test", PREPROCESSING, until=1)


def test_embeddings_do_not_depend_on_the_batch() -> None:
    network = tiny.network(1).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    together = evaluate.embed(network, pixels, tiny.CPU)
    alone = np.concatenate([evaluate.embed(network, pixels[i : i + 1], tiny.CPU) for i in range(70)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
