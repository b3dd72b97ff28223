"""Contact sheets: queries and their hits side by side, as one PNG or as one HTML page that needs nothing else.

A row is a query at the left and its hits, best first, at the right. Where it is known whether a hit is good, it has a
green or a red frame, and a mark that can be told apart without colour.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

THUMBNAIL = 220  # pixels, the side of the square that a photo is fitted into

_PADDING, _GAP, _FRAME, _LINE = 36, 14, 5, 19
_QUERY_GAP = 40  # between the query and the first hit
_MOST_COLUMNS = 6
_BACKGROUND, _CARD, _TEXT, _FAINT = "#f6f5f2", "#ffffff", "#1f2328", "#6b7078"
_GOOD, _BAD, _QUERY = "#2c8a4b", "#c8452f", "#2f5fd0"


# A hit: its photo, its caption (lines), and whether it is of the query's category; None when that is unknown.
Tile = tuple[Image.Image, str, bool | None]


class Row(NamedTuple):
    """A query, its caption (lines), and its hits, best first."""

    query: Image.Image
    caption: str
    hits: Sequence[Tile]


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> Image.Image:
    """An upright RGB copy that fits into a square of that side, in pixels."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA", "P"):
        with_alpha = upright.convert("RGBA")
        upright = Image.new("RGBA", with_alpha.size, "white")
        upright.alpha_composite(with_alpha)
    return ImageOps.contain(upright.convert("RGB"), (side, side), Image.Resampling.LANCZOS)


# ---------------------------------------------------------------------------------------------------- PNG


def write_png(path: Path, rows: Sequence[Row], title: str = "Everlook") -> None:
    """Writes the sheet as one PNG. The hits of a long row wrap, so that it stays readable on a screen."""
    longest = max((len(row.hits) for row in rows), default=0)
    columns = -(
        -longest // max(1, -(-longest // _MOST_COLUMNS))
    )  # even lines: eight hits are two of four, not six and two
    lines = max((len(caption.splitlines()) for row in rows for caption in _captions(row)), default=1)
    cell = THUMBNAIL + 2 * _FRAME
    height = cell + 8 + lines * _LINE
    row_heights = [max(1, -(-len(row.hits) // max(columns, 1))) * (height + _GAP) + _GAP for row in rows]
    width = 2 * _PADDING + cell + (_QUERY_GAP + columns * (cell + _GAP) - _GAP if columns else 0)
    sheet = Image.new("RGB", (width, _PADDING + 58 + sum(row_heights) + _PADDING // 2), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_PADDING, _PADDING - 8), _fitted(title, 30, width - 2 * _PADDING), _TEXT, ImageFont.load_default(30))
    top = _PADDING + 58
    for number, (row, row_height) in enumerate(zip(rows, row_heights, strict=True)):
        if number:
            draw.line((_PADDING, top - _GAP, width - _PADDING, top - _GAP), "#dcdad4")
        _draw_tile(sheet, (_PADDING, top), row.query, row.caption, _QUERY, None)
        for i, (image, caption, good) in enumerate(row.hits):
            left = _PADDING + cell + _QUERY_GAP + (i % columns) * (cell + _GAP)
            frame = _CARD if good is None else _GOOD if good else _BAD
            _draw_tile(sheet, (left, top + (i // columns) * (height + _GAP)), image, caption, frame, good)
        top += row_height
    sheet.save(path, "PNG")


def _captions(row: Row) -> list[str]:
    return [row.caption, *(caption for _, caption, _ in row.hits)]


def _draw_tile(
    sheet: Image.Image, corner: tuple[int, int], image: Image.Image, caption: str, frame: str, good: bool | None
) -> None:
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    cell = THUMBNAIL + 2 * _FRAME
    draw.rounded_rectangle((left, top, left + cell - 1, top + cell - 1), 8, _CARD, frame, _FRAME)
    small = thumbnail(image)
    sheet.paste(small, (left + (cell - small.width) // 2, top + (cell - small.height) // 2))
    if good is not None:
        _draw_mark(draw, (left + cell - 19, top + 19), good)
    for i, line in enumerate(caption.splitlines()):
        spot = (left + 2, top + cell + 6 + i * _LINE)
        draw.text(spot, _fitted(line, 15, cell - 4), _FAINT if i else _TEXT, ImageFont.load_default(15))


def _draw_mark(draw: ImageDraw.ImageDraw, centre: tuple[int, int], good: bool) -> None:
    x, y = centre
    draw.ellipse((x - 12, y - 12, x + 12, y + 12), _GOOD if good else _BAD, _CARD, 2)
    if good:
        draw.line((x - 5, y, x - 1, y + 5, x + 6, y - 5), _CARD, 3, joint="curve")
    else:
        draw.line((x - 4, y - 4, x + 4, y + 4), _CARD, 3)
        draw.line((x - 4, y + 4, x + 4, y - 4), _CARD, 3)


def _fitted(text: str, size: int, width: int) -> str:
    """The text, cut in its middle where it is too wide: ends of ids tell more than their middles."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    keep = len(text)
    while keep > 2 and font.getlength(_shortened(text, keep)) > width:
        keep -= 1
    return _shortened(text, keep)


def _shortened(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}…{text[len(text) - keep // 2 :]}"


# ---------------------------------------------------------------------------------------------------- HTML


def write_html(path: Path, rows: Sequence[Row], title: str = "Everlook") -> None:
    """Writes the sheet as one HTML file: photos inside, light and dark, from a telephone to a wide screen."""
    sections = "\n".join(_section(row) for row in rows)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
{sections}
</body>
</html>
"""
    path.write_text(page, encoding="utf-8")


def _section(row: Row) -> str:
    hits = "\n".join(_figure(image, caption, good) for image, caption, good in row.hits)
    found = f'<div class="hits">\n{hits}\n</div>' if row.hits else '<p class="none">No hits.</p>'
    return f'<section>\n<div class="query">{_figure(row.query, row.caption, None)}</div>\n{found}\n</section>'


def _figure(image: Image.Image, caption: str, good: bool | None) -> str:
    kind, label = {None: ("", ""), True: ("good", "same category"), False: ("bad", "other category")}[good]
    mark = f'<span class="mark" role="img" aria-label="{label}" title="{label}"></span>' if kind else ""
    first, *more = caption.splitlines() or [""]
    lines = f"<b>{html.escape(first)}</b>" + "".join(f"<span>{html.escape(line)}</span>" for line in more)
    name = html.escape(" ".join(caption.split()), quote=True)
    photo = f'<img src="{_data_uri(image)}" alt="{name}" title="{name}" loading="lazy">'
    return f'<figure class="{kind}"><div class="photo">{photo}{mark}</div><figcaption>{lines}</figcaption></figure>'


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    thumbnail(image, 2 * THUMBNAIL).save(buffer, "JPEG", quality=85)  # twice the size, for dense screens
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_STYLE = """
:root { --page: #f6f5f2; --card: #fff; --text: #1f2328; --faint: #62676f; --line: #dcdad4;
  --good: #2c8a4b; --bad: #c8452f; --query: #2f5fd0; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --card: #22252a; --text: #e8e9eb; --faint: #9aa0a8;
  --line: #33373d; --good: #4fb874; --bad: #ef7660; --query: #7da2ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1500px; padding: clamp(14px, 3vw, 40px); background: var(--page); color: var(--text);
  font: 15px/1.4 system-ui, sans-serif; }
h1 { margin: 0 0 20px; font-size: 22px; font-weight: 650; overflow-wrap: anywhere; }
section { display: grid; grid-template-columns: minmax(150px, 210px) 1fr; gap: clamp(16px, 3vw, 40px);
  padding: 22px 0; border-top: 1px solid var(--line); }
.hits { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 16px; align-content: start; }
figure { margin: 0; min-width: 0; }
.photo { position: relative; aspect-ratio: 1; overflow: hidden; border-radius: 10px; background: var(--card);
  border: 3px solid var(--line); }
.query .photo { border-color: var(--query); }
.good .photo { border-color: var(--good); }
.bad .photo { border-color: var(--bad); }
img { display: block; width: 100%; height: 100%; object-fit: contain; }
.mark { position: absolute; top: 7px; right: 7px; width: 24px; height: 24px; border-radius: 50%; color: #fff;
  font: 700 15px/24px system-ui, sans-serif; text-align: center; }
.good .mark { background: #2c8a4b; } .good .mark::after { content: "\\2713"; }
.bad .mark { background: #c8452f; } .bad .mark::after { content: "\\2715"; }
figcaption { padding: 6px 2px 0; font-size: 13px; }
figcaption b, figcaption span { display: block; overflow-wrap: anywhere; }
figcaption b { font-size: 14px; font-weight: 600; font-variant-numeric: tabular-nums; }
figcaption span, .none { color: var(--faint); }
@media (max-width: 620px) { section { grid-template-columns: 1fr; } .query { max-width: 210px; }
  .hits { grid-template-columns: repeat(2, 1fr); gap: 12px; } }
"""
