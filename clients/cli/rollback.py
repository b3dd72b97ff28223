"""`everlook rollback`: goes back to a generation that was live before."""

from __future__ import annotations

import click

from clients.cli.app import App, connected
from clients.cli.promote import show_live


@click.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@connected
def rollback(app: App, number: int | None) -> None:
    """Make generation NUMBER live again, or that of the model before the live one.

    Items that arrived since are in it. Waits as `everlook promote` does.
    """
    with app.err.status("a generation is made live again ..."):
        generation = app.client.rollback(number or 0)
    show_live(app, generation)
