"""A chart of recall at several moments, as a PNG, with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT = 1120, 620
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 40, 132, 96
_BACKGROUND, _TEXT, _FAINT, _GRID = "#f6f5f2", "#1f2328", "#6b7078", "#dcdad4"
_COLOURS = ("#2f5fd0", "#c8452f", "#2c8a4b")  # told apart by their markers too
_STEP = 20  # percent between lines of the grid


def write_recall_chart(
    path: Path, title: str, moments: Sequence[str], groups: Mapping[str, Sequence[float | None]]
) -> None:
    """Recall (0 to 1) of each group at each moment, joined by lines; None where a group was not there yet."""
    chart = Image.new("RGB", (_WIDTH, _HEIGHT), _BACKGROUND)
    draw = ImageDraw.Draw(chart)
    draw.text((_LEFT, 30), title, _TEXT, ImageFont.load_default(28))
    for percent in range(0, 101, _STEP):
        y = _y(percent / 100)
        draw.line((_LEFT, y, _WIDTH - _RIGHT, y), _GRID)
        draw.text((_LEFT - 14, y), f"{percent} %", _FAINT, ImageFont.load_default(15), anchor="rm")
    columns = [_x(at, len(moments)) for at in range(len(moments))]
    for x, moment in zip(columns, moments, strict=True):
        draw.multiline_text(
            (x, _HEIGHT - _BOTTOM + 18), moment, _TEXT, ImageFont.load_default(15), anchor="ma", align="center"
        )
    highest = [highest_of(recalls) for recalls in zip(*groups.values(), strict=True)]
    for number, (group, recalls) in enumerate(groups.items()):
        points = [
            (x, recall, number == top)
            for x, recall, top in zip(columns, recalls, highest, strict=True)
            if recall is not None
        ]
        _draw_group(draw, number, group, points)
    chart.save(path, "PNG")


def highest_of(recalls: Sequence[float | None]) -> int | None:
    """The group with the highest recall at a moment, the first of equal ones: its figure stands above its point, those
    of the others below theirs, so that no two meet between two points."""
    known = [number for number, recall in enumerate(recalls) if recall is not None]
    return max(known, key=lambda number: recalls[number] or 0.0, default=None)


def _draw_group(draw: ImageDraw.ImageDraw, number: int, name: str, points: Sequence[tuple[float, float, bool]]) -> None:
    """points: x, recall, and whether the figure stands above."""
    colour = _COLOURS[number % len(_COLOURS)]
    legend = (_LEFT + 8 + 300 * number, 96)
    _marker(draw, number, *legend, colour)
    draw.text((legend[0] + 16, legend[1]), name, _TEXT, ImageFont.load_default(17), anchor="lm")
    draw.line([(x, _y(recall)) for x, recall, _ in points], colour, 3)
    for x, recall, above in points:
        y = _y(recall)
        _marker(draw, number, x, y, colour)
        draw.text(
            (x, y - 12 if above else y + 12),
            f"{100 * recall:.1f}",
            colour,
            ImageFont.load_default(16),
            anchor="ms" if above else "mt",
        )


def _marker(draw: ImageDraw.ImageDraw, number: int, x: float, y: float, colour: str) -> None:
    if number % 3 == 0:
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), colour)
    elif number % 3 == 1:
        draw.rectangle((x - 6, y - 6, x + 6, y + 6), colour)
    else:
        draw.polygon([(x, y - 8), (x - 8, y + 6), (x + 8, y + 6)], colour)


def _x(at: int, count: int) -> float:
    inner = _WIDTH - _LEFT - _RIGHT
    return _LEFT + inner * (at + 0.5) / count


def _y(recall: float) -> float:
    return _HEIGHT - _BOTTOM - recall * (_HEIGHT - _TOP - _BOTTOM)
