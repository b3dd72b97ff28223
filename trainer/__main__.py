"""`python -m trainer`: the trainer's composition root. Only this module reads arguments.

Exit codes: 0 done, 1 failed, 2 the arguments, or files they name, cannot be used, 130 interrupted. An error is one line
on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from indexer.datadir import DataDir
from indexer.errors import EverlookError, InvalidInput
from trainer import backbones
from trainer.bench.command import add_arguments as bench_options
from trainer.bench.command import main as bench
from trainer.first_model import HEADS, FirstModel, Published, publish_first_model


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Every command and option, with its help."""
    default = FirstModel()
    root = _Parser(prog="python -m trainer", description="Everlook's teacher.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    export = commands.add_parser("export", help="publish model 0: a pretrained backbone with an embedding head")
    export.add_argument("--data", type=Path, required=True, metavar="DIR", help="the server's data directory")
    export.add_argument("--backbone", default=default.backbone, help=f"{', '.join(backbones.names())} (%(default)s)")
    export.add_argument("--weights", type=Path, metavar="FILE", help="weights of the backbone, in place of its own")
    export.add_argument(
        "--image-size", type=int, default=default.image_size, metavar="PIXELS", help="side of the image (%(default)s)"
    )
    export.add_argument("--photos", type=Path, metavar="DIR", help="photos like the gallery's, to fit the head on")
    export.add_argument(
        "--head", choices=HEADS, help="embedding head (pca where 1,000 photos are given, else orthogonal)"
    )
    export.add_argument("--seed", type=int, default=default.seed, help="of everything random (%(default)s)")
    export.add_argument("--json", action="store_true", help="print one JSON object")
    bench_options(commands.add_parser("bench", help="compare methods: learn stages of categories, measure recall"))
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return bench(options) if options.command == "bench" else _export(options)
    except (EverlookError, OSError) as error:
        print(f"python -m trainer: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1


def _export(options: argparse.Namespace) -> int:
    recipe = FirstModel(
        backbone=options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        photos=options.photos,
        head=options.head,
        seed=options.seed,
    )
    published = publish_first_model(DataDir(options.data).models, recipe)
    print(_as_json(published) if options.json else _as_text(published))
    return 0


def _as_json(published: Published) -> str:
    return json.dumps({**asdict(published), "folder": str(published.folder)}, indent=2)


def _as_text(published: Published) -> str:
    manifest = published.manifest
    sizes = manifest.preprocessing
    return "\n".join(
        (
            f"model     {manifest.id[:16]}",
            f"folder    {published.folder}",
            f"backbone  {manifest.backbone}",
            f"head      {manifest.dimension} dimensions; {manifest.head}",
            f"image     {sizes.image_size} px, cut from {sizes.resize_size}",
            f"parity    {published.parity:.7f} least cosine between torch and ONNX Runtime",
            f"took      {published.seconds:.1f} s",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
