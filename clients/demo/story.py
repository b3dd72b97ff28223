"""`make demo`: a server on a fresh data folder, a catalogue streamed in, searches, a kill, and something to look at."""

from __future__ import annotations

import io
import json
import random
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from clients.client import Client
from clients.contact_sheet import Row, Tile, write_html, write_png
from clients.demo.render import render_catalogue
from clients.demo.server import DemoServer
from clients.errors import NotFound
from clients.types import Filter, Hit, Item, SearchResult

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_HOLD_OUT_EVERY = 5  # every fifth photo of a category is kept back as a query
_SHEET_ROWS, _SHEET_HITS = 8, 6


@dataclass(frozen=True)
class Photo:
    """A photo on disk and what it shows."""

    path: Path
    category: str

    @property
    def id(self) -> str:
        return f"{self.category}/{self.path.name}"


@dataclass(frozen=True)
class Answered:
    """A held-out photo, its answer, and how long the caller waited, in seconds."""

    query: Photo
    result: SearchResult
    waited_s: float

    def found_within(self, k: int) -> bool:
        """Whether one of the first `k` hits is of the query's category."""
        return any(hit.category == self.query.category for hit in self.result.hits[:k])


def read_folder(folder: Path) -> list[Photo]:
    """The photos of a folder that has one folder per category. Errors: ValueError when there are none."""
    photos = [
        Photo(path, path.parent.name)
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if not photos:
        raise ValueError(f"{folder} holds no photos: one folder per category is expected, with image files in it")
    return photos


def hold_out(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Splits into gallery and queries: every fifth photo of a category is a query."""
    seen: Counter[str] = Counter()
    gallery: list[Photo] = []
    queries: list[Photo] = []
    for photo in photos:
        seen[photo.category] += 1
        (gallery if seen[photo.category] % _HOLD_OUT_EVERY else queries).append(photo)
    return gallery, queries


class Demo:
    """The story, a step at a time. `run` tells it whole."""

    def __init__(self, data: Path | None, out: Path, *, categories: int, photos: int, seed: int) -> None:
        self._data, self._out = data, out
        self._categories, self._photos, self._seed = categories, photos, seed
        self._console = Console(highlight=False)
        self._figures: dict[str, float] = {}

    def run(self) -> None:
        """Errors: ValueError for a folder without photos, or one in the way; RuntimeError when a step fails."""
        began = time.monotonic()
        self._clear()
        gallery, queries = hold_out(self._catalogue())
        self._figures |= {"gallery": len(gallery), "queries": len(queries)}
        self._figures["categories"] = len({photo.category for photo in gallery})
        self._say(f"{len(gallery)} photos to search, {len(queries)} kept back as queries", "Catalogue")
        with DemoServer(self._out / "data") as server:
            self._say(f"started on {server.target} with {server.started_in_s:.1f} s of preparation", "Server")
            with Client(server.target) as client:
                self._ingest(client, gallery)
                answers = self._search(client, queries)
                self._show_one(answers[0])
                self._ways_to_search(client, answers[0], gallery[0])
                self._delete_and_put_back(client, gallery[0])
                self._contact_sheet(client, answers)
            self._kill(server, gallery[-1])
        self._figures["seconds"] = time.monotonic() - began
        (self._out / "demo.json").write_text(json.dumps(self._figures, indent=2) + "\n", encoding="utf-8")
        self._say(f"{self._figures['seconds']:.0f} s in all; the figures are in {self._out / 'demo.json'}", "Done")
        self._say(f"{self._out / 'contact-sheet.png'}, or contact-sheet.html beside it", "Look at")

    # ------------------------------------------------------------------------------------------------ the steps

    def _clear(self) -> None:
        marker = self._out / ".everlook-demo"
        if self._out.exists() and not marker.exists() and any(self._out.iterdir()):
            raise ValueError(f"{self._out} was not made by the demo and is not empty; choose another with --out")
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir(parents=True)
        marker.touch()

    def _catalogue(self) -> list[Photo]:
        if self._data is not None:
            return read_folder(self._data)
        with self._progress() as progress:
            task = progress.add_task("render", total=self._categories * self._photos)
            folder = render_catalogue(
                self._out / "photos",
                categories=self._categories,
                photos=self._photos,
                seed=self._seed,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        return read_folder(folder)

    def _ingest(self, client: Client, gallery: Sequence[Photo]) -> None:
        def items() -> Iterator[tuple[Item, Path]]:
            for photo in gallery:
                yield Item(photo.id, photo.category, {"file": photo.path.name}), photo.path

        refused = []
        began = time.monotonic()
        with self._progress() as progress:
            task = progress.add_task("ingest", total=len(gallery))
            for ack in client.ingest(items()):
                progress.advance(task)
                if ack.error is not None:
                    refused.append(ack)
        took = time.monotonic() - began
        for ack in refused[:5]:
            self._console.print(f"  refused {ack.id}: {ack.error}")
        if len(refused) == len(gallery):
            raise RuntimeError("every photo was refused")
        good = len(gallery) - len(refused)
        self._figures |= {"refused": len(refused), "ingested_per_s": good / took}
        rate = f"{good} photos acknowledged in {took:.1f} s, {good / took:.0f} a second"
        self._say(f"{rate}; {len(refused)} refused", "Ingest")

    def _search(self, client: Client, queries: Sequence[Photo]) -> list[Answered]:
        answers = []
        with self._progress() as progress:
            for query in progress.track(queries, description="search"):
                began = time.monotonic()
                result = client.search(image=query.path, k=10)
                answers.append(Answered(query, result, time.monotonic() - began))
        if not answers:
            raise RuntimeError(f"no category has the {_HOLD_OUT_EVERY} photos that it takes to keep one back")
        recall = {k: statistics.mean(answer.found_within(k) for answer in answers) for k in (1, 5, 10)}
        recalls = ", ".join(f"Recall@{k} {100 * share:.1f} %" for k, share in recall.items())
        waits = statistics.quantiles([answer.waited_s * 1000 for answer in answers] * 2, n=100)
        self._figures |= {f"recall_at_{k}": share for k, share in recall.items()}
        self._figures |= {"p50_ms": waits[49], "p99_ms": waits[98]}
        latency = f"p50 {waits[49]:.1f} ms, p99 {waits[98]:.1f} ms, one caller"
        self._say(f"{len(answers)} held-out photos: {recalls}; {latency}", "Search")
        return answers

    def _show_one(self, answer: Answered) -> None:
        timing, generation = answer.result.timing, answer.result.generation
        self._say(f"the nearest to {answer.query.id}", "Example")
        table = Table("score", "category", "id", box=None, pad_edge=False)
        for hit in answer.result.hits[:5]:
            table.add_row(f"{hit.score:.3f}", hit.category, hit.id)
        self._console.print(table)
        self._console.print(
            f"  generation {generation.number}, model {generation.model[:12]}; queue {1000 * timing.queue_s:.1f}, "
            f"decode {1000 * timing.decode_s:.1f}, encode {1000 * timing.encode_s:.1f}, "
            f"search {1000 * timing.search_s:.1f} ms"
        )

    def _ways_to_search(self, client: Client, answer: Answered, item: Photo) -> None:
        image = answer.query.path
        embedding = client.embed(image)
        by_vector = client.search(vector=embedding, k=1).hits[0]
        self._say(f"a {len(embedding.values)}-d vector from Embed finds {by_vector.id}", "By vector")
        by_item = client.search(item_id=item.id, k=1).hits[0]
        self._say(f"nearest to {item.id} is {by_item.id}, score {by_item.score:.3f}", "By item")
        best = answer.result.hits[0]
        others = client.search(image=image, k=1, filter=Filter(exclude_categories=[best.category])).hits
        self._say(f"without category {best.category}: {others[0].id if others else 'nothing'}", "Filtered")
        exact = client.search(image=image, k=10, exact=True).hits
        same = len({hit.id for hit in exact} & {hit.id for hit in answer.result.hits})
        self._say(f"{same} of its {len(exact)} hits are those of the index", "Exact")

    def _delete_and_put_back(self, client: Client, photo: Photo) -> None:
        client.delete(photo.id)
        try:
            client.get(photo.id)
            raise RuntimeError(f"{photo.id} was deleted and is still there")
        except NotFound as error:
            gone = str(error)
        if any(hit.id == photo.id for hit in client.search(image=photo.path, k=10).hits):
            raise RuntimeError(f"{photo.id} was deleted and is still found")
        ack = client.put(Item(photo.id, photo.category, {"file": photo.path.name}), photo.path)
        first = client.search(image=photo.path, k=1).hits[0]
        self._say(f"{photo.id}: {gone}; put back as change {ack.seq}, found with score {first.score:.3f}", "Deleted")

    def _kill(self, server: DemoServer, photo: Photo) -> None:
        with Client(server.target) as client:
            before = client.status().catalogue
        server.kill_and_restart()
        with Client(server.target) as client:
            after = client.status().catalogue
            first = client.search(image=photo.path, k=1).hits[0]
        if before != after:
            raise RuntimeError(f"after kill -9 the catalogue differs: {before} became {after}")
        items = after.items if after else 0
        self._figures["restart_after_kill_s"] = server.started_in_s
        self._say(f"back in {server.started_in_s:.1f} s with all {items} items; {photo.id} finds {first.id}", "Kill -9")

    # ------------------------------------------------------------------------------------------------ to look at

    def _contact_sheet(self, client: Client, answers: Sequence[Answered]) -> None:
        """Queries drawn at random, at most half of them where the first hit is wrong, so that both are seen."""
        draw = random.Random(self._seed)  # noqa: S311  # which photos are shown is no secret
        wrong = [answer for answer in answers if not answer.found_within(1)]
        right = [answer for answer in answers if answer.found_within(1)]
        shown = draw.sample(wrong, min(len(wrong), _SHEET_ROWS // 4))
        shown = draw.sample(right, min(len(right), _SHEET_ROWS - len(shown))) + shown
        rows = [
            Row(
                Image.open(answer.query.path),
                f"query\n{answer.query.category}",
                [_tile(client, rank, hit, answer) for rank, hit in enumerate(answer.result.hits[:_SHEET_HITS], 1)],
            )
            for answer in shown
        ]
        title = "Everlook: held-out photos and what was found"
        write_png(self._out / "contact-sheet.png", rows, title)
        write_html(self._out / "contact-sheet.html", rows, title)

    def _say(self, text: str, heading: str) -> None:
        self._console.print(f"[bold]{heading:<10}[/bold] {text}", soft_wrap=True)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )


def _tile(client: Client, rank: int, hit: Hit, answer: Answered) -> Tile:
    image = Image.open(io.BytesIO(client.get_image(hit.id).data))
    return image, f"{rank}.  {hit.score:.3f}\n{hit.category}", hit.category == answer.query.category
