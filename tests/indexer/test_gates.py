"""Gates of probe recall, worked out by hand; and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.errors import ModelDamaged
from indexer.gates import (
    CohortRecall,
    Gate,
    RecallLimits,
    cohort_recall,
    failures,
    from_json,
    load_gates,
    passed,
    recall_gates,
    to_json,
)

LIMITS = RecallLimits(most_drop=0.02, least_rise=0.0, floor=0.1)
GATES = (Gate("old cohort 0", True, -0.01, -0.02, "it is kept"), Gate("new cohort 1", False, -0.5, 0.0, "it fell"))


def probes(both: int = 0, lost: int = 0, won: int = 0, neither: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which probes the served model finds and which the candidate, by how many of each kind there are."""
    before = [True] * (both + lost) + [False] * (won + neither)
    after = [True] * both + [False] * lost + [True] * won + [False] * neither
    return np.array(before, bool), np.array(after, bool)


def gates_of(new: int, kinds: Mapping[str, int], limits: RecallLimits = LIMITS) -> dict[str, Gate]:
    """Those of the one cohort 0; `new` is another cohort, or 0 itself."""
    before, after = probes(**kinds)
    return {gate.name: gate for gate in recall_gates({0: before}, {0: after}, new, limits)}


class TestOldCohort:
    @pytest.mark.parametrize(
        ("kinds", "change", "error", "kept"),
        [
            # error = sqrt(lost + won - (won - lost)^2 / n) / n
            ({"both": 50, "lost": 10, "won": 0, "neither": 40}, -0.1, 0.03, False),  # -0.1 + 0.049 < -0.02
            ({"both": 6, "lost": 3, "won": 1, "neither": 0}, -0.2, 0.1897, True),  # -0.2 + 0.312 > -0.02
            ({"both": 90, "lost": 2, "won": 0, "neither": 8}, -0.02, 0.014, True),
            ({"both": 980, "lost": 20, "won": 20, "neither": 0}, 0.0, 0.0062, True),
            ({"both": 100, "lost": 0, "won": 0, "neither": 0}, 0.0, 0.0, True),
            ({"both": 0, "lost": 1, "won": 0, "neither": 0}, -1.0, 0.0, False),
        ],
        ids=["far", "few", "at the limit", "as many won as lost", "the same", "all lost"],
    )
    def test_it_may_fall_by_so_much_within_sampling_error(
        self, kinds: dict[str, int], change: float, error: float, kept: bool
    ) -> None:
        gate = gates_of(9, kinds)["old cohort 0"]
        assert (gate.passed, gate.required) == (kept, -0.02)
        assert gate.measured == pytest.approx(change)
        assert gate.reason.endswith(f"{sum(kinds.values())} probes, standard error of the change {error:.3f}")
        assert ("is kept" if kept else "fell by more than is allowed") in gate.reason

    def test_the_words_are_these(self) -> None:
        gate = gates_of(9, {"both": 50, "lost": 10, "neither": 40})["old cohort 0"]
        assert gate.reason == (
            "Recall@1 of cohort 0 fell by more than is allowed: 0.600 to 0.500, 100 probes,"
            " standard error of the change 0.030"
        )


class TestNewCohort:
    @pytest.mark.parametrize(
        ("won", "lost", "least", "rises"),
        [
            (1, 0, 0.0, True),
            (0, 0, 0.0, False),
            (1, 1, 0.0, False),
            (0, 1, 0.0, False),
            (5, 0, 0.05, False),
            (6, 0, 0.05, True),
        ],
    )
    def test_the_measured_recall_must_rise_by_more_than_so_much(
        self, won: int, lost: int, least: float, rises: bool
    ) -> None:
        limits = RecallLimits(least_rise=least)
        found = gates_of(0, {"both": 50, "won": won, "lost": lost, "neither": 50 - won - lost}, limits)
        gate = found["new cohort 0"]
        assert (gate.passed, gate.required) == (rises, least)
        assert gate.measured == pytest.approx((won - lost) / 100)
        assert ("did not rise" in gate.reason) is not rises
        assert "old cohort 0" not in found


class TestFloor:
    @pytest.mark.parametrize(
        ("found", "of", "above"),
        [
            (0, 10, True),  # at most z^2 / (n + z^2) = 2.706 / 12.706 = 0.213
            (0, 30, False),  # 2.706 / 32.706 = 0.083
            (1, 30, True),
            (30, 30, True),
        ],
    )
    def test_no_cohort_is_below_it_beyond_sampling_error(self, found: int, of: int, above: bool) -> None:
        gate = gates_of(9, {"both": found, "neither": of - found})["floor of cohort 0"]
        assert (gate.passed, gate.measured, gate.required) == (above, found / of, 0.1)

    def test_the_words_are_these(self) -> None:
        gate = gates_of(9, {"neither": 30})["floor of cohort 0"]
        assert gate.reason == "Recall@1 of cohort 0 is below the floor: 0.000 of 30 probes, at most 0.083"


def test_each_cohort_has_its_gates_in_order_and_one_without_probes_none() -> None:
    before, after = probes(both=5, won=5)
    nothing = np.zeros(0, bool)
    gates = recall_gates({2: before, 0: before, 1: nothing}, {2: after, 0: after, 1: nothing}, 2, LIMITS)
    names = ["old cohort 0", "floor of cohort 0", "new cohort 2", "floor of cohort 2"]
    assert [gate.name for gate in gates] == names
    assert passed(gates)


def test_one_failure_is_enough_and_is_told() -> None:
    assert not passed(GATES)
    assert failures(GATES) == "new cohort 1: it fell"
    assert passed(GATES[:1])
    assert failures(GATES[:1]) == ""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert from_json(json.loads(json.dumps(to_json(GATES)))) == GATES
    (tmp_path / "gates.json").write_text(json.dumps(to_json(GATES)))
    assert load_gates(tmp_path) == GATES


def test_model_0_has_no_gates(tmp_path: Path) -> None:
    assert load_gates(tmp_path) == ()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "7", '{"format": 2, "gates": []}', '{"format": 1}', '{"format": 1, "gates": [{"name": "x"}]}'],
)
def test_another_content_is_refused_with_the_files_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "gates.json").write_text(content)
    with pytest.raises(ModelDamaged, match=r"gates\.json cannot be read"):
        load_gates(tmp_path)


def test_recall_by_cohort_is_what_the_gates_of_its_floor_measured() -> None:
    def measured(**found: int) -> list[Gate]:
        probes = {int(cohort[1:]): np.arange(40) < count for cohort, count in found.items()}
        return recall_gates(probes, probes, 1, RecallLimits())

    first, later = measured(c0=30, c1=5), measured(c1=20)
    assert cohort_recall(first) == {0: CohortRecall(0.75, 40), 1: CohortRecall(0.125, 40)}
    assert cohort_recall([*first, *later]) == {0: CohortRecall(0.75, 40), 1: CohortRecall(0.5, 40)}
    assert cohort_recall([Gate("export parity", True, 1.0, 0.9999, "it is the same")]) == {}


def test_a_new_cohort_that_is_found_whole_need_not_rise() -> None:
    whole = {0: np.ones(20, np.bool_)}
    assert passed(recall_gates(whole, whole, 0, LIMITS))
    almost = {0: np.arange(20) < 19}
    assert not passed(recall_gates(almost, almost, 0, LIMITS))
