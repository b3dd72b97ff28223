"""The numbers of a bench's results: which seeds are finished, and the recall, forgetting and plasticity of each.

`results` is the object in `results.json`. Recalls are fractions in it and percent here; what is in points is a
difference of percent.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from indexer.errors import InvalidField

KS: Final = ("1", "2", "4", "8")
FORGETTING: Final = "forgetting"
PLASTICITY: Final = "plasticity"
_FORMAT: Final = 1

Run = Mapping[str, Any]  # one stage of one method with one seed
Recalls = Mapping[str, Any]  # after a stage: of "old", "new", "all" and each of "stages", by K
Matrix = Sequence[Sequence[float]]  # [i][j]: recall among stage j's categories right after stage i; j <= i


@dataclass(frozen=True)
class Spread:
    """Over seeds."""

    mean: float
    deviation: float | None  # of a sample; None for a single one

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def forgetting(recalls: Matrix) -> float:
    """What later stages took: the mean over the stages j before the last, L, of R_jj - R_Lj, for R_ij = recalls[i][j].

    Chaudhry et al., 2018 (arXiv:1801.10112), the forgetting measure f_j = max over l < L of R_lj - R_Lj.

    Departs from the paper: R_jj, right after the stage was learned, in place of the best before the last stage, so that
    a stage which later ones improve counts as negative. That is the backward transfer of Lopez-Paz and Ranzato, 2017
    (arXiv:1706.08840), with its sign turned.
    """
    return statistics.fmean(recalls[j][j] - recalls[-1][j] for j in range(len(recalls) - 1))


def plasticity(recalls: Matrix) -> float:
    """What is learned after the first stage: the mean over the stages j >= 1 of R_jj, right after each was learned."""
    return statistics.fmean(recalls[j][j] for j in range(1, len(recalls)))


def best_milestone(runs: Sequence[Run]) -> int:
    """Which milestone of a stage has the highest mean over `runs`, one a seed, of Recall@1 among all categories.

    The recall is that of the validation photos, which are held out of training, and never that of the test photos. Of
    equals it is the one with the fewest steps.
    """
    by_milestone = zip(*(run["milestones"] for run in runs), strict=True)
    means = [statistics.fmean(point["validation"]["all"]["1"] for point in points) for points in by_milestone]
    return means.index(max(means))


@dataclass(frozen=True)
class Bench:
    """What of a results object is finished with one backbone: chains[method][seed] is a method's runs, one a stage.

    Stage 0 is the start that all methods share. A method without a finished seed is not in `chains`.
    """

    backbone: str
    sizes: tuple[int, ...]  # categories of each stage
    methods: tuple[str, ...]  # in the order of the configuration, as `chains`
    planned: tuple[int, ...]  # seeds
    chains: Mapping[str, Mapping[int, Sequence[Run]]]

    @classmethod
    def all_of(cls, results: Mapping[str, Any]) -> list[Bench]:
        """One for each backbone of the configuration. Errors: InvalidField for another format than this one's."""
        if results["format"] != _FORMAT:
            raise InvalidField(
                f"results of format {results['format']}", field="format", got=results["format"], expected=_FORMAT
            )
        return [cls._of(results, backbone) for backbone in results["config"]["backbones"]]

    @classmethod
    def _of(cls, results: Mapping[str, Any], backbone: str) -> Bench:
        config = results["config"]
        sizes, methods, seeds = (tuple(v) for v in (config["protocol"]["sizes"], config["methods"], config["seeds"]))
        of_backbone = [run for run in results["runs"] if run["backbone"] == backbone]
        runs = {(run["method"], run["seed"], run["stage"]): run for run in of_backbone}
        starts = {run["seed"]: run for run in of_backbone if run["stage"] == 0}
        chains: dict[str, dict[int, Sequence[Run]]] = {}
        for method, seed in itertools.product(methods, seeds):
            chain = [starts.get(seed), *(runs.get((method, seed, stage)) for stage in range(1, len(sizes)))]
            done = [run for run in chain if run is not None]
            if len(done) == len(sizes):
                chains.setdefault(method, {})[seed] = done
        return cls(backbone, sizes, methods, seeds, chains)

    @property
    def columns(self) -> tuple[str, ...]:
        """What `values` gives: the columns of the paper's Table 2 for two stages, and of its Table 3 for more."""
        if len(self.sizes) == 2:
            return ("old", "new", "all")
        ends = list(itertools.accumulate(self.sizes))
        ranges = [f"{end - size + 1}-{end}" for size, end in zip(self.sizes, ends, strict=True)]
        return (*ranges, f"1-{ends[-1]} (all)", FORGETTING, PLASTICITY)

    @property
    def has_choice(self) -> bool:
        """Whether any last stage has several milestones, and validation photos to choose one by."""
        last = [chain[-1]["milestones"] for chains in self.chains.values() for chain in chains.values()]
        return any(len(points) > 1 for points in last) and all(p[0]["validation"]["all"]["queries"] for p in last)

    def seeds(self, *methods: str) -> list[int]:
        """Those that every one of `methods` has finished; of all that have finished any, when none is named."""
        done = [self.chains.get(method, {}) for method in methods or self.chains]
        return [seed for seed in dict.fromkeys(itertools.chain(*done)) if all(seed in chains for chains in done)]

    def milestone(self, method: str, *, best: bool = False) -> int:
        """The index of the last stage's milestone that is reported: the last one, or the best by validation.

        The best one is a method's own, over all seeds that it has finished, whatever it is compared with.
        """
        return best_milestone([chain[-1] for chain in self.chains[method].values()]) if best else -1

    def steps(self, method: str, *, best: bool = False) -> int:
        """The last stage's number of steps at that milestone."""
        chain = next(iter(self.chains[method].values()))
        return int(chain[-1]["milestones"][self.milestone(method, best=best)]["step"])

    def recalls(self, method: str, seed: int, *, best: bool = False) -> list[Recalls]:
        """On the test photos, right after each stage.

        `best` chooses among the milestones of the last stage only: each earlier stage is what the next one began with.
        """
        *earlier, last = self.chains[method][seed]
        points = [run["milestones"][-1] for run in earlier] + [last["milestones"][self.milestone(method, best=best)]]
        return [point["test"] for point in points]

    def values(self, method: str, seed: int, *, best: bool = False) -> dict[str, float]:
        """Recall@1 in percent, forgetting and plasticity in points: one for each of `columns`."""
        recalls = self.recalls(method, seed, best=best)
        last = recalls[-1]
        if len(self.sizes) == 2:
            found = [last[among]["1"] for among in self.columns]
        else:
            matrix = matrix_of(recalls)
            found = [*matrix[-1], last["all"]["1"], forgetting(matrix), plasticity(matrix)]
        return {column: 100 * value for column, value in zip(self.columns, found, strict=True)}


def matrix_of(recalls: Sequence[Recalls]) -> list[list[float]]:
    """Recall@1 of each stage's own categories, right after each stage."""
    return [[stage["1"] for stage in after["stages"]] for after in recalls]
