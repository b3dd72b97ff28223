"""How far a bench is, and how long it takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.trainer import benches
from trainer.bench import progress
from trainer.bench.config import Bench
from trainer.bench.plan import FIRST, Stage, tasks
from trainer.bench.progress import Bar, Display, Lines, Overview
from trainer.bench.run import News


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return benches.photos(tmp_path_factory.mktemp("progress") / "photos")


def bench(folder: Path, **changes: Any) -> Bench:
    """A first stage of 3 steps, and two of 4 steps for each of finetune and mutual."""
    settings: dict[str, Any] = {"methods": ("finetune", "mutual"), "evaluate_every": 0}
    return benches.bench(folder, **settings | changes)


@pytest.fixture
def stages(folder: Path) -> dict[tuple[str, int], Stage]:
    return {(stage.run.method, stage.number): stage for task in tasks(bench(folder)) for stage in task}


def test_all_steps_and_the_stages_at_work_have_a_bar(
    folder: Path, stages: dict[tuple[str, int], Stage], tmp_path: Path
) -> None:
    overview = Overview(bench(folder), tmp_path, jobs=2)
    assert str(overview) == "5 of 5 stages are left to learn, in 19 steps; runs side by side: 2"
    assert overview.bars() == [Bar("all steps", 0, 19)]
    overview.hear(News(stages[FIRST, 0]))
    assert overview.bars() == [Bar("all steps", 0, 19), Bar("first stage, seed 0", 0, 3)]
    overview.hear(News(stages[FIRST, 0], 3, 0.5, 60.0, 0.0))
    overview.hear(News(stages[FIRST, 0], 3, None, 60.0, 0.0, {"test": {}}))
    overview.hear(News(stages["mutual", 1], 1, 1.23456, 30.0))
    total, running = overview.bars()
    assert (total.done, total.total) == (4, 19)
    assert running == Bar("mutual stage 1, seed 0", 1, 4, "loss 1.235, 30.00 s a step")
    assert str(running) == "mutual stage 1, seed 0: 1 of 4, loss 1.235, 30.00 s a step"
    assert str(Bar("all steps", 1200, 6000)) == "all steps: 1,200 of 6,000"


def test_the_time_left_is_that_of_the_steps_at_each_methods_pace(
    folder: Path, stages: dict[tuple[str, int], Stage], tmp_path: Path
) -> None:
    alone, beside = (Overview(bench(folder), tmp_path, jobs=jobs) for jobs in (1, 2))

    def left(news: News) -> tuple[float | None, float | None]:
        alone.hear(news)
        beside.hear(news)
        return alone.seconds_left(), beside.seconds_left()

    assert alone.seconds_left() is None
    assert left(News(stages[FIRST, 0], 1, 0.5, 10.0)) == (10.0 * 18, 10.0 * 18 / 2)
    assert left(News(stages[FIRST, 0], 3, None, 10.0, 0.0, {})) == (10.0 * 16, 10.0 * 16 / 2)
    # mutual's 8 steps are taken to be like the others'. No second process helps the longest run.
    assert left(News(stages["finetune", 1], 1, 0.5, 20.0)) == (7 * 20.0 + 8 * 15.0, 7 * 20.0)
    assert left(News(stages["mutual", 1], 2, 0.5, 100.0)) == (7 * 20.0 + 6 * 100.0, 6 * 100.0)
    alone.gave_up(tasks(bench(folder))[2])
    assert alone.seconds_left() == 7 * 20.0


def test_the_time_left_has_the_measurements_of_recall_and_the_starts_of_processes(
    folder: Path, stages: dict[tuple[str, int], Stage], tmp_path: Path
) -> None:
    overview = Overview(bench(folder, evaluate_every=3, methods=("finetune",)), tmp_path, jobs=1)
    overview.started_in(1000.0)
    overview.hear(News(stages[FIRST, 0], 1, 0.5, 1.0, 100.0))
    # The first stage: 2 steps, recall after 3, the memory. The later ones: 4 steps, recall after 3 and 4, the memory.
    assert overview.seconds_left() == (2 + 2 * 100) + (1000 + 2 * (4 + 3 * 100))
    overview.hear(News(stages[FIRST, 0], 3, 0.5, 1.0, 100.0, {}))
    overview.hear(News(stages["finetune", 1], 3, 0.5, 1.0, 100.0))
    assert overview.seconds_left() == (1 + 2 * 100) + (4 + 3 * 100)


def test_a_bench_that_goes_on_knows_what_is_done_and_what_it_took(folder: Path, tmp_path: Path) -> None:
    with benches.tiny_backbone():
        given = bench(folder, methods=("finetune", "initial"))
        benches.do_all(bench(folder, methods=("finetune",)), tmp_path)
    overview = Overview(given, tmp_path, jobs=1)
    assert str(overview) == "2 of 5 stages are left to learn, in 0 steps; runs side by side: 1"
    assert overview.bars()[0][:3] == ("all steps", 11, 11)
    assert overview.seconds_left() == 0


def test_backbones_are_named_where_there_are_several(folder: Path, tmp_path: Path) -> None:
    given = bench(folder, backbones=("tiny", "resnet50"))
    overview = Overview(given, tmp_path, jobs=1)
    assert [overview.name(task[0]) for task in tasks(given)[:2]] == [
        "first stage, seed 0, tiny",
        "first stage, seed 0, resnet50",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than a minute"),
        (29, "less than a minute"),
        (31, "1 min"),
        (3569, "59 min"),
        (3580, "1 h 00 min"),
        (90_061, "25 h 01 min"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_without_a_terminal_a_line_comes_every_thirty_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = Lines(clock=lambda: now)
    for now in range(0, 100, 10):
        lines.show([Bar("all steps", now, 100, "9 min left"), Bar("fecd", 1, 2)])
    assert capsys.readouterr().err.splitlines() == [
        f"all steps: {at} of 100, 9 min left; fecd: 1 of 2" for at in (30, 60, 90)
    ]
    with progress.display(Console(file=io.StringIO())) as shown:
        shown.line("something [happened]")
    assert capsys.readouterr().err == "something [happened]\n"


def test_on_a_terminal_there_are_bars_below_the_lines() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)

    def written(show: Display, bars: list[Bar]) -> str:
        show.show(bars)
        shown_progress.refresh()
        text = screen.getvalue()
        screen.truncate(0)
        screen.seek(0)
        return text

    with progress.display(console) as shown:
        assert isinstance(shown, progress.Bars)
        shown_progress = shown.progress
        first = written(shown, [Bar("all steps", 3, 10, "9 min left"), Bar("fecd [x]", 1, 2, "loss 0.5")])
        assert "all steps" in first
        assert "3/10" in first
        assert "9 min left" in first
        assert "fecd [x]" in first
        second = written(shown, [Bar("all steps", 5, 10, "4 min left")])
        assert "5/10" in second
        assert "fecd" not in second
        shown.line("fecd [x]: done")
    assert "fecd [x]: done\n" in screen.getvalue()
