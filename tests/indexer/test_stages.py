"""Stages: which categories wait, when they are ripe, what a training is given, and what kills leave of it."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from indexer import stages
from indexer.catalogue import Catalogue, Delete
from indexer.catalogue.database import open_database
from indexer.datadir import DataDir
from indexer.errors import CatalogueDamaged, EverlookError, InvalidField, ItemNotFound, NotReady
from indexer.files import sweep
from indexer.gates import Gate
from indexer.stages import Outcome, Request, StageRule, Training, Waiting
from tests.indexer.catalogues import damage, put

# Of item-0 to item-11 these are probes: tests/indexer/test_probes.py.
PROBE, OTHER_PROBE = "item-6", "item-8"
RULE = StageRule(min_categories=3, min_photos=2, wait_s=100.0, settle_s=10.0)


def sha(name: str) -> str:
    """Of the photo that catalogues.put makes of a name."""
    return hashlib.sha256(name.encode()).hexdigest()


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.create()
    return data


@pytest.fixture
def catalogue(data: DataDir) -> Iterator[Catalogue]:
    """Each batch of changes is a second later than the one before; the first is at 1,000."""
    seconds = itertools.count(1000)
    Catalogue.open(data.catalogue_url).close()
    with Catalogue(open_database(data.catalogue_url), clock=lambda: float(next(seconds))) as catalogue:
        yield catalogue


def fill(catalogue: Catalogue) -> None:
    """Two photos to train on in each of two categories, and a probe in the first."""
    catalogue.apply([put("item-0", "kiwis"), put("item-1", "kiwis"), put(PROBE, "kiwis")])
    catalogue.apply([put("item-2", "pears"), put("item-3", "pears")])


def begun(data: DataDir, catalogue: Catalogue) -> Training:
    chosen = stages.waiting(catalogue, ())
    return stages.begin(data, catalogue, chosen, stage=0, base="b" * 64, reason="they are ripe")


class TestWaiting:
    def test_new_categories_by_name_with_what_could_be_trained_on(self, catalogue: Catalogue) -> None:
        catalogue.apply([put("item-1", "pears"), put("item-0", "pears"), put(PROBE, "pears")])
        catalogue.apply([put("item-2", "apples"), put("item-3", "kiwis"), put("item-4", "pears")])
        assert stages.waiting(catalogue, {"kiwis"}) == [
            Waiting("apples", (sha("item-2"),), 0, 1001.0, 1001.0),
            Waiting("pears", (sha("item-1"), sha("item-0"), sha("item-4")), 1, 1000.0, 1001.0),
        ]

    def test_a_photo_of_two_items_is_there_once(self, catalogue: Catalogue) -> None:
        catalogue.apply([put("item-0", shows="one"), put("item-1", shows="one"), put("item-2", shows="two")])
        assert stages.waiting(catalogue, ())[0].photos == (sha("one"), sha("two"))

    @pytest.mark.parametrize("category", ["kiwis", "pears", "learned"])
    def test_promise_6_a_photo_that_a_probe_of_any_category_shows_is_not_trained_on(
        self, category: str, catalogue: Catalogue
    ) -> None:
        fill(catalogue)
        catalogue.apply([put(OTHER_PROBE, category, shows="item-0")])
        kiwis = next(each for each in stages.waiting(catalogue, {"learned"}) if each.name == "kiwis")
        assert kiwis.photos == (sha("item-1"),)

    def test_a_category_of_probes_alone_waits_without_photos(self, catalogue: Catalogue) -> None:
        catalogue.apply([put(PROBE, "kiwis")])
        assert stages.waiting(catalogue, ()) == [Waiting("kiwis", (), 1, 1000.0, 1000.0)]

    def test_nothing_waits_where_all_is_learned(self, catalogue: Catalogue) -> None:
        assert stages.waiting(catalogue, ()) == []
        fill(catalogue)
        assert stages.waiting(catalogue, ["kiwis", "pears"]) == []


def each(name: str, photos: int = 2, since: float = 0.0, latest: float = 0.0) -> Waiting:
    return Waiting(name, tuple(f"{name}{i}" for i in range(photos)), 0, since, latest)


class TestRipe:
    @pytest.mark.parametrize(
        ("waiting", "now", "ripe"),
        [
            ([each("a"), each("b"), each("c")], 10.0, "abc"),
            ([each("a"), each("b"), each("c")], 9.9, None),
            ([each("a"), each("b"), each("c", latest=5.0)], 14.9, None),
            ([each("a"), each("b"), each("c", latest=5.0)], 15.0, "abc"),
            ([each("a"), each("b"), each("c", photos=1)], 50.0, None),
            ([each("a"), each("b"), each("c", photos=1)], 99.9, None),
            ([each("a"), each("b"), each("c", photos=1)], 100.0, "ab"),
            ([each("a", since=20.0), each("b", since=10.0)], 109.9, None),
            ([each("a", since=20.0), each("b", since=10.0)], 110.0, "ab"),
            ([each("a"), each("b"), each("c"), each("d", photos=1, latest=9.0)], 10.0, "abc"),
            ([each("a")], 1e9, None),
            ([], 1e9, None),
        ],
        ids=[
            "enough categories, settled",
            "not settled",
            "a photo just came",
            "and settled",
            "too few photos",
            "not waited long enough",
            "waited long enough",
            "the oldest has not waited long enough",
            "the oldest has waited",
            "one that has too few photos unsettles nothing",
            "one is nothing to tell apart",
            "none",
        ],
    )
    def test_enough_categories_or_a_long_wait_and_then_quiet(
        self, waiting: list[Waiting], now: float, ripe: str | None
    ) -> None:
        found = stages.ripe(waiting, RULE, now)
        assert (found and "".join(each.name for each in found[0])) == ripe

    def test_the_reasons_are_these(self) -> None:
        many = stages.ripe([each("a"), each("b"), each("c")], RULE, 10.0)
        few = stages.ripe([each("a"), each("b")], RULE, 5400.0)
        assert many is not None
        assert many[1] == "3 new categories have at least 2 training photos each"
        assert few is not None
        assert few[1] == "2 new categories, the first of which has waited for 1.5 hours"

    @pytest.mark.parametrize(("now", "ripe"), [(307.0 - 0.1, False), (307.0, True)])
    def test_photos_that_keep_coming_do_not_put_it_off_for_ever(self, now: float, ripe: bool) -> None:
        """30 times as long as it settles, since the third category appeared."""
        waiting = [each("a", since=1.0, latest=now), each("b", since=7.0, latest=now), each("c", since=2.0, latest=now)]
        assert (stages.ripe(waiting, RULE, now) is not None) is ripe

    @pytest.mark.parametrize(("now", "ripe"), [(405.0 - 0.1, False), (405.0, True)])
    def test_nor_after_a_long_wait(self, now: float, ripe: bool) -> None:
        waiting = [each("a", since=5.0, latest=now), each("b", since=7.0, latest=now)]
        assert (stages.ripe(waiting, RULE, now) is not None) is ripe

    def test_what_was_tried_in_vain_joins_a_stage_and_brings_none_about(self) -> None:
        waiting = [each(name) for name in "abcd"]
        assert stages.ripe(waiting, RULE, 1e9, {"a", "b", "c", "d"}) is None
        assert stages.ripe(waiting, RULE, 50.0, {"a", "b"}) is None
        found = stages.ripe(waiting, RULE, 50.0, {"a"})
        assert found is not None
        assert [each.name for each in found[0]] == ["a", "b", "c", "d"]
        late = stages.ripe(waiting[:2], RULE, 100.0, {"a"})
        assert late is not None
        assert [each.name for each in late[0]] == ["a", "b"]

    @pytest.mark.parametrize("field", ["min_categories", "min_photos"])
    def test_a_rule_that_nothing_could_be_learned_by_is_refused(self, field: str) -> None:
        with pytest.raises(InvalidField, match="too small to learn from") as refused:
            StageRule(**{field: 1})
        assert (refused.value.field, refused.value.got, refused.value.expected) == (field, "1", ">= 2")


class TestRequested:
    WAITING = (each("a"), each("b", photos=1), each("c", photos=3))

    def test_without_names_it_is_all_that_can_be_learned(self) -> None:
        assert [w.name for w in stages.requested(self.WAITING, Request("r"))] == ["a", "c"]

    def test_with_names_it_is_these_each_once(self) -> None:
        assert [w.name for w in stages.requested(self.WAITING, Request("r", ("c", "a", "c")))] == ["c", "a"]

    @pytest.mark.parametrize(
        ("names", "words", "got"),
        [
            (("a", "d"), "'d' is no category that waits to be learned", "d"),
            (("a", "b"), "category 'b' has too few training photos", "1"),
            (("a",), "too few new categories have the photos to be learned", "1"),
        ],
    )
    def test_what_is_no_stage_is_refused(self, names: tuple[str, ...], words: str, got: str) -> None:
        with pytest.raises(InvalidField, match=words) as refused:
            stages.requested(self.WAITING, Request("r", names))
        assert (refused.value.field, refused.value.got) == ("categories", got)

    def test_where_nothing_waits_there_is_no_stage(self) -> None:
        with pytest.raises(InvalidField, match="too few new categories"):
            stages.requested([], Request("r"))


class TestBegin:
    def test_it_is_given_its_categories_and_copies_of_their_photos(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        training = begun(data, catalogue)
        assert (training.number, training.stage, training.base, training.seq) == (1, 0, "b" * 64, 5)
        assert training.categories == ("kiwis", "pears")
        assert training.photos == (
            (sha("item-0"), 0),
            (sha("item-1"), 0),
            (sha("item-2"), 1),
            (sha("item-3"), 1),
        )
        folder = data.stage(1) / "photos"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            sha(name): name.encode() for name in ("item-0", "item-1", "item-2", "item-3")
        }
        assert stages.load(data, 1) == (training, None)
        assert not stages.has_ended(data, 1)

    def test_the_next_one_has_the_next_number(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        assert [begun(data, catalogue).number for _ in range(3)] == [1, 2, 3]
        assert stages.numbers(data) == [1, 2, 3]

    def test_what_was_deleted_meanwhile_is_left_out(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        catalogue.apply([put("item-4", "kiwis"), put("item-5", "figs"), put("item-7", "figs")])
        chosen = stages.waiting(catalogue, ())
        catalogue.apply([Delete("item-0"), Delete("item-2")])
        training = stages.begin(data, catalogue, chosen, stage=0, base="", reason="")
        assert training.categories == ("figs", "kiwis")
        assert [name for name, label in training.photos if label == 1] == [sha("item-1"), sha("item-4")]
        assert {path.name for path in (data.stage(1) / "photos").iterdir()} == {name for name, _ in training.photos}

    def test_promise_6_nor_is_what_became_a_probes_photo(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        catalogue.apply([put("item-4", "kiwis")])
        chosen = stages.waiting(catalogue, ())
        catalogue.apply([put(OTHER_PROBE, "learned", shows="item-0")])
        training = stages.begin(data, catalogue, chosen, stage=0, base="", reason="")
        assert sha("item-0") not in dict(training.photos)
        assert not (data.stage(1) / "photos" / sha("item-0")).exists()

    def test_nor_is_a_damaged_photo_which_is_named_once_with_an_item_that_shows_it(
        self, data: DataDir, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
    ) -> None:
        fill(catalogue)
        catalogue.apply([put("item-4", "kiwis")])
        chosen, damaged = stages.waiting(catalogue, ()), set[str]()
        damage(catalogue, sha("item-0"))
        for number in (1, 2):
            training = stages.begin(data, catalogue, chosen, stage=0, base="", reason="", damaged=damaged)
            assert [name for name, label in training.photos if label == 0] == [sha("item-1"), sha("item-4")]
            assert {path.name for path in (data.stage(number) / "photos").iterdir()} == set(dict(training.photos))
        assert damaged == {sha("item-0")}
        (told,) = caplog.messages
        assert f"the bytes of photo {sha('item-0')} have changed on the disk; item 'item-0' shows it" in told
        assert stages.waiting(catalogue, (), damaged)[0].photos == (sha("item-1"), sha("item-4"))

    def test_a_damaged_database_is_not_taken_for_damaged_photos(
        self, data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(catalogue)

        def malformed(sha256: str) -> NoReturn:
            raise CatalogueDamaged("database disk image is malformed")

        monkeypatch.setattr(catalogue, "photo", malformed)
        with pytest.raises(CatalogueDamaged, match="malformed"):
            begun(data, catalogue)

    def test_where_too_few_are_left_nothing_begins(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        chosen = stages.waiting(catalogue, ())
        catalogue.apply([Delete("item-0")])
        with pytest.raises(InvalidField, match="too few categories are left to learn"):
            stages.begin(data, catalogue, chosen, stage=0, base="", reason="")
        assert list(data.stages.iterdir()) == []

    def test_a_full_disk_leaves_nothing(
        self, data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(catalogue)
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            begun(data, catalogue)
        assert list(data.stages.iterdir()) == []


def full(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


class Killed(BaseException):
    """Ends the process where it stands: nothing is tidied up."""


def kill(*_: object, **__: object) -> NoReturn:
    raise Killed


class TestARequestThatIsWithdrawn:
    @pytest.fixture
    def request_(self, data: DataDir, catalogue: Catalogue) -> Request:
        fill(catalogue)
        return stages.request_training(data)

    def begin(self, data: DataDir, catalogue: Catalogue, request: Request) -> Training:
        chosen = stages.waiting(catalogue, ())
        return stages.begin(data, catalogue, chosen, stage=0, base="", reason="", request=request.id)

    def test_while_it_stands_its_training_begins(self, data: DataDir, catalogue: Catalogue, request_: Request) -> None:
        assert self.begin(data, catalogue, request_).request == request_.id

    @pytest.mark.parametrize("another", [False, True], ids=["withdrawn", "replaced"])
    def test_when_its_photos_are_on_the_disk_no_training_begins(
        self, another: bool, data: DataDir, catalogue: Catalogue, request_: Request, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def synced(path: Path) -> None:
            if path.parent == data.stages:  # the staging folder: the last before the rename
                stages.request_training(data) if another else stages.withdraw(data, request_)

        monkeypatch.setattr("indexer.files.fsync_path", synced)
        with pytest.raises(NotReady, match="the request was withdrawn"):
            self.begin(data, catalogue, request_)
        assert list(data.stages.iterdir()) == []

    def test_nor_does_it_after_a_kill_while_photos_were_written(
        self, data: DataDir, catalogue: Catalogue, request_: Request, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", kill)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                self.begin(data, catalogue, request_)
        sweep(data.stages)
        stages.withdraw(data, request_)
        with pytest.raises(NotReady):
            self.begin(data, catalogue, request_)
        assert list(data.stages.iterdir()) == []
        request = stages.request_training(data)
        assert self.begin(data, catalogue, request).number == 1

    def test_how_far_the_photos_are_is_told(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        told = list[tuple[int, int]]()
        chosen = stages.waiting(catalogue, ())
        stages.begin(
            data, catalogue, chosen, stage=0, base="", reason="", tick=lambda done, total: told.append((done, total))
        )
        assert told == [(0, 4), (1, 4), (2, 4), (3, 4)]


class TestCrashTable:
    def test_while_photos_are_written(
        self, data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(catalogue)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", kill)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                begun(data, catalogue)
        assert [path.name.startswith(".staging-") for path in data.stages.iterdir()] == [True]
        assert stages.numbers(data) == []
        sweep(data.stages)
        assert begun(data, catalogue).number == 1

    def test_after_the_rename(self, data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(catalogue)
        with monkeypatch.context() as patch:
            patch.setattr("indexer.files.fsync_path", lambda path: kill() if path == data.stages else None)
            with pytest.raises(Killed):
                begun(data, catalogue)
        training, outcome = stages.load(data, 1)
        assert outcome is None
        assert (data.stage(1) / "photos" / training.photos[0][0]).read_bytes() == b"item-0"

    def test_while_the_outcome_is_written(
        self, data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(catalogue)
        training = begun(data, catalogue)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", kill)
            patch.setattr(os, "unlink", lambda path: None)
            with pytest.raises(Killed):
                stages.end(data, training, Outcome("failed", "x"))
        assert stages.load(data, 1) == (training, None)
        assert not stages.has_ended(data, 1)
        assert len(list((data.stage(1) / "photos").iterdir())) == 4
        stages.end(data, training, Outcome("failed", "x"))
        assert {path.name for path in data.stage(1).iterdir()} == {"stage.json", "outcome.json"}

    def test_after_it_before_photos_are_removed(
        self, data: DataDir, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(catalogue)
        training = begun(data, catalogue)
        (data.stage(1) / "checkpoint.pt").write_bytes(b"x")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", kill)
            with pytest.raises(Killed):
                stages.end(data, training, Outcome("failed", "x"))
        assert stages.has_ended(data, 1)
        stages.tidy(data, 1)
        assert {path.name for path in data.stage(1).iterdir()} == {"stage.json", "outcome.json"}

    def test_nothing_of_a_training_under_way_is_tidied(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        begun(data, catalogue)
        (data.stage(1) / "checkpoint.pt").write_bytes(b"x")
        stages.tidy(data, 1)
        assert {path.name for path in data.stage(1).iterdir()} == {"stage.json", "photos", "checkpoint.pt"}


class TestEnd:
    def test_what_is_recorded_is_read(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        training = begun(data, catalogue)
        gates = (Gate("export parity", True, 1.0, 0.9999, "it is the same"),)
        stages.end(data, training, Outcome("published", "it met its 1 gates", "m" * 64, gates, {"steps": 7.0}))
        read, outcome = stages.load(data, 1)
        assert read == training
        assert outcome is not None
        assert (outcome.state, outcome.reason, outcome.model, outcome.gates, outcome.facts) == (
            "published",
            "it met its 1 gates",
            "m" * 64,
            gates,
            {"steps": 7.0},
        )
        assert outcome.finished_at > 1e9

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("stage.json", "{"),
            ("stage.json", "[]"),
            ("stage.json", '"x"'),
            ("stage.json", '{"format": 2}'),
            ("stage.json", '{"format": 1, "photos": []}'),
            ("stage.json", None),
            ("outcome.json", "{"),
            ("outcome.json", '{"format": 1, "state": "lost", "reason": "", "gates": {"format": 1, "gates": []}}'),
        ],
    )
    def test_another_content_is_refused_with_the_number(
        self, name: str, content: str | None, data: DataDir, catalogue: Catalogue
    ) -> None:
        fill(catalogue)
        begun(data, catalogue)
        path = data.stage(1) / name
        path.unlink(missing_ok=True) if content is None else path.write_text(content)
        with pytest.raises(EverlookError, match="training 1 cannot be read"):
            stages.load(data, 1)


class TestTriedInVain:
    def test_they_are_those_of_ended_trainings_that_are_not_learned(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        first = begun(data, catalogue)
        assert stages.tried_in_vain(data, ()) == set()
        stages.end(data, first, Outcome("rejected", "x"))
        assert stages.tried_in_vain(data, ()) == {"kiwis", "pears"}
        assert stages.tried_in_vain(data, ["kiwis"]) == {"pears"}

    def test_one_that_was_overtaken_says_nothing(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        stages.end(data, begun(data, catalogue), Outcome("cancelled", stages.OVERTAKEN))
        assert stages.tried_in_vain(data, ()) == set()
        stages.end(data, begun(data, catalogue), Outcome("cancelled", "an operator asked for it"))
        assert stages.tried_in_vain(data, ()) == {"kiwis", "pears"}

    def test_one_that_cannot_be_read_says_nothing(self, data: DataDir, catalogue: Catalogue) -> None:
        fill(catalogue)
        stages.end(data, begun(data, catalogue), Outcome("failed", "x"))
        (data.stage(1) / "stage.json").write_text("{")
        assert stages.tried_in_vain(data, ()) == set()


class TestRequests:
    def test_one_waits_until_it_is_withdrawn(self, data: DataDir) -> None:
        assert stages.requested_training(data) is None
        request = stages.request_training(data, ["kiwis", "pears"])
        assert stages.requested_training(data) == Request(request.id, ("kiwis", "pears"))
        stages.withdraw(data, request)
        assert stages.requested_training(data) is None
        stages.withdraw(data, request)

    def test_a_newer_one_takes_its_place_and_is_not_withdrawn_with_it(self, data: DataDir) -> None:
        first, second = stages.request_training(data), stages.request_training(data)
        assert first.id != second.id
        stages.withdraw(data, first)
        assert stages.requested_training(data) == second

    def test_a_cancellation_is_for_one_training(self, data: DataDir) -> None:
        assert not stages.cancel_requested(data, 3)
        stages.request_cancel(data, 3)
        assert [n for n in range(1, 6) if stages.cancel_requested(data, n)] == [3]

    @pytest.mark.parametrize("content", ["", "{", "[]", "3", json.dumps({"id": "r", "categories": None})])
    def test_what_is_no_request_is_none(self, content: str, data: DataDir) -> None:
        for name in ("train", "cancel"):
            (data.requests / f"{name}.json").write_text(content)
        assert stages.requested_training(data) is None
        assert not stages.cancel_requested(data, 3)


def test_items_that_show_a_photo_are_found_by_it(catalogue: Catalogue) -> None:
    catalogue.apply([put("item-0", shows="one"), put("item-1", "pears", shows="one"), put("item-2")])
    found = catalogue.ids_showing([sha("one"), sha("absent")])
    assert sorted(found) == [(sha("one"), "item-0"), (sha("one"), "item-1")]
    with pytest.raises(ItemNotFound):
        catalogue.photo(sha("absent"))
