"""A generation: one model and one index made for each other, frozen, numbered; and the one reference to what is live.

    generations/<n>/generation.json    number, model, how far the catalogue had come, when
                    ...                the files of its main segment

| crash at this step                  | found so at restart                                               |
|-------------------------------------|-------------------------------------------------------------------|
| while the staging folder is written | `.staging-*`, swept; the generation before is live                |
| after the rename, before live.json  | a whole generation that is not live: removed                      |
| after live.json, before the swap    | the new generation is live; what came since is in the catalogue   |
| while stale generations are removed | a part of one that live.json does not name: removed               |
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from typing import Any

from indexer.datadir import DataDir
from indexer.devices import Devices
from indexer.encoder import Encoder
from indexer.errors import GenerationDamaged
from indexer.files import publish_folder, write_json
from indexer.index import Segment, View
from indexer.model import Manifest

_FORMAT = 1
_MANIFEST = "generation.json"


@dataclass(frozen=True)
class GenerationInfo:
    """What generation.json says."""

    number: int
    model: str
    """The model's id."""
    seq: int
    """The change of the catalogue up to which the main segment was built."""
    created_at: float
    """Unix seconds."""


@dataclass(frozen=True, eq=False)
class Generation:
    """The only thing that can be served. Nothing in it changes."""

    info: GenerationInfo
    encoder: Encoder
    segment: Segment

    @property
    def number(self) -> int:
        return self.info.number

    @property
    def model(self) -> Manifest:
        return self.encoder.manifest


@dataclass(frozen=True, eq=False)
class Serving:
    """A generation and one snapshot of its entries. A query takes it once and uses nothing else."""

    generation: Generation
    view: View


class Live:
    """The one reference to what is served. Reading and assigning it are atomic."""

    def __init__(self, first: Serving) -> None:
        self.current = first


def publish_generation(data: DataDir, number: int, model: str, seq: int, segment: Segment) -> GenerationInfo:
    """Writes a generation, whole, and returns what it says of itself. Errors: FileExistsError, OSError."""
    info = GenerationInfo(number, model, seq, time.time())
    with publish_folder(data.generation(number)) as staging:
        segment.save(staging)
        write_json(staging / _MANIFEST, {"format": _FORMAT, **asdict(info)})
    return info


def load_info(data: DataDir, number: int) -> GenerationInfo:
    """Errors: GenerationDamaged when it is missing, unreadable, or of another format."""
    path = data.generation(number) / _MANIFEST
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != _FORMAT or raw["number"] != number:
            raise ValueError("another format or number")
        return GenerationInfo(int(raw["number"]), str(raw["model"]), int(raw["seq"]), float(raw["created_at"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GenerationDamaged(f"generation {number} cannot be read: {error}", got=path.name) from error


def load_generation(data: DataDir, number: int, devices: Devices, threads: int) -> Generation:
    """Loads model and main segment, checked against their checksums. Errors: GenerationDamaged, ModelDamaged."""
    info = load_info(data, number)
    encoder = Encoder.load(data.model(info.model), devices, threads)
    if encoder.manifest.id != info.model:
        raise GenerationDamaged(
            f"generation {number} is of another model", got=encoder.manifest.id, expected=info.model
        )
    segment = Segment.load(data.generation(number))
    if segment.dimension != encoder.manifest.dimension:
        raise GenerationDamaged(
            f"the index of generation {number} has another dimension than its model",
            got=segment.dimension,
            expected=encoder.manifest.dimension,
        )
    return Generation(info, encoder, segment)


def live_number(data: DataDir) -> int | None:
    """The number that live.json names; None before the first. Errors: GenerationDamaged."""
    if not data.live.exists():
        return None
    try:
        return int(json.loads(data.live.read_text(encoding="utf-8"))["number"])
    except (ValueError, KeyError, TypeError) as error:
        raise GenerationDamaged(f"{data.live.name} cannot be read: {error}") from error


def set_live(data: DataDir, number: int) -> None:
    """Makes `number` the one that is loaded at the next start."""
    write_json(data.live, {"number": number})


def numbers(data: DataDir) -> list[int]:
    """The generations on disk, ascending."""
    return sorted(int(path.name) for path in data.generations.iterdir() if path.name.isdigit())


def remove_stale(data: DataDir, keep: int) -> list[int]:
    """Removes all generations but the live one and the `keep` - 1 before it: also one that was published and, for a
    crash, never made live. Returns what it removed. Errors: OSError."""
    live = live_number(data)
    if live is None:
        return []
    before = [number for number in numbers(data) if number < live]
    kept = {live, *before[max(0, len(before) - (keep - 1)) :]}
    stale = [number for number in numbers(data) if number not in kept]
    for number in stale:
        shutil.rmtree(data.generation(number))
    return stale
