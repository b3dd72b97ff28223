"""How often the drift tests cry wolf over real queries, and how surely they see drift that was planted.

    python -m tests.bench.drift --photos FOLDER --other FOLDER [--store]

Half of each category's photos are the gallery, the others live queries, all embedded by a real exported model. A run
draws a reference window and a live window from the queries, without any in both, and asks the server's own tests. Two
kinds of false alarms are told apart: over runs with a reference of their own each, whose share is to be `alpha`; and
over many windows against one reference, as a server sees them, where it differs from reference to reference, because a
reference that is unlike the average by chance stays so.

For power, live windows are spoiled in a share of their queries: blurred, cropped, changed in colour, or of `--other`.
All of these lower best scores. A gallery that grows raises them, which is no harm: the same windows are compared once
more with references whose best scores were of half the gallery, and `score` is to raise no more alarms than by chance.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from indexer import devices
from indexer.datadir import DataDir
from indexer.encoder import Encoder
from indexer.engine import published_models
from indexer.images import preprocess
from indexer.probes import is_probe
from indexer.recall import wilson
from server.watching.drift import compare_embeddings, compare_scores, median_distance
from server.watching.limits import WatchLimits
from server.watching.query_metrics import floor_of
from tests.bench.machine import store
from tests.conftest import ROOT

Vectors = NDArray[np.float32]
Spoil = Callable[[Image.Image], Image.Image]

BATCH = 16
SHARES = (0.1, 0.25, 1.0)
WINDOWS_AT_ONCE = 8  # against one reference


def blurred(image: Image.Image) -> Image.Image:
    """Out of focus: a radius of a fiftieth of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / 50))


def cropped(image: Image.Image) -> Image.Image:
    """Too near: the middle, half as wide and half as high."""
    width, height = image.size
    return image.crop((width // 4, height // 4, width - width // 4, height - height // 4))


def recoloured(image: Image.Image) -> Image.Image:
    """Another light: half the colour, and red stronger than blue."""
    red, green, blue = ImageEnhance.Color(image).enhance(0.5).split()
    return Image.merge(
        "RGB", (red.point(lambda v: min(255, int(v * 1.25))), green, blue.point(lambda v: int(v * 0.75)))
    )


SPOILT: Mapping[str, Spoil] = {"blur": blurred, "crop": cropped, "colour": recoloured}


def photos_of(folder: Path) -> list[Path]:
    """All photos of a folder of categories, in order."""
    return sorted(path for path in folder.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def halves(photos: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The gallery's and the queries': every other photo of each category."""
    by_category: dict[str, list[Path]] = defaultdict(list)
    for path in photos:
        by_category[path.parent.name].append(path)
    ordered = [paths for _, paths in sorted(by_category.items())]
    return [p for paths in ordered for p in paths[::2]], [p for paths in ordered for p in paths[1::2]]


def embedded(encoder: Encoder, photos: Sequence[Path], spoil: Spoil | None = None) -> Vectors:
    """The vectors (N, D) of photos, each spoiled first."""
    spec = encoder.manifest.preprocessing

    def pixels(path: Path) -> NDArray[np.uint8]:
        content = path.read_bytes()
        if spoil is not None:
            with Image.open(io.BytesIO(content)) as image:
                file = io.BytesIO()
                spoil(image.convert("RGB")).save(file, "JPEG", quality=95)
            content = file.getvalue()
        return preprocess(content, spec)[0]

    batches = (photos[start : start + BATCH] for start in range(0, len(photos), BATCH))
    return np.concatenate([encoder.encode(np.stack([pixels(path) for path in batch])) for batch in batches])


@dataclass(frozen=True)
class Queries:
    """Queries of one kind, and the best score of each in the gallery."""

    vectors: Vectors
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: Vectors, gallery: Vectors) -> Queries:
        return cls(vectors, (vectors @ gallery.T).max(axis=1).astype(np.float64))

    def __len__(self) -> int:
        return len(self.scores)

    def some(self, rows: NDArray[np.int64]) -> Queries:
        """Those of these rows."""
        return Queries(self.vectors[rows], self.scores[rows])

    def spoiled(self, by: Queries, share: float) -> Queries:
        """The first `share` of them replaced by the first of `by`."""
        count = round(share * len(self))
        vectors = np.concatenate([by.vectors[:count], self.vectors[count:]])
        return Queries(vectors, np.concatenate([by.scores[:count], self.scores[count:]]))


def p_values(reference: Queries, window: Queries, rng: np.random.Generator) -> dict[str, float]:
    """What both tests say of a window."""
    width = median_distance(reference.vectors)
    return {
        "mmd": compare_embeddings(reference.vectors, window.vectors, width, rng).p_value,
        "score": compare_scores(reference.scores, window.scores, rng).p_value,
    }


def draws(rng: np.random.Generator, total: int, reference: int, window: int, windows: int) -> Iterator[Any]:
    """For ever: a reference and as many windows of later queries, all of them disjoint."""
    while True:
        order = rng.permutation(total)
        yield order[:reference], np.split(order[reference : reference + windows * window], windows)


def share_of(found: Sequence[Mapping[str, float]], alpha: float) -> dict[str, Any]:
    """By test: how many windows count as drifted, of how many, and Wilson's 95 % interval of that share."""
    told = {}
    for test in ("mmd", "score"):
        drifted = sum(each[test] < alpha for each in found)
        told[test] = {
            "drifted": drifted,
            "windows": len(found),
            "ratio": drifted / len(found),
            "wilson_95": wilson(drifted, len(found)),
        }
    return told


def run(
    gallery: Vectors,
    calm: Queries,
    earlier: Queries,
    planted: Mapping[str, Queries],
    floor: float,
    *,
    runs: int,
    power: int,
    seed: int,
) -> dict[str, Any]:
    """All figures, with the server's default windows and alpha. `earlier` are the calm queries with their best scores
    in half the gallery."""
    limits = WatchLimits()
    size, window, alpha = limits.reference, limits.window, limits.alpha
    rng = np.random.default_rng(seed)
    own = []
    for reference, (rows,) in _some(draws(rng, len(calm), size, window, 1), runs, "false alarms"):
        own.append(p_values(calm.some(reference), calm.some(rows), rng))
    together, by_reference = [], []
    at_once = min(WINDOWS_AT_ONCE, (len(calm) - size) // window)
    for reference, windows in _some(draws(rng, len(calm), size, window, at_once), max(1, runs // at_once), "many"):
        found = [p_values(calm.some(reference), calm.some(rows), rng) for rows in windows]
        together += found
        by_reference.append({test: sum(each[test] < alpha for each in found) for test in ("mmd", "score")})
    grown = []
    for reference, (rows,) in _some(draws(rng, len(calm), size, window, 1), power, "a gallery twice as large"):
        grown.append(p_values(earlier.some(reference), calm.some(rows), rng))
    seen: dict[str, Any] = {}
    for name, pool in planted.items():
        for share in SHARES:
            found = []
            for reference, (rows,) in _some(draws(rng, len(calm), size, window, 1), power, f"{name}, {share:.0%}"):
                # A spoiled photo is the same photo spoiled; those of another catalogue are any of them.
                drawn = rows if name in SPOILT else rng.permutation(len(pool))[:window]
                found.append(p_values(calm.some(reference), calm.some(rows).spoiled(pool.some(drawn), share), rng))
            seen[f"{name}, {share:.0%} of the queries"] = share_of(found, alpha)
    return {
        "gallery": len(gallery),
        "queries": len(calm),
        "reference": size,
        "window": window,
        "alpha": alpha,
        "false_alarms": share_of(own, alpha),
        "false_alarms_at": {f"{level}": _levels(own, level) for level in (0.01, 0.05, 0.1, 0.5)},
        "false_alarms_many_windows_to_a_reference": share_of(together, alpha)
        | {
            "references": len(by_reference),
            "windows_each": at_once,
            "most_of_one_reference": {test: max(each[test] for each in by_reference) for test in ("mmd", "score")},
        },
        "gallery_twice_as_large": share_of(grown, alpha)
        | {"mean_best_score": {"half": float(earlier.scores.mean()), "whole": float(calm.scores.mean())}},
        "power": seen,
        "unfamiliar_ratio": {
            "floor": floor,
            "calm": float(np.mean(calm.scores < floor)),
            **{name: float(np.mean(pool.scores < floor)) for name, pool in planted.items()},
        },
    }


def _levels(found: Sequence[Mapping[str, float]], level: float) -> dict[str, float]:
    return {test: float(np.mean([each[test] <= level for each in found])) for test in ("mmd", "score")}


def _some(source: Iterator[Any], count: int, name: str) -> Iterator[Any]:
    began = time.perf_counter()
    for _ in range(count):
        yield next(source)
    print(f"{name}: {count} runs in {time.perf_counter() - began:.0f} s", file=sys.stderr)


def _floor(gallery: Vectors, photos: Sequence[Path]) -> float:
    """The 5 % quantile of the probes' best scores, themselves left out."""
    scores = gallery @ gallery.T
    np.fill_diagonal(scores, -1.0)
    probes = [at for at, path in enumerate(photos) if is_probe(f"{path.parent.name}/{path.name}")]
    floor = floor_of("", [float(scores[at].max()) for at in probes])
    if floor is None:
        raise RuntimeError("too few photos for a floor")
    return floor.score


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drift", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos for each category")
    parser.add_argument("--other", type=Path, required=True, help="another such folder, of other things")
    parser.add_argument("--most", type=int, default=10_000, help="photos of each that are taken (%(default)s)")
    parser.add_argument("--runs", type=int, default=400, help="windows for the false-alarm rate (%(default)s)")
    parser.add_argument("--power-runs", type=int, default=50, help="windows for each planted drift (%(default)s)")
    parser.add_argument("--image-size", type=int, default=128, help="pixels that the model sees (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/drift.json")
    options = parser.parse_args()
    photos, others = (photos_of(folder)[: options.most] for folder in (options.photos, options.other))
    with tempfile.TemporaryDirectory(prefix="everlook-drift-") as work:
        data = DataDir(Path(work))
        export = [sys.executable, "-m", "trainer", "export", "--data", work, "--image-size", str(options.image_size)]
        subprocess.run(export, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        encoder = Encoder.load(data.model(published_models(data)[0]), devices.detect(), 1)
        shelf, asked = halves(photos)
        gallery = embedded(encoder, shelf)
        calm = Queries.of(embedded(encoder, asked), gallery)
        earlier = Queries.of(calm.vectors, gallery[::2])
        planted = {name: Queries.of(embedded(encoder, asked, spoil), gallery) for name, spoil in SPOILT.items()}
        planted["another data set"] = Queries.of(embedded(encoder, others), gallery)
        manifest = encoder.manifest
    figures = {
        "photos": options.photos.name,
        "other": options.other.name,
        "model": f"{manifest.backbone}, {options.image_size} px, {manifest.precision}",
        "seed": options.seed,
        **run(
            gallery,
            calm,
            earlier,
            planted,
            _floor(gallery, shelf),
            runs=options.runs,
            power=options.power_runs,
            seed=options.seed,
        ),
    }
    print(json.dumps(figures, indent=2))
    if options.store:
        print(store("drift", figures).name)


if __name__ == "__main__":
    main()
