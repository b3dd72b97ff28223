"""A drawing as inline SVG, whose colours are the page's."""

from __future__ import annotations

import html
from collections.abc import Sequence

from clients.report.drawing import Area, Drawing, Label, Line, Mark, Shape, Spot


def svg(drawing: Drawing, kind: str = "") -> str:
    """One `<svg>` element that scales with its place. kind: a class for it.

    Colours come from the page's style: `.r-ROLE` for text and what is filled, `.s-ROLE` for strokes.
    """
    words = html.escape(drawing.words)
    size = f'viewBox="0 0 {_n(drawing.width)} {_n(drawing.height)}"'
    shapes = "\n".join(_shape(shape) for shape in drawing.shapes)
    return f'<svg class="chart {html.escape(kind)}" {size} role="img" aria-label="{words}">\n{shapes}\n</svg>'


def _shape(shape: Shape) -> str:
    match shape:
        case Line():
            dashes = ' stroke-dasharray="4 3"' if shape.dashed else ""
            line = f'points="{_spots(shape.points)}" stroke-width="{_n(shape.width)}"{dashes}'
            return f'<polyline class="s-{shape.role}" {line} fill="none" stroke-linejoin="round"/>'
        case Area():
            return f'<polygon class="r-{shape.role}" points="{_spots(shape.points)}"/>'
        case Label():
            x, y = shape.at
            weight = ' font-weight="650"' if shape.bold else ""
            place = f'x="{_n(x)}" y="{_n(y)}" font-size="{_n(shape.size)}" text-anchor="{shape.anchor}"{weight}'
            return f'<text class="r-{shape.role}" {place}>{html.escape(shape.text)}</text>'
        case Mark():
            return _mark(shape)


def _mark(mark: Mark) -> str:
    (x, y), size = mark.at, mark.size
    title = f"<title>{html.escape(mark.title)}</title>" if mark.title else ""
    match mark.form:
        case "dot":
            return f'<circle class="r-{mark.role}" cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}">{title}</circle>'
        case "ring":
            place = f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}" stroke-width="1.5"'
            return f'<circle class="s-{mark.role} hollow" {place}>{title}</circle>'
        case "square":
            place = f'x="{_n(x - size)}" y="{_n(y - size)}" width="{_n(2 * size)}" height="{_n(2 * size)}"'
            return f'<rect class="r-{mark.role}" {place}>{title}</rect>'
        case "triangle" | "hollow triangle":
            hollow = mark.form != "triangle"
            kind = f's-{mark.role} hollow" stroke-width="1.2' if hollow else f"r-{mark.role}"
            return f'<polygon class="{kind}" points="{_spots(triangle(mark))}">{title}</polygon>'


def triangle(mark: Mark) -> list[Spot]:
    """The corners of a triangle that points down at the mark's spot."""
    (x, y), size = mark.at, mark.size
    return [(x - size, y - 2 * size), (x + size, y - 2 * size), (x, y)]


def _spots(spots: Sequence[Spot]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in spots)


def _n(number: float) -> str:
    """A tenth of a pixel is as fine as a screen shows."""
    return f"{number:.1f}".removesuffix(".0")
