"""`make demo`: a server whose model learns new categories while it answers, and something to look at.

First categories, which the model learns; new ones, found at once and recalled poorly; their stage learned in the
background, and the better generation going live under running queries; back, and forward again; a kill.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from clients.client import Client
from clients.contact_sheet import Row, Tile, write_html, write_png
from clients.demo.chart import write_recall_chart
from clients.demo.load import Load
from clients.demo.photos import Group, Photo, first_and_new, read_folder
from clients.demo.render import render_catalogue
from clients.demo.server import DemoServer, export_model
from clients.errors import NotFound
from clients.report import gather, write_report
from clients.types import Filter, Hit, Item, SearchResult

_SHEET_ROWS, _SHEET_HITS = 8, 6
_MOST_QUERIES = 400  # at each moment when recall is measured
_MEASURING_S = 60.0  # the server measures within seconds of a swap, as queries leave it time
_LEARNING_S = 1800.0  # a stage takes a minute or two; longer than this means that it stands still


@dataclass(frozen=True)
class Story:
    """What is told: which photos, and how much is learned."""

    photos: Path | None = None
    """One folder per category; None renders a catalogue."""
    out: Path = Path("demo-out")
    categories: int = 40
    """Rendered ones; six in ten come first."""
    per_category: int = 20
    """Rendered photos of each."""
    seed: int = 0
    image_size: int = 128
    """Side of the image that the model sees, in pixels."""
    steps: int = 30
    """Of training, in each stage."""
    metrics_port: int = 0
    """Where Prometheus can read the server meanwhile; 0 takes a free port."""


@dataclass(frozen=True)
class Answered:
    """A held-out photo, its answer, and how long the caller waited, in seconds."""

    query: Photo
    result: SearchResult
    waited_s: float

    def found_within(self, k: int) -> bool:
        """Whether one of the first `k` hits is of the query's category."""
        return any(hit.category == self.query.category for hit in self.result.hits[:k])


class Demo:
    """Tells a story, a step at a time. `run` tells it whole."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._out = story.out
        self._console = Console(highlight=False)
        self._figures: dict[str, float] = {}
        self._moments: list[tuple[str, dict[str, float]]] = []

    def run(self) -> None:
        """Errors: ValueError for a folder without photos, or one in the way; RuntimeError when a step fails."""
        began = time.monotonic()
        self._clear()
        first, new = first_and_new(self._catalogue())
        for group in (first, new):
            text = f"{group.categories} with {len(group.gallery)} photos, and {len(group.queries)} kept back as queries"
            self._say(text, group.name.capitalize())
        self._figures |= {"categories": first.categories + new.categories, "new_categories": new.categories}
        self._figures["gallery"] = len(first.gallery) + len(new.gallery)
        export_model(self._out / "data", self._story.image_size)
        trainer = f"--steps {self._story.steps} --learning-rate 1e-4 --seed {self._story.seed} --poll-s 0.5"
        # Often, for a story of minutes: what a swap changed is told by the last measurement before it.
        options = [f"--trainer-args={trainer}", "--recall-every-s", "15"]
        with DemoServer(self._out / "data", options, self._story.metrics_port) as server:
            self._say(f"started on {server.target} with {server.started_in_s:.1f} s of preparation", "Server")
            with Client(server.target) as client:
                self._ingest(client, first)
                self._measure(client, "pretrained", [first])
                self._ways_to_search(client, first)
                self._delete_and_put_back(client, first.gallery[0])
                self._measure(client, self._learn(client, 0), [first])
                self._ingest(client, new)
                self._found_at_once(client, new.gallery[0])
                self._measure(client, "new categories\narrived", [first, new])
                with Load(server.target, [photo.path for photo in first.queries]) as load:
                    answers = self._measure(client, self._learn(client, 1), [first, new])
                    self._back_and_forward(client, [first, new])
                self._show_load(load)
                self._pictures(client, answers)
                self._report(client, server.target)
            self._kill(server, new.gallery[-1])
        self._figures["seconds"] = time.monotonic() - began
        (self._out / "demo.json").write_text(json.dumps(self._figures, indent=2) + "\n", encoding="utf-8")
        self._say(f"{self._figures['seconds']:.0f} s in all; the figures are in {self._out / 'demo.json'}", "Done")
        self._say(f"{self._out / 'recall.png'}, and {self._out / 'contact-sheet.png'} (or .html)", "Look at")
        self._say(f"{self._out / 'report' / 'report.html'}: how the server itself saw it, by its probes", "And at")

    # ------------------------------------------------------------------------------------------------ photos in

    def _clear(self) -> None:
        marker = self._out / ".everlook-demo"
        if self._out.exists() and not marker.exists() and any(self._out.iterdir()):
            raise ValueError(f"{self._out} was not made by the demo and is not empty; choose another with --out")
        shutil.rmtree(self._out, ignore_errors=True)
        self._out.mkdir(parents=True)
        marker.touch()

    def _catalogue(self) -> list[Photo]:
        story = self._story
        if story.photos is not None:
            return read_folder(story.photos)
        with self._progress() as progress:
            task = progress.add_task("render", total=story.categories * story.per_category)
            folder = render_catalogue(
                self._out / "photos",
                categories=story.categories,
                photos=story.per_category,
                seed=story.seed,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        return read_folder(folder)

    def _ingest(self, client: Client, group: Group) -> None:
        def items() -> Iterator[tuple[Item, Path]]:
            for photo in group.gallery:
                yield Item(photo.id, photo.category, {"file": photo.path.name}), photo.path

        refused = []
        began = time.monotonic()
        with self._progress() as progress:
            task = progress.add_task("ingest", total=len(group.gallery))
            for ack in client.ingest(items()):
                progress.advance(task)
                if ack.error is not None:
                    refused.append(ack)
        took = time.monotonic() - began
        for ack in refused[:5]:
            self._console.print(f"  refused {ack.id}: {ack.error}")
        good = len(group.gallery) - len(refused)
        if not good:
            raise RuntimeError("every photo was refused")
        self._figures["refused"] = self._figures.get("refused", 0) + len(refused)
        self._figures.setdefault("ingested_per_s", good / took)
        rate = f"{good} photos acknowledged in {took:.1f} s, {good / took:.0f} a second"
        self._say(f"{group.name}: {rate}; {len(refused)} refused", "Ingest")

    # ------------------------------------------------------------------------------------------------ learning

    def _learn(self, client: Client, stage: int) -> str:
        """Asks for a stage of all new categories, shows what happens until it is live or refused by a gate, and returns
        which of the two, as the name of a moment. Errors: RuntimeError when neither happens."""
        began, model = time.monotonic(), ""
        before = client.status().generation
        learned = before.model.stages if before is not None else 0
        client.start_training()
        with self._progress() as progress:
            task = progress.add_task("training", total=None)
            for seen in client.watch():
                status = seen.status
                if seen.event:
                    progress.console.print(
                        f"  [dim]{time.monotonic() - began:5.0f} s[/dim]  {seen.event}", soft_wrap=True
                    )
                if status.training is not None:
                    phase, training = status.training.phase, status.training
                    progress.update(task, description=phase, completed=training.done, total=training.total or None)
                if status.generation is not None and status.generation.model.stages > learned:
                    model = status.generation.model.id
                    break
                if " failed: " in seen.event or ("training ended" in seen.event and "published" not in seen.event):
                    self._say(f"stage {stage} is not served, and the model before it stays: {seen.event}", "Refused")
                    break
                if time.monotonic() - began > _LEARNING_S:
                    raise RuntimeError(f"stage {stage} is not live after {_LEARNING_S:.0f} s")
        took = time.monotonic() - began
        self._figures[f"stage_{stage}_served"] = float(bool(model))
        if not model:
            return f"stage {stage}\nrefused"
        self._figures[f"stage_{stage}_s"] = took
        self._say(f"stage {stage} is live after {took:.0f} s, model {model[:12]}", "Learned")
        return f"stage {stage}\nlearned"

    def _found_at_once(self, client: Client, photo: Photo) -> None:
        first = client.search(image=photo.path, k=1).hits[0]
        if first.id != photo.id:
            raise RuntimeError(f"{photo.id} was acknowledged and is not found: {first.id} comes first")
        self._say(f"{photo.id}, of a category never seen before, finds itself, score {first.score:.3f}", "At once")

    def _back_and_forward(self, client: Client, groups: Sequence[Group]) -> None:
        learned = client.status().generation
        if learned is None or not learned.model.stages:
            self._say("no stage went live, so that there is none to go back from", "Rollback")
            return
        client.rollback(timeout_s=120)
        self._measure(client, "rolled\nback", groups)
        client.promote(learned.number, timeout_s=120)
        self._measure(client, "forward\nagain", groups)

    def _show_load(self, load: Load) -> None:
        if load.failed:
            raise RuntimeError(f"{len(load.failed)} searches failed meanwhile, the first with {load.failed[0]}")
        by_generation = ", ".join(
            f"{count:,} by generation {number}" for number, count in sorted(load.answered.items())
        )
        waits = statistics.quantiles([wait * 1000 for wait in load.waits_s] * 2, n=100)
        self._figures |= {"meanwhile_calls": len(load.waits_s), "meanwhile_failed": len(load.failed)}
        self._figures |= {"meanwhile_p50_ms": waits[49], "meanwhile_p99_ms": waits[98]}
        latency = f"p50 {waits[49]:.1f} ms, p99 {waits[98]:.1f} ms"
        self._say(f"{len(load.waits_s):,} searches, none failed: {by_generation}; {latency}", "Meanwhile")

    # ------------------------------------------------------------------------------------------------ searching

    def _measure(self, client: Client, moment: str, groups: Sequence[Group]) -> list[Answered]:
        """Recall of held-out photos, by group, through the server."""
        words = moment.replace("\n", " ")
        draw = random.Random(self._story.seed)  # noqa: S311  # which photos are drawn is no secret
        recalls, all_answers = {}, []
        for group in groups:
            queries = draw.sample(list(group.queries), min(len(group.queries), _MOST_QUERIES // len(groups)))
            answers = []
            for query in queries:
                began = time.monotonic()
                result = client.search(image=query.path, k=10)
                answers.append(Answered(query, result, time.monotonic() - began))
            recalls[group.name] = statistics.mean(answer.found_within(1) for answer in answers)
            self._figures[f"{words}: {group.name}"] = recalls[group.name]
            all_answers += answers
        self._moments.append((moment, recalls))
        waits = statistics.quantiles([answer.waited_s * 1000 for answer in all_answers] * 2, n=100)
        self._figures.setdefault("p50_ms", waits[49])
        self._figures["queries"] = len(all_answers)
        shares = ", ".join(f"{name} {100 * recall:.1f} %" for name, recall in recalls.items())
        self._say(f"{words}: Recall@1 of {shares}; p50 {waits[49]:.1f} ms, p99 {waits[98]:.1f} ms", "Search")
        return all_answers

    def _ways_to_search(self, client: Client, group: Group) -> None:
        image, item = group.queries[0].path, group.gallery[0]
        answer = client.search(image=image, k=10)
        timing, generation = answer.timing, answer.generation
        self._say(f"the nearest to {group.queries[0].id}", "Example")
        table = Table("score", "category", "id", box=None, pad_edge=False)
        for hit in answer.hits[:5]:
            table.add_row(f"{hit.score:.3f}", hit.category, hit.id)
        self._console.print(table)
        self._console.print(
            f"  generation {generation.number}, model {generation.model[:12]}; queue {1000 * timing.queue_s:.1f}, "
            f"decode {1000 * timing.decode_s:.1f}, encode {1000 * timing.encode_s:.1f}, "
            f"search {1000 * timing.search_s:.1f} ms"
        )
        embedding = client.embed(image)
        by_vector = client.search(vector=embedding, k=1).hits[0]
        self._say(f"a {len(embedding.values)}-d vector from Embed finds {by_vector.id}", "By vector")
        by_item = client.search(item_id=item.id, k=1).hits[0]
        self._say(f"nearest to {item.id} is {by_item.id}, score {by_item.score:.3f}", "By item")
        others = client.search(image=image, k=1, filter=Filter(exclude_categories=[answer.hits[0].category])).hits
        without = f"without category {answer.hits[0].category}"
        self._say(f"{without}: {others[0].id if others else 'nothing'}", "Filtered")

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
            before = client.status()
        server.kill_and_restart()
        with Client(server.target) as client:
            after = client.status()
            first = client.search(image=photo.path, k=1).hits[0]
        models = [status.generation.model.id if status.generation else "" for status in (before, after)]
        if before.catalogue != after.catalogue or models[0] != models[1]:
            raise RuntimeError(f"after kill -9 it differs: {before.catalogue}, {models[0]} became {after.catalogue}")
        self._figures["restart_after_kill_s"] = server.started_in_s
        items = after.catalogue.items if after.catalogue else 0
        self._say(f"back in {server.started_in_s:.1f} s with all {items} items; {photo.id} finds {first.id}", "Kill -9")

    # ------------------------------------------------------------------------------------------------ to look at

    def _pictures(self, client: Client, answers: Sequence[Answered]) -> None:
        """The recall chart, and queries drawn at random, at most a quarter of them where the first hit is wrong."""
        names = list(dict.fromkeys(name for _, recalls in self._moments for name in recalls))
        groups = {name: [recalls.get(name) for _, recalls in self._moments] for name in names}
        moments = [moment for moment, _ in self._moments]
        write_recall_chart(self._out / "recall.png", "Recall@1 of held-out photos, through the server", moments, groups)
        draw = random.Random(self._story.seed)  # noqa: S311
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

    def _report(self, client: Client, target: str) -> None:
        """The report, once the server has measured the model that is live, or has not for too long."""
        deadline = time.monotonic() + _MEASURING_S
        while time.monotonic() < deadline:
            live, measured = client.status().generation, client.recall_history().measurements
            if live is not None and measured and measured[-1].generation.model == live.model.id:
                break
            time.sleep(0.5)
        write_report(gather(client, target), self._out / "report")

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
