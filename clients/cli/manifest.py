"""What `everlook ingest` reads: a folder of photos, or a table of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from clients.types import Item, MetadataValue

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))


class ManifestError(click.ClickException):
    """The folder or table is not one that can be ingested; the message says where and why."""

    exit_code = 2


@dataclass(frozen=True)
class Entry:
    """One item to ingest, and the path of its photo."""

    id: str
    category: str
    path: Path
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def item(self) -> Item:
        return Item(self.id, self.category, self.metadata)


def read_entries(source: Path, *, glob: str | None, prefix: str, numbers: frozenset[str]) -> list[Entry]:
    """The entries of a folder, or of a .csv or .jsonl file. Errors: ManifestError, also when an id is there twice."""
    if source.is_dir():
        entries = _folder(source, glob, prefix)
    elif source.suffix.lower() == ".csv":
        entries = _table(source, _csv_rows(source, numbers), prefix)
    elif source.suffix.lower() in (".jsonl", ".ndjson"):
        entries = _table(source, _jsonl_rows(source), prefix)
    else:
        raise ManifestError(f"{source} is neither a folder nor a .csv or .jsonl file")
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise ManifestError(f"the id {entry.id!r} is there twice")
        seen.add(entry.id)
    return entries


def _folder(root: Path, glob: str | None, prefix: str) -> list[Entry]:
    """The photos below `root`, in order. Category: the folder, relative to `root`; id: prefix and relative path."""
    found = sorted(path for path in root.rglob(glob or "*") if path.is_file())
    photos = [path for path in found if not path.name.startswith(".") and (glob or path.suffix.lower() in SUFFIXES)]
    entries = []
    for path in photos:
        relative = path.relative_to(root)
        if relative.parent == Path("."):
            raise ManifestError(f"{path} is in no category's folder; put the photos of each category into a folder")
        entries.append(Entry(prefix + relative.as_posix(), relative.parent.as_posix(), path))
    return entries


def _table(source: Path, rows: Iterable[tuple[int, dict[str, Any]]], prefix: str) -> list[Entry]:
    """Entries of rows with `category`, `path`, perhaps `id`, and metadata. Paths are relative to the table's folder."""
    entries = []
    for line, row in rows:
        texts = {name: row.pop(name, None) for name in ("id", "category", "path")}
        for name in ("category", "path"):
            if not isinstance(texts[name], str) or not texts[name]:
                raise ManifestError(f"{source}, line {line}: {name} is missing or no text: got {texts[name]!r}")
        item_id = prefix + str(texts["path"] if texts["id"] in (None, "") else texts["id"])
        metadata = {key: value for key, value in row.items() if value is not None}
        for key, value in metadata.items():
            if not isinstance(value, str | int | float | bool):
                raise ManifestError(f"{source}, line {line}: {key} is no text, number or truth value: got {value!r}")
        entries.append(Entry(item_id, str(texts["category"]), source.parent / str(texts["path"]), metadata))
    return entries


def _csv_rows(source: Path, numbers: frozenset[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of text; empty cells are left out, and the columns of `numbers` are numbers."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            columns = reader.fieldnames or []
            if missing := ({"category", "path"} | numbers) - set(columns):
                raise ManifestError(f"{source} has no column {', '.join(sorted(missing))}; it has {', '.join(columns)}")
            for row in reader:
                if "" in row:
                    raise ManifestError(f"{source}, line {reader.line_num}: more cells than the {len(columns)} columns")
                filled = {name: cell for name, cell in row.items() if cell}
                yield reader.line_num, {**filled, **_numbers(source, reader.line_num, filled, numbers)}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ManifestError(f"{source} is no CSV in UTF-8: {error}") from error


def _numbers(source: Path, line: int, row: Mapping[str, str], columns: frozenset[str]) -> dict[str, float]:
    try:
        return {name: float(row[name]) for name in columns if name in row}
    except ValueError as error:
        raise ManifestError(f"{source}, line {line}: {error}") from error


def _jsonl_rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.open("rb") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise ManifestError(f"{source}, line {line}: no JSON: {error}") from error
            if not isinstance(row, dict):
                raise ManifestError(f"{source}, line {line}: not an object")
            yield line, row
