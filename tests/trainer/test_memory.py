"""Memory: what stages leave, how drifts go on, and what a file must be to be believed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from indexer.errors import InvalidField, ModelDamaged
from trainer import memory
from trainer.drift import prototype_drift, prototypes, virtual_features
from trainer.memory import Memory, StageMemory

D, PHOTOS = 16, 5  # a category
SHIFT = torch.linspace(-1, 1, D)


def photos(stage: int, categories: int = 3) -> tuple[list[str], Tensor, Tensor]:
    """Names, labels, and the photos themselves, as features by model 0."""
    labels = torch.arange(categories).repeat_interleave(PHOTOS)
    drawn = torch.randn(len(labels), D, generator=torch.Generator().manual_seed(stage))
    return [f"{stage}/{i}" for i in range(categories)], labels, drawn


def by(model: int, seen: Tensor) -> Tensor:
    """The features that the model of a stage gives: each bends the space further, and shifts it."""
    return seen + 0.2 * model * torch.tanh(seen.roll(1, dims=1)) + model * SHIFT


def learned(stages: int, *, with_models: bool = True) -> Memory:
    known = Memory("model 0", D)
    for stage in range(stages):
        names, labels, seen = photos(stage)
        known = known.after_stage(
            stage,
            names,
            labels,
            model=f"model {stage}",
            features=by(stage, seen),
            features_before=by(max(stage - 1, 0), seen),
            features_of={b: by(b, seen) for b in range(stage)} if with_models else None,
        )
    return known


class TestAfterStages:
    def test_it_begins_without_a_stage(self) -> None:
        assert Memory("model 0", D).stages == ()

    def test_a_stage_leaves_the_prototypes_of_its_categories_by_its_own_model(self) -> None:
        known = learned(3)
        assert known.model == "model 2"
        for stage in range(3):
            names, labels, seen = photos(stage)
            assert known.stages[stage].stage == stage
            assert known.stages[stage].categories == tuple(names)
            assert torch.equal(known.stages[stage].prototypes, prototypes(by(stage, seen), labels)[1])

    def test_the_last_stage_has_not_drifted_so_that_its_virtual_features_are_the_teachers(self) -> None:
        last, features = learned(3).stages[-1], torch.randn(4, D, generator=torch.Generator().manual_seed(0))
        assert not last.drifts.any()
        assert torch.equal(virtual_features(features, last.prototypes_now, last.drifts), features)

    def test_with_old_models_at_hand_drifts_are_equation_3(self) -> None:
        _, _, seen = photos(3)
        for stage in learned(4).stages[:-1]:
            expected = prototype_drift(by(stage.stage, seen), by(3, seen), stage.prototypes)
            torch.testing.assert_close(stage.drifts, expected)

    def test_without_old_models_drifts_are_chained(self) -> None:
        before, after = learned(3, with_models=False), learned(4, with_models=False)
        _, _, seen = photos(3)
        for old, new in zip(before.stages, after.stages, strict=False):
            further = prototype_drift(by(2, seen), by(3, seen), old.prototypes + old.drifts)
            torch.testing.assert_close(new.drifts, old.drifts + further)

    def test_for_the_stage_before_the_chain_is_equation_3(self) -> None:
        literal, chained = learned(2), learned(2, with_models=False)
        torch.testing.assert_close(chained.stages[0].drifts, literal.stages[0].drifts)

    def test_models_that_are_at_hand_are_used_and_for_others_the_chain(self) -> None:
        names, labels, seen = photos(3)
        known = learned(3).after_stage(
            3,
            names,
            labels,
            model="model 3",
            features=by(3, seen),
            features_before=by(2, seen),
            features_of={1: by(1, seen)},
        )
        assert torch.equal(known.stages[1].drifts, learned(4).stages[1].drifts)
        assert not torch.equal(known.stages[0].drifts, learned(4).stages[0].drifts)

    @pytest.mark.parametrize("with_models", [True, False], ids=["equation 3", "chained"])
    def test_where_the_space_only_shifts_both_find_the_old_features_exactly(self, with_models: bool) -> None:
        known = Memory("model 0", D)
        for stage in range(8):
            names, labels, seen = photos(stage)
            known = known.after_stage(
                stage,
                names,
                labels,
                model=str(stage),
                features=seen + stage * SHIFT,
                features_before=seen + (stage - 1) * SHIFT,
                features_of={b: seen + b * SHIFT for b in range(stage)} if with_models else None,
            )
        _, _, fresh = photos(100)
        for old in known.stages:
            virtual = virtual_features(fresh + 7 * SHIFT, old.prototypes_now, old.drifts)
            torch.testing.assert_close(virtual, fresh + old.stage * SHIFT, rtol=1e-4, atol=1e-4)

    def test_the_memory_before_stays_as_it_was(self) -> None:
        before = learned(2)
        content = before.to_bytes()
        names, labels, seen = photos(2)
        before.after_stage(2, names, labels, model="m", features=by(2, seen), features_before=by(1, seen))
        assert before.to_bytes() == content


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"stage": 1}, "stages"),
            ({"stage": 0}, "stages"),
            ({"categories": ["a", "b", "a"]}, "categories"),
            ({"categories": []}, "labels"),
            ({"categories": ["a", "b"]}, "labels"),
            ({"categories": ["a", "b", "c", "d"]}, "labels"),
            ({"features": torch.zeros(3 * PHOTOS, D + 1)}, "features"),
            ({"features_before": torch.zeros(2, D)}, "features"),
            ({"features_of": {0: torch.zeros(2, D)}}, "features"),
            ({"features": torch.full((3 * PHOTOS, D), torch.nan)}, "drifts"),
        ],
        ids=[
            "a stage again",
            "an earlier stage",
            "a name twice",
            "no category",
            "a label without a name",
            "a category without a photo",
            "another dimension",
            "photos missing before",
            "photos missing of an old model",
            "not a number",
        ],
    )
    def test_a_stage_that_does_not_fit(self, change: dict[str, Any], field: str) -> None:
        names, labels, seen = photos(2)
        fitting = {"stage": 2, "categories": names, "labels": labels, "model": "model 2"}
        features = {"features": by(2, seen), "features_before": by(1, seen)}
        with pytest.raises(InvalidField) as refused:
            learned(2).after_stage(**{**fitting, **features, **change})
        assert refused.value.field == field
        assert refused.value.got
        assert refused.value.expected

    def test_a_memory_of_mixed_dimensions(self) -> None:
        stage = StageMemory(0, ("a",), torch.ones(1, 4), torch.zeros(1, 4))
        with pytest.raises(InvalidField, match="got 4, expected 5"):
            Memory("m", 5, (stage,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / memory.MEMORY
    memory.save(learned(3), path)
    return path


def load(path: Path) -> Memory:
    return memory.load(path, model="model 2", dimension=D)


class TestItsFile:
    @pytest.mark.parametrize("stages", [0, 1, 3])
    def test_what_is_loaded_is_what_was_saved(self, stages: int, path: Path) -> None:
        known = learned(stages)
        memory.save(known, path)
        found = memory.load(path, model=known.model, dimension=D)
        assert (found.model, found.dimension, len(found.stages)) == (known.model, D, stages)
        for got, expected in zip(found.stages, known.stages, strict=True):
            assert (got.stage, got.categories) == (expected.stage, expected.categories)
            assert torch.equal(got.prototypes, expected.prototypes)
            assert torch.equal(got.drifts, expected.drifts)

    def test_any_name_of_a_category_survives(self, path: Path) -> None:
        names = ("Käse 奶酪 🧀", 'a "quoted" \\ name', "", "two\nlines")
        stage = StageMemory(0, names, torch.ones(4, D), torch.zeros(4, D))
        memory.save(Memory("model 2", D, (stage,)), path)
        assert load(path).stages[0].categories == names

    def test_the_same_memory_is_the_same_bytes(self, path: Path) -> None:
        contents = {learned(3).to_bytes() for _ in range(20)}
        assert contents == {load(path).to_bytes()} == {path.read_bytes()}

    def test_a_category_takes_two_vectors_and_its_name(self) -> None:
        """4,096 bytes at 512 dimensions, whatever the number of photos."""
        sizes = {}
        for categories in (25, 1025):
            names = tuple(f"category {i:06}" for i in range(categories))
            vectors = torch.ones(categories, 512)
            sizes[categories] = len(Memory("m", 512, (StageMemory(0, names, vectors, vectors),)).to_bytes())
        assert (sizes[1025] - sizes[25]) / 1000 == pytest.approx(4096 + len(r"\"category 000000\", "), abs=1)

    def test_one_altered_byte_anywhere_is_found(self, path: Path) -> None:
        content = path.read_bytes()
        for position in range(0, len(content), 7):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            with pytest.raises(ModelDamaged):
                load(path)

    def test_a_file_cut_off_or_with_more_behind_it_is_found(self, path: Path) -> None:
        content = path.read_bytes()
        for altered in (*(content[:length] for length in range(0, len(content), 37)), content + b"\0"):
            path.write_bytes(altered)
            with pytest.raises(ModelDamaged):
                load(path)

    def test_one_that_is_missing_is_damage(self, tmp_path: Path) -> None:
        with pytest.raises(ModelDamaged, match="is missing"):
            load(tmp_path / "none")

    @pytest.mark.parametrize(
        "change",
        [{"format": 2}, {"stages": None}, {"stages": [[0, ["a"]]]}, {"dimension": "16"}, {"dimension": D + 1}],
        ids=["another version", "no stages", "stages that do not add up", "a dimension in words", "another dimension"],
    )
    def test_a_header_that_says_something_else_is_damage(self, change: dict[str, Any], path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["everlook.memory"])
        tensors = safetensors.torch.load_file(path)
        safetensors.torch.save_file(tensors, path, {"everlook.memory": json.dumps({**header, **change})})
        with pytest.raises(ModelDamaged):
            load(path)

    def test_another_safetensors_file_is_no_memory(self, path: Path) -> None:
        safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
        with pytest.raises(ModelDamaged, match="no memory"):
            load(path)

    @pytest.mark.parametrize(("model", "dimension", "field"), [("model 1", D, "model"), ("model 2", 512, "dimension")])
    def test_that_of_another_network_is_refused(self, model: str, dimension: int, field: str, path: Path) -> None:
        with pytest.raises(InvalidField, match="the memory of another network") as refused:
            memory.load(path, model=model, dimension=dimension)
        assert refused.value.field == field

    def test_a_save_that_fails_leaves_the_old_file(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            memory.save(learned(1), path)
        assert path.read_bytes() == content
        assert [file.name for file in path.parent.iterdir()] == [memory.MEMORY]
