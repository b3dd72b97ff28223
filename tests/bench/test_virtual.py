"""The bench of virtual features: its estimates where the truth is known, and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from indexer.errors import InvalidField
from tests.bench import virtual
from tests.bench.virtual import Features
from tests.trainer import literal, photo_folders
from trainer import protocol
from trainer.bench import config as configs
from trainer.bench.config import Bench
from trainer.bench.plan import Run
from trainer.bench.run import MODEL
from trainer.network import create_network
from trainer.stage import Schedule

D = 8
STAGES = 4


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moved(old: Tensor, model: int) -> Tensor:
    """Each place moves its own way, a little more with each model."""
    bent: Tensor = old + model * (0.3 + 0.2 * torch.tanh(old @ drawn(7, D, D)))
    return bent


def shifted(old: Tensor, model: int) -> Tensor:
    return old + model * drawn(8, D)


def world(move: Callable[[Tensor, int], Tensor] = moved, centre: float = 2.0) -> Features:
    """Four stages of three categories, six photos each, by four models."""
    labels = [torch.arange(3).repeat_interleave(6)] * STAGES
    spots = [centre + drawn(b, 3, D)[labels[b]] + 0.3 * drawn(20 + b, 18, D) for b in range(STAGES)]
    return Features([[move(of_stage, model) for model in range(STAGES)] for of_stage in spots], labels)


def rows(seen: Features) -> list[dict[str, Any]]:
    return list(virtual.compare(seen, p=3, k=4))


def test_every_stage_is_held_against_every_one_two_or_more_before() -> None:
    assert [(row["stage"], row["earlier"]) for row in rows(world())] == [(2, 0), (3, 0), (3, 1)]


def test_where_all_features_move_alike_every_correction_is_the_truth() -> None:
    for row in rows(world(shifted)):
        for name in ("raw", "virtual", "chained", "known"):
            assert row["cosine"][name] == pytest.approx(1, abs=1e-6)
            assert row["gram_kl"][name] == pytest.approx(0, abs=1e-9)
        assert row["cosine"]["teacher"] < 0.995
        assert row["cosine"]["scaled"] < 0.995


def test_the_raw_estimate_is_the_literal_loop() -> None:
    seen = world(centre=0.3)
    kept = list(literal.prototypes(literal.rows(seen.of[1][1]), seen.labels[1].tolist()).values())
    drifts = literal.prototype_drift(literal.rows(seen.of[2][1]), literal.rows(seen.of[2][2]), kept)
    now = [[m + d for m, d in zip(*pair, strict=True)] for pair in zip(kept, drifts, strict=True)]
    expected = literal.tensor(literal.virtual_features(literal.rows(seen.of[3][2]), now, drifts))
    torch.testing.assert_close(seen.told(3, 1)["raw"].double(), expected, rtol=1e-3, atol=1e-4)


def test_drifts_of_one_stage_need_no_chain() -> None:
    """From one stage to the next both ways are the same; over two they are not."""
    told = world().told(3, 1)
    assert torch.equal(told["virtual"], told["chained"])
    told = world().told(3, 0)
    assert not torch.allclose(told["virtual"], told["chained"], atol=1e-4)


def test_weights_of_both_signs_are_counted() -> None:
    positive, mixed = rows(world(centre=4.0))[0], rows(world(centre=0.0))[0]
    assert positive["negative_weights"] == {"eq3": 0, "eq4": 0}
    assert positive["least_sum"] == pytest.approx({"eq3": 1, "eq4": 1})
    assert min(mixed["negative_weights"].values()) > 0
    assert max(mixed["least_sum"].values()) < 1


class TestReading:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        return photo_folders.make(tmp_path / "photos", {f"c{i}": 6 for i in range(6)})

    @pytest.fixture
    def bench(self, photos: Path) -> Bench:
        learned = protocol.build(photos, (2, 2, 2))
        short = Schedule(1, p=2, k=2)
        return Bench(
            learned, "", ("initial", "finetune", "fecd"), (0, 1), ("efficientnet_lite0",), short, short, image_size=32
        )

    @pytest.fixture
    def out(self, bench: Bench, tmp_path: Path) -> Path:
        """What a bench leaves that has finished one run of one method, and begun another."""
        out = tmp_path / "out"
        out.mkdir()
        configs.keep(bench, out)
        for number in range(3):
            network = create_network("efficientnet_lite0", 32, seed=number, init="random")
            state = {name: value.contiguous() for name, value in network.state_dict().items()}
            for method in ("finetune", "fecd")[: 2 - number // 2]:
                folder = Run(method, 0, "efficientnet_lite0").folder(out, number)
                folder.mkdir(parents=True, exist_ok=True)
                safetensors.torch.save_file(state, folder / MODEL)
        return out

    def test_the_figures_are_of_the_runs_that_are_whole(self, bench: Bench, photos: Path, out: Path) -> None:
        config = bench.described()
        runs = virtual.find_runs(config, out)
        assert runs == [Run("finetune", 0, "efficientnet_lite0")]
        figures = virtual.measure(config, virtual.find_photos(config, photos), out, runs)
        (row,) = figures["summary"]
        assert (row["method"], row["seeds"], row["pairs"]) == ("finetune", 1, 1)
        assert "| chained |" in virtual.table([row])

    def test_other_photos_are_refused(self, bench: Bench, photos: Path) -> None:
        (photos / "c0" / "c0_000.jpg").rename(photos / "c0" / "another.jpg")
        with pytest.raises(InvalidField, match="other photos"):
            virtual.find_photos(bench.described(), photos)
