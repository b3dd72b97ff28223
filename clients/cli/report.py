"""`everlook report`: how recall goes, as a page to look at."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import click
from rich.text import Text

from clients.cli.app import App, connected
from clients.report import Written, gather, write_report

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Since(click.ParamType[datetime.datetime]):
    """An age, or a time; one without a zone is in UTC, as all times of the report are."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime.datetime:
        text = str(value).strip()
        age = re.fullmatch(r"(\d{1,4})([mhdw])", text)
        if age is not None:
            return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**{_UNITS[age[2]]: int(age[1])})
        try:
            at = datetime.datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is neither an age such as 12h, 30d or 2w nor a time such as 2026-11-21T12:00", param, ctx
            )
        return at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("everlook-report"),
    show_default=True,
    help="Folder for the page and its pictures; those of an earlier report are replaced.",
)
@click.option(
    "--since", type=Since(), help="Begin there: an age (12h, 30d, 2w) or a time in UTC. Default: the beginning."
)
@click.option("--categories", type=click.IntRange(1, 100), default=10, show_default=True, help="Shown as found worst.")
@click.option("--examples", type=click.IntRange(1, 20), default=3, show_default=True, help="Pairs of photos of each.")
@connected
def report(app: App, out: Path, since: datetime.datetime | None, categories: int, examples: int) -> None:
    """Write how recall goes as one HTML page that needs nothing else, and as PNGs beside it.

    Recall of each cohort over time, what each swap has learned and forgotten, the generations with their gates, and the
    categories that are found worst, with photos of what is found in their place.
    """
    target = str(click.get_current_context().params["target"])
    with app.err.status("measurements ...") as line:

        def progress(what: str, done: int, total: int) -> None:
            line.update(f"{what}, {done:,} of {total:,} ..." if total else f"{what} ...")

        facts = gather(app.client, target, since=since, categories=categories, examples=examples, progress=progress)
        line.update("writing ...")
        written = write_report(facts, out)
    measured = len(facts.history.measurements)
    if app.json:
        app.emit(
            {"page": str(written.page), "pictures": [str(path) for path in written.pictures], "measurements": measured}
        )
    else:
        app.say(Text(_said(written, measured)))


def _said(written: Written, measured: int) -> str:
    seen = f"{measured:,} measurement{'' if measured == 1 else 's'}" if measured else "nothing has been measured yet"
    beside = f"; beside it {', '.join(path.name for path in written.pictures)}" if written.pictures else ""
    return f"{written.page}: {seen}{beside}"
