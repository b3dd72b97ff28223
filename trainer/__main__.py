"""`python -m trainer`: the trainer's composition root. Only this module reads arguments.

Exit codes: 0 done, 1 failed, 2 the arguments, or files they name, cannot be used, 130 interrupted. An error is one line
on stderr.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from indexer import logs
from indexer.datadir import DataDir
from indexer.errors import EverlookError, InvalidInput
from indexer.gates import RecallLimits
from indexer.parent import end_with_parent
from indexer.stages import StageRule
from trainer import program
from trainer.program import Settings
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from trainer.first_model import Published


class _Parser(argparse.ArgumentParser):
    """A command's options are added when it is chosen: some come with torch, which `run` does without as it waits."""

    add_options: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        add, self.add_options = self.add_options, None
        if add is not None:
            add(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Every command and option, with its help."""
    root = _Parser(prog="python -m trainer", description="Everlook's teacher.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add, words in (
        ("run", _run_options, "teach the served model new categories as they come: the trainer's program"),
        ("export", _export_options, "publish model 0: a pretrained backbone with an embedding head"),
        ("bench", _bench_options, "compare methods: learn stages of categories, measure recall"),
    ):
        commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.").add_options = add
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return {"run": _run, "export": _export, "bench": _bench}[options.command](options)
    except (EverlookError, OSError) as error:
        print(f"python -m trainer: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1


def _run_options(run: argparse.ArgumentParser) -> None:
    rule, recipe, limits = StageRule(), Recipe(), RecallLimits()
    run.add_argument("--data", type=Path, required=True, metavar="DIR", help="the server's data directory")
    run.add_argument(
        "--database-url",
        default=os.environ.get("EVERLOOK_DATABASE_URL"),
        metavar="URL",
        help="of the catalogue ($EVERLOOK_DATABASE_URL, or SQLite in the data directory)",
    )
    run.add_argument("--once", action="store_true", help="end after one training, or at once when no stage is ripe")
    add = run.add_argument_group("when a stage is ripe").add_argument
    add(
        "--min-categories",
        type=int,
        default=rule.min_categories,
        metavar="N",
        help="new categories with enough photos that make a stage (%(default)s)",
    )
    add("--min-photos", type=int, default=rule.min_photos, metavar="N", help="that are enough (%(default)s)")
    add(
        "--wait-s",
        type=float,
        default=rule.wait_s,
        metavar="S",
        help="seconds after which two categories make one (%(default)s)",
    )
    add(
        "--settle-s",
        type=float,
        default=rule.settle_s,
        metavar="S",
        help="seconds since the last photo of any of them (%(default)s)",
    )
    taught = run.add_argument_group("how it is taught (kept with a training that has begun)")
    add, amount = taught.add_argument, taught.add_mutually_exclusive_group()
    add(
        "--method",
        default=recipe.method,
        metavar="METHOD",
        help="with settings: mutual:supporter=pretrained (%(default)s)",
    )
    add("--first-method", default=recipe.first_method, metavar="METHOD", help="of the first stage (%(default)s)")
    amount.add_argument("--steps", type=int, metavar="N", help="of training (as many as the time allows)")
    add("--first-steps", type=int, metavar="N", help="of the first stage (as of the others)")
    amount.add_argument(
        "--budget-s", type=float, default=recipe.budget_s, metavar="S", help="seconds of training (%(default)s)"
    )
    add(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="of Adam (the papers' 1e-5 for their 5000 steps, more for fewer, at most 1e-4)",
    )
    add("--weight-decay", type=float, default=recipe.weight_decay, metavar="RATE", help="of Adam (%(default)s)")
    add("--p", type=int, default=recipe.p, metavar="N", help="categories in a batch (%(default)s)")
    add("--k", type=int, default=recipe.k, metavar="N", help="photos of each (%(default)s)")
    add("--seed", type=int, default=recipe.seed, metavar="N", help="of everything random (%(default)s)")
    add(
        "--precision",
        default=recipe.precision,
        metavar="NAME",
        help="what is served: fp32, int8, or auto: int8 where it recalls as well and is faster here (%(default)s)",
    )
    add = run.add_argument_group("gates, in Recall@1 of probes (kept with a training that has begun)").add_argument
    add(
        "--most-drop",
        type=float,
        default=limits.most_drop,
        metavar="SHARE",
        help="by so much an old cohort may fall (%(default)s)",
    )
    add(
        "--least-rise",
        type=float,
        default=limits.least_rise,
        metavar="SHARE",
        help="by more than this the new cohort must rise (%(default)s)",
    )
    add("--floor", type=float, default=limits.floor, metavar="SHARE", help="below which no cohort may be (%(default)s)")
    _process_options(run.add_argument_group("this process").add_argument)


def _process_options(add: Callable[..., Any]) -> None:
    default = Settings(Path())
    add("--threads", type=int, default=default.threads, metavar="N", help="of torch and for photos (0: all cores)")
    add("--device", default=default.device, metavar="NAME", help="cpu, cuda or cuda:N (a GPU where there is one)")
    add(
        "--poll-s",
        type=float,
        default=default.poll_s,
        metavar="S",
        help="seconds between two looks at what waits (%(default)s)",
    )
    add(
        "--checkpoint-s",
        type=float,
        default=default.checkpoint_s,
        metavar="S",
        help="seconds between two checkpoints: at most so much is done again (%(default)s)",
    )
    add(
        "--no-give-way",
        dest="give_way",
        action="store_false",
        help="take part of the processor also when others want it (it is left to them)",
    )


def _run(options: argparse.Namespace) -> int:
    def of(kind: Any) -> dict[str, Any]:
        return {field.name: getattr(options, field.name) for field in fields(kind) if hasattr(options, field.name)}

    logs.configure("trainer", logs.style_of(os.environ), logging.WARNING)
    logging.getLogger("trainer").setLevel(logging.INFO)  # of the exporter and the quantiser only warnings
    recipe = Recipe(**of(Recipe), limits=RecallLimits(**of(RecallLimits)))
    end_with_parent(os.environ)
    return program.main(Settings(**of(Settings), recipe=recipe, rule=StageRule(**of(StageRule))))


def _bench_options(bench: argparse.ArgumentParser) -> None:
    from trainer.bench.command import add_arguments

    add_arguments(bench)


def _bench(options: argparse.Namespace) -> int:
    from trainer.bench.command import main

    return main(options)


def _export_options(export: argparse.ArgumentParser) -> None:
    from trainer import backbones
    from trainer.first_model import HEADS, FirstModel

    default = FirstModel()
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


def _export(options: argparse.Namespace) -> int:
    from trainer.first_model import FirstModel, publish_first_model

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
