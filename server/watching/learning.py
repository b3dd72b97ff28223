"""How far learning is: what waits, what is ripe, the training or backfill under way, the last swap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final

import numpy as np
from prometheus_client.core import Metric

from indexer.datadir import DataDir
from indexer.engine import Engine
from indexer.index import View
from indexer.programs import read_activity
from indexer.stages import CHECKPOINT
from server.learning import Learning
from server.progress import Progress
from server.watching.operator import gauge, gauges
from server.wire import pb

_SHARE: Final = 0.02  # of the time, at most, goes to looking through the gallery


def count_learned(view: View, learned: Collection[str]) -> int:
    """How many of the categories that have items are among `learned`."""
    codes, names = view.attributes.category_codes(view.rows)
    return sum(names[code] in learned for code in np.unique(codes[view.live_rows()]).tolist())


class LearnedCategories:
    """How many categories of the gallery the live model has learned: looked up again when either has changed, and
    seldom enough to take a small share of the time however large the gallery is. Thread-safe."""

    def __init__(self, engine: Engine, learning: Learning, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._learning = learning
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[str, int] | None = None
        self._count = 0
        self._not_before = 0.0

    def __call__(self) -> int:
        """Errors: ModelDamaged."""
        serving = self._engine.live.current
        model, view = serving.generation.model.id, serving.view
        now = model, view.seq
        with self._lock:
            began = self._clock()
            if self._seen is not None and self._seen[0] == model and (self._seen == now or began < self._not_before):
                return self._count
            self._count = count_learned(view, self._learning.cohort_of(model))
            self._seen = now
            ended = self._clock()
            self._not_before = ended + (ended - began) / _SHARE
            return self._count


class LearningProgress:
    """The reading."""

    def __init__(
        self, engine: Engine, learning: Learning, progress: Progress, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine = engine
        self._learning = learning
        self._progress = progress
        self._clock = clock
        self._learned = LearnedCategories(engine, learning)

    def __call__(self) -> Iterator[Metric]:
        yield from self._training()
        yield from self._categories()
        text = "Time for which a ripe stage has waited for its training and its swap, 0 when none does."
        since = self._ripe_since()
        yield gauge("everlook_ripe_seconds", text, 0.0 if since is None else max(0.0, self._clock() - since))
        text = "Photos that a model which is to go live has not embedded yet."
        yield gauge("everlook_backfill_remaining_photos", text, self._backfill_remaining())
        text = "Unix time of the last swap to another model."
        swap = self._engine.history.last_swap()
        yield gauge("everlook_last_swap_timestamp_seconds", text, None if swap is None else swap.at)

    def _training(self) -> Iterator[Metric]:
        """What is being learned, from the first step to the swap; families without samples while nothing is."""
        status = self._progress.training()
        stage = {} if status is None else {str(status.stage): 1.0}
        yield gauges("everlook_training_active", "1 for the stage that is being learned.", "stage", stage)
        share = {status.phase: status.done / status.total} if status is not None and status.total else {}
        text = "Share of the phase of learning that is done."
        yield gauges("everlook_training_progress_ratio", text, "phase", share)
        remaining_s = status.remaining_s if status is not None and status.remaining_s > 0 else None
        text = "Time of the phase of learning that is left, as estimated."
        yield gauge("everlook_training_remaining_seconds", text, remaining_s)
        text = "Loss of the last step of training: its weighted terms, by the method's names, and their sum."
        yield gauges("everlook_training_loss", text, "loss", {} if status is None else self._losses(status))
        text = "Unix time of the checkpoint that the training under way would go on from."
        yield gauge("everlook_training_checkpoint_timestamp_seconds", text, self._checkpoint_at())

    def _losses(self, status: pb.TrainingStatus) -> Mapping[str, float]:
        """Those of the training under way; nothing while it is in another phase, or has not taken a step."""
        news = self._progress.news("trainer")
        if news is None or (news.phase, news.stage) != (status.phase, status.stage) or news.loss is None:
            return {}
        return {**news.losses, "total": news.loss}

    def _checkpoint_at(self) -> float | None:
        running = self._learning.running()
        if running is None:
            return None
        try:
            return (self._data.stage(running.number) / CHECKPOINT).stat().st_mtime
        except OSError:
            return None

    def _categories(self) -> Iterator[Metric]:
        news = self._progress.news("trainer")
        learned, learning = self._learned(), len(self._being_learned())
        others = max(0, self._engine.catalogue.totals().categories - learned - learning)
        ripe = 0 if news is None else min(news.ripe, others)
        waiting = others - ripe
        counts = {"waiting": waiting, "ripe": ripe, "learning": learning, "learned": learned}
        yield gauges("everlook_category_states", "Categories that have items, by how far they are.", "state", counts)

    def _being_learned(self) -> set[str]:
        """What the training under way teaches, and what the model that is to go live has learned last."""
        found = set[str]()
        if (running := self._learning.running()) is not None:
            found.update(running.categories)
        if (candidate := self._progress.candidate()) is not None:
            found.update(*self._learning.lineage(candidate[0]).cohorts[-1:])
        return found.difference(self._learning.cohort_of(self._engine.live.current.generation.model.id))

    def _ripe_since(self) -> float | None:
        """When the stage that has waited longest became ripe, or its training began; None when none waits. It still
        waits when the trainer that said so has died since."""
        since = []
        if (running := self._learning.running()) is not None:
            since.append(running.created_at)
        if (candidate := self._progress.candidate()) is not None:
            number = self._learning.lineage(candidate[0]).training
            since += [each.training.created_at for each in self._learning.records() if each.training.number == number]
        if (said := read_activity(self._data, "trainer")) is not None and said.ripe:
            since.append(said.ripe_since)
        return min(since, default=None)

    def _backfill_remaining(self) -> int:
        candidate = self._progress.candidate()
        if candidate is None or not candidate[1]:
            return 0
        stage, said = len(self._learning.lineage(candidate[0]).cohorts) - 1, read_activity(self._data, "indexer")
        if said is not None and said.stage == stage and said.phase in ("backfill", "index"):
            return max(0, said.total - said.done) if said.phase == "backfill" else 0
        return self._engine.catalogue.totals().photos  # it has not begun

    @property
    def _data(self) -> DataDir:
        return self._engine.data
