"""A generation: one model and one index made for each other, frozen, numbered; and the one reference to what is live.

    generations/<n>/generation.json    number, model, how far the catalogue had come, when, and gates
                    ...                the files of its main segment
    generations/last.json              the last number that was given to one: none is given twice
    verdicts/<n>.json                  what the server measured before it went live, or why it never will
    live.json                          which is live, and which have been

| crash at this step                  | found so at restart                                               |
|-------------------------------------|-------------------------------------------------------------------|
| while the staging folder is written | `.staging-*`, swept; the generation before is live                |
| after last.json, before the rename  | the same; that number is never given to another                   |
| after the rename, before live.json  | a whole generation that is not live: of the live model, removed;  |
|                                     | of a candidate, taken up again                                    |
| after live.json, before the swap    | the new generation is live; what came since is in the catalogue   |
| while stale generations are removed | a part of one that live.json does not name: removed               |

Two programs publish generations, the server its merges and the indexer its candidates: a lock, which the kernel
releases when they die, gives the next number to one at a time.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from indexer.datadir import DataDir
from indexer.devices import Devices
from indexer.encoder import Encoder
from indexer.errors import Damaged, GenerationDamaged
from indexer.files import STAGING, fsync_path, publish_folder, sweep, write_json
from indexer.gates import Gate, from_json, load_gates, passed, to_json
from indexer.index import Segment, View
from indexer.lineage import load_lineage
from indexer.model import Manifest, load_manifest

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
    gates: tuple[Gate, ...] = ()
    """What was measured of the index when it was published."""


class State(enum.Enum):
    """Where a generation stands."""

    CANDIDATE = "candidate"  # it passed what was measured so far, and has not been live
    LIVE = "live"
    PREVIOUS = "previous"  # it was live, and can be again
    REJECTED = "rejected"  # it failed a gate, and is never served


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


@contextlib.contextmanager
def publishing(data: DataDir) -> Iterator[None]:
    """Holds the right to publish generations, in this data directory and among all programs."""
    fd = os.open(data.generations, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sweep_generations(data: DataDir) -> None:
    """Removes what killed programs left unfinished."""
    with publishing(data):
        sweep(data.generations)


def publish_generation(
    data: DataDir, model: str, seq: int, segment: Segment, gates: Sequence[Gate] = (), *, above: int = 0
) -> GenerationInfo:
    """Writes a generation, whole, under the next number, and returns what it says of itself.

    above  a number that was given, where all files that say so may be lost. Errors: OSError
    """
    with publishing(data):
        info = GenerationInfo(max(_next_number(data), above + 1), model, seq, time.time(), tuple(gates))
        note_number = partial(write_json, data.last_generation, {"number": info.number})
        with publish_folder(data.generation(info.number), check=note_number) as staging:
            segment.save(staging)
            write_json(staging / _MANIFEST, {"format": _FORMAT, **asdict(info), "gates": to_json(info.gates)})
    return info


def _next_number(data: DataDir) -> int:
    """Above every number that was ever given: what was read under a number stays true of it after its generation is
    gone. Where last.json is lost, above every one that is there, or that live.json or a verdict still names. Where all
    of them are, as in a restored backup, the catalogue's history knows (`publish_generation`, above)."""
    named: tuple[int, ...] = ()
    with contextlib.suppress(GenerationDamaged):  # the server rebuilds what is live, and names it anew
        live = read_live(data)
        named = (live.number, *live.been_live) if live else ()
    return max((_last_number(data), *numbers(data), *named, *_judged(data))) + 1


def _last_number(data: DataDir) -> int:
    """The last number that was given; 0 where that is not known."""
    try:
        return int(json.loads(data.last_generation.read_text(encoding="utf-8"))["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def load_info(data: DataDir, number: int) -> GenerationInfo:
    """Errors: GenerationDamaged when it is missing, unreadable, or of another format."""
    path = data.generation(number) / _MANIFEST
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != _FORMAT or raw["number"] != number:
            raise ValueError("another format or number")
        return GenerationInfo(
            int(raw["number"]), str(raw["model"]), int(raw["seq"]), float(raw["created_at"]), from_json(raw["gates"])
        )
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


@dataclass(frozen=True)
class LiveFile:
    """The content of live.json."""

    number: int
    model: str
    """The id of its model."""
    been_live: tuple[int, ...]
    """The numbers that were live before, the last one last; those that are still there."""
    models: tuple[str, ...]
    """The ids of all models that have been live, or are: none of them is ever a candidate again."""


def read_live(data: DataDir) -> LiveFile | None:
    """None before the first generation went live. Errors: GenerationDamaged."""
    if not data.live.exists():
        return None
    try:
        raw = json.loads(data.live.read_text(encoding="utf-8"))
        return LiveFile(
            int(raw["number"]), str(raw["model"]), tuple(map(int, raw["been_live"])), tuple(map(str, raw["models"]))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GenerationDamaged(f"{data.live.name} cannot be read: {error}") from error


def live_number(data: DataDir) -> int | None:
    """The number that live.json names; None before the first. Errors: GenerationDamaged."""
    live = read_live(data)
    return None if live is None else live.number


def live_model(data: DataDir) -> str | None:
    """The id of the live generation's model; None before the first. Errors: GenerationDamaged."""
    live = read_live(data)
    while live is not None:
        try:
            return load_info(data, live.number).model
        except GenerationDamaged:
            meanwhile = read_live(data)
            if meanwhile == live:
                raise
            live = meanwhile  # another went live between the two looks, and the one before was removed
    return None


def set_live(data: DataDir, number: int, been: Iterable[str] = ()) -> None:
    """Makes `number` the one that is loaded at the next start.

    been  ids of models that are known to have been live, where live.json may have been lost. Errors: GenerationDamaged
    """
    try:
        live = read_live(data)
    except GenerationDamaged:
        live = None
    model, there = load_info(data, number).model, set(numbers(data))
    before = [each for each in (*live.been_live, live.number) if each != number and each in there] if live else []
    models = list(dict.fromkeys([*been, *(live.models if live else ()), model]))
    write_json(data.live, {"number": number, "model": model, "been_live": before, "models": models})


def numbers(data: DataDir) -> list[int]:
    """The generations on disk, ascending."""
    return sorted(int(path.name) for path in data.generations.iterdir() if path.name.isdigit())


def _judged(data: DataDir) -> list[int]:
    """The generations that have a verdict, whether they are there or not."""
    return [int(path.stem) for path in data.verdicts.glob("*.json") if path.stem.isdigit()]


def write_verdict(data: DataDir, number: int, gates: Sequence[Gate]) -> None:
    """Records what was measured of a generation before it was to go live."""
    write_json(data.verdict(number), to_json(gates))


def gates_of(data: DataDir, info: GenerationInfo) -> tuple[Gate, ...]:
    """All that was measured: of its model by the trainer, of its index, and by the server. Errors: Damaged."""
    return (*load_gates(data.model(info.model)), *info.gates, *verdict_of(data, info.number))


def verdict_of(data: DataDir, number: int) -> tuple[Gate, ...]:
    """What the server measured of a generation; nothing before that. Errors: GenerationDamaged."""
    path = data.verdict(number)
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GenerationDamaged(f"{path.name} cannot be read: {error}", got=path.name) from error


def state_of(data: DataDir, info: GenerationInfo) -> State:
    """Where a generation stands. Errors: Damaged."""
    live = read_live(data)
    if live is not None and info.number == live.number:
        return State.LIVE
    if not passed(gates_of(data, info)):
        return State.REJECTED
    return State.PREVIOUS if live is not None and info.number in live.been_live else State.CANDIDATE


def candidate_model(data: DataDir) -> Manifest | None:
    """The model to make a generation of: the newest that was taught from the live one and has passed its gates, where
    it has no generation and has not been live. Older ones are never taken up: what came after them knows more.

    Errors: GenerationDamaged when it cannot be told what is live.
    """
    live, current = read_live(data), live_model(data)
    if live is None or current is None:
        return None
    taught = []
    for folder in data.model_folders():
        with contextlib.suppress(Damaged):
            manifest, lineage = load_manifest(folder, verify=False), load_lineage(folder)
            if lineage.base == current and passed(load_gates(folder)):
                taught.append((lineage.training, manifest.created_at, manifest))
    if not taught:
        return None
    newest = max(taught, key=lambda each: each[:2])[2]
    return None if newest.id in live.models or newest.id in models_with_generation(data) else newest


def candidate_generation(data: DataDir) -> GenerationInfo | None:
    """The generation to make live by itself: the newest that is a candidate, whose model was taught from the live one
    and has not been live: what was rolled back stays so. Errors: GenerationDamaged when it cannot be told what is live.
    """
    live, current = read_live(data), live_model(data)
    if live is None or current is None:
        return None
    for info in reversed(_infos(data)):
        with contextlib.suppress(Damaged):
            if info.model not in live.models and _is_candidate(data, info, current):
                return info
    return None


def _is_candidate(data: DataDir, info: GenerationInfo, current: str) -> bool:
    """Whether it may go live, and was taught from the `current` live model. Errors: Damaged."""
    return load_lineage(data.model(info.model)).base == current and state_of(data, info) is State.CANDIDATE


def previous_generation(data: DataDir) -> GenerationInfo | None:
    """The generation to go back to: the newest of the model that the live one was taught from, or of that one's, and
    so on. Errors: Damaged."""
    infos, model, seen = _infos(data), live_model(data), set[str]()
    while model and model not in seen:
        seen.add(model)
        model = load_lineage(data.model(model)).base
        of_model = [info for info in infos if info.model == model and state_of(data, info) is State.PREVIOUS]
        if of_model:
            return of_model[-1]
    return None


def models_with_generation(data: DataDir) -> set[str]:
    """The ids of the models of the generations that can be read."""
    return {info.model for info in _infos(data)}


def _infos(data: DataDir) -> list[GenerationInfo]:
    """Those of the generations that can be read, ascending."""
    found = []
    for number in numbers(data):
        with contextlib.suppress(GenerationDamaged):
            found.append(load_info(data, number))
    return found


def remove_stale(data: DataDir, keep: int) -> list[int]:
    """Removes what is of no use any more, and returns it. Errors: OSError, GenerationDamaged.

    What stays: the live generation; the newest that was live of each of the `keep` - 1 models that were live last;
    candidates that were taught from the live model, and the newest rejected one, for its reasons to be seen. A
    generation of the live model that is not live is a merge that was overtaken, or cut off by a kill.
    """
    with publishing(data):  # so that nothing is published after the look at what is there
        sweep(data.generations)
        live, current = read_live(data), live_model(data)
        if live is None or current is None:
            return []
        kept = _kept(data, live, current, keep)
        stale = [number for number in numbers(data) if number not in kept]
        for number in stale:
            _remove(data, number)
        for number in set(_judged(data)).difference(numbers(data)):
            data.verdict(number).unlink()
    return stale


def _kept(data: DataDir, live: LiveFile, current: str, keep: int) -> set[int]:
    infos = {info.number: info for info in _infos(data)}
    last: dict[str, int] = {}  # of each model the generation that was live last, in the order of that
    for number in live.been_live:
        if number in infos and (model := infos[number].model) != current:
            last.pop(model, None)
            last[model] = number
    kept = {live.number, *list(last.values())[max(0, len(last) - keep + 1) :]}
    rejected: list[int] = []
    for info in infos.values():
        with contextlib.suppress(Damaged):
            if info.model not in live.models and _is_candidate(data, info, current):
                kept.add(info.number)
            if state_of(data, info) is State.REJECTED:
                rejected.append(info.number)
    return kept.union(rejected[-1:])


def _remove(data: DataDir, number: int) -> None:
    """First under a name that nobody reads, so that no half of it is ever taken for a generation."""
    aside = data.generations / f"{STAGING}stale-{number:08d}"
    data.generation(number).rename(aside)
    fsync_path(data.generations)
    shutil.rmtree(aside)
