"""Thumbnails that stay small, and files that are whole or not there."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.report import Facts, write, write_report
from clients.report.drawing import Drawing
from clients.report.thumbnails import MOST_BYTES, data_uri, small_jpeg
from tests.clients.made_up_history import photo
from tests.clients.report.conftest import Counts, measured, swapped

NAMES = ["changes.png", "recall.png", "report.html"]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(jpeg: bytes | None) -> Image.Image:
    assert jpeg is not None
    return Image.open(io.BytesIO(jpeg), formats=["JPEG"])


def test_a_thumbnail_is_upright_and_small() -> None:
    assert opened(small_jpeg(photo(1))).size == (192, 144)
    assert opened(small_jpeg(photo(1, turned=True))).size == (192, 144)
    straight, turned = (np.asarray(opened(small_jpeg(photo(1, turned=turned))), int) for turned in (False, True))
    assert np.abs(straight - turned).mean() < 4


def test_a_thumbnail_of_noise_is_small_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 900, 3), np.uint8)
    small = small_jpeg(encoded(Image.fromarray(noise)))
    assert small is not None
    assert len(small) <= MOST_BYTES


def test_a_thumbnail_has_nothing_of_the_file_but_its_pixels() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    held = encoded(Image.new("RGB", (64, 64)), "JPEG", exif=exif, comment=b"secret" * 1000, icc_profile=b"x" * 4000)
    small = opened(small_jpeg(held))
    assert not {"exif", "comment", "icc_profile"} & set(small.info)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16"])
def test_a_thumbnail_can_be_made_of_any_mode(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert opened(small_jpeg(encoded(Image.new(mode, (300, 200)), kind))).mode == "RGB"


@pytest.mark.parametrize("data", [b"", b"no photo", photo(1)[:300]], ids=["empty", "text", "cut-off"])
def test_what_is_no_photo_has_no_thumbnail(data: bytes) -> None:
    assert small_jpeg(data) is None


def test_an_address_holds_the_file() -> None:
    assert data_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="


def test_a_report_is_a_page_and_two_pictures(facts: Facts, tmp_path: Path) -> None:
    written = write_report(facts, tmp_path / "new" / "folder")
    assert sorted(path.name for path in written.page.parent.iterdir()) == NAMES
    assert written.page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in written.pictures] == ["recall.png", "changes.png"]
    for picture in written.pictures:
        with Image.open(picture) as image:
            image.load()
            assert image.format == "PNG"


def test_pictures_that_are_no_longer_true_are_removed(fresh: Callable[..., Facts], tmp_path: Path) -> None:
    one = measured(0, 0, {None: (3, 9)})
    assert len(write_report(fresh((one, measured(5, 1, {0: (6, 9)})), (swapped(4, 1),)), tmp_path).pictures) == 2
    assert [path.name for path in write_report(fresh((one,)), tmp_path).pictures] == ["recall.png"]
    assert write_report(fresh(), tmp_path).pictures == ()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def drawn(facts: Facts, folder: Path, patch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    """The cohorts whose panels are in the picture, and its notes."""
    told: list[tuple[Sequence[str], Sequence[Sequence[Drawing]]]] = []

    def keep(path: Path, title: str, notes: Sequence[str], rows: Sequence[Sequence[Drawing]]) -> None:
        told.append((notes, rows))
        path.touch()

    patch.setattr(write, "write_png", keep)
    write_report(facts, folder)
    ((notes, (_, *rows)),) = told
    return [re.findall(r"at 1 of (.*) over time", each.words)[0] for row in rows for each in row], " ".join(notes)


@pytest.mark.parametrize(
    ("cohorts", "shown", "said"),
    [
        pytest.param(17, range(17), None, id="as many as there is room for"),
        pytest.param(18, [0, *range(2, 18)], "Left out: 1 chart, cohort 1;", id="one too many"),
        pytest.param(30, [0, *range(14, 30)], "Left out: 13 charts, cohort 1 to cohort 13;", id="many"),
    ],
)
def test_the_picture_has_the_first_cohort_and_the_newest_and_says_which_it_has_not(
    cohorts: int,
    shown: Sequence[int],
    said: str | None,
    fresh: Callable[..., Facts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: Counts = {**dict.fromkeys(range(cohorts), (8, 10)), None: (3, 9)}
    panels, notes = drawn(fresh((measured(0, cohorts, counts),)), tmp_path, monkeypatch)
    assert panels == [*(f"cohort {each}" for each in shown), "waiting"]
    assert ("Left out" in notes) == (said is not None)
    assert (said or "") in notes


def test_a_crash_while_a_file_is_written_leaves_the_report_before(
    fresh: Callable[..., Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_report(fresh(), tmp_path).page.read_bytes()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            write_report(fresh((measured(0, 0, {None: (3, 9)}),)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".recall.png.partial", "report.html"]
    assert (tmp_path / "report.html").read_bytes() == before
    write_report(fresh((measured(0, 0, {None: (3, 9)}),)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recall.png", "report.html"]


def test_a_crash_between_two_renames_leaves_each_file_whole(
    fresh: Callable[..., Facts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_report(fresh(), tmp_path).page.read_bytes()
    replace = os.replace

    def crash_at_the_page(source: Path, target: Path) -> None:
        if target.name == "report.html":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash_at_the_page)
        with pytest.raises(KeyboardInterrupt):
            write_report(fresh((measured(0, 0, {None: (3, 9)}),)), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    with Image.open(tmp_path / "recall.png") as image:
        image.load()
