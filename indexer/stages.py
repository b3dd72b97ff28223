"""Stages: which new categories wait, when they are ripe, and what each training was given and came to.

    stages/<n>/stage.json     what training n was given: base model, categories, photos; never edited
               photos/<sha>   its training photos, and no others; removed when it has ended
               outcome.json   what came of it; without it the training is under way
               ...            what the trainer needs to go on after a kill
    requests/train.json       an operator asks for a training
             cancel.json      an operator asks to stop one

A category is new as long as the served model has not learned it (`indexer.lineage`). Photos that come for it while it
is being trained do not join; they are found at once, like those that come later for a category that was learned.

| crash at this step                | found so at restart                                                          |
|-----------------------------------|------------------------------------------------------------------------------|
| while photos are written          | `.staging-*`, which nobody reads, and which the next trainer sweeps          |
| the same, for a request           | the same; it begins anew if the request still stands just before the rename  |
| after the rename                  | a training that has begun: it goes on                                        |
| before or while outcome.json      | the same                                                                     |
| after it, before photos are removed | a training that has ended; the next start removes what it left             |
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.errors import EverlookError, InvalidField, ItemNotFound, NotReady, PhotoDamaged
from indexer.files import publish_folder, write_json
from indexer.gates import Gate, from_json, to_json
from indexer.probes import is_probe

log = logging.getLogger(__name__)

PHOTOS: Final = "photos"
GATHERS: Final = "gathers the photos of"  # how a trainer that is about to begin says so
CHECKPOINT: Final = "checkpoint.pt"  # what the trainer goes on from
OVERTAKEN: Final = "another model went live meanwhile than the one that it was taught from"  # why it was cancelled

_STAGE: Final = "stage.json"
_OUTCOME: Final = "outcome.json"
_FORMAT: Final = 1
_LEAST_CATEGORIES: Final = 2  # with fewer there is nothing to tell apart
_MOST_SETTLING: Final = 30  # times `settle_s`, after which a stage begins although its photos keep coming
_LEAST_PHOTOS: Final = 2  # with fewer a category has no pair of photos


@dataclass(frozen=True)
class StageRule:
    """When new categories are ripe to be learned."""

    min_categories: int = 20
    min_photos: int = 8  # training photos of a category, below which it goes on waiting
    wait_s: float = 24 * 3600.0  # after which two categories are enough
    settle_s: float = 20.0  # since the last photo of any of them, so that an ingest under way is not cut in two

    def __post_init__(self) -> None:
        for name, least in (("min_categories", _LEAST_CATEGORIES), ("min_photos", _LEAST_PHOTOS)):
            if getattr(self, name) < least:
                raise InvalidField(
                    f"{name} is too small to learn from", field=name, got=getattr(self, name), expected=f">= {least}"
                )


@dataclass(frozen=True)
class Waiting:
    """A category that the served model has not learned."""

    name: str
    photos: tuple[str, ...]  # SHA-256 of those to train on, each once, oldest first
    probes: int  # items held out
    since: float  # Unix seconds when an item of it was changed first, of those times that the catalogue still knows
    latest: float  # when one was changed last; `trainer.sightings` knows of photos alone


@dataclass(frozen=True)
class Training:
    """What a training is given: the content of stage.json."""

    number: int  # of the training; a stage that fails is tried again under the next number
    stage: int  # that it teaches: the cohort that its categories will be
    base: str  # id of the model that it starts from, which was served when it began
    categories: tuple[str, ...]
    photos: tuple[tuple[str, int], ...] = field(repr=False)  # SHA-256, and an index into `categories`
    seq: int  # the catalogue's last change when it began
    reason: str  # why it began
    request: str = ""  # id of the request that asked for it
    created_at: float = 0.0  # Unix seconds


State = Literal["published", "rejected", "cancelled", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What came of a training: the content of outcome.json."""

    state: State
    reason: str
    model: str = ""  # id of the model that it published, which only goes live when `state` is "published"
    gates: tuple[Gate, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)  # steps, seconds and the like
    finished_at: float = 0.0  # Unix seconds


@dataclass(frozen=True)
class Request:
    """An operator's wish to train now."""

    id: str
    categories: tuple[str, ...] = ()  # empty: all that wait


# ------------------------------------------------------------------------------------------------ waiting and ripeness


def waiting(catalogue: Catalogue, learned: Collection[str], damaged: Collection[str] = ()) -> list[Waiting]:
    """The categories that are not among `learned`, by name, with what could be trained on: not the photos `damaged`.

    A photo that is also a probe's, of whatever category, is never trained on.
    """
    names: list[str] = []
    after = ""
    while page := catalogue.categories(1000, after):
        names += [count.name for count in page if count.name not in learned]
        after = page[-1].name
    found: dict[str, list[tuple[str, str, float]]] = {name: [] for name in names}
    for item in catalogue.items_of(names):
        found[item.category].append((item.id, item.image_sha256, item.updated_at))
    left_out = _held_out(catalogue, {sha for items in found.values() for _, sha, _ in items}).union(damaged)
    return [_waiting(name, items, left_out) for name, items in sorted(found.items()) if items]


def _held_out(catalogue: Catalogue, shas: Iterable[str]) -> set[str]:
    """Those of these photos that are a probe's, of whatever category."""
    return {sha for sha, id in catalogue.ids_showing(shas) if is_probe(id)}


def _waiting(name: str, items: Sequence[tuple[str, str, float]], left_out: Collection[str]) -> Waiting:
    photos = dict.fromkeys(sha for id, sha, _ in items if not is_probe(id) and sha not in left_out)
    times = [at for _, _, at in items]
    return Waiting(name, tuple(photos), sum(is_probe(id) for id, _, _ in items), min(times), max(times))


def ripe(
    waiting: Iterable[Waiting], rule: StageRule, now: float, tried: Collection[str] = ()
) -> tuple[list[Waiting], str] | None:
    """The categories that make a stage now, and why; None while none does. `now` is in Unix seconds.

    `tried` are categories of trainings that came to nothing (`tried_in_vain`). They join a stage and bring none about:
    the same photos would fail again. New categories, or a request, give them their next chance.
    """
    enough = [each for each in waiting if len(each.photos) >= rule.min_photos]
    fresh = sorted(each.since for each in enough if each.name not in tried)
    if not fresh or len(enough) < _LEAST_CATEGORIES:
        return None
    if len(fresh) >= rule.min_categories:
        due = fresh[rule.min_categories - 1]
        reason = f"{len(fresh)} new categories have at least {rule.min_photos} training photos each"
    else:
        due = fresh[0] + rule.wait_s
        hours = (now - fresh[0]) / 3600
        reason = f"{len(fresh)} new categories, the first of which has waited for {hours:.1f} hours"
    settled = now - max(each.latest for each in enough) >= rule.settle_s
    return (enough, reason) if now >= due and (settled or now - due >= _MOST_SETTLING * rule.settle_s) else None


def requested(waiting: Iterable[Waiting], request: Request) -> list[Waiting]:
    """The categories that an operator's request makes a stage of. Errors: InvalidField when they are no stage."""
    known = {each.name: each for each in waiting}
    if absent := [name for name in request.categories if name not in known]:
        raise InvalidField(
            f"{absent[0]!r} is no category that waits to be learned", field="categories", got=absent[0], expected="new"
        )
    chosen = [known[name] for name in dict.fromkeys(request.categories)] if request.categories else list(known.values())
    enough = [each for each in chosen if len(each.photos) >= _LEAST_PHOTOS]
    if request.categories and len(enough) < len(chosen):
        few = next(each for each in chosen if len(each.photos) < _LEAST_PHOTOS)
        raise InvalidField(
            f"category {few.name!r} has too few training photos",
            field="categories",
            got=len(few.photos),
            expected=f"at least {_LEAST_PHOTOS}",
        )
    if len(enough) < _LEAST_CATEGORIES:
        raise InvalidField(
            "too few new categories have the photos to be learned",
            field="categories",
            got=len(enough),
            expected=f"at least {_LEAST_CATEGORIES}, with {_LEAST_PHOTOS} training photos each",
        )
    return enough


# ------------------------------------------------------------------------------------------------ trainings on disk


def begin(
    data: DataDir,
    catalogue: Catalogue,
    chosen: Sequence[Waiting],
    *,
    stage: int,
    base: str,
    reason: str,
    request: str = "",
    damaged: set[str] | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Training:
    """Gives the next training its categories and copies of their photos, which from now on are all that it can read.

    A photo that was deleted, became a probe's or was damaged since it was chosen is left out, and so is a category that
    has too few left. `damaged` gets the photos that were damaged; `tick` hears how many photos are done, of how many.

    Errors: InvalidField when fewer than two categories remain; NotReady when `request` was withdrawn; OSError.
    """
    damaged = set() if damaged is None else damaged
    number = max(numbers(data), default=0) + 1
    categories: list[str] = []
    photos: list[tuple[str, int]] = []
    seq, done, total = catalogue.last_seq, 0, sum(len(each.photos) for each in chosen)

    def check() -> None:
        if request and not _stands(data, request):
            raise NotReady("the request was withdrawn before its photos were gathered")

    with publish_folder(data.stage(number), check) as staging:
        folder = staging / PHOTOS
        folder.mkdir()
        for each in sorted(chosen, key=lambda each: each.name):
            held_out, copied = _held_out(catalogue, each.photos), list[str]()
            for sha in each.photos:
                tick(done, total)
                done += 1
                if sha not in held_out and _copied(catalogue, sha, folder, damaged):
                    copied.append(sha)
            if len(copied) >= _LEAST_PHOTOS:
                photos += [(sha, len(categories)) for sha in copied]
                categories.append(each.name)
            else:
                for sha in set(copied).difference(sha for sha, _ in photos):
                    (folder / sha).unlink()
        if len(categories) < _LEAST_CATEGORIES:
            raise InvalidField(
                "too few categories are left to learn", field="categories", got=len(categories), expected="at least 2"
            )
        training = Training(
            number, stage, base, tuple(categories), tuple(photos), seq, reason, request, created_at=time.time()
        )
        write_json(staging / _STAGE, {"format": _FORMAT, **asdict(training)})
    return training


def _copied(catalogue: Catalogue, sha256: str, folder: Path, damaged: set[str]) -> bool:
    try:
        (folder / sha256).write_bytes(catalogue.photo(sha256).data)
    except ItemNotFound:
        return False
    except PhotoDamaged as error:
        leave_out(error, damaged)
        return False
    return True


def leave_out(error: PhotoDamaged, damaged: set[str]) -> None:
    """Adds a photo to those that are `damaged`, and says so once."""
    if error.expected not in damaged:
        damaged.add(error.expected)
        log.warning("%s; it is left out, for training and for probes", error)


def end(data: DataDir, training: Training, outcome: Outcome) -> None:
    """Records what came of a training, and removes its photos and whatever else only it needed."""
    folder = data.stage(training.number)
    content = {"format": _FORMAT, **asdict(outcome), "gates": to_json(outcome.gates), "finished_at": time.time()}
    write_json(folder / _OUTCOME, content)
    tidy(data, training.number)


def tidy(data: DataDir, number: int) -> None:
    """Removes what a training that has ended left."""
    folder = data.stage(number)
    if not (folder / _OUTCOME).exists():
        return
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (_STAGE, _OUTCOME):
            path.unlink()


def numbers(data: DataDir) -> list[int]:
    """The trainings there have been, ascending."""
    return sorted(int(path.name) for path in data.stages.iterdir() if path.name.isdigit())


def load(data: DataDir, number: int) -> tuple[Training, Outcome | None]:
    """A training, and what came of it; None while it is under way. Errors: EverlookError when it cannot be read."""
    folder = data.stage(number)
    try:
        raw = _read(folder / _STAGE)
        photos = tuple((str(sha), int(label)) for sha, label in raw.pop("photos"))
        training = Training(**{**raw, "categories": tuple(raw["categories"]), "photos": photos})
        if not (folder / _OUTCOME).exists():
            return training, None
        ended = _read(folder / _OUTCOME)
        if ended["state"] not in get_args(State):
            raise ValueError(f"unknown state {ended['state']}")
        return training, Outcome(**{**ended, "gates": from_json(ended["gates"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EverlookError(f"training {number} cannot be read: {error}", got=error) from error


def has_ended(data: DataDir, number: int) -> bool:
    """Whether something has come of a training."""
    return (data.stage(number) / _OUTCOME).exists()


def tried_in_vain(data: DataDir, learned: Collection[str]) -> set[str]:
    """Categories that a training was given and that the served model has not learned all the same.

    Not those of a training that was overtaken: it says nothing of them. Nor those of one that cannot be read.
    """
    tried = set[str]()
    for number in numbers(data):
        with contextlib.suppress(EverlookError):
            training, outcome = load(data, number)
            if outcome and outcome.reason != OVERTAKEN:
                tried.update(training.categories)
    return tried.difference(learned)


def _read(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if raw.pop("format") != _FORMAT:
        raise ValueError(f"{path.name} has an unknown format")
    return raw


# ------------------------------------------------------------------------------------------------ requests


def request_training(data: DataDir, categories: Sequence[str] = ()) -> Request:
    """Leaves a request for the trainer; one that waits is replaced."""
    request = Request(uuid.uuid4().hex, tuple(categories))
    write_json(data.requests / "train.json", asdict(request))
    return request


def request_cancel(data: DataDir, training: int) -> None:
    """Asks the trainer to stop a training; without effect once that has ended."""
    write_json(data.requests / "cancel.json", {"training": training})


def requested_training(data: DataDir) -> Request | None:
    """The request that waits."""
    try:
        raw = json.loads((data.requests / "train.json").read_text(encoding="utf-8"))
        return Request(str(raw["id"]), tuple(map(str, raw["categories"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stands(data: DataDir, request: str) -> bool:
    waiting = requested_training(data)
    return waiting is not None and waiting.id == request


def cancel_requested(data: DataDir, training: int) -> bool:
    """Whether an operator wants this training stopped."""
    try:
        raw = json.loads((data.requests / "cancel.json").read_text(encoding="utf-8"))
        return bool(raw["training"] == training)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def withdraw(data: DataDir, request: Request) -> None:
    """Removes a request, unless another has taken its place."""
    if requested_training(data) == request:
        (data.requests / "train.json").unlink(missing_ok=True)
