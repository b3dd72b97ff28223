"""The page and the plots of a bench, on results that are drawn, against literal loops over them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexer.errors import InvalidField
from trainer.bench import plots, report, summary
from trainer.bench.summary import Bench, Spread

Results = dict[str, Any]

METHODS = ("initial", "finetune", "joint", "fecd", "mutual:supporter=random")
MULTI = (100, 25, 25, 25, 25)
ONE = (100, 100)
TERMS = {"finetune": ("triplet",), "joint": ("triplet",), "fecd": ("triplet", "correlation")}
MOST_BYTES = 150_000


def drawn(
    sizes: Sequence[int] = MULTI,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    steps: Sequence[int] = (50, 100),
    methods: Sequence[str] = METHODS,
    backbones: Sequence[str] = ("efficientnet_lite0",),
) -> Results:
    """Results whose figures are drawn; `steps` are those of each stage's milestones."""
    draw = np.random.default_rng(7)

    def recall(level: float) -> dict[str, float]:
        ones = min(max(level + float(draw.normal(0, 0.008)), 0), 1)
        return {k: 1 - (1 - ones) * 0.75**i for i, k in enumerate(("1", "2", "4", "8"))} | {"queries": 400}

    def recalls(method: str, stage: int) -> dict[str, Any]:
        keeps, learns = {
            "initial": (1.0, 0.5),
            "finetune": (0.93, 0.8),
            "joint": (1.0, 0.78),
            "fecd": (0.98, 0.72),
        }.get(method, (0.985, 0.75))
        groups = [recall((0.78 if j == 0 else learns) * keeps ** (stage - j)) for j in range(stage + 1)]
        old = recall(0.7 * keeps**stage) if stage else None
        return {"old": old, "new": groups[stage], "all": recall(0.68 * keeps**stage), "stages": groups}

    def run(method: str, seed: int, backbone: str, stage: int) -> dict[str, Any]:
        trained = stage == 0 or method != "initial"
        at = steps if trained else (0,)
        names = TERMS.get(method, ("triplet", "correlation", "mutual"))
        losses = [
            {"step": step} | {name: float(draw.uniform(0.4, 0.6)) / (i + 1) + 5 / step for i, name in enumerate(names)}
            for step in range(10, at[-1] + 1, 10)
        ]
        return {
            "method": method,
            "seed": seed,
            "backbone": backbone,
            "stage": stage,
            "steps": at[-1],
            "seconds": 400.0,
            "seconds_per_step": float(draw.uniform(3, 5)) if trained else 0.0,
            "peak_memory_mib": float(draw.uniform(2000, 2500)),
            "memory_bytes": 819_200,
            "losses": losses,
            "milestones": [
                {"step": step, "validation": recalls(method, stage), "test": recalls(method, stage)} for step in at
            ],
        }

    schedule = {"learning_rate": 1e-5, "weight_decay": 5e-4, "p": 16, "k": 5}
    return {
        "format": 1,
        "config": {
            "photos_digest": "0123456789abcdef" * 4,
            "protocol": {"digest": "fedcba9876543210" * 4, "order": "name", "sizes": list(sizes), "split": {}},
            "backbones": list(backbones),
            "image_size": 128,
            "first": {"steps": 500, **schedule},
            "later": {"steps": steps[-1], **schedule},
            "seeds": list(seeds),
            "methods": list(methods),
        },
        "machine": {"processor": "An abacus", "cores": 2, "packages": {"torch": "2.13.0"}},
        "runs": [
            run("initial" if stage == 0 else method, seed, backbone, stage)
            for backbone in backbones
            for seed in seeds
            for method, stage in [("", 0), *itertools.product(methods, range(1, len(sizes)))]
        ],
    }


def edited(edit: Callable[[Results], object], **changes: Any) -> Results:
    """Drawn results, changed in place."""
    results = drawn(**changes)
    edit(results)
    return results


def without(*lost: tuple[str, int, int]) -> Callable[[Results], object]:
    """Forgets the runs of (method, seed, stage)."""

    def forget(results: Results) -> None:
        results["runs"] = [run for run in results["runs"] if (run["method"], run["seed"], run["stage"]) not in lost]

    return forget


def find(results: Results, method: str, seed: int, stage: int) -> dict[str, Any]:
    """The run, literally: the first that fits."""
    name = "initial" if stage == 0 else method
    for run in results["runs"]:
        if run["method"] == name and run["seed"] == seed and run["stage"] == stage:
            return dict(run)
    raise AssertionError(f"no run of {name}, {seed}, {stage}")


def table(page: str, title: str) -> dict[str, dict[str, str]]:
    """The cells of the table whose title begins so: row -> column -> text."""
    (section,) = (part for part in page.split("\n### ") if part.startswith(title))
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    head, _, *rows = lines
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def cell(values: Sequence[float], sign: str = "") -> str:
    """Mean and sample standard deviation, by their definitions."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:{sign}.2f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:{sign}.2f} ± {deviation:.2f}"


def literal(results: Results, method: str, seed: int, column: str, milestone: int = -1) -> float:
    """A column's figure of a multi-task protocol, by loops over the runs."""
    last = len(MULTI) - 1
    final = find(results, method, seed, last)["milestones"][milestone]["test"]
    if column.endswith("(all)"):
        return 100 * float(final["all"]["1"])
    if column == "forgetting":
        lost = 0.0
        for j in range(last):
            learned = find(results, method, seed, j)["milestones"][-1]["test"]["stages"][j]["1"]
            lost += learned - final["stages"][j]["1"]
        return 100 * lost / last
    if column == "plasticity":
        gained = final["stages"][last]["1"]
        for j in range(1, last):
            gained += find(results, method, seed, j)["milestones"][-1]["test"]["stages"][j]["1"]
        return 100 * float(gained) / last
    names = ["1-100", "101-125", "126-150", "151-175", "176-200"]
    return 100 * float(final["stages"][names.index(column)]["1"])


def test_forgetting_and_plasticity_by_hand() -> None:
    recalls = [[0.8], [0.7, 0.6], [0.5, 0.65, 0.9]]
    assert summary.forgetting(recalls) == pytest.approx(((0.8 - 0.5) + (0.6 - 0.65)) / 2)
    assert summary.plasticity(recalls) == pytest.approx((0.6 + 0.9) / 2)


def test_a_model_that_stays_forgets_nothing() -> None:
    assert summary.forgetting([[0.3], [0.3, 0.4]]) == 0


def test_spread_by_hand() -> None:
    spread = Spread.of([1, 2, 6])
    assert spread.mean == 3
    assert spread.deviation == pytest.approx(7**0.5)
    assert Spread.of([4]) == Spread(4, None)


@pytest.mark.parametrize("milestone", [-1, 0], ids=["at equal steps", "each method at its own best"])
def test_a_multi_task_table_has_each_stages_recall_forgetting_and_plasticity(milestone: int) -> None:
    def first_is_best(results: Results) -> None:
        for run in results["runs"]:
            run["milestones"][0]["validation"]["all"]["1"] = 1.0

    results = edited(first_is_best)
    title = "Recall@1, at equal" if milestone else "Recall@1, each method at its own best number of steps"
    found = table(report.markdown(results), title)
    assert tuple(found) == METHODS
    for method, row in found.items():
        steps = row.pop("steps", None)
        assert steps == (None if milestone else "0" if method == "initial" else "50")
        assert list(row) == [
            *("1-100", "101-125", "126-150", "151-175", "176-200", "1-200 (all)"),
            *("forgetting", "plasticity"),
        ]
        for column, text in row.items():
            assert text == cell([literal(results, method, seed, column, milestone) for seed in (0, 1, 2)])


def test_a_one_task_table_has_old_new_and_all() -> None:
    results = drawn(ONE)
    found = table(report.markdown(results), "Recall@1, at equal")
    assert tuple(found) == METHODS
    for method, row in found.items():
        assert list(row) == ["old", "new", "all"]
        for among, text in row.items():
            runs = [find(results, method, seed, 1) for seed in (0, 1, 2)]
            assert text == cell([100 * run["milestones"][-1]["test"][among]["1"] for run in runs])


def test_recall_at_k_is_that_of_the_last_stage() -> None:
    results = drawn()
    found = table(report.markdown(results), "Recall@K")
    assert len(found) == 3 * len(METHODS)
    for row, cells in found.items():
        method, among = row.split(", ")
        for column, text in cells.items():
            runs = [find(results, method, seed, 4) for seed in (0, 1, 2)]
            assert text == cell([100 * run["milestones"][-1]["test"][among][column[-1]] for run in runs])


@pytest.mark.parametrize("reference", report.REFERENCES)
def test_a_comparison_is_paired_by_seed_and_less_forgetting_is_better(reference: str) -> None:
    results = drawn()
    found = table(report.markdown(results), f"Against {reference}, at equal")
    assert set(found) == set(METHODS) - {reference}
    for method, row in found.items():
        for column, text in row.items():
            differences, better = [], 0
            for seed in (0, 1, 2):
                mine, its = (literal(results, name, seed, column) for name in (method, reference))
                differences.append(mine - its)
                better += mine < its if column == "forgetting" else mine > its
            assert text == f"{cell(differences, '+')} ({better} of 3)"


def test_without_a_reference_nothing_is_compared() -> None:
    assert "Against" not in report.markdown(drawn(methods=("initial", "joint")))


def test_the_best_number_of_steps_is_chosen_on_validation_and_never_on_test() -> None:
    def disagree(results: Results) -> None:
        for run in results["runs"]:
            if run["method"] == "fecd":
                for point, validation, test in zip(run["milestones"], (0.3, 0.5, 0.4), (0.9, 0.2, 0.7), strict=True):
                    for part, value in (("validation", validation), ("test", test)):
                        point[part]["all"]["1"] = value

    page = report.markdown(edited(disagree, sizes=ONE, steps=(25, 50, 100)))
    row = table(page, "Recall@1, each method at its own best number of steps")["fecd"]
    assert (row["steps"], row["all"]) == ("50", "20.00 ± 0.00")
    assert table(page, "Recall@1, at equal")["fecd"]["all"] == "70.00 ± 0.00"


def test_the_best_number_of_steps_is_that_of_the_mean_over_seeds() -> None:
    def milestones(*values: float) -> dict[str, Any]:
        return {"milestones": [{"validation": {"all": {"1": value}}} for value in values]}

    assert summary.best_milestone([milestones(0.5, 0.6, 0.4), milestones(0.5, 0.1, 0.4)]) == 0
    assert summary.best_milestone([milestones(0.4, 0.5, 0.5)]) == 1


def test_earlier_stages_are_reported_as_the_next_stage_found_them() -> None:
    def first_is_best(results: Results) -> None:
        for run in results["runs"]:
            run["milestones"][0]["validation"]["all"]["1"] = 1.0

    results = edited(first_is_best)
    (bench,) = Bench.all_of(results)
    *earlier, last = bench.recalls("fecd", 1, best=True)
    assert earlier == [find(results, "fecd", 1, stage)["milestones"][-1]["test"] for stage in range(4)]
    assert last == find(results, "fecd", 1, 4)["milestones"][0]["test"]


def no_validation(results: Results) -> None:
    for run in results["runs"]:
        for point in run["milestones"]:
            point["validation"]["all"] = dict.fromkeys(("1", "2", "4", "8"), float("nan")) | {"queries": 0}


@pytest.mark.parametrize(
    "results", [drawn(steps=(100,)), edited(no_validation)], ids=["one milestone", "no validation photos"]
)
def test_without_a_choice_of_steps_there_is_no_best(results: Results) -> None:
    assert "own best" not in report.markdown(results)


def test_one_seed_has_no_spread() -> None:
    page = report.markdown(drawn(seeds=(4,)))
    cells = [text for row in table(page, "Recall@1, at equal").values() for text in row.values()]
    assert not any("±" in text for text in cells)
    assert table(page, "Against fecd, at equal")["joint"]["1-100"].endswith(" (1 of 1)")


def test_only_seeds_that_all_have_finished_are_compared_and_the_page_says_so() -> None:
    results = edited(without(("fecd", 1, 4), *(("joint", seed, 2) for seed in (0, 1, 2)), ("initial", 2, 1)))
    page = report.markdown(results)
    assert "**Not finished: initial (2 of 3 seeds), joint (0 of 3 seeds), fecd (2 of 3 seeds).**" in page
    assert "1 of 3 (0)" in page
    found = table(page, "Recall@1, at equal")
    assert set(found) == set(METHODS) - {"joint"}
    assert found["finetune"]["1-100"] == cell([literal(results, "finetune", 0, "1-100")])
    paired = table(page, "Against finetune, at equal")
    assert {method: row["1-100"].split()[-1] for method, row in paired.items()} == {
        "initial": "2)",
        "fecd": "2)",
        "mutual:supporter=random": "3)",
    }
    differences = [
        literal(results, "fecd", seed, "1-100") - literal(results, "finetune", seed, "1-100") for seed in (0, 2)
    ]
    assert paired["fecd"]["1-100"].startswith(cell(differences, "+"))


def test_a_seed_without_its_first_stage_is_not_finished() -> None:
    (bench,) = Bench.all_of(edited(without(("initial", 1, 0))))
    assert bench.seeds() == [0, 2]


def test_what_is_complete_is_not_called_unfinished() -> None:
    assert "Not finished" not in report.markdown(drawn())


@pytest.mark.parametrize(
    "runs",
    [lambda runs: [], lambda runs: runs[:1], lambda runs: [run for run in runs if run["stage"] < 4]],
    ids=["nothing", "the first stage", "all but the last stage"],
)
def test_a_bench_that_has_finished_nothing_has_a_page_without_tables(
    runs: Callable[[list[Any]], list[Any]], tmp_path: Path
) -> None:
    results = edited(lambda results: results.update(runs=runs(results["runs"])))
    assert report.write(results, tmp_path) == [tmp_path / "results.md"]
    page = (tmp_path / "results.md").read_text()
    assert "Not finished: initial (0 of 3 seeds)" in page
    assert "|" not in page


def test_cost_is_of_the_stages_after_the_first() -> None:
    results = drawn()
    found = table(report.markdown(results), "Cost")
    mean: dict[str, float] = {}
    for method in METHODS[1:]:
        runs = [find(results, method, seed, stage) for seed in (0, 1, 2) for stage in (1, 2, 3, 4)]
        mean[method] = sum(run["seconds_per_step"] for run in runs) / 12
        peak = max(run["peak_memory_mib"] for run in runs)
        assert list(found[method].values()) == [
            f"{mean[method]:.3g}",
            f"{mean[method] / mean['finetune']:.2f}",
            f"{peak:,.0f}",
            "4,096",
        ]
    assert list(found["initial"].values())[:2] == ["–", "–"]


def test_the_heading_says_what_was_run_and_where() -> None:
    title, said = report.markdown(drawn()).split("\n\n## ")[0].split("\n", 1)
    assert title == "# multi-task, 100 + 25 + 25 + 25 + 25 categories: efficientnet_lite0 at 128 px"
    for part in ("500 steps", "100 for each later", "seeds 0, 1, 2", "`0123456789ab`", "An abacus", "torch 2.13.0"):
        assert part in said
    assert report.markdown(drawn(ONE)).startswith("# one-task, 100 + 100 categories")


def test_backbones_are_reported_one_by_one() -> None:
    results = drawn(ONE, backbones=("a", "b"), seeds=(0,))
    parts = report.markdown(results).split("\n## ")[1:]
    for backbone, part in zip(("a", "b"), parts, strict=True):
        (run,) = (r for r in results["runs"] if (r["backbone"], r["method"], r["stage"]) == (backbone, "fecd", 1))
        assert table(part, "Recall@1, at equal")["fecd"]["new"] == cell(
            [100 * run["milestones"][-1]["test"]["new"]["1"]]
        )


def test_several_backbones_have_plots_of_their_own(tmp_path: Path) -> None:
    results = edited(without(("initial", 0, 0)), sizes=ONE, backbones=("a", "b"), seeds=(0,))
    assert [path.name for path in plots.plots(results, tmp_path)] == ["training-a.png", "training-b.png"]


def test_another_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidField) as error:
        report.write(drawn() | {"format": 2}, tmp_path / "out")
    assert (error.value.field, error.value.got, error.value.expected) == ("format", "2", "1")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sizes", "seeds"), [(ONE, (0, 1, 2)), (MULTI, (0,))], ids=["one-task, three seeds", "multi-task, one seed"]
)
def test_the_page_shows_every_plot(sizes: Sequence[int], seeds: Sequence[int], tmp_path: Path) -> None:
    page, *images = report.write(json.loads(json.dumps(drawn(sizes, seeds=seeds))), tmp_path)
    assert [path.name for path in images] == ["recall-by-stage.png", "forgetting-plasticity.png", "training.png"]
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (page, *images)}
    for path in images:
        assert f"]({path.name})" in page.read_text()
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"


def test_the_same_results_are_the_same_files(tmp_path: Path) -> None:
    first, again = (report.write(drawn(ONE, methods=METHODS[:2]), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_the_plots_of_many_long_runs_are_small(tmp_path: Path) -> None:
    methods = (*METHODS, "mutual:supporter=pretrained", "mutual:teacher=none", "mutual:mutual=0")
    for path in plots.plots(drawn(steps=(5000,), methods=methods), tmp_path):
        assert path.stat().st_size <= MOST_BYTES


def test_without_losses_there_is_no_plot_of_training(tmp_path: Path) -> None:
    def forget(results: Mapping[str, Any]) -> None:
        for run in results["runs"]:
            run["losses"] = []

    paths = plots.plots(edited(forget), tmp_path)
    assert "training.png" not in {path.name for path in paths}


def test_a_line_is_thinned_by_means_of_consecutive_points() -> None:
    assert plots.thinned([(10, 1), (20, 3), (30, 5), (40, 8), (50, 2)], 3) == [(15, 2), (35, 6.5), (50, 2)]
    assert plots.thinned([(10, 1), (20, 3)], 50) == [(10, 1), (20, 3)]
    assert plots.thinned([]) == []


def test_no_two_methods_look_alike() -> None:
    styles = plots.styles_of([str(number) for number in range(42)])
    assert len(set(styles.values())) == 42
