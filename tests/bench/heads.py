"""Which head should a fresh model have, and at what resolution? Recall of EfficientNet-Lite0, nothing learned.

    python -m tests.bench.heads [--data ../shared/data]      measures (minutes), then rewrites the two files below
    python -m tests.bench.heads --table                      rewrites only the tables, from the figures that are stored

tests/bench/results/heads.json holds the figures, docs/models.md their tables. Queries against gallery, exact search by
cosine: grocery's test photos against its train photos; of cub200-2010, in file-name order, the last 40 % of a class
against its first 60 %. Heads are fitted on gallery photos only, of the same data or of the other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer import images
from indexer.model import Preprocessing
from indexer.recall import recall_of
from tests.bench.machine import describe
from trainer import backbones, heads
from trainer.export import to_onnx
from trainer.network import DIMENSION, EmbeddingNetwork

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "bench" / "results" / "heads.json"
PAGE = ROOT / "docs" / "models.md"

BACKBONE = "efficientnet_lite0"
DATA = ("grocery", "cub200-2010")
SIZES = (Preprocessing(224, 256), Preprocessing(224, 224), Preprocessing(128, 146), Preprocessing(128, 128))
SEEDS = range(5)  # of random heads, and of samples of photos
EXPONENTS = (0.0, 0.125, 0.25, 0.5)
SHRINKAGE = 0.3
BATCH = 32
THREADS = 2


@dataclass(frozen=True)
class Features:
    """Pooled features (N, W) of one folder's photos, their categories (N), and who is gallery and who is query."""

    pooled: Tensor
    categories: Tensor
    gallery: Tensor  # bool (N)
    queries: Tensor  # bool (N)

    def recall(self, embedded: Tensor) -> dict[int, float]:
        """Recall@1 and @5 of embeddings (N, D), in per cent."""
        unit = functional.normalize(embedded, dim=1)
        vectors = [unit[part].numpy() for part in (self.queries, self.gallery)]
        categories = [self.categories[part].numpy() for part in (self.queries, self.gallery)]
        recalls = recall_of(vectors[0], categories[0], vectors[1], categories[1], (1, 5))
        return {k: 100 * recall.value for k, recall in recalls.items()}


def extract(data: Path, name: str, spec: Preprocessing, model: bytes) -> Features:
    """Runs the photos of `data/name` through an ONNX model once; later calls read .cache/."""
    paths = sorted((data / name).glob("*/*.jpg"))
    decoding = Path(images.__file__).read_bytes()
    key = hashlib.sha256(model + decoding + f"{spec} {len(paths)}".encode()).hexdigest()[:16]
    cached = ROOT / ".cache" / "bench" / f"{name}-{key}.npy"
    if not cached.exists():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        cached.parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(THREADS) as pool:
            chunks = [
                session.run(
                    None, {"images": np.stack(list(pool.map(lambda p: _pixels(p, spec), paths[i : i + BATCH])))}
                )[0]
                for i in range(0, len(paths), BATCH)
            ]
        np.save(cached, np.concatenate(chunks))
    names = sorted({path.parent.name for path in paths})
    categories = torch.tensor([names.index(path.parent.name) for path in paths])
    gallery, queries = _split(name, paths, categories)
    return Features(torch.from_numpy(np.load(cached)), categories, gallery, queries)


def _pixels(path: Path, spec: Preprocessing) -> Any:
    return images.preprocess(path.read_bytes(), spec)[0]


def _split(name: str, paths: list[Path], categories: Tensor) -> tuple[Tensor, Tensor]:
    if name == "grocery":
        splits = [path.name.split("_")[0] for path in paths]
        return torch.tensor([s == "train" for s in splits]), torch.tensor([s == "test" for s in splits])
    gallery = torch.zeros(len(paths), dtype=torch.bool)
    for category in set(categories.tolist()):
        (photos,) = torch.where(categories == category)
        gallery[photos[: int(0.6 * len(photos))]] = True
    return gallery, ~gallery


def measure(features: dict[str, Features], fit: bool) -> Iterator[dict[str, Any]]:
    """One row for each head: its name, and for each data set the mean and the spread of recall over seeds.

    Heads that are fitted on photos are among them with `fit`.
    """
    width = features[DATA[0]].pooled.shape[1]

    def row(head: str, embed: Any, seeds: range = SEEDS) -> dict[str, Any]:
        return {"head": head, **{name: _over_seeds(features[name], embed, name, seeds) for name in DATA}}

    def fitted(source: str, count: int, exponent: float) -> Any:
        def embed(name: str, seed: int) -> Tensor:
            other = DATA[1 - DATA.index(name)]
            photos = features[other if source == "other" else name]
            sample = photos.pooled[photos.gallery]
            if source != "first":
                sample = sample[torch.randperm(len(sample), generator=_generator(seed))]
            weight, bias = heads.pca(sample[:count], DIMENSION, exponent, SHRINKAGE)
            return features[name].pooled @ weight.T + bias

        return embed

    def orthogonal(name: str, seed: int) -> Tensor:
        return features[name].pooled @ heads.orthogonal(width, DIMENSION, _generator(seed))[0].T

    def centred(name: str, _seed: int) -> Tensor:
        return features[name].pooled - features[name].pooled[features[name].gallery].mean(dim=0)

    yield row(f"none: pooled features, {width} dimensions", lambda name, _: features[name].pooled, range(1))
    yield row("the same, centred on the gallery's mean", centred, range(1))
    yield row("orthogonal", orthogonal)
    if not fit:
        return
    for source, count, said in (
        ("own", 256, "256 photos like the gallery's"),
        ("own", 1000, "1,000 photos like the gallery's"),
        ("first", 1000, "the gallery's first 1,000 photos, category after category"),
        ("other", 1000, "1,000 photos of the other data"),
    ):
        for exponent in EXPONENTS:
            yield row(
                f"pca, exponent {exponent}; {said}",
                fitted(source, count, exponent),
                range(1) if source == "first" else SEEDS,
            )


def _over_seeds(features: Features, embed: Any, name: str, seeds: range) -> dict[str, float]:
    runs = [features.recall(embed(name, seed)) for seed in seeds]
    first = [run[1] for run in runs]
    return {
        "recall_at_1": round(float(np.mean(first)), 2),
        "recall_at_1_std": round(float(np.std(first)), 2),
        "recall_at_5": round(float(np.mean([run[5] for run in runs])), 2),
        "runs": len(runs),
    }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _Pooled(nn.Module):
    """uint8 images -> pooled features, for export."""

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.pooled(pixels)


def run(data: Path) -> dict[str, Any]:
    """All figures, and the machine they come from."""
    torch.set_num_threads(THREADS)
    rows = []
    for spec in SIZES:
        network = EmbeddingNetwork(backbones.find(BACKBONE), backbones.create(BACKBONE, spec.image_size))
        model = to_onnx(_Pooled(network), spec.image_size)
        features = {name: extract(data, name, spec, model) for name in DATA}
        rows += [
            {"image_size": spec.image_size, "resize_size": spec.resize_size, **row}
            for row in measure(features, fit=spec == SIZES[0])
        ]
    return {
        "backbone": BACKBONE,
        "dimension": DIMENSION,
        "shrinkage": SHRINKAGE,
        "queries": {name: int(features[name].queries.sum()) for name in DATA},
        "gallery": {name: int(features[name].gallery.sum()) for name in DATA},
        "machine": describe(),
        "rows": rows,
    }


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The page's tables, in Markdown, by the names of their places."""
    chosen = SIZES[0]
    at_chosen = [
        row
        for row in results["rows"]
        if (row["image_size"], row["resize_size"]) == (chosen.image_size, chosen.resize_size)
    ]
    sizes = [
        {**row, "head": f"{row['image_size']} px, cut from {row['resize_size']}"}
        for row in results["rows"]
        if row["head"] == "orthogonal"
    ]
    return {"heads": _table("head", at_chosen), "sizes": _table("image", sizes)}


def _table(first: str, rows: list[dict[str, Any]]) -> str:
    head = [first, *(f"{name} R@{k}" for name in DATA for k in (1, 5)), "mean R@1"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = []
        for name in DATA:
            spread = f" ± {row[name]['recall_at_1_std']:.1f}" if row[name]["runs"] > 1 else ""
            cells += [f"{row[name]['recall_at_1']:.1f}{spread}", f"{row[name]['recall_at_5']:.1f}"]
        mean = sum(row[name]["recall_at_1"] for name in DATA) / len(DATA)
        lines.append(f"| {' | '.join([row['head'], *cells, f'{mean:.1f}'])} |")
    return "\n".join(lines)


def with_tables(page: str, results: dict[str, Any]) -> str:
    """The page's text, with each table between its two marks replaced."""
    for name, table in tables(results).items():
        begin, end = f"<!-- {name}: tests/bench/heads.py -->\n", f"\n<!-- {name}: end -->"
        before, rest = page.split(begin, 1)
        page = before + begin + table + end + rest.split(end, 1)[1]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(run(options.data), indent=2) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
