"""`everlook promote`: makes a generation live."""

from __future__ import annotations

import click

from clients.cli.app import App, connected
from clients.status import Generation


@click.command()
@click.argument("number", type=click.IntRange(min=1))
@connected
def promote(app: App, number: int) -> None:
    """Make generation NUMBER live, if it passes its gates; `everlook models` lists them.

    Waits until it is live, ten minutes at most; it goes on after that, and after Ctrl-C.
    """
    with app.err.status(f"generation {number} is made live ..."):
        generation = app.client.promote(number)
    show_live(app, generation)


def show_live(app: App, generation: Generation) -> None:
    """Says what is live."""
    if app.json:
        app.emit(generation)
    else:
        app.say(f"generation {generation.number} is live, model {generation.model.id[:12]}")
