"""Pieces of HTML. Every text goes through `text` or `name`, whoever wrote it."""

from __future__ import annotations

import datetime
import html
from collections.abc import Iterable, Sequence

from clients.report.words import day_and_minute


def text(value: object) -> str:
    """Text with nothing in it that is markup."""
    return html.escape(str(value))


def name(value: str) -> str:
    """A name that somebody chose, such as an item's: escaped, and kept from turning the text around it about."""
    return f"<bdi>{text(value)}</bdi>"


def moment(at: datetime.datetime) -> str:
    """A time in UTC."""
    return f'<time datetime="{text(at.isoformat(timespec="seconds"))}">{text(day_and_minute(at))}</time>'


def section(identity: str, heading: str, *parts: str) -> str:
    body = "\n".join(part for part in parts if part)
    return f'<section aria-labelledby="{identity}">\n<h2 id="{identity}">{text(heading)}</h2>\n{body}\n</section>'


def paragraph(words: str, kind: str = "") -> str:
    """words: text without markup."""
    return f"<p{_kind(kind)}>{text(words)}</p>"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table that scrolls within itself where the screen is narrow. rows: cells as HTML, the first heads its row.

    numbers: the columns that hold figures, and are set at the right.
    """
    right = set(numbers)
    head = "".join(f'<th scope="col"{_kind("n" if at in right else "")}>{text(h)}</th>' for at, h in enumerate(heads))
    body = "\n".join(_row(row, right) for row in rows)
    parts = f"<caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    around = f'<div class="wide" role="region" aria-label="{text(caption)}" tabindex="0">'
    return f"{around}\n<table>\n{parts}\n</table>\n</div>"


def _row(cells: Sequence[str], right: set[int]) -> str:
    first, *rest = cells
    others = "".join(f"<td{_kind('n' if at in right else '')}>{cell}</td>" for at, cell in enumerate(rest, start=1))
    return f'<tr><th scope="row">{first}</th>{others}</tr>'


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def with_small(main: str, small: str) -> str:
    """A figure, and in small letters what it is of; both text without markup."""
    return f"{text(main)}<small>{text(small)}</small>"


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """summary, body: HTML."""
    return f"<details{' open' if opened else ''}>\n<summary>{summary}</summary>\n{body}\n</details>"
