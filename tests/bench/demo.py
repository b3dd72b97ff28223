"""What `make demo` shows, on the rendered catalogue and on folders of photos: the figures of the README.

    python -m tests.bench.demo --store [rendered] [grocery=FOLDER] [cub200-2010=FOLDER] ...
    python -m tests.bench.demo --table          # writes README.md's tables from the stored figures

Each run is the real command in a fresh folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import loop
from tests.bench.machine import RESULTS, store
from tests.bench.serving import table as serving_table

PAGE = Path(__file__).parents[2] / "README.md"


BENCHED = {"cub200-2010": "learning-multi-task", "grocery": "learning-grocery"}
"""Runs of `tests.bench.live`, and the bench with the same photos and numbers of steps."""


def run(photos: str) -> dict[str, float]:
    """The figures of one demo; `photos` is a folder, or empty for the rendered catalogue."""
    with tempfile.TemporaryDirectory(prefix="everlook-demo-") as out:
        command = [sys.executable, "-c", "from clients.cli import main; main()", "demo", "--out", out]
        subprocess.run([*command, *([photos] if photos else [])], check=True, stdout=sys.stderr)
        figures: dict[str, float] = json.loads((Path(out) / "demo.json").read_text(encoding="utf-8"))
        return figures


def demo_table(results: dict[str, Any]) -> str:
    """One row a catalogue, as Markdown."""
    lines = [
        "| catalogue | photos | categories, first + new | first: pretrained, stage 0 learned, stage 1 learned "
        "| new: arrived, stage 1 learned | after a rollback | stage 0, stage 1 live after | searches meanwhile, failed "
        "| ingest, photos/s | search p50 | back after kill -9 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join(lines + [_demo_row(name, row) for name, row in results["runs"].items()])


def _demo_row(name: str, row: dict[str, float]) -> str:
    def recalls(group: str, *moments: str) -> str:
        return " → ".join(f"{100 * row[f'{moment}: {group} categories']:.1f} %" for moment in moments)

    first = recalls("first", "pretrained", "stage 0 learned", "stage 1 learned")
    new = recalls("new", "new categories arrived", "stage 1 learned")
    cells = (
        name,
        f"{row['gallery']:,}",
        f"{row['categories'] - row['new_categories']} + {row['new_categories']}",
        first,
        new,
        recalls("new", "rolled back"),
        f"{row['stage_0_s']:.0f} s, {row['stage_1_s']:.0f} s",
        f"{row['meanwhile_calls']:,}, {row['meanwhile_failed']}",
        f"{row['ingested_per_s']:.0f}",
        f"{row['p50_ms']:.1f} ms",
        f"{row['restart_after_kill_s']:.1f} s",
    )
    return f"| {' | '.join(cells)} |"


def recall_line(results: dict[str, Any]) -> str:
    """What tests/e2e/test_recall.py measured, in a sentence."""
    served, torch = (100 * results[f"recall_at_1_{side}"] for side in ("through_server", "from_torch"))
    return (
        f"Recall@1 of grocery's {results['queries']:,} test photos against its {results['gallery']:,} train photos, at "
        f"{results['image_size']} px and with nothing learned yet: {served:.2f} % through the server, {torch:.2f} % "
        f"straight from torch, with the same nearest item for {100 * results['same_nearest_item']:.1f} % of them."
    )


def with_tables(page: str) -> str:
    """The page's text, with each table between its two marks written anew from the stored figures."""

    def stored(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return found

    live = sorted(path.stem for path in RESULTS.glob("live-*.json"))
    tables = {
        "demo": demo_table(stored("demo")),
        "serving": serving_table(stored("serving")),
        "grocery_recall": recall_line(stored("grocery_recall")),
        "loop_recall": loop.recall_table({name.removeprefix("live-"): stored(name) for name in live}),
        "loop_bench": loop.bench_table(
            {name: (stored(f"live-{name}"), stored(bench)) for name, bench in BENCHED.items()}
        ),
        "loop_cost": loop.cost_table(stored("swaps"), stored("calm"), stored("backfill"), stored("watching")),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}: tests/bench -->\n", f"\n<!-- {name}: end -->"
        before, rest = page.split(begin, 1)
        page = before + begin + table + end + rest.split(end, 1)[1]
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.demo")
    parser.add_argument("catalogues", nargs="*", metavar="NAME=FOLDER", help="`rendered`, or a name and a folder")
    parser.add_argument("--store", action="store_true", help="keep the figures in tests/bench/results/demo.json")
    parser.add_argument("--table", action="store_true", help="write README.md's tables from the stored figures")
    options = parser.parse_args()
    runs = {name: run(folder) for name, _, folder in (each.partition("=") for each in options.catalogues)}
    if runs:
        print(demo_table({"runs": runs}))
    if options.store:
        store("demo", {"runs": runs})
    if options.table:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
