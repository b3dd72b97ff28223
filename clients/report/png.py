"""Drawings as a PNG, with Pillow alone: drawn at twice the size and smoothed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clients.report.drawing import Area, Drawing, Label, Line, Mark, Role, Shape, Spot
from clients.report.svg import triangle

_SCALE, _SMOOTH = 2, 2  # pixels for each CSS pixel, and how much finer is drawn
_PADDING, _GAP = 28.0, 20.0
_TITLE, _NOTE = 40.0, 22.0  # heights of the heading and of each line below it
_PAGE, _CARD = "#f6f5f2", "#ffffff"
_CARD_PADDING = 12.0
_PLAIN = {ord("−"): "-", ord("–"): "-"}  # signs that the font lacks
_COLOURS = {
    Role.TEXT: "#1f2328",
    Role.FAINT: "#62676f",
    Role.GRID: "#e4e2dd",
    Role.AXIS: "#8a8f96",
    Role.BAND: "#d5e0f7",
    Role.LINE: "#2f5fd0",
    Role.REFERENCE: "#a25a00",
    Role.SWAP: "#6b4fa0",
    Role.SWAP_LINE: "#b9a9d8",
    Role.NEW: "#2c8a4b",
    Role.OLD: "#c8452f",
    Role.WHISKER: "#1f2328",
}


def row_width(columns: int, width: float) -> float:
    """The width of one drawing that fills a row as so many do that have that width."""
    return columns * width + (columns - 1) * (2 * _CARD_PADDING + _GAP)


def write_png(path: Path, title: str, notes: Sequence[str], rows: Sequence[Sequence[Drawing]]) -> None:
    """Writes the drawings as cards, row by row, under a title and lines of explanation."""
    heights = [max(drawing.height for drawing in row) + 2 * _CARD_PADDING for row in rows]
    widths = [sum(drawing.width + 2 * _CARD_PADDING + _GAP for drawing in row) - _GAP for row in rows]
    width = max(widths) + 2 * _PADDING
    top = _PADDING + _TITLE + _NOTE * len(notes)
    height = top + sum(heights) + _GAP * (len(rows) - 1) + _PADDING
    sheet = _Sheet(width, height)
    sheet.draw(Label((_PADDING, _PADDING + 22), title, size=24, bold=True), (0, 0))
    for line, note in enumerate(notes):
        sheet.draw(Label((_PADDING, _PADDING + _TITLE + 6 + _NOTE * line), note, Role.FAINT, 13), (0, 0))
    for row, row_height in zip(rows, heights, strict=True):
        left = _PADDING
        for drawing in row:
            sheet.card(left, top, drawing.width + 2 * _CARD_PADDING, row_height)
            for shape in drawing.shapes:
                sheet.draw(shape, (left + _CARD_PADDING, top + _CARD_PADDING))
            left += drawing.width + 2 * _CARD_PADDING + _GAP
        top += row_height + _GAP
    sheet.save(path)


class _Sheet:
    """An image that takes lengths in CSS pixels."""

    def __init__(self, width: float, height: float) -> None:
        self._fine = _SCALE * _SMOOTH
        self._image = Image.new("RGB", (round(width * self._fine), round(height * self._fine)), _PAGE)
        self._draw = ImageDraw.Draw(self._image)

    def save(self, path: Path) -> None:
        self._image.reduce(_SMOOTH).save(path, "PNG")

    def card(self, left: float, top: float, width: float, height: float) -> None:
        corners = [(left, top), (left + width, top + height)]
        self._draw.rounded_rectangle(self._pixels(corners), 8 * self._fine, _CARD, "#e4e2dd", self._fine)

    def draw(self, shape: Shape, origin: Spot) -> None:
        match shape:
            case Line():
                width = max(1, round(shape.width * self._fine))
                for stroke in _dashes(shape.points) if shape.dashed else (shape.points,):
                    self._draw.line(self._pixels(stroke, origin), _COLOURS[shape.role], width, joint="curve")
            case Area():
                self._draw.polygon(self._pixels(shape.points, origin), _COLOURS[shape.role])
            case Label():
                self._label(shape, origin)
            case Mark():
                self._mark(shape, origin)

    def _label(self, label: Label, origin: Spot) -> None:
        (spot,) = self._pixels([label.at], origin)
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[label.anchor]
        font = ImageFont.load_default(label.size * self._fine)
        colour = _COLOURS[label.role]
        bold = round(0.35 * self._fine) if label.bold else 0  # the font that Pillow brings has one weight
        self._draw.text(spot, label.text.translate(_PLAIN), colour, font, anchor, stroke_width=bold, stroke_fill=colour)

    def _mark(self, mark: Mark, origin: Spot) -> None:
        colour, ((x, y),) = _COLOURS[mark.role], self._pixels([mark.at], origin)
        size, outline = mark.size * self._fine, round(1.5 * self._fine)
        around = (x - size, y - size, x + size, y + size)
        match mark.form:
            case "dot":
                self._draw.ellipse(around, colour)
            case "ring":
                self._draw.ellipse(around, _CARD, colour, outline)
            case "square":
                self._draw.rectangle(around, colour)
            case "triangle":
                self._draw.polygon(self._pixels(triangle(mark), origin), colour)
            case "hollow triangle":
                self._draw.polygon(self._pixels(triangle(mark), origin), _CARD, colour, outline)

    def _pixels(self, spots: Sequence[Spot], origin: Spot = (0.0, 0.0)) -> list[Spot]:
        left, top = origin
        return [((x + left) * self._fine, (y + top) * self._fine) for x, y in spots]


def _dashes(spots: Sequence[Spot], on: float = 4.0, off: float = 3.0) -> Iterator[list[Spot]]:
    """The strokes of a dashed line; the pattern goes on around its corners."""
    stroke, drawn, left = [spots[0]], True, on
    for (x0, y0), (x1, y1) in itertools.pairwise(spots):
        length, done = math.hypot(x1 - x0, y1 - y0), 0.0
        while length - done > left:
            done += left
            spot = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length)
            if drawn:
                yield [*stroke, spot]
            stroke, drawn = [spot], not drawn
            left = on if drawn else off
        left -= length - done
        if drawn:
            stroke.append((x1, y1))
    if drawn and len(stroke) > 1:
        yield stroke
