"""`python -m trainer bench`: what it is asked for is checked before anything is learned or written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from tests.trainer import benches
from trainer.__main__ import main
from trainer.bench import pool
from trainer.bench.config import CONFIG, Bench
from trainer.bench.plan import RESULT, alone
from trainer.bench.run import MODEL

NAMES = ("--sizes", "3,3", "--train", "0.7", "--validation", "0.25", "--backbones", "tiny", "--image-size", "32")
SCHEDULE = ("--first-steps", "3", "--steps", "2", "--p", "2", "--k", "2", "--seeds", "0")


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    with benches.tiny_backbone():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six categories. Read only."""
    return benches.photos(tmp_path_factory.mktemp("command") / "photos")


@pytest.fixture
def photos(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "photos"))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Bench]:
    """The benches that nothing was found wrong with; none of them is run."""
    benches: list[Bench] = []

    def run_all(bench: Bench, out: Path, **options: Any) -> Path:
        benches.append(bench)
        return out / "results.md"

    monkeypatch.setattr(pool, "run_all", run_all)
    return benches


def bench(photos: Path, out: Path, *arguments: str) -> int:
    return main(["bench", str(photos), "--out", str(out), *NAMES, *SCHEDULE, *arguments])


def nothing(photos: Path) -> None:
    """Spoils nothing."""


def one_category(photos: Path) -> None:
    for folder in sorted(photos.iterdir())[1:]:
        shutil.rmtree(folder)


def one_photo(photos: Path) -> None:
    for path in sorted((photos / "c3").iterdir())[1:]:
        path.unlink()


def corrupt(photos: Path) -> None:
    path = photos / "c1" / "c1_011.jpg"
    path.write_bytes(path.read_bytes()[:300])


def other_weights(photos: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3)}, photos.parent / "other.pt")


def no_weights(photos: Path) -> None:
    (photos.parent / "other.pt").write_text("not weights at all")


WEIGHTS = ("--weights", "../other.pt")


@pytest.mark.parametrize(
    ("spoil", "arguments", "says"),
    [
        (shutil.rmtree, (), "is no folder"),
        (one_category, (), "too few categories"),
        (one_photo, (), "category 'c3' has too few photos"),
        (corrupt, (), "1 of 72 photos cannot be used"),
        (nothing, ("--sizes", "3,4"), "does not give stages of 3, 4"),
        (nothing, ("--sizes", "6"), "one stage leaves nothing"),
        (nothing, ("--order", "random"), "unknown order"),
        (nothing, ("--split", "luck"), "unknown rule"),
        (nothing, ("--split", "prefix"), "says no part"),
        (nothing, ("--train", "1.5"), "out of range"),
        (nothing, ("--methods", "finetune", "lwf"), "no method 'lwf'"),
        (nothing, ("--methods", "mutual:temperature=2"), "no setting 'temperature'"),
        (nothing, ("--methods", "mutual:supporter=twin"), "cannot be 'twin'"),
        (nothing, ("--methods", "mutual", "mutual:supporter=random"), "each once"),
        (nothing, ("--seeds", "1,1"), "each once"),
        (nothing, ("--seeds=-1",), "-1 is below 0"),
        (nothing, ("--backbones", "resnet1"), "no backbone 'resnet1'"),
        (nothing, ("--image-size", "16"), "takes images of a size"),
        (nothing, WEIGHTS, "no such file"),
        (no_weights, WEIGHTS, "cannot read weights from other.pt"),
        (other_weights, WEIGHTS, "not weights of tiny"),
        (nothing, ("--first-steps", "0"), "a schedule has steps"),
        (nothing, ("--learning-rate", "nan"), "out of range"),
        (nothing, ("--p", "1"), "p: 1 is too few"),
        (nothing, ("--k", "1"), "k: 1 is too few"),
        (nothing, ("--evaluate-every=-5",), "-5 is below 0"),
        (nothing, ("--jobs=-1",), "-1 is below 0"),
        (nothing, ("--device", "abacus"), "no device abacus"),
        (nothing, ("--device", "meta"), "no device meta"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # not where in memory a function is
)
def test_what_cannot_be_run_is_said_in_one_line_before_anything_is_written(
    spoil: Callable[[Path], None],
    arguments: tuple[str, ...],
    says: str,
    photos: Path,
    tmp_path: Path,
    begun: list[Bench],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos)
    spoil(photos)
    assert bench(photos, tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr()
    *before, last = printed.err.splitlines()
    assert last.startswith("python -m trainer: ")
    assert says in last
    assert before in ([], ["72 photos can be read"])
    assert (printed.out, begun) == ("", [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [("--seeds", "a"), ("--sizes", "1,,2"), ("--steps", "many"), ("--abc",)], ids=str)
def test_arguments_of_another_kind_are_refused(
    arguments: tuple[str, ...], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        bench(made, tmp_path / "out", *arguments)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_among_the_photos_is_refused(photos: Path, begun: list[Bench]) -> None:
    assert bench(photos, photos / "results") == 2
    assert (begun, (photos / "results").exists()) == ([], False)


def test_a_file_in_place_of_the_folder_of_results_is_refused(made: Path, tmp_path: Path, begun: list[Bench]) -> None:
    (tmp_path / "out").write_text("mine")
    assert bench(made, tmp_path / "out") == 2
    assert bench(made, tmp_path / "out" / "results") == 2
    assert begun == []


def test_a_full_disk_is_found_before_anything_is_learned(
    made: Path, tmp_path: Path, begun: list[Bench], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = {"bytes": 1 << 20}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free["bytes"]))
    assert bench(made, tmp_path / "out") == 1
    assert "has 1 MiB free; the models and checkpoints of this bench need " in capsys.readouterr().err
    assert (begun, (tmp_path / "out").exists()) == ([], False)
    free["bytes"] = 1 << 30
    assert bench(made, tmp_path / "out") == 0


def test_two_benches_do_not_work_in_one_folder(
    made: Path, tmp_path: Path, begun: list[Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(tmp_path, wait=False):
        assert bench(made, tmp_path) == 2
    assert "another bench is at work in" in capsys.readouterr().err
    assert bench(made, tmp_path) == 0


def test_by_default_there_are_two_stages_of_half_the_categories(
    made: Path, tmp_path: Path, begun: list[Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [made, "--out", tmp_path, "--backbones", "tiny", "--image-size", 32, "--p", 2, "--k", 2]
    assert main(["bench", *map(str, arguments)]) == 0
    assert capsys.readouterr().out == f"results: {tmp_path / 'results.md'}\n"
    (found,) = begun
    assert [len(stage) for stage in found.protocol.stages] == [3, 3]
    assert found.methods == ("initial", "finetune", "fecd", "mutual", "joint")
    assert (found.seeds, found.first.steps, found.later.steps) == ((0, 1, 2), 6000, 5000)


def test_an_interruption_before_anything_is_learned_ends_with_130(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "run_all", interrupt)
    assert bench(made, tmp_path / "out") == 130
    assert f"the same command goes on with what is in {tmp_path / 'out'}" in capsys.readouterr().err


class TestGoingOn:
    """With a folder of results that is there already."""

    @pytest.fixture
    def out(self, photos: Path, tmp_path: Path, begun: list[Bench]) -> Path:
        assert bench(photos, tmp_path / "out", "--methods", "finetune", "mutual") == 0
        return tmp_path / "out"

    @pytest.mark.parametrize(
        "more",
        [
            (),
            ("--methods", "finetune", "mutual", "fecd"),
            ("--methods", "mutual"),
            ("--methods", "mutual", "mutual:mutual=0"),
            ("--seeds", "0,1"),
            ("--jobs", "1"),
        ],
        ids=str,
    )
    def test_methods_and_seeds_may_be_others(
        self, more: tuple[str, ...], photos: Path, out: Path, begun: list[Bench]
    ) -> None:
        assert bench(photos, out, "--methods", "finetune", "mutual", *more) == 0
        kept = json.loads((out / CONFIG).read_text())
        assert kept == json.loads(json.dumps(begun[-1].described()))

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--steps", "4"), "later.steps is 2 there, not 4;"),
            (("--learning-rate", "1e-3"), "first.learning_rate is 1e-05 there, not 0.001; later.learning_rate"),
            (("--sizes", "2,2,2"), "protocol.sizes is [3, 3] there, not [2, 2, 2];"),
            (("--order", "shuffled:1"), "protocol.order is name there, not shuffled:1;"),
            (("--validation", "0.5"), "protocol.split.validation is 0.25 there, not 0.5;"),
            (("--image-size", "64"), "image_size is 32 there, not 64;"),
            (("--evaluate-every", "1"), "evaluate_every is 0 there, not 1;"),
        ],
        ids=str,
    )
    def test_results_of_another_configuration_are_refused_and_what_differs_is_named(
        self,
        arguments: tuple[str, ...],
        says: str,
        photos: Path,
        out: Path,
        begun: list[Bench],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = (out / CONFIG).read_bytes()
        assert bench(photos, out, *arguments) == 2
        printed = capsys.readouterr().err.splitlines()[-1]
        assert "holds results of another configuration" in printed
        assert says in printed
        assert "choose another folder" in printed
        assert len(begun) == 1
        assert (out / CONFIG).read_bytes() == before

    def test_changed_photos_are_another_configuration(
        self, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(photos / "c0" / "c0_000.jpg", photos / "c5" / "c5_003.jpg")
        assert bench(photos, out) == 2
        assert "photos_digest is" in capsys.readouterr().err

    def test_weights_of_the_same_name_and_other_content_are_another_configuration(
        self, photos: Path, tmp_path: Path, begun: list[Bench], capsys: pytest.CaptureFixture[str]
    ) -> None:
        from trainer import backbones

        state = dict(backbones.find("tiny").pretrained())
        weights = ("--weights", str(tmp_path / "mine.pt"))
        torch.save(state, tmp_path / "mine.pt")
        assert bench(photos, tmp_path / "out", *weights) == 0
        assert bench(photos, tmp_path / "out", *weights) == 0
        torch.save({**state, "0.bias": torch.ones(8)}, tmp_path / "mine.pt")
        assert bench(photos, tmp_path / "out", *weights) == 2
        assert "weights_digest is" in capsys.readouterr().err

    def test_other_settings_behind_the_same_name_are_another_configuration(
        self, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kept = json.loads((out / CONFIG).read_text())
        kept["settings"]["mutual"]["mutual"] = 9.0
        (out / CONFIG).write_text(json.dumps(kept))
        assert bench(photos, out, "--methods", "finetune") == 0
        (out / CONFIG).write_text(json.dumps(kept))
        assert bench(photos, out, "--methods", "mutual") == 2
        assert "settings.mutual.mutual is 9.0 there, not 8.0" in capsys.readouterr().err

    def test_what_a_configuration_does_not_say_is_no_difference(self, photos: Path, out: Path) -> None:
        kept = json.loads((out / CONFIG).read_text())
        del kept["settings"], kept["weights_digest"]
        (out / CONFIG).write_text(json.dumps(kept))
        assert bench(photos, out) == 0

    @pytest.mark.parametrize(
        ("model", "code", "says"),
        [
            (save({"conv.weight": torch.zeros(3)}), 2, "is the model of another network than tiny"),
            (b"damaged", 1, "is missing, or no model"),
        ],
        ids=["of another network", "damaged"],
    )
    def test_a_model_that_runs_cannot_go_on_from_is_found_before_they_begin(
        self,
        model: bytes,
        code: int,
        says: str,
        photos: Path,
        out: Path,
        begun: list[Bench],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        first = out / "runs" / "tiny" / "seed-0" / "first"
        first.mkdir(parents=True)
        (first / RESULT).write_text("{}")
        (first / MODEL).write_bytes(model)
        assert bench(photos, out) == code
        assert says in capsys.readouterr().err.splitlines()[-1]
        assert len(begun) == 1

    def test_a_file_that_is_no_configuration_is_refused(
        self, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (out / CONFIG).write_text("{")
        assert bench(photos, out) == 2
        assert "is no configuration of a bench" in capsys.readouterr().err
