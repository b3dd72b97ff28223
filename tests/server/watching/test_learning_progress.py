"""How far learning is, as metrics: from the records, the programs' news, and the gallery."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from indexer.catalogue import Photo, Put
from indexer.datadir import DataDir
from indexer.engine import Engine
from indexer.gates import RecallLimits
from indexer.programs import Activity, Reporter
from server.learning import Learning
from server.metrics import Metrics
from server.progress import Progress
from server.supervisor import Supervisor
from server.swapper import Swapper
from server.watching.learning import LearnedCategories, LearningProgress, count_learned
from server.watching.programs import Programs, resident_bytes
from tests.server.learned import begun, ended, model_of
from tests.server.running import engine_in
from tests.server.test_learning import generation
from tests.server.watching.conftest import values_of

NOW = 2_000_000_000.0


class Watched:
    """An engine, and the readings of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.data = engine, engine.data
        self.learning = Learning(engine.data)
        self.supervisor = Supervisor({}, lambda name: None)
        swapper = Swapper(engine, RecallLimits(), Metrics(CollectorRegistry()).swaps, hold=False)
        self.progress = Progress(engine.data, self.learning, swapper, self.supervisor)
        self.read = LearningProgress(engine, self.learning, self.progress, lambda: NOW)
        self.base = engine.live.current.generation.model.id

    def values(self, name: str) -> dict[str, float]:
        return values_of(self.read())[f"everlook_{name}"]

    def put(self, id: str, category: str) -> None:
        photo = Photo(id.encode(), id, 1, 1, "PNG")
        vector = np.random.default_rng(len(id)).standard_normal(32).astype(np.float32)
        model = self.engine.live.current.generation.model
        made = {
            model.id: np.resize(vector, model.dimension)
            / np.float32(np.linalg.norm(np.resize(vector, model.dimension)))
        }
        self.engine.submit(Put(id, category, {}, photo, made)).result()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with engine_in(tmp_path) as engine:
        yield Watched(engine)


def say(data: DataDir, name: str, activity: Activity) -> None:
    Reporter(data, name).say(activity)


def test_nothing_is_learned_and_all_of_it_has_its_name(watched: Watched) -> None:
    found = values_of(watched.read())
    absent = ["training_active", "training_progress_ratio", "training_remaining_seconds", "training_loss"]
    assert [found[f"everlook_{name}"] for name in (*absent, "training_checkpoint_timestamp_seconds")] == [{}] * 5
    assert found["everlook_ripe_seconds"] == found["everlook_backfill_remaining_photos"] == {"": 0}
    assert found["everlook_category_states"] == {"waiting": 0, "ripe": 0, "learning": 0, "learned": 0}


def test_a_training_shows_its_stage_progress_loss_and_checkpoint(watched: Watched) -> None:
    begun(watched.data, 1, ["a", "b"], stage=3)
    said = Activity("teaches", "training", 3, 2, 30, 120, 45.0, 0.625, {"triplet": 0.5, "correlation": 0.125})
    say(watched.data, "trainer", said)
    checkpoint = watched.data.stage(1) / "checkpoint.pt"
    found = values_of(watched.read())
    assert found["everlook_training_active"] == {"3": 1}
    assert found["everlook_training_progress_ratio"] == {"training": 0.25}
    assert found["everlook_training_remaining_seconds"] == {"": 45.0}
    assert found["everlook_training_loss"] == {"triplet": 0.5, "correlation": 0.125, "total": 0.625}
    assert found["everlook_training_checkpoint_timestamp_seconds"] == {}
    checkpoint.write_bytes(b"")
    os.utime(checkpoint, (NOW, NOW))
    assert watched.values("training_checkpoint_timestamp_seconds") == {"": NOW}


def test_the_losses_are_those_of_the_training_under_way_alone(watched: Watched) -> None:
    training = begun(watched.data, 1, ["a", "b"], stage=3)
    said = Activity("teaches", "training", 3, 2, 30, 120, 45.0, 0.625, {"triplet": 0.625})
    for other in (replace(said, stage=2), replace(said, phase="exporting", loss=None, losses={})):
        say(watched.data, "trainer", other)
        assert watched.values("training_loss") == {}
    say(watched.data, "trainer", said)
    assert watched.values("training_loss") == {"triplet": 0.625, "total": 0.625}
    ended(watched.data, training, "failed")
    assert watched.values("training_loss") == {}


def test_a_trainer_that_does_not_tell_its_terms_apart_tells_their_sum(watched: Watched) -> None:
    begun(watched.data, 1, ["a", "b"])
    say(watched.data, "trainer", Activity("teaches", "training", 0, 2, 30, 120, 45.0, 0.625))
    path = watched.data.programs / "trainer.json"
    older = json.loads(path.read_text())
    del older["losses"]
    path.write_text(json.dumps(older))
    assert watched.values("training_loss") == {"total": 0.625}


def test_categories_are_told_apart_by_how_far_they_are(tmp_path: Path) -> None:
    with engine_in(tmp_path) as engine:
        watched = Watched(engine)
        for n, category in enumerate(("a", "b", "c", "d", "e", "e")):
            watched.put(f"{category}{n}", category)
        begun(watched.data, 1, ["c"])
        say(watched.data, "trainer", Activity("waits", ripe=1, ripe_since=NOW - 5))
        assert watched.values("category_states") == {"waiting": 3, "ripe": 1, "learning": 1, "learned": 0}
        assert count_learned(engine.live.current.view, {"a", "b", "gone"}) == 2


def test_a_category_is_being_learned_from_its_trainings_first_step_until_its_model_is_live(tmp_path: Path) -> None:
    with engine_in(tmp_path) as engine:
        watched = Watched(engine)
        for category in ("a", "b", "c", "d"):
            watched.put(category, category)
        expected = {"waiting": 2, "ripe": 0, "learning": 2, "learned": 0}
        training = begun(watched.data, 1, ["a", "b"])
        assert watched.values("category_states") == expected
        model = model_of(watched.data, 2, watched.base, ["a", "b"])
        ended(watched.data, training, "published")
        assert watched.values("category_states") == expected  # while its photos are embedded
        say(watched.data, "trainer", Activity("waits", ripe=3, ripe_since=NOW - 5))
        assert watched.values("category_states") == {**expected, "waiting": 0, "ripe": 2}
        say(watched.data, "trainer", Activity("waits"))
        generation(watched.data, model.id)
        assert watched.values("category_states") == expected  # until the swap
        assert watched.values("training_active") == {"0": 1}
        begun(watched.data, 2, ["b", "c"])
        assert watched.values("category_states")["learning"] == 3


def test_the_gallery_is_looked_through_seldom_and_again_for_another_change(watched: Watched) -> None:
    times = iter([0.0, 1.0, 10.0, 51.1, 52.0])  # began and ended in turn; the first look takes a second
    counted: list[int] = []
    learned = LearnedCategories(watched.engine, watched.learning, lambda: next(times))
    watched.learning.cohort_of = lambda model: counted.append(1) or {}  # type: ignore[method-assign,func-returns-value]
    learned()
    watched.put("a", "a")
    assert (learned(), len(counted)) == (0, 1)  # a fiftieth of the time at most
    assert (learned(), len(counted)) == (0, 2)


def test_a_ripe_stage_waits_from_when_the_trainer_saw_it_until_it_is_live(watched: Watched) -> None:
    data = watched.data
    assert watched.values("ripe_seconds") == {"": 0}
    say(data, "trainer", Activity("waits", ripe=20, ripe_since=NOW - 5))
    assert watched.values("ripe_seconds") == {"": 5}
    training = begun(data, 1, ["a", "b"])
    at = replace(training, created_at=NOW - 60)
    watched.learning._records.clear()
    path = data.stage(1) / "stage.json"
    path.write_text(path.read_text().replace(str(training.created_at), str(at.created_at)))
    say(data, "trainer", Activity("teaches", "training", 0, 2, 1, 2))
    assert watched.values("ripe_seconds") == {"": 60}
    model = model_of(data, 2, watched.base, ["a", "b"])
    ended(data, training, "published")
    assert watched.values("ripe_seconds") == {"": 60}  # while it is backfilled, and until it is live
    generation(data, model.id)
    assert watched.values("ripe_seconds") == {"": 60}


def test_a_ripe_stage_goes_on_waiting_while_its_trainer_is_dead(watched: Watched) -> None:
    said = Activity("begins a stage of 20 new categories", ripe=20, ripe_since=NOW - 5)
    Reporter(watched.data, "trainer", lambda: time.time() - 3600).say(said)
    assert not watched.progress.runs("trainer")
    assert watched.values("ripe_seconds") == {"": 5}


def test_a_training_that_comes_to_nothing_ends_the_waiting(watched: Watched) -> None:
    training = begun(watched.data, 1, ["a", "b"])
    assert watched.values("ripe_seconds")[""] > 0
    ended(watched.data, training, "rejected")
    assert watched.values("ripe_seconds") == {"": 0}


def test_what_a_backfill_has_left_is_what_the_indexer_said_last(watched: Watched) -> None:
    watched.put("a", "a")
    model = model_of(watched.data, 2, watched.base, ["a", "b"])
    assert watched.values("backfill_remaining_photos") == {"": 1}  # it has not begun
    say(watched.data, "indexer", Activity("embeds", "backfill", 0, 2, done=30, total=100))
    assert watched.values("backfill_remaining_photos") == {"": 70}
    say(watched.data, "indexer", Activity("indexes", "index", 0, 2, done=30, total=100))
    assert watched.values("backfill_remaining_photos") == {"": 0}
    say(watched.data, "indexer", Activity("embeds", "backfill", 7, 2, done=30, total=100))
    assert watched.values("backfill_remaining_photos") == {"": 1}  # that was another one
    generation(watched.data, model.id)
    assert watched.values("backfill_remaining_photos") == {"": 0}


def test_the_last_swap_is_the_newest_of_the_history(watched: Watched) -> None:
    last = watched.engine.history.last_swap()
    assert watched.values("last_swap_timestamp_seconds") == ({} if last is None else {"": last.at})


# ---------------------------------------------------------------------------------------------------- programs


def test_a_program_that_runs_elsewhere_is_up_while_it_is_heard_of_and_one_that_never_was_is_not_missed(
    watched: Watched,
) -> None:
    read = Programs(watched.data, watched.progress, watched.supervisor)
    assert values_of(read())["everlook_program_up"] == {}
    say(watched.data, "trainer", Activity("waits"))
    Reporter(watched.data, "indexer", lambda: time.time() - 3600).say(Activity("waits"))
    found = values_of(read())
    assert found["everlook_program_up"] == {"trainer": 1, "indexer": 0}
    assert found["everlook_program_heartbeat_timestamp_seconds"]["trainer"] == pytest.approx(time.time(), abs=60)
    assert found["everlook_program_heartbeat_timestamp_seconds"]["indexer"] == pytest.approx(time.time() - 3600, abs=60)
    assert found["everlook_program_resident_memory_bytes"] == {}


def test_a_program_that_runs_elsewhere_and_hangs_is_up_and_was_heard_of_long_ago(watched: Watched) -> None:
    Reporter(watched.data, "trainer", lambda: time.time() - 3600).say(Activity("teaches"))
    path = watched.data.programs / "trainer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "alive_at": time.time()}))
    found = values_of(Programs(watched.data, watched.progress, watched.supervisor)())
    assert found["everlook_program_up"] == {"trainer": 1}
    assert found["everlook_program_heartbeat_timestamp_seconds"]["trainer"] == pytest.approx(time.time() - 3600, abs=60)


def test_a_program_that_was_removed_for_good_is_forgotten_with_its_file(watched: Watched) -> None:
    read = Programs(watched.data, watched.progress, watched.supervisor)
    say(watched.data, "trainer", Activity("waits"))
    assert values_of(read())["everlook_program_up"] == {"trainer": 1}
    (watched.data.programs / "trainer.json").unlink()
    found = values_of(read())
    assert found["everlook_program_up"] == found["everlook_program_heartbeat_timestamp_seconds"] == {}


def test_a_program_that_runs_elsewhere_and_dies_at_once_is_seen_to_start_each_time(watched: Watched) -> None:
    read = Programs(watched.data, watched.progress, watched.supervisor)
    for start in (5000.0, 5030.0, 5060.0):
        Reporter(watched.data, "trainer", lambda now=start: now).say(Activity("looks for a stage"))  # type: ignore[misc]
        assert values_of(read())["everlook_program_start_timestamp_seconds"] == {"trainer": start}
    (watched.data.programs / "trainer.json").write_text('{"words": "an older version"}')
    assert values_of(read())["everlook_program_start_timestamp_seconds"] == {}


def test_a_program_of_the_server_is_up_while_its_process_runs(watched: Watched) -> None:
    supervisor = Supervisor({"trainer": [], "indexer": []}, lambda name: None)
    supervisor.children["indexer"].pid = os.getpid()
    swapper = Swapper(watched.engine, RecallLimits(), Metrics(CollectorRegistry()).swaps, hold=False)
    progress = Progress(watched.data, watched.learning, swapper, supervisor)
    found = values_of(Programs(watched.data, progress, supervisor)())
    assert found["everlook_program_up"] == {"trainer": 0, "indexer": 1}
    if Path("/proc/self/statm").exists():
        assert found["everlook_program_resident_memory_bytes"]["indexer"] > 10 << 20


def test_the_memory_of_a_program_is_that_of_its_processes_too() -> None:
    import subprocess
    import sys

    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not tell")
    grab = "x = bytearray(64 << 20); print(flush=True); import sys; sys.stdin.read()"
    before = resident_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", grab], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after = resident_bytes(os.getpid())
        child.kill()
    assert before is not None
    assert after is not None
    assert after - before > 64 << 20
    assert resident_bytes(2**22 + 1) is None
