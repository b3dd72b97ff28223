"""`everlook status`: what the server is doing now."""

from __future__ import annotations

import datetime
import time

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clients.cli.app import App, connected, one_line
from clients.errors import Unavailable
from clients.status import Generation, Status


@click.command()
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, metavar="SECONDS")
@connected
def status(app: App, watch: bool, interval: float) -> None:
    """Show what serves, what is stored, and what is being learned."""
    if not watch:
        _show(app)
        return
    try:
        if app.json:
            while True:
                _show(app)
                time.sleep(interval)
        _watch(app, interval)
    except KeyboardInterrupt:
        return


def _show(app: App) -> None:
    now = app.client.status()
    if app.json:
        app.emit(now)
    else:
        app.say(panel(now))


def _watch(app: App, interval: float) -> None:
    with Live(console=app.out, auto_refresh=False) as live:
        while True:
            try:
                live.update(panel(app.client.status()), refresh=True)
            except Unavailable as error:  # a server that restarts is what one wants to watch
                live.update(Panel(Text(one_line(error), "red"), title="everlook", width=100), refresh=True)
            time.sleep(interval)


def panel(now: Status) -> RenderableType:
    """The status as a panel."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    up = datetime.datetime.now(datetime.UTC) - now.started_at
    serving = Text("serving", "bold green") if now.serving else Text("not serving", "bold red")
    facts.add_row("server", Text.assemble(serving, f", version {now.version}, up {_duration(up.total_seconds())}"))
    held = now.catalogue
    facts.add_row(
        "catalogue",
        f"{held.items:,} items in {held.categories:,} categories; {held.images:,} photos, {_size(held.image_bytes)}; "
        f"change {held.seq:,}",
    )
    if now.generation is not None:
        _add_generation(facts, now.generation)
    for device in now.devices:
        threads = f", {device.threads} threads" if device.threads else ""
        facts.add_row(f"{device.role} on", f"{device.provider}{threads}{f' ({device.note})' if device.note else ''}")
    for queue in now.queues:
        facts.add_row(f"{queue.name} queue", f"{queue.depth:,} of {queue.capacity:,}")
    for program in now.programs:
        restarts = f", {program.restarts} restarts" if program.restarts else ""
        facts.add_row(program.name, f"{program.activity}{f', pid {program.pid}' if program.pid else ''}{restarts}")
    if (training := now.training) is not None:
        left = f", {_duration(training.remaining_s)} left" if training.remaining_s else ""
        share = f"{training.done:,} of {training.total:,}{left}"
        facts.add_row(
            "training", f"stage {training.stage}, {training.categories} categories, {training.phase}: {share}"
        )
    return Panel(Group(facts), title="everlook", title_align="left", border_style="dim", width=100)


def _add_generation(facts: Table, generation: Generation) -> None:
    entries = f"{generation.main_entries:,} main + {generation.delta_entries:,} delta - {generation.tombstones:,} dead"
    recall = "exact" if generation.index_recall is None else f"recall@10 {generation.index_recall:.3f}"
    facts.add_row("generation", f"{generation.number}, {generation.state}; {entries}")
    facts.add_row("index", f"{generation.index or 'none yet'}, {recall}")
    model = generation.model
    shape = f"{model.image_size} px to {model.dimension} numbers, {model.precision}, {model.stages} stages learned"
    facts.add_row("model", f"{model.id[:12]}, {model.backbone}, {shape}")
    for cohort in generation.recall:
        change = cohort.recall_at_1 - cohort.reference
        text = f"recall@1 {cohort.recall_at_1:.3f} of {cohort.probes:,} probes ({change:+.3f} since it went live)"
        facts.add_row(f"cohort {cohort.cohort}", text)
    for gate in generation.gates:
        word = "passed" if gate.passed else "failed"
        facts.add_row(f"gate {gate.name}", f"{word}: {gate.measured:.4g}, required {gate.required:.4g} {gate.reason}")


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(max(0.0, seconds))))


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
