"""`everlook train`: has the waiting categories trained now."""

from __future__ import annotations

import click

from clients.cli.app import App, connected, fail
from clients.cli.watch import Screen
from clients.status import GenerationState


@click.command()
@click.argument("categories", nargs=-1, metavar="[CATEGORY]...")
@click.option("--follow", is_flag=True, help="Show what happens until the stage is live, or has come to nothing.")
@click.option("--cancel", is_flag=True, help="Stop the training that is under way.")
@connected
def train(app: App, categories: tuple[str, ...], follow: bool, cancel: bool) -> None:
    """Train these new categories now, or all that wait; `everlook categories` lists them."""
    if cancel:
        if categories or follow:
            raise click.UsageError("--cancel takes no categories and no --follow")
        _say(app, app.client.cancel_training(), "training stopped")
        return
    stage = app.client.start_training(categories)
    _say(app, stage, "training began")
    if follow:
        try:
            _follow(app, stage)
        except KeyboardInterrupt:  # of the watching alone: the training goes on
            return


def _say(app: App, stage: int, what: str) -> None:
    if app.json:
        app.emit({"stage": stage})
    else:
        app.say(f"stage {stage}: {what}")


def _follow(app: App, stage: int) -> None:
    """Shows what happens until nothing is being learned, and fails when the stage has come to nothing by then."""
    with Screen(app) as screen:
        for seen in app.client.watch():
            screen.show(seen)
            if seen.status.training is None:
                break
    live = app.client.status().generation
    if live is not None and live.model.stages > stage:
        app.say(f"stage {stage} is live, in generation {live.number}")
        return
    for generation in app.client.generations():
        if generation.state is GenerationState.READY and generation.model.stages > stage:
            app.say(f"stage {stage} is ready: `everlook promote {generation.number}` makes it live")
            return
    fail(f"stage {stage} has come to nothing; `everlook models` says why")
