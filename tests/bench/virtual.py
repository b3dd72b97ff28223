"""How near virtual features come to those of the old models, on models that a bench has trained.

    python -m tests.bench.virtual --photos DIR --runs DIR [--methods METHOD ...] [--store]

`--runs` is the `--out` of `python -m trainer bench` with three stages or more, `--photos` the folder it learned from.
For each stage i and each earlier stage b < i-1, the features of stage i's training photos by the model of stage b are
the truth. Estimates of them are told from the features by the model of stage i-1:

    teacher    those features themselves: no correction
    scaled     FECD's: each element times 1 + u
    raw        mutual, Eq. 3 and 4 as the paper has them: weights are cosines of any sign
    virtual    the same with weights as in `trainer.drift`, and each drift by the models of stages b and i-1
    chained    the same with drifts added up stage by stage, for which no old model is kept
    known      Eq. 4 alone: drifts from the photos of stage b, which a stage's training does not have

and held against the truth by the mean cosine, and by the Gram-KL (T = 4) over batches that the sampler draws: what the
correlation loss would be if the student were the estimate, and the teacher the true old model.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from indexer.errors import InvalidField
from tests.bench import machine
from trainer import estimates, methods, protocol
from trainer.bench.config import CONFIG
from trainer.bench.plan import Run
from trainer.bench.run import MODEL
from trainer.drift import prototypes, virtual_features
from trainer.first_model import preprocessing
from trainer.losses import cosines, gram_kl
from trainer.memory import Memory
from trainer.network import EmbeddingNetwork, create_network
from trainer.protocol import Protocol, Split
from trainer.sampling import PKSampler
from trainer.stage import features

ESTIMATES: Final = ("teacher", "scaled", "raw", "virtual", "chained", "known")
BATCHES: Final = 20  # of each stage, over which the Gram-KL is a mean


@dataclass(frozen=True)
class Features:
    """What each model says of each stage's training photos."""

    of: Sequence[Sequence[Tensor]]  # of[j][b]: features (M_j, D) of the photos of stage j by the model of stage b
    labels: Sequence[Tensor]  # of each stage, (M_j,)

    def means(self, number: int, model: int) -> Tensor:
        """The categories of one stage by the model of another: (C, D)."""
        return prototypes(self.of[number][model], self.labels[number])[1]

    def memory(self, until: int, *, old_models: bool) -> Memory:
        """What is kept after stage `until`, with every old model at hand or with none but the last."""
        memory = Memory("", self.of[0][0].shape[1])
        for j in range(until + 1):
            memory = memory.after_stage(
                j,
                [str(category) for category in range(int(self.labels[j].max()) + 1)],
                self.labels[j],
                model=str(j),
                features=self.of[j][j],
                features_before=self.of[j][max(0, j - 1)],
                features_of={b: self.of[j][b] for b in range(j)} if old_models else None,
            )
        return memory

    def told(self, number: int, b: int) -> dict[str, Tensor]:
        """The features (N, D) of a stage's photos by the model of stage b, as each estimate has them."""
        now, before = self.of[number][number - 1], self.of[number - 1]
        memory = self.memory(number - 1, old_models=True)
        own, chained = memory.stages[b], self.memory(number - 1, old_models=False).stages[b]
        scaled = estimates.scaled(memory, seed=number, device=torch.device("cpu"), at_most=number)
        raw = weighted_mean(cosines(own.prototypes, before[b]), before[number - 1] - before[b])
        known = self.means(b, number - 1)
        return {
            "teacher": now,
            "scaled": scaled(now, 0)[0][b],
            "raw": now - weighted_mean(cosines(now, own.prototypes + raw), raw),
            "virtual": virtual_features(now, own.prototypes_now, own.drifts),
            "chained": virtual_features(now, chained.prototypes_now, chained.drifts),
            "known": virtual_features(now, known, known - own.prototypes),
        }

    def weights(self, number: int, b: int) -> dict[str, Tensor]:
        """The cosines that Eq. 3 and 4 weigh by, before any guard: a row for each sum."""
        own = self.memory(number - 1, old_models=True).stages[b]
        return {
            "eq3": cosines(own.prototypes, self.of[number - 1][b]),
            "eq4": cosines(self.of[number][number - 1], own.prototypes_now),
        }


def weighted_mean(weights: Tensor, values: Tensor) -> Tensor:
    """The paper's quotient, without a guard: (K, M), (M, D) -> (K, D)"""
    return weights @ values / weights.sum(dim=1, keepdim=True)


def compare(seen: Features, *, p: int, k: int) -> Iterator[dict[str, Any]]:
    """One row for each stage and each stage two or more before it."""
    for number in range(2, len(seen.of)):
        sampler = PKSampler(seen.labels[number].tolist(), seed=0, p=p, k=k)
        batches = [torch.from_numpy(sampler.batch(step)) for step in range(BATCHES)]
        for b in range(number - 1):
            truth, told = seen.of[number][b], seen.told(number, b)
            weights = seen.weights(number, b)
            yield {
                "stage": number,
                "earlier": b,
                "cosine": {name: _cosine(told[name], truth) for name in ESTIMATES},
                "gram_kl": {name: _gram_kl(told[name], truth, batches) for name in ESTIMATES},
                "negative_weights": {name: float((of < 0).double().mean()) for name, of in weights.items()},
                "least_sum": {name: _least_sum(of) for name, of in weights.items()},
            }


def _cosine(told: Tensor, truth: Tensor) -> float:
    return float(functional.cosine_similarity(told.double(), truth.double()).mean())


def _gram_kl(told: Tensor, truth: Tensor, batches: Iterable[Tensor]) -> float:
    return statistics.fmean(float(gram_kl(told[rows].double(), truth[rows].double())) for rows in batches)


def _least_sum(weights: Tensor) -> float:
    """The least sum of a row's weights beside that of their sizes: 1 where all have one sign, 0 where they cancel."""
    return float((weights.sum(dim=1).abs() / weights.abs().sum(dim=1)).min())


def read(config: dict[str, Any], photos: Protocol, out: Path, run: Run) -> Features:
    """Runs all training photos through all models of one run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stages = [photos.training(number) for number in range(len(photos.stages))]
    seen: list[list[Tensor]] = [[] for _ in stages]
    for model in range(len(stages)):
        network = _load(config, run, run.folder(out, model) / MODEL).to(device)
        for number, of_stage in enumerate(stages):
            seen[number].append(features(network, of_stage, preprocessing(config["image_size"]), device)[0])
    return Features(seen, [torch.tensor(of_stage.labels) for of_stage in stages])


def _load(config: dict[str, Any], run: Run, path: Path) -> EmbeddingNetwork:
    network = create_network(run.backbone, config["image_size"], seed=0, init="random", dimension=config["dimension"])
    network.load_state_dict(safetensors.torch.load_file(path))
    return network


def find_photos(config: dict[str, Any], folder: Path) -> Protocol:
    """The protocol that the runs learned by. Errors: InvalidField when the folder gives another."""
    of = config["protocol"]
    found = protocol.build(folder, of["sizes"], order=of["order"], split=Split(**of["split"]))
    if found.digest != of["digest"]:
        raise InvalidField("the runs learned other photos", field="photos", got=found.digest, expected=of["digest"])
    return found


def find_runs(config: dict[str, Any], out: Path, only: Sequence[str] = ()) -> list[Run]:
    """The runs whose models are all there, of methods that learn; of `only` these where it names any."""
    stages = range(len(config["protocol"]["sizes"]))
    named = [method for method in config["methods"] if methods.find(method).learns and method in (only or [method])]
    runs = [Run(m, seed, name) for name in config["backbones"] for m in named for seed in config["seeds"]]
    return [run for run in runs if all((run.folder(out, number) / MODEL).exists() for number in stages)]


def measure(config: dict[str, Any], photos: Protocol, out: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """All figures, the means over stages and seeds first."""
    rows = []
    for run in runs:
        print(f"{run.backbone}, {run.method}, seed {run.seed}", flush=True)
        about = {"backbone": run.backbone, "method": run.method, "seed": run.seed}
        found = compare(read(config, photos, out, run), p=config["later"]["p"], k=config["later"]["k"])
        rows += [about | row for row in found]
    kept = ("photos_digest", "protocol", "image_size", "dimension", "first", "later")
    return {"summary": summary(rows), "runs": {name: config[name] for name in kept}, "batches": BATCHES, "rows": rows}


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean rows of each backbone and method, over seeds, stages and earlier stages."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["backbone"], row["method"]), []).append(row)
    return [
        {"backbone": backbone, "method": method, "seeds": len({row["seed"] for row in of}), "pairs": len(of)}
        | {key: {name: statistics.fmean(row[key][name] for row in of) for name in of[0][key]} for key in _MEANS}
        | {"least_sum": {name: min(row["least_sum"][name] for row in of) for name in of[0]["least_sum"]}}
        for (backbone, method), of in groups.items()
    ]


_MEANS: Final = ("cosine", "gram_kl", "negative_weights")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as Markdown: one table for each backbone and method."""
    return "\n\n".join(_table(row) for row in rows)


def _table(row: dict[str, Any]) -> str:
    lines = [
        f"{row['backbone']}, `{row['method']}`: means over {row['pairs']} pairs of stages of {row['seeds']} seeds",
        "",
        "| estimate | cosine to the truth | Gram-KL to the truth, x 1000 | times that of no correction |",
        "|---|---:|---:|---:|",
    ]
    for name in ESTIMATES:
        cosine, gram = row["cosine"][name], row["gram_kl"][name]
        times = gram / row["gram_kl"]["teacher"]
        lines.append(f"| {name} | {cosine:.4f} | {1000 * gram:.3f} | {times:.2f} |")
    negative, least = row["negative_weights"], row["least_sum"]
    lines += [
        "",
        f"Negative weights: {100 * negative['eq3']:.1f} % in Eq. 3, {100 * negative['eq4']:.1f} % in Eq. 4; "
        f"least sum over sum of sizes: {least['eq3']:.3f}, {least['eq4']:.3f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.virtual", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="the folder that the runs learned from"
    )
    parser.add_argument("--runs", type=Path, required=True, metavar="DIR", help="the bench's --out")
    parser.add_argument(
        "--methods", nargs="+", default=[], metavar="METHOD", help="only these, as the bench names them"
    )
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/virtual.json")
    options = parser.parse_args()
    config = json.loads((options.runs / CONFIG).read_text(encoding="utf-8"))
    runs = find_runs(config, options.runs, options.methods)
    if not runs or len(config["protocol"]["sizes"]) < 3:
        parser.error(f"{options.runs} has no run with three stages or more whose models are all there")
    figures = measure(config, find_photos(config, options.photos), options.runs, runs)
    print(table(figures["summary"]))
    if options.store:
        print(machine.store("virtual", figures).name)


if __name__ == "__main__":
    main()
