"""`python -m trainer bench`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from indexer.errors import InvalidField, StorageFull
from trainer import backbones, methods, protocol
from trainer.bench import config, pool, run
from trainer.bench.config import Bench
from trainer.bench.plan import tasks
from trainer.bench.progress import Bar, Display, display
from trainer.protocol import Protocol, Split
from trainer.stage import Schedule

_METHODS: Final = ("initial", "finetune", "fecd", "mutual", "joint")
_CHECKPOINT: Final = (
    2 * 3 * 2
)  # models' worth: two students, each with Adam's two moments, in an old file and a new one


def add_arguments(bench: argparse.ArgumentParser) -> None:
    """Every option of the bench, with its help."""
    add, paper, split = bench.add_argument, Schedule(), Split()
    add("photos", type=Path, metavar="PHOTOS", help="a folder of photos for each category")
    add("--out", type=Path, required=True, metavar="DIR", help="for the results; given again, the bench goes on there")
    add("--sizes", type=_numbers, metavar="N,N,...", help="categories learned in each stage (half, and the other half)")
    add("--order", default="name", metavar="RULE", help="of the categories: name, or shuffled:SEED (%(default)s)")
    add("--split", default=split.by, metavar="RULE", help="of the photos: order or prefix of file names (%(default)s)")
    add("--train", type=float, default=split.train, metavar="SHARE", help="of photos, to train on (%(default)s)")
    add(
        "--validation",
        type=float,
        default=split.validation,
        metavar="SHARE",
        help="of those to train on, held out to choose by (%(default)s)",
    )
    add(
        "--methods",
        nargs="+",
        default=list(_METHODS),
        metavar="METHOD",
        help=f"{', '.join(methods.names())}; with settings as in mutual:supporter=pretrained ({' '.join(_METHODS)})",
    )
    add("--seeds", type=_numbers, default=(0, 1, 2), metavar="N,N,...", help="each is another start (0,1,2)")
    add(
        "--backbones",
        nargs="+",
        default=["efficientnet_lite0"],
        metavar="NAME",
        help=f"{', '.join(backbones.names())} (efficientnet_lite0)",
    )
    add("--weights", type=Path, metavar="FILE", help="weights of the backbone, in place of its own")
    add("--image-size", type=int, default=128, metavar="PIXELS", help="side of the image (%(default)s)")
    add("--first-steps", type=int, default=6000, metavar="N", help="of the first stage (%(default)s)")
    add("--steps", type=int, default=paper.steps, metavar="N", help="of each later one (%(default)s)")
    add("--evaluate-every", type=int, default=0, metavar="N", help="steps; 0: recall at the end of a stage only (0)")
    add("--learning-rate", type=float, default=paper.learning_rate, metavar="RATE", help="of Adam (%(default)s)")
    add("--weight-decay", type=float, default=paper.weight_decay, metavar="RATE", help="of Adam (%(default)s)")
    add("--p", type=int, default=paper.p, metavar="N", help="categories in a batch (%(default)s)")
    add("--k", type=int, default=paper.k, metavar="N", help="photos of each (%(default)s)")
    add(
        "--jobs",
        type=int,
        default=0,
        metavar="N",
        help="runs side by side, which share the cores (one a core; one on a GPU)",
    )
    add("--device", default="auto", metavar="NAME", help="cpu, cuda or cuda:N (a GPU where there is one)")


def main(options: argparse.Namespace) -> int:
    """Runs the bench; returns the exit code. Errors: EverlookError, OSError."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with display() as shown:
        try:
            page = _run(options, shown)
        except KeyboardInterrupt:
            shown.line(f"interrupted; the same command goes on with what is in {options.out}")
            return 130
    print(f"results: {page}")
    return 0


def _run(options: argparse.Namespace, shown: Display) -> Path:
    bench, cores = _bench(options), os.cpu_count() or 1
    jobs = options.jobs or (cores if bench.device == "cpu" else 1)
    states = bench.check()
    _check_space(bench, options.out, jobs, states)
    bench = bench.reading(protocol.check_photos(bench.protocol, progress=_photos_read(shown)))
    with pool.only_bench(options.out):
        config.keep(bench, options.out)
        run.check(bench, options.out, states)
        return pool.run_all(bench, options.out, jobs=jobs, threads=max(1, cores // jobs), display=shown)


def _bench(options: argparse.Namespace) -> Bench:
    if options.jobs < 0:
        raise InvalidField(f"--jobs {options.jobs} is below 0", field="jobs", got=options.jobs, expected="at least 0")
    if options.out.resolve().is_relative_to(options.photos.resolve()):
        raise InvalidField(
            f"{options.out} is among the photos, where the plots would be taken for some",
            field="out",
            got=options.out,
            expected="a folder elsewhere",
        )
    schedule = {field.name: getattr(options, field.name) for field in fields(Schedule) if field.name != "steps"}
    return Bench(
        protocol=_protocol(options),
        photos_digest="",
        methods=tuple(options.methods),
        seeds=tuple(options.seeds),
        backbones=tuple(options.backbones),
        first=Schedule(options.first_steps, **schedule),
        later=Schedule(options.steps, **schedule),
        weights=options.weights,
        image_size=options.image_size,
        evaluate_every=options.evaluate_every,
        device=_device(options.device),
    )


def _protocol(options: argparse.Namespace) -> Protocol:
    split = Split(options.split, options.train, options.validation)
    if options.sizes:
        return protocol.build(options.photos, options.sizes, order=options.order, split=split)
    return protocol.halves(options.photos, order=options.order, split=split)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.zeros(1, device=name).device.type
    except (RuntimeError, AssertionError):
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise InvalidField(f"there is no device {name}", field="device", got=name, expected="cpu, cuda or cuda:N")
    return name


def _check_space(bench: Bench, out: Path, jobs: int, states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """A full disk is found out before hours are spent. Errors: StorageFull."""
    sizes = {name: sum(value.nbytes for value in state.values()) for name, state in states.items()}
    left = [sizes[stage.run.backbone] for task in tasks(bench) for stage in task if not stage.done(out)]
    needed = sum(left) + min(jobs, len(left)) * max(sizes.values()) * _CHECKPOINT
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise StorageFull(
            f"{there} has {free >> 20} MiB free; the models and checkpoints of this bench need {needed >> 20} MiB",
            field="out",
            got=free,
            expected=f"at least {needed} bytes",
        )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between them") from error


def _photos_read(shown: Display) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        shown.show([Bar("photos read", done, total)])
        if done == total:
            shown.line(f"{total:,} photos can be read")

    return progress
