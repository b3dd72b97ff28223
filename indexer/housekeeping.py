"""Housekeeping: vectors and models that no generation needs any more are removed, a little at a time.

Needed are the models of all generations that are there, the live one's, and the candidate's. Of a model's folder also:
the base of a training under way, the newest rejected one, for its reasons to be seen, those that lead from the live
model back to one that can be live again, and whatever is younger than an hour, since somebody may be about to use it.
Where anything of this cannot be told, nothing is removed.

| crash at this step           | found so at restart                                              |
|------------------------------|------------------------------------------------------------------|
| while vectors are dropped    | some of them, which no generation needs; the rest is dropped     |
| while a model is removed     | `.staging-stale-*`, which is not a model, and is removed         |
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from typing import Final

from indexer import stages
from indexer.catalogue import Catalogue
from indexer.datadir import DataDir
from indexer.errors import Damaged, EverlookError
from indexer.files import STAGING, fsync_path
from indexer.gates import load_gates, passed
from indexer.generation import State, candidate_model, live_model, load_info, numbers, state_of
from indexer.lineage import load_lineage
from indexer.model import Manifest, load_manifest

log = logging.getLogger(__name__)

_VECTORS: Final = 500  # dropped in one transaction
_PAUSE_S: Final = 0.1  # after each, so that the server's writes come between
_YOUNG_S: Final = 3600.0
_STALE: Final = f"{STAGING}stale-"


def tidy(
    data: DataDir, catalogue: Catalogue, pause: Callable[[float], None], clock: Callable[[], float] = time.time
) -> None:
    """Removes what is not needed. `pause` sleeps, and may end the work by raising. Errors: EverlookError, OSError."""
    for model in catalogue.models_with_vectors():
        dropped = 0
        # Asked again each time: what was given up may have become a candidate again, by a rollback.
        while _is_stale(data, model) and (some := catalogue.drop_vectors(model, _VECTORS)):
            dropped += some
            pause(_PAUSE_S)
        if dropped:
            log.info("dropped %d vectors of model %s, which no generation needs", dropped, model)
    for aside in data.models.glob(f"{_STALE}*"):
        shutil.rmtree(aside)
    for manifest in stale_models(data, clock()):
        folder = data.model(manifest.id)
        aside = data.models / f"{_STALE}{folder.name}"
        folder.rename(aside)
        fsync_path(data.models)
        shutil.rmtree(aside)
        log.info("removed model %s, which no generation needs", manifest.id)


def _is_stale(data: DataDir, model: str) -> bool:
    """Whether the vectors of a model are of no use."""
    needed = needed_models(data)
    return needed is not None and model not in needed


def needed_models(data: DataDir) -> set[str] | None:
    """The ids of the models whose vectors are needed; None where that cannot be told, or nothing is live yet. Of a
    generation that was rejected only its reasons are."""
    try:
        live, candidate = live_model(data), candidate_model(data)
        infos = [load_info(data, number) for number in numbers(data)]
        needed = {info.model for info in infos if state_of(data, info) is not State.REJECTED}
    except Damaged:
        return None
    if live is None:
        return None
    return needed | {live} | ({candidate.id} if candidate else set())


def stale_models(data: DataDir, now: float) -> list[Manifest]:
    """The models that may be removed. `now` is in Unix seconds."""
    needed = needed_models(data)
    if needed is None:
        return []
    try:
        models = {manifest.id: manifest for manifest in _readable(data)}
        rejected = [model for model in models if not passed(load_gates(data.model(model)))]
        newest_rejected = max(rejected, key=lambda model: models[model].created_at, default="")
        kept = needed | _ancestry(data, needed) | {newest_rejected, _training_from(data)}
    except EverlookError as error:
        log.warning("no model is removed as long as this is so: %s", error)
        return []
    return [
        manifest for model, manifest in models.items() if model not in kept and now - manifest.created_at > _YOUNG_S
    ]


def _readable(data: DataDir) -> list[Manifest]:
    """The models that can be read; what is to become of others an operator must decide."""
    found = []
    for folder in data.model_folders():
        with contextlib.suppress(Damaged):
            found.append(load_manifest(folder, verify=False))
    return found


def _ancestry(data: DataDir, needed: set[str]) -> set[str]:
    """The models from the live one back to the oldest that has a generation: rolling back follows this line."""
    line: list[str] = []
    model = live_model(data) or ""
    while model and model not in line:
        line.append(model)
        model = load_lineage(data.model(model)).base
    while line and line[-1] not in needed:
        line.pop()
    return set(line)


def _training_from(data: DataDir) -> str:
    """The model that the last training started from, while it is under way; else no id."""
    for number in stages.numbers(data)[-1:]:
        training, outcome = stages.load(data, number)
        return training.base if outcome is None else ""
    return ""
