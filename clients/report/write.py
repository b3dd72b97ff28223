"""Writing a report into a folder: the page, whole in itself, and its charts as pictures.

Each file is written aside, fsynced and renamed, so that who opens one finds it whole.

| crash at this step        | found so at restart                                                                   |
|---------------------------|---------------------------------------------------------------------------------------|
| while a file is written   | the report before, whole, and a `.NAME.partial`, which the next report writes anew    |
| between two renames       | pictures of this report beside the page of the one before; the page needs none of them |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.report.change_chart import change_chart
from clients.report.figures import Series, changes_of, series_of, together
from clients.report.gather import Facts
from clients.report.page import page
from clients.report.png import row_width, write_png
from clients.report.recall_chart import PANEL, WIDE, chart_of_all, cohort_charts
from clients.report.words import counted, day_and_minute

PAGE, RECALL, CHANGES = "report.html", "recall.png", "changes.png"
_COLUMNS = 3
MOST_PANELS = 6 * _COLUMNS  # of cohorts in the picture; the page has all


@dataclass(frozen=True)
class Written:
    """Where a report is: its page, and those pictures that there was something to draw in."""

    page: Path
    pictures: tuple[Path, ...]


def write_report(facts: Facts, folder: Path) -> Written:
    """Writes the report, in place of one that is there already. Errors: OSError when the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [picture for picture in (_recall(facts, folder), _changes(facts, folder)) if picture is not None]
    text = page(facts)
    return Written(_replace(folder / PAGE, lambda path: _write_text(path, text)), tuple(pictures))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _recall(facts: Facts, folder: Path) -> Path | None:
    measurements, swaps = facts.history.measurements, facts.history.swaps
    series, everything = series_of(measurements), together(measurements)
    if not series:
        (folder / RECALL).unlink(missing_ok=True)
        return None
    shown = _shown(series)
    panels = cohort_charts(shown, everything, swaps)
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    rows.insert(0, [chart_of_all(everything, swaps, (row_width(_COLUMNS, PANEL[0]), WIDE[1]))])
    notes = (
        f"{facts.server}, {day_and_minute(facts.made_at)} UTC. All times are UTC.",
        "Line and band: the share of probes that find their own category first, with its 95 % bounds. Dashed: the same "
        "when the stage went live.",
        "Triangles: swaps of the model; hollow: back or forward to one that was live before.",
        *_left_out(series[1 : 1 + len(series) - len(shown)]),
    )
    return _replace(folder / RECALL, lambda path: write_png(path, "Everlook: recall by cohort", notes, rows))


def _shown(series: Sequence[Series]) -> Sequence[Series]:
    """Those that the picture has room for: the first, in which forgetting shows the longest, and the newest, as those
    with a label of their own on the metrics page."""
    return series if len(series) <= MOST_PANELS else [series[0], *series[1 - MOST_PANELS :]]


def _left_out(between: Sequence[Series]) -> list[str]:
    """A note on those for which there was no room."""
    if not between:
        return []
    names = between[0].name if len(between) == 1 else f"{between[0].name} to {between[-1].name}"
    return [f"Left out: {counted(len(between), 'chart')}, {names}; {PAGE} has all."]


def _changes(facts: Facts, folder: Path) -> Path | None:
    changes = [each for each in changes_of(facts.history, facts.since) if each.learning or each.forgetting]
    if not changes:
        (folder / CHANGES).unlink(missing_ok=True)
        return None
    notes = (
        "Change of Recall@1, in percentage points, from just before each swap to just after it, with 95 % bounds.",
    )
    rows = [[change_chart(changes)]]
    return _replace(
        folder / CHANGES, lambda path: write_png(path, "Everlook: forgetting against learning", notes, rows)
    )


def _replace(path: Path, write: Callable[[Path], None]) -> Path:
    aside = path.with_name(f".{path.name}.partial")
    write(aside)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(aside, path)
    return path
