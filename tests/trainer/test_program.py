"""The trainer's program: when it teaches and what, how it waits, how it ends, and that kill -9 changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from indexer import programs, stages
from indexer.catalogue import Put
from indexer.datadir import Lock
from indexer.errors import InvalidField
from indexer.generation import publish_generation
from indexer.lineage import Lineage
from indexer.model import Manifest
from indexer.programs import Reporter, read_activity
from indexer.stages import Outcome, StageRule, Training
from tests.conftest import ROOT
from tests.indexer.catalogues import damage
from tests.trainer import benches, shops, slow_steps
from tests.trainer.shops import RECIPE, Shop, open_shop
from trainer import export, program, teach
from trainer.__main__ import main
from trainer.program import Program, Settings
from trainer.stopping import Cancelled, Stopped, Stopping

RULE = StageRule(min_categories=3, min_photos=2, wait_s=1e6, settle_s=0.0)
RULE_FLAGS = "--min-categories 3 --min-photos 2 --settle-s 0"
RECIPE_FLAGS = "--learning-rate 1e-3 --p 4 --k 3 --precision fp32 --most-drop 0.5 --floor 0"
PROCESS_FLAGS = "--threads 1 --device cpu --poll-s 0.05 --no-give-way"
FLAGS = [word for flags in (RULE_FLAGS, RECIPE_FLAGS, PROCESS_FLAGS) for word in flags.split()]


@pytest.fixture(scope="module", autouse=True)
def backbone() -> Iterator[None]:
    with benches.tiny_backbone():
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "to_onnx", shops.quick_onnx)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return open_shop(tmp_path / "data")


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """The trainings that were asked for; none is done, and all are rejected."""
    found: list[Training] = []

    def answer(data: object, catalogue: object, training: Training, *_: object) -> Outcome:
        found.append(training)
        return Outcome("rejected", "it is only a test")

    monkeypatch.setattr(teach, "teach", answer)
    return found


def settings(shop: Shop, **changes: Any) -> Settings:
    chosen: dict[str, Any] = {"recipe": RECIPE, "rule": RULE, "once": True, "threads": 1, "device": "cpu"}
    return Settings(shop.data.root, **chosen | changes)


def once(shop: Shop, **changes: Any) -> None:
    Program(shop.data, shop.catalogue, settings(shop, **changes), Stopping()).run()


def words(shop: Shop) -> str:
    activity = read_activity(shop.data, "trainer")
    assert activity is not None
    return activity.words


class TestWhatIsTaught:
    def test_a_ripe_stage_from_the_live_model(self, shop: Shop) -> None:
        shop.fill("a", "b", "c")
        once(shop)
        training, outcome = stages.load(shop.data, 1)
        assert outcome is not None
        assert outcome.state == "published"
        assert (training.base, training.stage, training.categories) == (shop.model, 0, ("a", "b", "c"))
        assert training.reason == "3 new categories have at least 2 training photos each"
        activity = read_activity(shop.data, "trainer")
        assert activity is not None
        assert (activity.phase, activity.categories, activity.words) == ("gates", 3, "measures stage 0: 3 categories")

        shop.go_live(outcome.model)
        shop.fill("d", "e", "f")
        once(shop, recipe=replace(RECIPE, limits=replace(RECIPE.limits, least_rise=0.0)))
        training, outcome = stages.load(shop.data, 2)
        assert outcome is not None
        assert (training.base, training.stage, training.categories) == (shop.model, 1, ("d", "e", "f"))
        assert {"old cohort 0", "new cohort 1"} <= {gate.name for gate in outcome.gates}

    def test_nothing_while_no_stage_is_ripe(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b")
        once(shop)
        assert taught == []
        assert words(shop) == "waits: 2 of 3 new categories have 2 training photos"

    def test_nothing_before_a_first_generation(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        shop.data.live.unlink()
        once(shop)
        assert taught == []
        assert words(shop) == "waits for a first generation"

    def test_an_unfinished_training_first(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        begun = shop.begin()
        shop.fill("d", "e", "f")
        once(shop)
        assert taught == [begun]
        assert stages.numbers(shop.data) == [1]

    def test_what_was_rejected_is_not_tried_again_by_itself(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        once(shop)
        once(shop)
        assert len(taught) == 1
        shop.fill("d", "e", "f")
        once(shop)
        assert [training.categories for training in taught[1:]] == [("a", "b", "c", "d", "e", "f")]

    def test_what_is_ripe_and_since_when_is_told_while_it_waits_and_not_when_nothing_is(
        self, shop: Shop, taught: list[Training]
    ) -> None:
        shop.fill("a", "b")
        program = Program(shop.data, shop.catalogue, settings(shop), Stopping())
        program.run()
        said = read_activity(shop.data, "trainer")
        assert said is not None
        assert (said.ripe, said.ripe_since) == (0, 0.0)
        shop.fill("c")
        of_model(shop, base=shop.model)
        since = []
        for _ in range(2):
            program._look_after = 0.0
            program.run()
            said = read_activity(shop.data, "trainer")
            assert said is not None
            assert said.ripe == 3
            since.append(said.ripe_since)
        assert since[0] == since[1]
        assert time.time() - 60 < since[0] <= time.time()

    def test_what_a_clock_that_was_ahead_saw_waits_from_when_it_is_right_again(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        of_model(shop, base=shop.model)
        program = Program(shop.data, shop.catalogue, settings(shop), Stopping())
        right = time.time
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: right() + 365 * 86_400)
            shop.fill("a", "b", "c")
            program.run()
        before = time.time()
        for _ in range(2):
            program.run()
        said = read_activity(shop.data, "trainer")
        assert said is not None
        assert said.ripe == 3
        assert before <= said.ripe_since <= time.time()

    def test_a_restart_does_not_make_what_is_ripe_wait_anew_and_its_training_ends_it(
        self, shop: Shop, taught: list[Training]
    ) -> None:
        def ripe_since() -> float:
            once(shop)
            said = read_activity(shop.data, "trainer")
            assert said is not None
            return said.ripe_since

        shop.fill("a", "b", "c")
        candidate = of_model(shop, base=shop.model)
        first = ripe_since()
        assert ripe_since() == first > 0
        shutil.rmtree(shop.data.model(candidate.id))
        once(shop)
        assert [training.categories for training in taught] == [("a", "b", "c")]
        of_model(shop, base=shop.model)
        assert ripe_since() == 0.0  # they were tried in vain
        shop.fill("d", "e", "f")
        assert ripe_since() > first

    def test_what_was_tried_in_vain_waits_no_longer_than_the_new_categories_that_it_joins(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> Outcome:
            shop.fill("d", "e", "f")
            return Outcome("rejected", "it is only a test")

        monkeypatch.setattr(teach, "teach", refused)
        shop.fill("a", "b", "c")
        once(shop)
        ended = time.time()
        of_model(shop, base=shop.model)
        once(shop)
        said = read_activity(shop.data, "trainer")
        assert said is not None
        assert said.ripe == 6
        assert said.ripe_since >= ended

    @pytest.mark.parametrize("failing", ["trainer.program.stages.begin", "trainer.teach.check"])
    def test_one_that_fails_to_begin_again_and_again_has_said_since_when_it_should(
        self, failing: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> NoReturn:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(failing, full)
        shop.fill("a", "b", "c")
        since = []
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                once(shop)
            said = read_activity(shop.data, "trainer")
            assert said is not None
            assert (said.words, said.ripe) == ("begins a stage of 3 new categories", 3)
            since.append(said.ripe_since)
        assert since[0] == since[1] > 0

    def test_what_an_operator_asked_for_before_it_was_ripe_has_not_waited(
        self, shop: Shop, taught: list[Training]
    ) -> None:
        shop.fill("a", "b")
        stages.request_training(shop.data)
        once(shop)
        assert [training.categories for training in taught] == [("a", "b")]
        said = read_activity(shop.data, "trainer")
        assert said is not None
        assert said.ripe == 2
        assert time.time() - 60 < said.ripe_since <= time.time()

    def test_nothing_by_itself_while_a_candidate_is_on_its_way(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        candidate = of_model(shop, base=shop.model)
        once(shop)
        assert words(shop) == "waits for what it taught last to go live"
        publish_generation(shop.data, candidate.id, 0, shops.empty_segment())
        once(shop)
        assert taught == []
        request = stages.request_training(shop.data)
        once(shop)
        assert [training.request for training in taught] == [request.id]

    def test_a_stage_that_deletions_took_apart_is_looked_at_anew(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.fill("a", "b", "c")

        def refuse(*_: object, **__: object) -> NoReturn:
            raise InvalidField("too few categories are left to learn")

        monkeypatch.setattr(stages, "begin", refuse)
        once(shop)
        assert words(shop) == "waits: too few categories are left to learn"

    def test_a_stage_that_damaged_photos_took_apart_waits_without_them_and_is_not_gathered_again(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.fill("a", "b", "c", photos=2)
        for category in "bc":
            damage(shop.catalogue, next(each.photos[0] for each in shop.waiting() if each.name == category))
        gathered, begin = list[Any](), stages.begin

        def gathering(*given: Any, **more: Any) -> Training:
            gathered.append(given)
            return begin(*given, **more)

        monkeypatch.setattr(stages, "begin", gathering)
        running = Program(shop.data, shop.catalogue, settings(shop), Stopping())
        for _ in range(3):
            running.run()
        assert (taught, len(gathered)) == ([], 1)
        assert words(shop) == "waits: 1 of 3 new categories have 2 training photos"
        assert len([each for each in caplog.messages if "have changed on the disk" in each]) == 2
        shop.fill("b", "c")
        running._look_after = 0.0
        running.run()
        assert [training.categories for training in taught] == [("a", "b", "c")]


def of_model(shop: Shop, base: str) -> Manifest:
    """A published model that was taught from another and has passed its gates."""
    manifest = shops.first_model(shop.data.models, shops.blind(seed=5))
    lineage = Lineage(base, 9, (("x", "y"),))
    (shop.data.model(manifest.id) / "lineage.json").write_text(lineage.to_json())
    return manifest


class TestRequests:
    def test_it_begins_with_its_categories_and_is_withdrawn(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c", "d")
        request = stages.request_training(shop.data, ["b", "d"])
        once(shop)
        (training,) = taught
        assert (training.categories, training.request, training.reason) == (
            ("b", "d"),
            request.id,
            "an operator asked for it",
        )
        assert stages.requested_training(shop.data) is None

    def test_what_failed_before_can_be_asked_for(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        once(shop)
        stages.request_training(shop.data)
        once(shop)
        assert [training.categories for training in taught] == [("a", "b", "c")] * 2

    def test_one_that_is_no_stage_is_withdrawn_and_told(
        self, shop: Shop, taught: list[Training], caplog: pytest.LogCaptureFixture
    ) -> None:
        shop.fill("a", "b")
        stages.request_training(shop.data, ["a", "zebras"])
        once(shop)
        assert taught == []
        assert stages.requested_training(shop.data) is None
        assert words(shop) == (
            "waits: 2 of 3 new categories have 2 training photos; what was asked for is no stage:"
            " 'zebras' is no category that waits to be learned"
        )
        assert "'zebras' is no category" in caplog.text

    def test_one_that_is_withdrawn_while_its_photos_are_gathered_begins_nothing(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.fill("a", "b")
        request, copied, gathering = stages.request_training(shop.data), stages._copied, list[str]()

        def withdrawing(*given: Any) -> bool:
            gathering.append(words(shop))
            stages.withdraw(shop.data, request)
            return copied(*given)

        monkeypatch.setattr(stages, "_copied", withdrawing)
        once(shop)
        assert set(gathering) == {"gathers the photos of 2 new categories"}
        assert (taught, list(shop.data.stages.iterdir())) == ([], [])

    def test_one_whose_training_had_begun_before_a_kill_is_not_begun_twice(
        self, shop: Shop, taught: list[Training]
    ) -> None:
        shop.fill("a", "b", "c")
        request = stages.request_training(shop.data)
        begun = shop.begin(request=request.id)
        once(shop)
        assert taught == [begun]
        assert stages.requested_training(shop.data) is None

    def test_nor_when_it_has_even_ended(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        request = stages.request_training(shop.data)
        stages.end(shop.data, shop.begin(request=request.id), Outcome("failed", "x"))
        once(shop)
        assert taught == []
        assert stages.requested_training(shop.data) is None


class TestCancel:
    def test_an_operator_stops_a_training(self, shop: Shop) -> None:
        shop.fill("a", "b", "c")
        stages.request_cancel(shop.data, 1)
        once(shop)
        _, outcome = stages.load(shop.data, 1)
        assert outcome is not None
        assert (outcome.state, outcome.reason) == ("cancelled", "an operator asked for it")

    def test_it_looks_once_a_second(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        now, looked = [0.0], list[float]()

        def requested(data: object, training: int) -> bool:
            looked.append(now[0])
            return False

        monkeypatch.setattr(stages, "cancel_requested", requested)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        shop.fill("a", "b", "c")
        watcher = program._Watcher(shop.data, shop.begin(), Reporter(shop.data, "trainer"), Stopping())
        for tick in range(26):
            now[0] = tick / 10
            watcher.tell("training", tick, 30, remaining_s=3.0, losses={"triplet": 0.5})
        assert looked == [0.0, 1.0, 2.0]


def test_a_training_tells_the_sum_of_its_losses_and_each_of_them(shop: Shop) -> None:
    shop.fill("a", "b", "c")
    watcher = program._Watcher(shop.data, shop.begin(), Reporter(shop.data, "trainer"), Stopping())
    watcher.tell("training", 1, 30, losses={"triplet": 0.5, "correlation": 0.25})
    said = read_activity(shop.data, "trainer")
    assert said is not None
    assert (said.loss, said.losses) == (0.75, {"triplet": 0.5, "correlation": 0.25})
    watcher.tell("exporting", 0, 3)
    said = read_activity(shop.data, "trainer")
    assert said is not None
    assert (said.loss, said.losses) == (None, {})


def test_it_gives_signs_of_life_while_it_teaches_with_nothing_new_to_say(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[str] = []

    def export(*_: object) -> Outcome:
        end = time.monotonic() + 20.0
        while time.monotonic() < end and not alive:
            said = read_activity(shop.data, "trainer")
            if said is not None and said.alive_at > said.at:
                alive.append(said.words)
        return Outcome("rejected", "it is only a test")

    monkeypatch.setattr(programs, "_RENEW_S", 0.002)
    monkeypatch.setattr(teach, "teach", export)
    shop.fill("a", "b", "c")
    once(shop)
    assert alive == ["gathers the photos of 3 new categories"]
    assert not [thread for thread in threading.enumerate() if thread.name == "alive"]


class TestOvertaken:
    """After a rollback, say: what it would publish could never go live."""

    def test_it_ends_when_another_model_is_live(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        shop.fill("a", "b", "c")
        other = shops.first_model(shop.data.models, shops.blind(seed=5))
        watcher = program._Watcher(shop.data, shop.begin(), Reporter(shop.data, "trainer"), Stopping())
        monkeypatch.setattr(program, "_LOOK_S", 0.0)
        watcher.check()
        shop.go_live(other.id)
        with pytest.raises(Cancelled, match="another model went live meanwhile than the one that it was taught from"):
            watcher.tell("training", 3, 30)

    def test_a_file_that_cannot_be_read_for_once_ends_nothing(self, shop: Shop) -> None:
        shop.fill("a", "b", "c")
        training = shop.begin()
        shop.data.live.write_text("{")
        program._Watcher(shop.data, training, Reporter(shop.data, "trainer"), Stopping()).check()


class TestWaiting:
    def test_nothing_is_counted_anew_while_nothing_changes(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted, waiting = list[Any](), stages.waiting

        def counting(*given: Any) -> Any:
            counted.append(given)
            return waiting(*given)

        monkeypatch.setattr(stages, "waiting", counting)
        monkeypatch.setattr(program, "_LOOK_SHARE", 1e9)
        shop.fill("a", "b")
        running = Program(shop.data, shop.catalogue, settings(shop), Stopping())
        for _ in range(5):
            running.run()
        assert len(counted) == 1
        shop.fill("a")
        for _ in range(5):
            running.run()
        assert len(counted) == 2
        shop.go_live(shops.first_model(shop.data.models, shops.blind(seed=5)).id)
        running.run()
        assert len(counted) == 3

    def test_while_items_stream_in_a_small_share_of_the_time_goes_to_counting(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now, counted, waiting = [0.0], list[float](), stages.waiting

        def slow(*given: Any) -> Any:
            counted.append(now[0])
            now[0] += 2.0
            return waiting(*given)

        monkeypatch.setattr(stages, "waiting", slow)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        running = Program(shop.data, shop.catalogue, settings(shop), Stopping())
        for second in range(0, 300, 10):
            now[0] = max(now[0], float(second))
            shop.fill("a", photos=1, probes=0)
            running.run()
        assert counted == [0.0, 110.0, 220.0]  # at 2 % of the time

    def test_a_stage_ripens_by_time_alone(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.fill("a", "b")
        running = Program(shop.data, shop.catalogue, settings(shop), Stopping())
        running.run()
        assert taught == []
        later = time.time() + RULE.wait_s
        monkeypatch.setattr(time, "time", lambda: later)
        running.run()
        assert [training.categories for training in taught] == [("a", "b")]

    def test_metadata_that_is_brought_up_to_date_each_night_puts_it_off_for_no_time(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.fill("a", "b")
        once(shop)
        now = time.time() + RULE.wait_s
        shop.catalogue._clock = lambda: now - 10.0
        items = list(shop.catalogue.items_of(["a", "b"]))
        shop.catalogue.apply([Put(item.id, item.category, {"price": 1.0}, None) for item in items])
        assert {each.since for each in shop.waiting()} == {now - 10.0}
        monkeypatch.setattr(time, "time", lambda: now)
        once(shop, rule=replace(RULE, settle_s=60.0))
        assert [training.categories for training in taught] == [("a", "b")]

    def test_it_goes_on_after_a_training(
        self, shop: Shop, taught: list[Training], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sleep(seconds: float) -> None:
            assert seconds == 7.0
            if len(taught) == 2:
                raise Stopped(signal.SIGTERM)
            shop.fill("d", "e", "f")

        shop.fill("a", "b", "c")
        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(Stopped):
            Program(shop.data, shop.catalogue, settings(shop, once=False, poll_s=7.0), Stopping()).run()
        assert len(taught) == 2

    def test_a_damaged_live_file_is_told_and_waited_for(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        shop.data.live.write_text("{")

        def sleep(seconds: float) -> None:
            raise Stopped(signal.SIGTERM)

        monkeypatch.setattr(time, "sleep", sleep)
        with pytest.raises(Stopped):
            Program(shop.data, shop.catalogue, settings(shop, once=False), Stopping()).run()
        assert words(shop).startswith("cannot tell what to teach: live.json cannot be read")


class TestStart:
    def test_what_killed_trainings_left_is_removed(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        training = shop.begin()
        stages.end(shop.data, training, Outcome("failed", "x"))
        (shop.data.stage(1) / "photos").mkdir()
        (shop.data.stages / ".staging-00000002-x").mkdir()
        (shop.data.models / ".staging-model-x").mkdir()
        once(shop)
        assert {path.name for path in shop.data.stage(1).iterdir()} == {"stage.json", "outcome.json"}
        assert [path.name for path in shop.data.stages.iterdir()] == ["00000001"]
        assert [path.name for path in shop.data.models.iterdir()] == [shop.model[:16]]

    def test_a_record_that_cannot_be_read_stops_nothing(self, shop: Shop, taught: list[Training]) -> None:
        shop.fill("a", "b", "c")
        shop.begin()
        (shop.data.stage(1) / "stage.json").write_text("{")
        once(shop)
        assert [training.number for training in taught] == [2]

    def test_one_trainer_for_a_directory(self, shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
        with Lock(shop.data, "trainer.lock"):
            assert main(["run", "--data", str(shop.data.root), "--once", "--no-give-way"]) == 1
        assert f"is in use by process {os.getpid()} (trainer.lock)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--method", "telepathy"], "method cannot be telepathy"),
            (["--steps", "0"], "steps cannot be 0"),
            (["--steps", "9", "--budget-s", "9"], "not allowed with argument"),
            (["--min-categories", "1"], "min_categories is too small"),
            (["--floor", "2"], "floor cannot be 2.0"),
            (["--poll-s", "0"], "poll_s is too small"),
            (["--precision", "fp16"], "precision cannot be fp16"),
            (["--loud"], "unrecognized arguments"),
        ],
    )
    def test_a_bad_flag_is_one_line_and_exit_code_2(
        self, flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        try:
            code: object = main(["run", "--data", str(tmp_path / "none"), *flags])
        except SystemExit as stopped:
            code = stopped.code
        told = capsys.readouterr().err
        assert (code, told.count("\n")) == (2, 1)
        assert said in told
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--method", "mutual:telepathy=1"], "mutual has no setting 'telepathy'"),
            (["--method", "initial"], "it learns nothing after the first stage"),
            (["--method", "joint"], "it learns from old photos, and none are kept"),
            (["--device", "abacus"], "there is no device abacus"),
        ],
    )
    def test_what_only_torch_can_tell_is_told_before_a_stage_begins(
        self, flags: list[str], said: str, shop: Shop, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shop.fill("a", "b", "c")
        assert main(["run", "--data", str(shop.data.root), "--once", *FLAGS, *flags]) == 2
        assert said in capsys.readouterr().err
        assert stages.numbers(shop.data) == []

    def test_a_full_disk_is_one_line_and_exit_code_1(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(*_: object) -> NoReturn:
            raise OSError(28, "No space left on device")

        shop.fill("a", "b", "c")
        monkeypatch.setattr("trainer.stage.write_bytes", full)
        assert main(["run", "--data", str(shop.data.root), "--once", "--steps", "3", *FLAGS]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == "python -m trainer: [Errno 28] No space left on device"
        assert not stages.has_ended(shop.data, 1)


def start(
    shop: Shop, *flags: str, module: str = "tests.trainer.tiny_program", step_s: float = 0.0
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, "run", "--data", str(shop.data.root), *FLAGS, *flags],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", slow_steps.STEP_S: str(step_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_step(process: subprocess.Popen[str], shop: Shop, step: int) -> None:
    end = time.monotonic() + 200
    while True:
        activity = read_activity(shop.data, "trainer")
        if activity is not None and activity.phase == "training" and activity.done >= step:
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


IDLE = """
import sys
from trainer.__main__ import main
code = main(sys.argv[1:])
print(code, sorted({"torch", "torchvision", "onnx"} & sys.modules.keys()))
"""


def test_a_trainer_that_waits_has_not_loaded_torch(shop: Shop) -> None:
    shop.fill("a", "b")
    command = [sys.executable, "-c", IDLE, "run", "--data", str(shop.data.root), "--once", *FLAGS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "0 []\n", done.stderr
    assert words(shop) == "waits: 2 of 3 new categories have 2 training photos"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_one_that_waits(number: signal.Signals, code: int, shop: Shop) -> None:
    process = start(shop, module="trainer")
    end = time.monotonic() + 100
    while read_activity(shop.data, "trainer") is None:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors


def test_killed_and_stopped_it_goes_on_to_the_same_model(shop: Shop, tmp_path: Path) -> None:
    """kill -9 at some step, SIGTERM at another, and then to the end; against one that nothing disturbs."""
    undisturbed = open_shop(tmp_path / "undisturbed")
    for each in (shop, undisturbed):
        each.fill("a", "b", "c")
    steps = ("--steps", "120", "--checkpoint-s", "0.05", "--once")
    killed = start(shop, *steps, step_s=0.05)
    await_step(killed, shop, 10)
    killed.kill()
    killed.communicate()
    assert not stages.has_ended(shop.data, 1)
    stopped = start(shop, *steps, step_s=0.05)
    await_step(stopped, shop, 40)
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 0, errors
    assert (shop.data.stage(1) / "checkpoint.pt").exists()
    assert not stages.has_ended(shop.data, 1)
    recipe = replace(RECIPE, steps=120)
    for each in (shop, undisturbed):
        Program(each.data, each.catalogue, settings(each, recipe=recipe), Stopping()).run()
    outcomes = [stages.load(each.data, 1)[1] for each in (shop, undisturbed)]
    assert outcomes[0] is not None
    assert outcomes[1] is not None
    assert outcomes[0].model == outcomes[1].model
    assert (outcomes[0].state, outcomes[0].gates) == (outcomes[1].state, outcomes[1].gates)
    assert not list(shop.data.models.glob(".staging-*"))
