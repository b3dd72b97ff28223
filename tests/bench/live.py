"""The loop on real photos, through the real programs and gRPC: recall by cohort before and after each swap.

    python -m tests.bench.live --photos FOLDER --sizes 100,25,25 [--split order|prefix] [--store NAME]

The photos are those of the bench of methods under the same protocol: its training photos are ingested as items that
train, its test photos as probes (an item is a probe by a hash of its id, so the ids are chosen accordingly), and its
validation photos not at all. Recall is what the trainer's gates measure, Recall@1 among the probes, and what the server
measures through the whole gallery. With the same number of steps it is to be close to the bench's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clients import Client, Item
from indexer import stages
from indexer.datadir import DataDir
from indexer.generation import gates_of, load_info
from indexer.probes import is_probe
from tests.bench.machine import store
from tests.e2e.process import ServerProcess
from trainer.protocol import Protocol, Split, build


def item_id(name: str, probe: bool) -> str:
    """An id for a photo that makes it a probe, or not."""
    return next(id for n in itertools.count() if is_probe(id := f"{name}#{n}") == probe)


def items(protocol: Protocol, stage: int) -> Iterator[tuple[Item, Path]]:
    """The training photos of a stage, and its test photos as probes."""
    for category in protocol.stages[stage]:
        for part, probe in (("train", False), ("test", True)):
            for name in category.part(part):  # type: ignore[arg-type] # a part, as the tuple above says
                yield Item(item_id(name, probe), category.name), protocol.folder / name


def run(
    protocol: Protocol, work: Path, *, image_size: int, first_steps: int, steps: int, rate: float
) -> dict[str, Any]:
    """What became of each stage."""
    data = DataDir(work / "data")
    export = [sys.executable, "-m", "trainer", "export", "--data", str(data.root), "--image-size", str(image_size)]
    subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
    trainer = f"--first-steps {first_steps} --steps {steps} --learning-rate {rate} --min-categories 100000 --poll-s 0.5"
    trainer += " --no-give-way"  # the figures are of recall, whatever else the machine has to do
    flags = ("--supervise", f"--trainer-args={trainer}", "--indexer-args=--no-give-way", "--keep-generations", "9")
    found = []
    with ServerProcess(data.root, *flags) as server, Client(server.target, timeout_s=600) as client:
        for stage in range(len(protocol.stages)):
            refused = [ack for ack in client.ingest(items(protocol, stage)) if ack.error is not None]
            if refused:
                raise RuntimeError(f"{len(refused)} items were refused; first: {refused[0].error}")
            began = time.monotonic()
            client.start_training()
            await_stage(client, stage)
            found.append({"stage": stage, "seconds": time.monotonic() - began} | _measured(data, client))
            print(json.dumps(found[-1]), file=sys.stderr)
    return {
        "photos": protocol.folder.name,
        "sizes": [len(stage) for stage in protocol.stages],
        "order": protocol.order,
        "image_size": image_size,
        "first_steps": first_steps,
        "steps": steps,
        "learning_rate": rate,
        "stages": found,
    }


def await_stage(client: Client, stage: int) -> None:
    """Until the model that has learned the stage is live. Errors: RuntimeError when it never will be."""
    for seen in client.watch():
        if seen.event:
            print(seen.event, file=sys.stderr)
        if seen.status.generation is not None and seen.status.generation.model.stages > stage:
            return
        if ("training ended" in seen.event and "published" not in seen.event) or " failed: " in seen.event:
            raise RuntimeError(seen.event)


def _measured(data: DataDir, client: Client) -> dict[str, Any]:
    """Gates of the live generation, and the trainer's facts."""
    generation = client.status().generation
    if generation is None:
        raise RuntimeError("nothing is live")
    training, outcome = stages.load(data, max(stages.numbers(data)))
    if outcome is None:
        raise RuntimeError("the training has not ended")
    return {
        "model": generation.model.id,
        "precision": generation.model.precision,
        "training_photos": len(training.photos),
        "facts": outcome.facts,
        "gates": [vars(gate) for gate in gates_of(data, load_info(data, generation.number))],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.live", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos for each category")
    parser.add_argument("--sizes", required=True, help="categories of each stage")
    parser.add_argument("--order", default="name", help="of the categories: name or shuffled:SEED (%(default)s)")
    parser.add_argument("--split", default="order", choices=("order", "prefix"), help="of the photos (%(default)s)")
    parser.add_argument("--image-size", type=int, default=128, help="pixels that the model sees (%(default)s)")
    parser.add_argument("--first-steps", type=int, default=200, help="of the first stage (%(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of each later one (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of Adam (%(default)s)")
    parser.add_argument("--store", metavar="NAME", help="keep the figures in tests/bench/results/live-NAME.json")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    protocol = build(options.photos, sizes, order=options.order, split=Split(by=options.split))
    with tempfile.TemporaryDirectory(prefix="everlook-live-") as work:
        figures = run(
            protocol,
            Path(work),
            image_size=options.image_size,
            first_steps=options.first_steps,
            steps=options.steps,
            rate=options.learning_rate,
        )
    print(json.dumps(figures, indent=2))
    if options.store:
        print(store(f"live-{options.store}", figures))


if __name__ == "__main__":
    main()
