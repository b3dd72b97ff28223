"""Promise 2 against kill -9: what was acknowledged is there after the restart, found by its own photo, and once only.

Items stream in, and at the same time older ones are changed and deleted, while small merges follow one another. The
process is killed at random instants, some of them during its start.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from clients import Client, Filter, Item, Query, SearchResult, Unavailable
from everlook.v1 import everlook_pb2 as pb
from tests.e2e.folders import check_whole
from tests.e2e.ledger import Ledger, Version
from tests.e2e.photos import photo
from tests.e2e.process import ServerProcess, start_and_kill
from tests.e2e.raw import Stubs

FLAGS = ("--merge-min-entries", "64", "--merge-ratio", "0.02")
PART = 400  # items that one search lists at most; below the largest k
SAME = 1e-5  # photos that are equal share a score, up to the noise of the encoder


def sha256(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


@dataclass
class Trial:
    """One data folder through many kills. `photos` gives a photo's bytes by its number."""

    data: Path
    photos: Callable[[int], bytes]
    rng: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    sent: int = 0
    merges: int = 0
    start_s: list[float] = field(default_factory=list)
    streamed_s: float = 0.0
    numbers: dict[str, int] = field(default_factory=dict)
    """Of photos that were sent, by their SHA-256."""

    def photo(self, number: int) -> bytes:
        """A photo to be sent."""
        image = self.photos(number)
        self.numbers[sha256(image)] = number
        return image

    def run(self, kills: int, longest_s: float) -> None:
        """Kills the server so many times, each within `longest_s` of the stream's beginning, and checks after each; the
        last time once something has been acknowledged in any of them."""
        for number in range(kills):
            with ServerProcess(self.data, *FLAGS) as server:
                self.check(server, everything=False)
                last = number == kills - 1
                self.write_until_killed(server, self.rng.uniform(0, longest_s), once_acknowledged=last)
            if number % 4 == 3:
                start_and_kill(self.data, *FLAGS, after_s=self.rng.uniform(0, 2))
        with ServerProcess(self.data, *FLAGS) as server:
            self.check(server, everything=True)
            assert server.stop() == 0
        check_whole(self.data)

    # ------------------------------------------------------------------------------------------------ writing

    def write_until_killed(self, server: ServerProcess, after_s: float, *, once_acknowledged: bool) -> None:
        """Streams new items, and changes old ones one by one, until the server is gone: `after_s` after the beginning,
        or after the first acknowledgement of all."""
        with grpc.insecure_channel(server.target) as channel, server.client() as client:
            stubs = Stubs(channel)
            with ThreadPoolExecutor(2) as writers:
                writing = [
                    writers.submit(self._stream, stubs),
                    writers.submit(self._change, client, random.Random(self.rng.random())),
                ]
                while once_acknowledged and not self.ledger.acknowledged and not writing[0].done():
                    time.sleep(0.005)
                time.sleep(after_s)
                server.kill()
            for each in writing:
                each.result()
        self.streamed_s += after_s

    def _stream(self, stubs: Stubs) -> None:
        try:
            for answer in stubs.catalog.Ingest(self._new_items()):
                assert answer.WhichOneof("result") == "acknowledged", answer
                self.ledger.confirm(answer.id)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise

    def _new_items(self) -> Iterator[pb.IngestRequest]:
        while True:
            number = self.sent
            self.sent += 1
            image = self.photo(number)
            self.ledger.propose(id := f"item-{number}", Version("new", sha256(image)))
            part = pb.MetadataValue(number=_part(number))
            yield pb.IngestRequest(item=pb.Item(id=id, category="new", metadata={"part": part}), image=image)

    def _change(self, client: Client, rng: random.Random) -> None:
        held = sorted(self.ledger.held.items())
        rng.shuffle(held)
        try:
            for id, old in held:
                self._change_one(client, rng, id, old)
        except Unavailable:
            pass

    def _change_one(self, client: Client, rng: random.Random, id: str, old: Version) -> None:
        item = Item(id, rng.choice("abc"), {"part": _part(int(id.removeprefix("item-")))})
        match rng.choice(["move", "replace", "delete"]):
            case "move":
                self.ledger.propose(id, Version(item.category, old.photo))
                client.put(item, None)
            case "replace":
                image = self.photo(rng.randrange(self.sent))
                self.ledger.propose(id, Version(item.category, sha256(image)))
                client.put(item, image)
            case "delete":
                self.ledger.propose(id, None)
                client.delete(id)
        self.ledger.confirm(id)

    # ------------------------------------------------------------------------------------------------ checking

    def check(self, server: ServerProcess, *, everything: bool) -> None:
        """The server has what it acknowledged: each item once, under its own photo. Nothing was embedded again."""
        self.start_s.append(server.started_in_s)
        assert "embedding" not in server.log
        with server.client() as client:
            before = self.ledger.held
            self._check_items(client)
            held = self.ledger.held
            self._check_listed(client, held)
            news = {id: version for id, version in held.items() if before.get(id) != version}
            wanted = held if everything else news | dict(self.rng.sample(sorted(held.items()), min(50, len(held))))
            self._check_found(client, wanted)
            status = client.status()
            assert status.catalogue.items == len(held)
            assert status.generation is not None
            self.merges = max(self.merges, status.generation.number - 1)

    def _check_items(self, client: Client) -> None:
        stored = client.get_many(self.ledger.ids)
        self.ledger.settle({item.id: Version(item.category, item.image_sha256) for item in stored})

    def _check_listed(self, client: Client, held: dict[str, Version]) -> None:
        """A search that returns everything returns each item once."""
        listed: list[str] = []
        for part in range(self.sent // PART + 1):
            everything = Filter(where={"part": float(part)})
            hits = client.search(image=self.photos(0), k=2 * PART, filter=everything, exact=True).hits
            listed += [hit.id for hit in hits]
        assert sorted(listed) == sorted(held)

    def _check_found(self, client: Client, wanted: dict[str, Version]) -> None:
        ids = sorted(wanted)
        for start in range(0, len(ids), 32):
            some = ids[start : start + 32]
            results = client.search_batch(
                [Query(image=self.photos(self.numbers[wanted[id].photo]), k=20) for id in some]
            )
            for id, result in zip(some, results, strict=True):
                assert isinstance(result, SearchResult)
                scores = {hit.id: hit.score for hit in result.hits}
                assert id in scores, f"{id} is not found by its own photo"
                assert scores[id] >= max(result.hits[0].score, 1.0) - SAME


def _part(number: int) -> float:
    return float(number // PART)


def _report(trial: Trial, seed: int) -> None:
    print(
        f"\nseed {seed}: {trial.ledger.acknowledged} changes acknowledged in {trial.streamed_s:.0f} s of streaming, "
        f"{len(trial.ledger.held)} items at the end, {trial.merges} merges; start after a kill: "
        f"median {statistics.median(trial.start_s):.2f} s, longest {max(trial.start_s):.2f} s"
    )


def test_what_was_acknowledged_survives_kills_at_random_instants(data: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    trial = Trial(data, photo, random.Random(seed))
    try:
        trial.run(kills=4, longest_s=0.8)
    finally:
        _report(trial, seed)
    assert trial.ledger.acknowledged > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_was_acknowledged_survives_50_kills_of_a_shop_of_groceries(real_data: Path, grocery: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    paths = sorted(grocery.rglob("*.jpg"))
    random.Random(seed).shuffle(paths)
    trial = Trial(real_data, lambda number: paths[number % len(paths)].read_bytes(), random.Random(seed))
    try:
        trial.run(kills=50, longest_s=2.0)
    finally:
        _report(trial, seed)
    assert trial.merges >= 10
    # Embedding the photos again would take as long as streaming them took, but for the changes in between.
    embedding_s = trial.streamed_s * len(trial.ledger.held) / trial.ledger.acknowledged
    assert trial.start_s[-1] < embedding_s / 2
