"""Trainings, generations and gates are counted as their records say, each once, and never counted back."""

from __future__ import annotations

import time

import pytest

from indexer.datadir import DataDir
from indexer.gates import Gate
from indexer.generation import _remove as remove
from indexer.generation import write_verdict
from server.learning import Learning
from server.watching.records import GATES, Records, kind_of
from tests.server.learned import begun, ended, measured, model_of
from tests.server.test_learning import generation
from tests.server.watching.conftest import values_of


def gate(name: str, passed: bool) -> Gate:
    return Gate(name, passed, 0.0, 0.0, "so it is")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("export parity", "export parity"),
        ("old cohort 3", "old cohort"),
        ("new cohort 12", "new cohort"),
        ("cohort 3 in the gallery", "cohort in the gallery"),
        ("floor of cohort 0", "floor"),
        ("loading", "loading"),
        ("a gate of a later version", "other"),
    ],
)
def test_the_kind_of_a_gate_names_no_cohort(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_every_gate_that_the_trainer_and_the_server_measure_has_a_kind() -> None:
    named = measured(1, {0: (9, 10), 1: (9, 10)})
    assert {kind_of(each.name) for each in named} == {"old cohort", "new cohort", "floor"}
    assert len(set(GATES)) == len(GATES)


def test_trainings_are_counted_by_what_came_of_them(data: DataDir) -> None:
    read = Records(data, Learning(data), time.time())
    assert values_of(read())["everlook_trainings"] == {"published": 0, "rejected": 0, "cancelled": 0, "failed": 0}
    for number, state in enumerate(("published", "failed", "failed"), start=1):
        ended(data, begun(data, number, ["a", "b"]), state)  # type: ignore[arg-type]
    begun(data, 4, ["c", "d"])
    assert values_of(read())["everlook_trainings"] == {"published": 1, "rejected": 0, "cancelled": 0, "failed": 2}
    again = Records(data, Learning(data), time.time())
    assert values_of(again())["everlook_trainings"]["failed"] == 2  # a restart forgets none


def test_generations_are_counted_by_where_they_stand(data: DataDir, base: str) -> None:
    read = Records(data, Learning(data), time.time())
    assert values_of(read())["everlook_generations"] == {"candidate": 0, "live": 1, "previous": 0, "rejected": 0}
    taught = generation(data, model_of(data, 2, base, ["a"]).id)
    assert values_of(read())["everlook_generations"] == {"candidate": 1, "live": 1, "previous": 0, "rejected": 0}
    write_verdict(data, taught.number, [gate("cohort 0 in the gallery", False)])
    assert values_of(read())["everlook_generations"] == {"candidate": 0, "live": 1, "previous": 0, "rejected": 1}


def test_each_gate_is_counted_once_and_stays_when_its_generation_is_removed(data: DataDir, base: str) -> None:
    read = Records(data, Learning(data), time.time())
    gates = [gate("export parity", True), gate("old cohort 0", True), gate("old cohort 1", False)]
    ended(data, begun(data, 1, ["a", "b"]), "rejected", gates=gates)
    taught = generation(data, model_of(data, 2, base, ["a"], gates=[gate("new cohort 0", True)]).id)
    write_verdict(data, taught.number, [gate("cohort 0 in the gallery", False), gate("floor of cohort 0", True)])
    expected = {
        "export parity,passed": 1,
        "old cohort,passed": 1,
        "old cohort,failed": 1,
        "cohort in the gallery,failed": 1,
        "floor,passed": 1,
    }
    for _ in range(2):
        found = values_of(read())["everlook_gates"]
        assert {name: count for name, count in found.items() if count} == expected
    remove(data, taught.number)
    after = values_of(read())
    assert {name: count for name, count in after["everlook_gates"].items() if count} == expected
    assert after["everlook_generations"]["rejected"] == 0


def test_gates_of_before_the_start_are_not_counted_and_all_kinds_are_there_from_the_start(data: DataDir) -> None:
    ended(data, begun(data, 1, ["a", "b"]), "rejected", gates=[gate("export parity", False)])
    found = values_of(Records(data, Learning(data), time.time() + 60)())["everlook_gates"]
    assert found == {f"{kind},{result}": 0 for kind in (*GATES, "other") for result in ("passed", "failed")}


def test_records_that_cannot_be_read_are_left_out(data: DataDir, base: str) -> None:
    (data.generation(7)).mkdir()
    (data.stage(3)).mkdir()
    found = values_of(Records(data, Learning(data), 0.0)())
    assert found["everlook_generations"]["live"] == 1
    assert sum(found["everlook_trainings"].values()) == 0
