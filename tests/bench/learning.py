"""What the methods learned: results of `python -m trainer bench`, kept here, and their pages in docs/learning/.

python -m tests.bench.learning --store one-task=DIR ...   # keeps DIR's results.json, and writes the pages
python -m tests.bench.learning                            # writes the pages from what is kept
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tests.bench.machine import RESULTS
from trainer.bench import report

PAGES = Path(__file__).parents[2] / "docs" / "learning"
_PREFIX = "learning-"


def kept() -> dict[str, dict[str, Any]]:
    """The results of each bench, by its name."""
    paths = sorted(RESULTS.glob(f"{_PREFIX}*.json"))
    return {path.stem.removeprefix(_PREFIX): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def page(name: str) -> Path:
    """Where the page of a bench is."""
    return PAGES / name / report.PAGE


def keep(name: str, folder: Path) -> None:
    """Keeps a bench's results, a run a line."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    runs = ",\n".join(json.dumps(run) for run in results.pop("runs"))
    head = json.dumps(results, indent=2).removesuffix("\n}")
    (RESULTS / f"{_PREFIX}{name}.json").write_text(f'{head},\n  "runs": [\n{runs}\n]}}\n', encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.learning")
    parser.add_argument("--store", nargs="+", default=[], metavar="NAME=DIR", help="folders that a bench left")
    for name, _, folder in (each.partition("=") for each in parser.parse_args().store):
        keep(name, Path(folder))
    for name, results in kept().items():
        report.write(results, PAGES / name)


if __name__ == "__main__":
    main()
