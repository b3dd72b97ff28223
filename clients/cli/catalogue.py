"""`everlook get`, `delete` and `categories`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from clients.cli.app import App, connected, fail, one_line
from clients.errors import NotFound


@click.command()
@click.argument("item_id", metavar="ID")
@click.option("--image", type=click.Path(dir_okay=False, path_type=Path), help="Also write the photo to this file.")
@connected
def get(app: App, item_id: str, image: Path | None) -> None:
    """Show one item."""
    item = app.client.get(item_id)
    if image is not None:
        image.write_bytes(app.client.get_image(item_id).data)
    if app.json:
        app.emit(item)
        return
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("id", item.id),
        ("category", item.category),
        *item.metadata.items(),
        ("photo", f"{item.format}, {item.width} x {item.height} pixels, {item.image_bytes:,} bytes"),
        ("sha256", item.image_sha256),
        ("updated", f"{item.updated_at:%Y-%m-%d %H:%M:%S} UTC, change {item.seq}"),
    ):
        facts.add_row(f"[dim]{name}", str(value))
    app.say(facts)


@click.command()
@click.argument("item_ids", metavar="ID...", nargs=-1, required=True)
@connected
def delete(app: App, item_ids: tuple[str, ...]) -> None:
    """Remove items. Ids that are not there are named, and the others still removed."""
    missing = 0
    for item_id in item_ids:
        try:
            seq = app.client.delete(item_id)
        except NotFound as error:
            missing += 1
            app.err.print(f"everlook: {one_line(error)}", markup=False)
            continue
        if app.json:
            app.emit({"id": item_id, "seq": seq})
        else:
            click.echo(f"deleted {item_id}")
    if missing:
        fail(f"{missing} of {len(item_ids)} not found")


@click.command()
@connected
def categories(app: App) -> None:
    """List the categories, with how many items each has."""
    if app.json:
        for category in app.client.categories():
            app.emit(category)
        return
    table = Table("category", "state", box=None, header_style="dim")
    table.add_column("items", justify="right")
    table.add_column("cohort", justify="right")
    for category in app.client.categories():
        cohort = "" if category.cohort is None else str(category.cohort)
        table.add_row(category.name, category.state, f"{category.items:,}", cohort)
    app.say(table if table.row_count else "no categories yet")
