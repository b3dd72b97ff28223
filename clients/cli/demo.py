"""`everlook demo`: the main job, visibly."""

from __future__ import annotations

from pathlib import Path

import click

from clients.cli.app import fail, one_line
from clients.demo.story import Demo, Story
from clients.errors import EverlookClientError


@click.command()
@click.argument("photos", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for the demo's data and contact sheet; made anew.",
)
@click.option("--categories", type=click.IntRange(4), default=40, show_default=True, help="Rendered categories.")
@click.option("--per-category", type=click.IntRange(5), default=20, show_default=True, help="Photos of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rendered catalogue, and of training.")
@click.option("--image-size", type=click.IntRange(32), default=128, show_default=True, help="Pixels the model sees.")
@click.option("--steps", type=click.IntRange(1), default=30, show_default=True, help="Of training, in each stage.")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), default=0, help="Where Prometheus can read it (a free port)."
)
def demo(
    photos: Path | None,
    out: Path,
    categories: int,
    per_category: int,
    seed: int,
    image_size: int,
    steps: int,
    metrics_port: int,
) -> None:
    """Start a server, teach it PHOTOS in two stages while it answers, and leave charts, a report and a contact sheet.

    PHOTOS is a folder with one folder per category; without it the demo renders a catalogue of its own.
    """
    try:
        Demo(Story(photos, out, categories, per_category, seed, image_size, steps, metrics_port)).run()
    except (EverlookClientError, ValueError, RuntimeError, OSError) as error:
        fail(one_line(error))
