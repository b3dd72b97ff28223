"""`everlook models`: the generations, and why those that are not served are not."""

from __future__ import annotations

import click
from rich.table import Table

from clients.cli.app import App, connected
from clients.status import Generation


@click.command()
@connected
def models(app: App) -> None:
    """List the generations and their models, newest first, with recall by cohort and the gates that failed."""
    found = app.client.generations()
    if app.json:
        for generation in found:
            app.emit(generation)
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("generation", "state", "model", "precision", "stages", "made", "Recall@1 by cohort", "failed"):
        table.add_column(column, overflow="fold", no_wrap=column in ("state", "model", "made"))
    for generation in found:
        table.add_row(*_row(generation))
    app.say(table)


def _row(generation: Generation) -> tuple[str, ...]:
    model = generation.model
    recall = (f"{each.cohort}: {each.recall_at_1:.3f} of {each.probes:,}" for each in generation.recall)
    failed = (f"{gate.name}: {gate.reason}" for gate in generation.gates if not gate.passed)
    return (
        str(generation.number or "-"),
        generation.state,
        model.id[:12],
        model.precision,
        str(model.stages),
        f"{generation.created_at:%Y-%m-%d %H:%M}",
        "\n".join(recall),
        "\n".join(failed),
    )
