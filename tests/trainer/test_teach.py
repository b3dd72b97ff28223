"""One training: what it publishes, that kills and full disks change nothing of it, and what a bad candidate is told."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from indexer import stages
from indexer.datadir import DataDir
from indexer.devices import CPU, Devices
from indexer.encoder import Encoder
from indexer.errors import Overloaded
from indexer.gates import RecallLimits, load_gates
from indexer.generation import candidate_model
from indexer.images import preprocess
from indexer.lineage import Lineage, load_lineage
from indexer.model import load_manifest
from indexer.probes import is_probe
from indexer.stages import Outcome, Training
from tests.indexer.catalogues import damage
from tests.trainer import benches, shops
from tests.trainer.shops import RECIPE, SIDE, Shop, open_shop
from trainer import export, probing, quantise, recipe, teach
from trainer import memory as memories
from trainer.candidate import Measure
from trainer.first_model import preprocessing
from trainer.network import EmbeddingNetwork, create_network
from trainer.recipe import Recipe
from trainer.stage import Diverged
from trainer.stopping import Cancelled
from trainer.teach import Place

real_export = export.to_onnx
ON_CPU = Devices((CPU,), "", 0, "")
PLACE = Place(torch.device("cpu"), 1, 1e9)


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    with benches.tiny_backbone():
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "to_onnx", shops.quick_onnx)


class Watcher:
    """Remembers what it was told; at one of these it raises."""

    def __init__(self, raises: BaseException | None = None, phase: str = "", done: int = 0) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.terms = set[str]()  # of losses, by name
        self._raises, self._at = raises, (phase, done)

    def check(self) -> None:
        if self._raises is not None and self._at == ("", 0):
            raise self._raises

    def tell(
        self, phase: str, done: int, total: int, *, remaining_s: float = 0.0, losses: Mapping[str, float] | None = None
    ) -> None:
        self.told.append((phase, done, total))
        self.terms.update(losses or {})
        if self._raises is not None and (phase, done) == self._at:
            raise self._raises

    def gently(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def taught(shop: Shop, training: Training, recipe: Recipe = RECIPE, watcher: Watcher | None = None) -> Outcome:
    outcome = teach.teach(shop.data, shop.catalogue, training, recipe, PLACE, watcher or Watcher())
    stages.end(shop.data, training, outcome)
    return outcome


def new_shop(folder: Path) -> Shop:
    """Its first four categories wait."""
    shop = open_shop(folder)
    shop.fill("a", "b", "c", "d")
    return shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return new_shop(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of the first training of such a shop, which nothing disturbs."""
    shop = new_shop(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", shops.quick_onnx)
        return taught(shop, shop.begin())


def test_with_the_real_exporter_the_model_that_is_served_answers_as_the_network(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "to_onnx", real_export)
    outcome = taught(shop, shop.begin(), replace(RECIPE, precision="int8"))
    assert outcome.state == "published", outcome
    folder = shop.data.model(outcome.model)
    images = np.stack([preprocess(shops.photo(str(n), "a"), preprocessing(SIDE))[0] for n in range(3)])
    with torch.inference_mode():
        expected = export.load_network(folder)(torch.from_numpy(images)).numpy()
    cosines = (Encoder.load(folder, ON_CPU, 1).encode(images) * expected).sum(1)
    assert (cosines > 0.99).all()
    assert (cosines < 1 - 1e-7).any()  # int8 it is


class Killed(BaseException):
    """Ends the process where it stands."""


def kill(*_: object, **__: object) -> NoReturn:
    raise Killed


def full(*_: object, **__: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def same(outcome: Outcome, other: Outcome) -> bool:
    """But for what it took."""

    def of(each: Outcome) -> object:
        return each.state, each.model, each.gates, {**each.facts, "training_s": 0}

    return of(outcome) == of(other)


def test_two_stages_one_after_the_other(shop: Shop) -> None:
    base, watcher = shop.model, Watcher()
    first = taught(shop, shop.begin(), watcher=watcher)
    assert first.state == "published", first
    assert watcher.terms == {"triplet"}
    folder = shop.data.model(first.model)
    assert load_lineage(folder) == Lineage(base, 1, (("a", "b", "c", "d"),))
    assert {gate.name for gate in first.gates} == {"export parity", "new cohort 0", "floor of cohort 0"}
    manifest = load_manifest(folder)
    assert (manifest.stages, manifest.precision, manifest.source["method"]) == (1, "fp32", "initial")
    assert Encoder.load(folder, ON_CPU, 1).manifest.id == first.model
    memory = memories.load(folder / "memory.safetensors", model=manifest.files["weights.safetensors"], dimension=512)
    assert [stage.categories for stage in memory.stages] == [("a", "b", "c", "d")]

    shop.go_live(first.model)
    shop.fill("e", "f", "g")
    training = shop.begin(1, learned=("a", "b", "c", "d"))
    second = taught(shop, training, replace(RECIPE, steps=30), watcher)
    assert watcher.terms == {"triplet", "triplet_supporter", "correlation", "mutual"}
    assert {gate.name for gate in second.gates} == {
        "export parity",
        "old cohort 0",
        "floor of cohort 0",
        "new cohort 1",
        "floor of cohort 1",
    }
    assert second.state == "published", second
    assert load_lineage(shop.data.model(second.model)) == Lineage(
        first.model, 2, (("a", "b", "c", "d"), ("e", "f", "g"))
    )


def test_it_is_told_of_every_batch_that_the_stages_photos_are_looked_through(shop: Shop) -> None:
    """Of one that says nothing for half a minute, and that the server does not run, it is thought that it is dead."""
    shop.fill("a", photos=60)
    training, watcher = shop.begin(), Watcher()
    photos = len(training.photos)
    assert photos > 64  # which one batch holds
    taught(shop, training, watcher=watcher)
    told = [(done, total) for phase, done, total in watcher.told if phase == "exporting" and total > 1]
    assert told == [(done, 2 * photos) for before in (0, photos) for done in (before, before + 64, before + photos)]


class TestCrashTable:
    """Each row of the table in `teach`: what is killed there and started again ends as if nothing had happened."""

    def test_before_the_schedule_it_is_made_by_the_flags_of_the_next_start(
        self, shop: Shop, whole: Outcome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        training = shop.begin()
        with monkeypatch.context() as patch:
            patch.setattr(recipe, "keep", kill)
            with pytest.raises(Killed):
                taught(shop, training, replace(RECIPE, steps=99))
        assert not (shop.data.stage(1) / "schedule.json").exists()
        assert same(taught(shop, training), whole)

    @pytest.mark.parametrize(
        ("phase", "done"),
        [("training", 0), ("training", 1), ("training", 7), ("training", 12), ("exporting", 0), ("gates", 12)],
    )
    def test_it_goes_on_as_scheduled_whatever_the_flags_are(
        self, phase: str, done: int, shop: Shop, whole: Outcome
    ) -> None:
        training = shop.begin()
        with pytest.raises(Killed):
            taught(shop, training, watcher=Watcher(Killed(), phase, done))
        again = Watcher()
        other = replace(RECIPE, steps=99, method="finetune", learning_rate=0.5, seed=8, p=2, k=2)
        assert same(taught(shop, training, other, again), whole)
        steps = [done for phase, done, _ in again.told if phase == "training"]
        assert steps == [0, *range(done + 1 if phase == "training" else 13, 13)]

    def test_while_the_model_is_published(self, shop: Shop, whole: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
        training, rename = shop.begin(), os.rename

        def renamed(old: Path, new: Path) -> None:
            kill() if Path(new).parent == shop.data.models else rename(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", renamed)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                taught(shop, training)
        left = [path.name for path in shop.data.models.iterdir() if path.name.startswith(".staging-")]
        assert left
        assert same(taught(shop, training), whole)
        assert {path.name for path in shop.data.models.iterdir()} == {shop.model[:16], whole.model[:16]}

    def test_after_that_its_outcome_is_what_its_gates_say(self, shop: Shop, whole: Outcome) -> None:
        training = shop.begin()
        teach.teach(shop.data, shop.catalogue, training, RECIPE, PLACE, Watcher())
        shop.fill("a", probes=2)  # what is measured now would be something else
        again = Watcher()
        assert same(taught(shop, training, watcher=again), whole)
        assert again.told == []

    def test_a_damaged_checkpoint_is_told(self, shop: Shop) -> None:
        training = shop.begin()
        with pytest.raises(Killed):
            taught(shop, training, watcher=Watcher(Killed(), "training", 7))
        path = shop.data.stage(1) / "checkpoint.pt"
        path.write_bytes(path.read_bytes()[:-100])
        outcome = taught(shop, training)
        assert outcome.state == "failed"
        assert "checkpoint.pt is no checkpoint" in outcome.reason


class TestFullDisk:
    @pytest.mark.parametrize(
        "where",
        [
            "trainer.recipe.write_json",
            "trainer.stage.write_bytes",
            "trainer.candidate.publish_model",
            "trainer.teach.publish_model",
        ],
    )
    def test_it_is_told_and_the_next_start_goes_on(
        self, where: str, shop: Shop, whole: Outcome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        training = shop.begin()
        with monkeypatch.context() as patch:
            patch.setattr(where, full)
            with pytest.raises(OSError, match="No space left"):
                taught(shop, training)
        assert stages.load(shop.data, 1) == (training, None)
        assert same(taught(shop, training), whole)


class TestTheMachineFails:
    """Memory that is short, and a GPU that is lost, say nothing of a training: kill -9 would have been gone on from."""

    ERRORS = (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    )

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_the_next_start_goes_on_to_the_same_end(self, error: Exception, shop: Shop, whole: Outcome) -> None:
        training = shop.begin()
        with pytest.raises(Overloaded, match=r"training 1: .*; the next start goes on \(attempt 1 of 3\)"):
            taught(shop, training, watcher=Watcher(error, "training", 7))
        assert stages.load(shop.data, 1) == (training, None)
        again = Watcher()
        assert same(taught(shop, training, watcher=again), whole)
        assert [done for phase, done, _ in again.told if phase == "training"] == [0, *range(8, 13)]

    def test_three_times_with_no_new_checkpoint_between_it_has_failed(self, shop: Shop) -> None:
        training = shop.begin()
        for phase, done, number in [
            ("training", 0, 1),
            ("training", 0, 2),
            ("training", 7, 1),  # which leaves a checkpoint
            ("training", 0, 2),
            ("training", 9, 1),
            ("exporting", 0, 1),
            ("gates", 12, 2),
        ]:
            with pytest.raises(Overloaded, match=f"attempt {number} of 3"):
                taught(shop, training, watcher=Watcher(MemoryError(), phase, done))
        outcome = taught(shop, training, watcher=Watcher(MemoryError("too large"), "exporting", 16))
        assert (outcome.state, outcome.reason) == ("failed", "too large, 3 times with no new checkpoint between")
        assert {path.name for path in shop.data.stage(1).iterdir()} == {"stage.json", "outcome.json"}

    def test_killed_before_the_count_is_written_that_attempt_is_not_counted(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        training, replace_file = shop.begin(), os.replace

        def replaced(old: str, new: Path) -> None:
            kill() if Path(new).name == "attempts.json" else replace_file(old, new)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replaced)
            patch.setattr(os, "unlink", lambda path: None)
            with pytest.raises(Killed):
                taught(shop, training, watcher=Watcher(MemoryError(), "training", 0))
        with pytest.raises(Overloaded, match="attempt 1 of 3"):
            taught(shop, training, watcher=Watcher(MemoryError(), "training", 0))
        taught(shop, training)
        assert {path.name for path in shop.data.stage(1).iterdir()} == {"stage.json", "outcome.json"}

    def test_a_count_that_cannot_be_read_begins_anew(self, shop: Shop) -> None:
        training = shop.begin()
        (shop.data.stage(1) / "attempts.json").write_text("[")
        with pytest.raises(Overloaded, match="attempt 1 of 3"):
            taught(shop, training, watcher=Watcher(MemoryError(), "training", 0))


class TestFailed:
    def test_losses_that_are_no_numbers(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        def diverge(*_: object) -> NoReturn:
            raise Diverged("step 1: the losses are not finite numbers")

        monkeypatch.setattr("trainer.stage.step", diverge)
        outcome = taught(shop, shop.begin())
        assert (outcome.state, outcome.reason, outcome.model) == (
            "failed",
            "step 1: the losses are not finite numbers",
            "",
        )

    def test_a_photo_that_cannot_be_read(self, shop: Shop) -> None:
        training = shop.begin()
        broken = shop.data.stage(1) / "photos" / training.photos[5][0]
        broken.write_bytes(b"no photo")
        outcome = taught(shop, training)
        assert outcome.state == "failed"
        assert outcome.reason.startswith(f"{broken}: ")

    def test_an_altered_memory(self, shop: Shop) -> None:
        shop.go_live(taught(shop, shop.begin()).model)
        shop.fill("e", "f")
        training = shop.begin(1, learned=("a", "b", "c", "d"))
        path = shop.data.model(shop.model) / "memory.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        outcome = taught(shop, training)
        assert (outcome.state, outcome.reason) == ("failed", f"{path} was altered")

    def test_a_base_that_has_learned_other_stages(self, shop: Shop) -> None:
        outcome = taught(shop, shop.begin(1))
        assert (outcome.state, outcome.reason) == ("failed", f"{shop.data.model(shop.model)} has learned 0 stages")

    def test_a_base_without_weights(self, shop: Shop) -> None:
        training = shop.begin()
        (shop.data.model(shop.model) / "weights.safetensors").unlink()
        outcome = taught(shop, training)
        assert outcome.state == "failed"
        assert outcome.reason.endswith("weights.safetensors is missing")

    def test_a_training_that_changes_nothing(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(teach, "train", lambda learner, *_, **__: learner.served)
        outcome = taught(shop, shop.begin())
        assert (outcome.state, outcome.reason) == ("failed", "the training ended in a model that is there already")

    def test_whatever_else_happens_it_does_not_happen_for_ever(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(teach, "begin", lambda *_: 1 / 0)
        outcome = taught(shop, shop.begin())
        assert (outcome.state, outcome.reason) == ("failed", "division by zero")


class TestCancelled:
    @pytest.mark.parametrize(("phase", "done"), [("training", 3), ("exporting", 16), ("gates", 1)])
    def test_an_operator_stops_it_in_any_phase(self, phase: str, done: int, shop: Shop) -> None:
        watcher = Watcher(Cancelled("an operator asked for it"), phase, done)
        outcome = taught(shop, shop.begin(), watcher=watcher)
        assert (outcome.state, outcome.reason) == ("cancelled", "an operator asked for it")
        assert [path.name for path in shop.data.models.iterdir()] == [shop.model[:16]]

    def test_or_before_anything_is_loaded_that_could_kill_the_trainer_each_time(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        training = shop.begin()
        monkeypatch.setattr(teach, "load_base", kill)
        with pytest.raises(Killed):
            taught(shop, training, replace(RECIPE, steps=None))
        outcome = taught(shop, training, replace(RECIPE, steps=None), Watcher(Cancelled("an operator asked for it")))
        assert (outcome.state, outcome.reason) == ("cancelled", "an operator asked for it")

    @pytest.mark.parametrize("during", [True, False], ids=["while it trains", "before it goes on"])
    def test_another_model_went_live_meanwhile(self, during: bool, shop: Shop) -> None:
        training = shop.begin()
        other = shops.first_model(shop.data.models, create_network("tiny", SIDE, seed=7))

        class Promoting(Watcher):
            def tell(self, phase: str, done: int, total: int, **more: Any) -> None:
                super().tell(phase, done, total)
                if (phase, done) == ("training", 3):
                    shop.go_live(other.id)

        if not during:
            shop.go_live(other.id)
        watcher = Promoting()
        outcome = taught(shop, training, watcher=watcher)
        assert outcome.state == "cancelled"
        assert outcome.reason == "another model went live meanwhile than the one that it was taught from"
        assert len(list(shop.data.models.iterdir())) == 2
        assert bool(watcher.told) is during


class TestRejected:
    """Bad candidates: published for a look, marked, and never a candidate to serve (promise 7)."""

    def test_spoiled_weights_lose_what_was_learned(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        shop.fill("a", "b", "c", "d", probes=8)
        shop.go_live(taught(shop, shop.begin(), replace(RECIPE, steps=40)).model)
        shop.fill("e", "f", probes=8)
        monkeypatch.setattr(teach, "train", lambda *_, **__: shops.blind(seed=5))
        limits = RecallLimits(most_drop=0.02, floor=0.0)
        outcome = taught(shop, shop.begin(1, learned=("a", "b", "c", "d")), replace(RECIPE, limits=limits))
        assert outcome.state == "rejected"
        assert "old cohort 0: Recall@1 of cohort 0 fell by more than is allowed" in outcome.reason
        self.check_never_served(shop, outcome)

    def test_an_export_of_other_weights_is_told_by_parity(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        def corrupted(network: EmbeddingNetwork, image_size: int) -> bytes:
            return shops.quick_onnx(create_network("tiny", SIDE, seed=7), image_size)

        monkeypatch.setattr(export, "to_onnx", corrupted)
        outcome = taught(shop, shop.begin())
        assert outcome.state == "rejected"
        assert "export parity: least cosine between torch and ONNX Runtime " in outcome.reason
        self.check_never_served(shop, outcome)

    def test_a_new_cohort_that_does_not_rise(self, shop: Shop) -> None:
        outcome = taught(shop, shop.begin(), replace(RECIPE, limits=RecallLimits(least_rise=1.0, floor=0.0)))
        assert outcome.state == "rejected"
        assert outcome.reason.startswith("new cohort 0: Recall@1 of cohort 0 did not rise: ")
        self.check_never_served(shop, outcome)

    def test_a_cohort_below_the_floor(self, shop: Shop) -> None:
        outcome = taught(shop, shop.begin(), replace(RECIPE, limits=RecallLimits(floor=1.0)))
        assert outcome.state == "rejected"
        assert outcome.reason.startswith("floor of cohort 0: Recall@1 of cohort 0 is below the floor: ")

    @staticmethod
    def check_never_served(shop: Shop, outcome: Outcome) -> None:
        assert load_gates(shop.data.model(outcome.model)) == outcome.gates
        assert candidate_model(shop.data) is None


class TestPrecision:
    def test_int8_when_it_is_asked_for_has_a_gate_and_fp32_beside_it(self, shop: Shop) -> None:
        outcome = taught(shop, shop.begin(), replace(RECIPE, precision="int8"))
        assert outcome.state == "published", outcome
        (gate,) = [gate for gate in outcome.gates if gate.name == "int8 recall"]
        assert (gate.measured, gate.required) == (outcome.facts["int8_recall_change"], -0.005)
        folder = shop.data.model(outcome.model)
        manifest = load_manifest(folder)
        assert manifest.precision == "int8"
        assert set(manifest.files) == {
            *("model.onnx", "fp32.onnx", "weights.safetensors", "memory.safetensors", "lineage.json", "gates.json")
        }
        assert (folder / "fp32.onnx").read_bytes() == shops.quick_onnx(export.load_network(folder), SIDE)
        assert Encoder.load(folder, ON_CPU, 1).manifest == manifest

    @pytest.mark.parametrize(("ratio", "precision"), [(1.09, "fp32"), (1.1, "int8")])
    def test_by_itself_it_is_int8_only_when_that_is_faster(
        self, ratio: float, precision: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probing, "speedup", lambda plain, quantised: ratio)
        outcome = taught(shop, shop.begin(), replace(RECIPE, precision="auto"))
        assert outcome.facts["int8_speedup"] == ratio
        assert "int8_recall_change" in outcome.facts
        folder = shop.data.model(outcome.model)
        assert load_manifest(folder).precision == precision
        assert ("int8 recall" in {gate.name for gate in outcome.gates}) is (precision == "int8")
        assert (folder / "fp32.onnx").exists() is (precision == "int8")

    @pytest.mark.parametrize("asked", ["auto", "int8"])
    def test_int8_that_recalls_worse_is_not_served(
        self, asked: recipe.Precision, shop: Shop, whole: Outcome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bad = shops.quick_onnx(shops.blind(seed=5), SIDE)
        monkeypatch.setattr(quantise, "to_int8", lambda *_, **__: bad)
        monkeypatch.setattr(probing, "speedup", lambda plain, quantised: 9.0)
        outcome = taught(shop, shop.begin(), replace(RECIPE, precision=asked))
        assert outcome.facts["int8_recall_change"] < -0.1
        if asked == "auto":
            assert (outcome.state, outcome.model) == ("published", whole.model)
        else:
            assert outcome.state == "rejected"
            assert "int8 recall: Recall@1 of 12 probes: 0.500 in fp32, 0." in outcome.reason

    @pytest.mark.parametrize(
        ("probes", "lost", "kept", "by_itself"),
        [(71, 0, True, "int8"), (71, 1, True, "fp32"), (400, 2, True, "int8"), (400, 9, False, "fp32")],
    )
    @pytest.mark.parametrize("asked", ["auto", "int8"])
    def test_its_gate_allows_for_sampling_error_and_by_itself_it_is_served_only_where_it_needs_none(
        self,
        asked: recipe.Precision,
        probes: int,
        lost: int,
        kept: bool,
        by_itself: str,
        shop: Shop,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """9 of 400: -0.0225 + 1.645 * 0.0074 < -0.005. 1 of 71: -0.0141 + 1.645 * 0.0140 > -0.005."""
        found = np.ones(probes, bool), np.arange(probes) >= lost
        monkeypatch.setattr(Measure, "_found", lambda self, *models: [{0: each} for each in found])
        monkeypatch.setattr(probing, "speedup", lambda plain, quantised: 2.0)
        outcome = taught(shop, shop.begin(), replace(RECIPE, precision=asked))
        precision = load_manifest(shop.data.model(outcome.model)).precision
        assert precision == (by_itself if asked == "auto" else "int8")
        gates = {gate.name: gate for gate in outcome.gates}
        assert ("int8 recall" in gates) is (precision == "int8")
        if asked == "int8":
            assert (gates["int8 recall"].passed, gates["int8 recall"].probes) == (kept, probes)
            assert gates["int8 recall"].measured == pytest.approx(-lost / probes)

    def test_what_cannot_be_quantised_stays_as_it_is(
        self, shop: Shop, whole: Outcome, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(quantise, "to_int8", lambda *_, **__: 1 / 0)
        assert taught(shop, shop.begin(), replace(RECIPE, precision="auto")).model == whole.model

    def test_without_a_probe_nothing_is_known_of_int8(self, tmp_path: Path) -> None:
        shop = open_shop(tmp_path)
        shop.fill("a", "b", probes=0)
        outcome = taught(shop, shop.begin(), replace(RECIPE, precision="auto"))
        assert [gate.name for gate in outcome.gates] == ["export parity"]
        assert load_manifest(shop.data.model(outcome.model)).precision == "fp32"


class TestSteps:
    @pytest.mark.parametrize(
        ("budget_s", "step_s", "steps"), [(600.0, 2.0, 300), (600.0, 0.01, 5000), (600.0, 60.0, 50), (1.0, 1.0, 50)]
    )
    def test_a_budget_of_time_gives_so_many(self, budget_s: float, step_s: float, steps: int) -> None:
        assert teach.steps_within(budget_s, step_s) == steps

    def test_a_step_is_measured_once_and_the_schedule_stays(self, shop: Shop) -> None:
        training = shop.begin()
        with pytest.raises(Killed):
            taught(shop, training, replace(RECIPE, steps=None, budget_s=1e-3), Watcher(Killed(), "training", 5))
        kept = recipe.kept(shop.data.stage(1))
        assert kept == replace(RECIPE, steps=teach.LEAST_STEPS, budget_s=1e-3)
        again = Watcher()
        outcome = taught(shop, training, replace(RECIPE, steps=None, budget_s=1e9), again)
        assert outcome.facts["steps"] == teach.LEAST_STEPS
        assert next(iter(again.told)) == ("training", 0, teach.LEAST_STEPS)


def test_promise_5_until_it_is_measured_a_training_opens_no_photo_but_its_own(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit of every file that is opened, and a catalogue that answers nothing before there is a model."""
    shop.go_live(taught(shop, shop.begin()).model)
    shop.fill("e", "f")
    training = shop.begin(1, learned=("a", "b", "c", "d"))
    folder, base, opened = shop.data.stage(2), shop.data.model(shop.model), set[Path]()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if recording and event == "open" and isinstance(arguments[0], str | Path):
            opened.add(Path(arguments[0]))

    recording = True
    sys.addaudithook(hear)
    with pytest.raises(Killed):
        teach.teach(shop.data, None, training, RECIPE, PLACE, Watcher(Killed(), "exporting", 0))  # type: ignore[arg-type]
    recording = False
    own = {folder / "photos" / sha256 for sha256, _ in training.photos}
    assert own <= opened
    others = {path for path in opened - own if path.is_relative_to(shop.data.root) and path != folder}
    assert {path.name for path in others if path.parent not in (folder, base)} == {"live.json", "generation.json"}


def test_a_photo_that_became_a_probes_after_it_was_trained_on_measures_nothing(shop: Shop) -> None:
    training = shop.begin()
    trained = training.photos[0][0]
    probe = next(id for id in (f"late/{n}" for n in range(99)) if is_probe(id))
    shop.catalogue.apply([shops.put(probe, "a", shop.catalogue.photo(trained).data)])
    assert taught(shop, training).facts["probes"] == 12


def test_a_damaged_probe_measures_nothing_and_is_named_once(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    training = shop.begin()
    probe = next(item for item in shop.catalogue.items_of(["a"]) if is_probe(item.id))
    damage(shop.catalogue, probe.image_sha256)
    outcome = taught(shop, training, replace(RECIPE, precision="int8"))
    assert (outcome.state, outcome.facts["probes"]) == ("published", 11)
    (told,) = (each.message for each in caplog.records if each.name == "indexer.stages")
    assert f"item {probe.id!r} shows it" in told


def test_old_models_that_are_there_say_how_their_features_have_moved(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.create()
    chain = {
        "a": Lineage("", 0, ()),
        "b": Lineage("a" * 64, 1, (("x",),)),
        "c": Lineage("b" * 64, 2, (("x",), ("y",))),
        "d": Lineage("c" * 64, 3, (("x",), ("y",), ("z",))),
    }
    for name, lineage in chain.items():
        data.model(name * 64).mkdir()
        (data.model(name * 64) / "lineage.json").write_text(lineage.to_json())
    ancestors: Callable[[Lineage], dict[int, Path]] = lambda lineage: teach._ancestors(data, lineage)  # noqa: E731
    assert ancestors(chain["d"]) == {1: data.model("c" * 64), 0: data.model("b" * 64)}
    assert ancestors(chain["b"]) == {}
    (data.model("c" * 64) / "lineage.json").write_text("{")
    assert ancestors(chain["d"]) == {}


def test_the_schedule_holds_all_that_shapes_the_model(shop: Shop) -> None:
    training = shop.begin()
    with pytest.raises(Killed):
        taught(shop, training, watcher=Watcher(Killed(), "training", 1))
    assert json.loads((shop.data.stage(1) / "schedule.json").read_text()) == {
        "format": 1,
        "first_method": "initial",
        "method": "mutual",
        "steps": 12,
        "first_steps": None,
        "budget_s": 3600.0,
        "learning_rate": 1e-3,
        "weight_decay": 5e-4,
        "p": 4,
        "k": 3,
        "precision": "fp32",
        "seed": 0,
        "limits": {"most_drop": 0.5, "least_rise": 0.0, "floor": 0.0},
    }
