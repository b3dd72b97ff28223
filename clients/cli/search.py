"""`everlook search` and `embed`."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import click
from PIL import Image
from rich.table import Table
from rich.text import Text

from clients.cli.app import App, connected, to_json
from clients.contact_sheet import Row, Tile, write_html, write_png
from clients.types import AnyOf, Filter, Hit, MetadataValue, Range, SearchResult

_WHERE = re.compile(r"(?P<key>.+?)(?P<operator>:=|>=|<=|=)(?P<value>.*)", re.DOTALL)
_Photo = click.Path(exists=True, dir_okay=False, path_type=Path)
_Out = click.Path(dir_okay=False, path_type=Path)


def parse_where(conditions: Sequence[str]) -> dict[str, MetadataValue | AnyOf | Range]:
    """The conditions of `--where`. Several `=` of one key are alternatives; `>=` and `<=` of one key are one range.

    Errors: click.BadParameter.
    """
    values: dict[str, list[MetadataValue]] = {}
    ranges: dict[str, Range] = {}
    for condition in conditions:
        match = _WHERE.fullmatch(condition)
        if match is None:
            raise click.BadParameter(f"{condition!r} is not KEY=TEXT, KEY:=VALUE, KEY>=NUMBER or KEY<=NUMBER")
        key, operator, text = match.group("key", "operator", "value")
        if operator == "=":
            values.setdefault(key, []).append(text)
        elif operator == ":=":
            values.setdefault(key, []).append(_json_value(condition, text))
        else:
            bound, old = _number(condition, text), ranges.get(key, Range())
            ranges[key] = Range(bound, old.max) if operator == ">=" else Range(old.min, bound)
    if both := values.keys() & ranges.keys():
        raise click.BadParameter(f"{sorted(both)[0]!r} has both values and a range")
    return {**{key: AnyOf(*some) for key, some in values.items()}, **ranges}


def _json_value(condition: str, text: str) -> MetadataValue:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, str | int | float | bool):
        return value
    raise click.BadParameter(f"{condition!r}: after := comes a number, true, false or a text in quotes")


def _number(condition: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{condition!r}: {text!r} is no number") from None


@click.command()
@click.argument("image", type=_Photo, required=False)
@click.option("--item", metavar="ID", help="Look for items like this one, in place of a photo.")
@click.option("-k", "--k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits at most.")
@click.option("--category", "categories", multiple=True, help="Only this category; may be given again.")
@click.option("--exclude-category", multiple=True, help="Not this category; may be given again.")
@click.option(
    "--where", multiple=True, metavar="CONDITION",
    help="Only items whose metadata holds KEY=TEXT, KEY:=NUMBER, KEY:=true, KEY>=NUMBER or KEY<=NUMBER.",
)  # fmt: skip
@click.option("--exact", is_flag=True, help="Compare with every item.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Only hits with at least this cosine similarity.")
@click.option("--html", type=_Out, help="Write a contact sheet as an HTML page that needs nothing else.")
@click.option("--png", type=_Out, help="Write a contact sheet as a PNG.")
@click.option("--expected-category", metavar="NAME", help="The query's category, to mark hits by; known for --item.")
@connected
def search(
    app: App,
    image: Path | None,
    item: str | None,
    k: int,
    categories: tuple[str, ...],
    exclude_category: tuple[str, ...],
    where: tuple[str, ...],
    exact: bool,
    min_score: float | None,
    html: Path | None,
    png: Path | None,
    expected_category: str | None,
) -> None:
    """Find the items that look like the photo IMAGE, or like an item."""
    if (image is None) == (item is None):
        raise click.UsageError("name a photo, or an item with --item")
    wanted = Filter(categories, exclude_category, parse_where(where))
    result = app.client.search(
        image=image,
        item_id=item,
        k=k,
        filter=wanted,
        exact=exact,
        min_score=min_score,
        include_metadata=True,
    )
    if item is not None and expected_category is None:
        expected_category = app.client.get(item).category
    if html is not None or png is not None:
        row = _sheet_row(app, image, item, result, expected_category)
        title = f"Items like {item if image is None else image.name}"
        if html is not None:
            write_html(html, [row], title)
        if png is not None:
            write_png(png, [row], title)
    if app.json:
        query = {"image": None if image is None else str(image), "item": item, "category": expected_category}
        app.emit({"query": query, **to_json(result)})
    else:
        app.say(_table(result, expected_category) if result.hits else "no hits")
        app.say(_footnote(result))


def _table(result: SearchResult, expected: str | None) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("", justify="right", style="dim")
    table.add_column("score", justify="right")
    table.add_column("category")
    table.add_column("id", overflow="fold")
    with_metadata = any(hit.metadata for hit in result.hits)
    if with_metadata:
        table.add_column("metadata", style="dim", overflow="fold")
    for rank, hit in enumerate(result.hits, start=1):
        style = "" if expected is None else "green" if hit.category == expected else "red"
        facts = ", ".join(f"{key}={value}" for key, value in hit.metadata.items())
        row = [Text(str(rank)), Text(f"{hit.score:.4f}"), Text(hit.category, style), Text(hit.id)]
        table.add_row(*row, *([Text(facts)] if with_metadata else []))
    return table


def _footnote(result: SearchResult) -> Text:
    timing = result.timing
    parts = (("queue", timing.queue_s), ("decode", timing.decode_s), ("encode", timing.encode_s))
    times = ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in (*parts, ("search", timing.search_s)))
    return Text(f"generation {result.generation.number}, model {result.generation.model[:12]}; {times}", "dim")


def _sheet_row(app: App, image: Path | None, item: str | None, result: SearchResult, expected: str | None) -> Row:
    query = _opened(image.read_bytes()) if image is not None else _stored_image(app, item or "")
    name = image.name if image is not None else str(item)
    hits = [_tile(app, rank, hit, expected) for rank, hit in enumerate(result.hits, start=1)]
    return Row(query, "\n".join(filter(None, ("Query", expected, name))), hits)


def _tile(app: App, rank: int, hit: Hit, expected: str | None) -> Tile:
    good = None if expected is None else hit.category == expected
    return _stored_image(app, hit.id), f"{rank}  ·  {hit.score:.3f}\n{hit.category}\n{hit.id}", good


def _stored_image(app: App, item_id: str) -> Image.Image:
    return _opened(app.client.get_image(item_id).data)


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@click.command()
@click.argument("image", type=_Photo)
@connected
def embed(app: App, image: Path) -> None:
    """Embed a photo: the vector, and the model that made it."""
    embedding = app.client.embed(image)
    if app.json:
        app.emit(embedding)
        return
    app.say(Text(f"model {embedding.model}", "dim"))
    click.echo(" ".join(f"{value:.6f}" for value in embedding.values))
