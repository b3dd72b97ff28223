from __future__ import annotations

import html.parser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.contact_sheet import THUMBNAIL, Row, Tile, thumbnail, write_html, write_png

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 60), (30, 60, 220)


def square(colour: tuple[int, int, int], size: tuple[int, int] = (300, 300)) -> Image.Image:
    return Image.new("RGB", size, colour)


def row(hits: int, good: bool | None = None) -> Row:
    tiles: list[Tile] = [(square(BLUE), f"{n}\nblue\nid {n}", good) for n in range(hits)]
    return Row(square(RED), "Query\nred", tiles)


def columns_of(path: Path, colour: tuple[int, int, int], least: int = THUMBNAIL // 2) -> list[int]:
    """Where photos of one colour begin, from left to right, in the line of the sheet that has most of it."""
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"), np.int16)
    here = np.abs(pixels - np.array(colour)).max(axis=2) < 12
    line = here[here.sum(axis=1).argmax()]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
    return [int(start) for start, end in edges.reshape(-1, 2) if end - start >= least]


@pytest.mark.parametrize(("hits", "in_a_line"), [(1, 1), (6, 6), (8, 4), (10, 5), (13, 5)])
def test_the_query_stands_left_of_its_hits_in_even_lines(tmp_path: Path, hits: int, in_a_line: int) -> None:
    write_png(tmp_path / "sheet.png", [row(hits)])
    (query,) = columns_of(tmp_path / "sheet.png", RED)
    found = columns_of(tmp_path / "sheet.png", BLUE)
    assert len(found) == in_a_line
    assert query < min(found)


def test_each_row_has_its_own_lines(tmp_path: Path) -> None:
    write_png(tmp_path / "one.png", [row(3)])
    write_png(tmp_path / "three.png", [row(3)] * 3)
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert one.width == three.width
        assert three.height > one.height + 2 * THUMBNAIL


@pytest.mark.parametrize(("good", "mark"), [(True, (44, 138, 75)), (False, (200, 69, 47))], ids=["good", "bad"])
def test_a_hit_is_framed_by_whether_it_is_good(tmp_path: Path, good: bool, mark: tuple[int, int, int]) -> None:
    write_png(tmp_path / "marked.png", [row(1, good)])
    write_png(tmp_path / "unmarked.png", [row(1, None)])

    def count(name: str) -> int:
        with Image.open(tmp_path / name) as sheet:
            return int((np.asarray(sheet.convert("RGB")) == mark).all(axis=2).sum())

    assert count("marked.png") > 4 * THUMBNAIL
    assert count("unmarked.png") == 0


@pytest.mark.parametrize("rows", [[], [Row(square(RED), "Query", [])]], ids=["no rows", "no hits"])
def test_a_sheet_may_be_empty(tmp_path: Path, rows: list[Row]) -> None:
    write_png(tmp_path / "sheet.png", rows)
    write_html(tmp_path / "sheet.html", rows)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > THUMBNAIL


def test_a_caption_that_is_too_wide_is_cut_in_its_middle(tmp_path: Path) -> None:
    wide = Row(square(RED), "Query", [(square(BLUE), "an id that goes on and on " * 20, None)])
    write_png(tmp_path / "wide.png", [wide])
    write_png(tmp_path / "narrow.png", [Row(square(RED), "Query", [(square(BLUE), "short", None)])])
    with Image.open(tmp_path / "wide.png") as one, Image.open(tmp_path / "narrow.png") as other:
        assert one.size == other.size


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
def test_photos_of_any_mode_are_shown(mode: str) -> None:
    image = Image.new("RGB", (40, 90), "red").convert("L" if mode == "I;16" else "RGB").convert(mode)
    small = thumbnail(image, 60)
    assert (small.mode, max(small.size)) == ("RGB", 60)


def test_a_transparent_photo_stands_on_white() -> None:
    assert thumbnail(Image.new("RGBA", (10, 10), (255, 0, 0, 0)), 8).getpixel((4, 4)) == (255, 255, 255)


def test_a_photo_is_turned_upright() -> None:
    image = square(RED, (90, 30))
    image.getexif()[0x0112] = 6
    assert thumbnail(image, 60).size == (20, 60)


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script>\"&"
    rows = [Row(square(RED), f"Query\n{nasty}", [(square(BLUE), f"1\n{nasty}", True), (square(GREEN), nasty, False)])]
    write_html(tmp_path / "sheet.html", rows, nasty)
    source = (tmp_path / "sheet.html").read_text()
    page = _Page()
    page.feed(source)
    assert "script" not in page.tags
    assert page.text.count(nasty) == 5
    assert len(page.sources) == 3
    assert all(value.startswith("data:image/jpeg;base64,") for value in page.sources)
    assert "url(" not in source
    assert "prefers-color-scheme: dark" in source
    assert 'name="viewport"' in source
