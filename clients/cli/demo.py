"""`everlook demo`: the main job, visibly."""

from __future__ import annotations

from pathlib import Path

import click

from clients.cli.app import fail, one_line
from clients.demo.story import Demo
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
@click.option("--categories", type=click.IntRange(2), default=40, show_default=True, help="Rendered categories.")
@click.option("--per-category", type=click.IntRange(5), default=20, show_default=True, help="Photos of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the rendered catalogue.")
def demo(photos: Path | None, out: Path, categories: int, per_category: int, seed: int) -> None:  # fmt: skip
    """Start a server, fill it with PHOTOS, search it, and leave a contact sheet.

    PHOTOS is a folder with one folder per category; without it the demo renders a catalogue of its own.
    """
    try:
        Demo(photos, out, categories=categories, photos=per_category, seed=seed).run()
    except (EverlookClientError, ValueError, RuntimeError, OSError) as error:
        fail(one_line(error))
