"""Kill -9 against server, trainer and indexer at random instants, while new categories come in, are learned, go live.

However often, the loop goes on, and serves in the end the very models, by the hash of their content, that it serves
without kills. What was acknowledged is found all the while; of training and embedding only what was in hand is done
again.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clients import Client, Item, Unavailable
from indexer import stages
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.errors import Damaged
from indexer.generation import candidate_generation
from indexer.probes import is_probe
from indexer.programs import read_activity
from tests.conftest import ROOT
from tests.e2e import counting
from tests.e2e.folders import check_whole
from tests.e2e.loop_trainer import STEP_S
from tests.e2e.process import ServerProcess
from tests.trainer import benches, shops

CATEGORIES, PHOTOS, PROBES = 3, 4, 3  # of a stage; of each category
STEPS, CHECKPOINT_S = 30, 0.2
BATCH, THREADS = 8, 1
REPEATED_STEPS = round(CHECKPOINT_S / STEP_S) + 2  # by a kill: since the last checkpoint, and while one is written
REPEATED_PHOTOS = 2 * THREADS * BATCH + CATEGORIES * (PHOTOS + PROBES)  # in hand, and those that the server was at
WAIT_S = 120.0
PATIENCE_S = 10.0
WORK = ("training", "exporting", "gates", "backfill", "index", "swap")

SERVER = ("--merge-min-entries", "30", "--most-drop", "1", "--floor", "0")
TRAINER = f"""--min-categories {CATEGORIES} --min-photos {PHOTOS} --settle-s 0 --steps {STEPS} --learning-rate 1e-3
    --p 3 --k 3 --precision fp32 --most-drop 1 --floor 0 --threads 1 --device cpu --poll-s 0.05
    --checkpoint-s {CHECKPOINT_S} --no-give-way""".split()
INDEXER = ["--no-give-way", "--threads", str(THREADS), "--batch", str(BATCH), "--poll-s", "0.05"]


@dataclass
class Loop:
    """A shop through many kills; `with` keeps its three programs running."""

    folder: Path
    rng: random.Random
    held: dict[str, bytes] = field(default_factory=dict)
    """The photos of the items that were acknowledged."""
    outcomes: list[str] = field(default_factory=list)
    """Of each stage's training: its state, and the id of the model that it made."""
    searches: int = 0
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By program, and what was going on."""
    _open: bool = True
    _server: ServerProcess | None = None
    _programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.data = DataDir(self.folder / "data")
        with benches.tiny_backbone():
            shops.open_shop(self.data.root).catalogue.close()
        self.environment = counting.environment(self.folder) | {"STEPS": str(self.folder / "steps")}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the programs, and whichever of them has died, again and again; searches all the while."""
        with ThreadPoolExecutor(2) as threads:
            work = [threads.submit(self._keep), threads.submit(self._search, random.Random(self.rng.random()))]
            try:
                while not self._server and not _failed(work):
                    time.sleep(0.05)
                yield
            finally:
                self._open = False
                for each in work:
                    each.result()

    # ------------------------------------------------------------------------------------------------ the programs

    def _keep(self) -> None:
        modules = {"trainer": ["tests.e2e.loop_trainer", "run", *TRAINER], "indexer": ["indexer", *INDEXER]}
        with contextlib.ExitStack() as stack:
            try:
                while self._open:
                    if self._server is None or self._server.ended:
                        self._server = stack.enter_context(ServerProcess(self.data.root, *SERVER))
                    for name, (module, *flags) in modules.items():
                        if name not in self._programs or self._programs[name].poll() is not None:
                            command = [sys.executable, "-m", module, *flags, "--data", str(self.data.root)]
                            log = stack.enter_context((self.folder / f"{name}.log").open("ab"))
                            self._programs[name] = subprocess.Popen(command, cwd=ROOT, env=self.environment, stderr=log)
                    time.sleep(0.02)
            finally:
                for program in self._programs.values():
                    program.terminate()
                for program in self._programs.values():
                    program.wait(WAIT_S)
                if self._server is not None and not self._server.ended:
                    assert self._server.stop() == 0

    def kill(self) -> None:
        """One of the three, or all at once, as when the machine stops: some time after something has begun."""
        wanted, until = self.rng.choice(WORK), time.monotonic() + PATIENCE_S
        while wanted not in self._at_work() and time.monotonic() < until and self._open:
            time.sleep(0.005)
        time.sleep(self.rng.uniform(0, 1) ** 2)
        working = self._at_work()
        victims = self.rng.choice([["server"], ["trainer"], ["indexer"], ["server", *self._programs]])
        for name in victims:
            if name == "server":
                if self._server is not None and not self._server.ended:
                    self._server.kill()
            elif name in self._programs:
                self._programs[name].kill()
        self.kills["all" if len(victims) > 1 else victims[0], " and ".join(working) or "waiting"] += 1

    def _at_work(self) -> list[str]:
        """What programs that run are doing."""
        said = {name: read_activity(self.data, name) for name in list(self._programs)}
        found = [
            each.phase
            for name, each in said.items()
            if each is not None and each.phase and each.pid == self._programs[name].pid
        ]
        with contextlib.suppress(Damaged):
            found += ["swap"] if candidate_generation(self.data) is not None else []
        return found

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Of the server that runs now, if one does."""
        server = self._server
        if server is None or not server.target:
            raise Unavailable("the server is starting")
        with server.client() as client:
            yield client

    # ------------------------------------------------------------------------------------------------ the shop

    def stage(self) -> None:
        """New categories come in and are taught; what has learned them goes live, unless a gate refuses it. Then they
        join the next stage."""
        number = len(self.outcomes)
        shop = shops.Shop(self.data, None, "")  # type: ignore[arg-type] # it draws photos, nothing else
        puts = [put for name in "abc" for put in shop.puts(f"{number}{name}", PHOTOS, PROBES)]
        for put in sorted(puts, key=lambda put: not is_probe(put.id)):  # the last training photo makes it ripe
            assert put.photo is not None
            self._put(Item(put.id, put.category), put.photo.data)
            self.held[put.id] = put.photo.data
        self._wait(lambda: stages.has_ended(self.data, number + 1))
        _, outcome = stages.load(self.data, number + 1)
        assert outcome is not None
        self.outcomes.append(f"{outcome.state} {outcome.model}")
        if outcome.state == "published":
            self._wait(lambda: self._live() == outcome.model)

    def _wait(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_S
        while not reached():
            assert time.monotonic() < until, self._words()
            time.sleep(0.05)

    def _live(self) -> str:
        """The model that answers."""
        try:
            with self.client() as client:
                generation = client.status().generation
                return "" if generation is None else generation.model.id
        except Unavailable:
            return ""

    def _put(self, item: Item, image: bytes) -> None:
        while True:
            try:
                with self.client() as client:
                    client.put(item, image)
                return
            except Unavailable:
                time.sleep(0.02)

    def _search(self, rng: random.Random) -> None:
        """What was acknowledged is found by its own photo, first or beside what looks the same."""
        while self._open:
            try:
                with self.client() as client:
                    while self._open and self.held:
                        id = rng.choice(list(self.held))
                        result = client.search(image=self.held[id], k=20)
                        scores = {hit.id: hit.score for hit in result.hits}
                        assert id in scores, f"{id} is not found by generation {result.generation}"
                        assert scores[id] >= result.hits[0].score - 1e-5
                        self.searches += 1
                        time.sleep(0.01)
            except Unavailable:
                pass
            time.sleep(0.02)

    def _words(self) -> str:
        said = {name: read_activity(self.data, name) for name in ("trainer", "indexer")}
        logs = [(self.folder / f"{name}.log").read_text(errors="replace")[-2000:] for name in said]
        return f"{said}\n{self._server.log[-2000:] if self._server else ''}\n" + "\n".join(logs)

    @property
    def steps(self) -> int:
        """Steps of training, by all trainers together."""
        return counting.count(self.folder / "steps")


def _failed(work: list[Future[None]]) -> bool:
    return any(each.done() and each.exception() is not None for each in work)


def run(loop: Loop, *, kills: int, count: int) -> None:
    """Stages follow one another until there were `count`, and so many kills."""
    done = threading.Event()

    def killer() -> None:
        try:
            for _ in range(kills):
                loop.kill()
        finally:
            done.set()

    with loop.running(), ThreadPoolExecutor(1) as thread:
        killing = thread.submit(killer)
        while len(loop.outcomes) < count or not done.is_set():
            loop.stage()
        killing.result()


def answers(loop: Loop) -> dict[str, list[str]]:
    """What is found for each item's own photo, in the end."""
    with ServerProcess(loop.data.root, *SERVER) as server, server.client() as client:
        return {id: [hit.id for hit in client.search(image=image, k=10).hits] for id, image in loop.held.items()}


def check(loop: Loop, other: Loop, kills: int) -> None:
    """The loop has come to the same end as one that nobody killed, with hardly more work."""
    assert loop.outcomes == other.outcomes
    assert loop.held.keys() == other.held.keys()
    assert answers(loop) == answers(other)
    for each in (loop, other):
        check_whole(each.data.root)
        with Catalogue.open(each.data.catalogue_url) as catalogue:
            catalogue.verify()
            assert catalogue.totals().items == len(each.held)
    assert other.steps == STEPS * len(other.outcomes)
    assert other.steps <= loop.steps <= other.steps + kills * REPEATED_STEPS
    assert counting.embedded(loop.folder) <= counting.embedded(other.folder) + kills * REPEATED_PHOTOS


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_loop_that_is_killed_a_hundred_times_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    kills, count = 100, 2
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    loop = Loop(tmp_path / "killed", random.Random(seed))
    began = time.monotonic()
    try:
        run(loop, kills=kills, count=count)
    finally:
        print(
            f"{sum(loop.kills.values())} kills in {time.monotonic() - began:.0f} s, {len(loop.outcomes)} stages,"
            f" {loop.searches} searches; {loop.steps} steps, {counting.embedded(loop.folder)} photos embedded;",
            ", ".join(f"{name} while {doing}: {times}" for (name, doing), times in sorted(loop.kills.items())),
        )
    other = Loop(tmp_path / "unharmed", random.Random(seed))
    run(other, kills=0, count=len(loop.outcomes))
    print(f"without: {other.steps} steps, {counting.embedded(other.folder)} photos embedded")
    check(loop, other, kills)
