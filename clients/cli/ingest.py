"""`everlook ingest`: sends a catalogue, skipping what the server already holds, and says how it went."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients.cli.app import App, connected, fail, one_line, to_json
from clients.cli.manifest import Entry, read_entries
from clients.client import Client
from clients.errors import EverlookClientError
from clients.retry import PATIENT
from clients.types import Acknowledgement, ImageLike, Item, MetadataValue, Outcome, StoredItem

_CHUNK = 100
_SHOWN_FAILURES = 20
INTERRUPTED = 130


@dataclass
class Tally:
    """How many items ended how."""

    total: int
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    failures: list[Acknowledgement] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        return self.created + self.updated + self.unchanged + self.skipped + len(self.failures)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def count(self, answer: Acknowledgement) -> None:
        if answer.error is not None:
            self.failures.append(answer)
        elif answer.outcome is Outcome.CREATED:
            self.created += 1
        elif answer.outcome is Outcome.UPDATED:
            self.updated += 1
        else:
            self.unchanged += 1

    def summary(self) -> dict[str, int | float]:
        names = ("total", "created", "updated", "unchanged", "skipped")
        counts = {name: getattr(self, name) for name in names}
        return {**counts, "failed": len(self.failures), "seconds": round(self.seconds, 3)}

    def __str__(self) -> str:
        sent = self.done - self.skipped
        rate = f" ({sent / self.seconds:,.0f} items/s)" if sent else ""
        return (
            f"{self.created:,} created, {self.updated:,} updated, {self.unchanged:,} unchanged, "
            f"{self.skipped:,} skipped because they are there, {len(self.failures):,} failed, "
            f"of {self.total:,} in {self.seconds:.1f} s{rate}"
        )


def unsent(client: Client, entries: Sequence[Entry], on_skip: Callable[[], None]) -> Iterator[tuple[Item, ImageLike]]:
    """The entries that the server does not hold with the same photo, category and metadata."""
    rest = iter(entries)
    while chunk := list(itertools.islice(rest, _CHUNK)):
        stored = {item.id: item for item in client.get_many(entry.id for entry in chunk)}
        for entry in chunk:
            if entry.id in stored and _same(entry, stored[entry.id]):
                on_skip()
            else:
                yield entry.item, entry.path


def _same(entry: Entry, stored: StoredItem) -> bool:
    if entry.category != stored.category or _typed(entry.metadata) != _typed(stored.metadata):
        return False
    try:
        with entry.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == stored.image_sha256
    except OSError:
        return False  # sending it will say what is wrong


def _typed(metadata: Mapping[str, MetadataValue]) -> dict[str, tuple[bool, MetadataValue]]:
    # True equals 1 in Python, and is another value to the server.
    return {key: (isinstance(value, bool), value) for key, value in metadata.items()}


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--prefix", default="", help="Put before every id.")
@click.option("--glob", help="Only files of this pattern, such as '*_front.jpg' (folders only).")
@click.option("--limit", type=click.IntRange(min=0), help="Only the first so many.")
@click.option("--number", "numbers", multiple=True, metavar="COLUMN", help="A column of a CSV that holds numbers.")
@click.option("--failures", type=click.Path(dir_okay=False, path_type=Path), help="Write failed items as JSON lines.")
@functools.partial(connected, retries=PATIENT)
def ingest(
    app: App,
    source: Path,
    prefix: str,
    glob: str | None,
    limit: int | None,
    numbers: tuple[str, ...],
    failures: Path | None,
) -> None:
    """Add all photos of SOURCE: a folder with a folder for each category, or a .csv or .jsonl file.

    The table's columns are id (or else the path), category, path (relative to the table), and any other column as
    metadata. What the server already holds is skipped, so the same command goes on where an earlier one stopped.
    """
    entries = read_entries(source, glob=glob, prefix=prefix, numbers=frozenset(numbers))[:limit]
    tally = Tally(len(entries))
    problem = _send(app, entries, tally)
    if failures is not None:
        lines = (json.dumps(to_json(answer), ensure_ascii=False) + "\n" for answer in tally.failures)
        failures.write_text("".join(lines), encoding="utf-8")
    _report(app, tally)
    if problem is not None:
        stopped = "interrupted" if isinstance(problem, KeyboardInterrupt) else one_line(problem)
        left = f"{tally.total - tally.done:,} of {tally.total:,} are left; the same command goes on with them"
        fail(f"{stopped}; {left}", INTERRUPTED if isinstance(problem, KeyboardInterrupt) else 1)
    if tally.failures:
        sys.exit(1)


def _send(app: App, entries: Sequence[Entry], tally: Tally) -> EverlookClientError | KeyboardInterrupt | None:
    """Sends the entries and counts their answers; returns what stopped it, if anything did."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failed]}"),
    )
    with Progress(*columns, console=app.err, disable=not app.err.is_terminal, transient=True) as progress:
        task = progress.add_task("ingest", total=len(entries), rate=0.0, failed="")

        def show() -> None:
            failed = f"{len(tally.failures)} failed" if tally.failures else ""
            progress.update(task, completed=tally.done, rate=tally.done / max(tally.seconds, 1e-3), failed=failed)

        def skip() -> None:
            tally.skipped += 1
            show()

        try:
            for answer in app.client.ingest(unsent(app.client, entries, skip)):
                tally.count(answer)
                show()
                if app.json:
                    app.emit(answer)
        except (EverlookClientError, KeyboardInterrupt) as problem:
            return problem
    return None


def _report(app: App, tally: Tally) -> None:
    for answer in tally.failures[:_SHOWN_FAILURES]:
        if answer.error is not None:
            click.echo(f"{answer.id}: {one_line(answer.error)}", err=True)
    if len(tally.failures) > _SHOWN_FAILURES:
        click.echo(f"and {len(tally.failures) - _SHOWN_FAILURES:,} more; --failures FILE keeps them all", err=True)
    if app.json:
        app.emit({"summary": tally.summary()})
    else:
        click.echo(str(tally))
