"""What requests may hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from indexer.errors import InvalidField, InvalidInput, InvalidVector
from indexer.validate import (
    Limits,
    check_category,
    check_id,
    check_ids,
    check_k,
    check_metadata,
    check_score,
    unit_vector,
)

LIMITS = Limits()


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_id("x", LIMITS),
        lambda: check_id("é" * 128, LIMITS),
        lambda: check_id("a b/c ü 🍎 ' --", LIMITS),
        lambda: check_ids(["a"] * 1000, LIMITS),
        lambda: check_category("c" * 256, LIMITS),
        lambda: check_metadata({"k" * 128: "v" * 2048, "n": -1e308, "b": False, "empty": "", "lines": "a\nb"}, LIMITS),
        lambda: check_metadata({str(n): 1.0 for n in range(64)}, LIMITS),
        lambda: check_k(1, LIMITS),
        lambda: check_k(1000, LIMITS),
        lambda: check_score(-1.0),
        lambda: check_score(1.0),
    ],
)
def test_what_is_within_the_limits_passes(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("check", "field", "got", "expected"),
    [
        pytest.param(lambda: check_id("", LIMITS, "item.id"), "item.id", "", "1 to 256 bytes", id="empty id"),
        pytest.param(
            lambda: check_id("é" * 129, LIMITS, "item.id"), "item.id", "258 bytes", "at most 256 bytes", id="long id"
        ),
        pytest.param(
            lambda: check_id("a\nb", LIMITS), "id", "U+000A at position 1", "no control characters", id="line feed"
        ),
        pytest.param(lambda: check_id("\x00", LIMITS), "id", "U+0000 at position 0", "no control characters", id="NUL"),
        pytest.param(
            lambda: check_id("ab\x85", LIMITS), "id", "U+0085 at position 2", "no control characters", id="C1 control"
        ),
        pytest.param(
            lambda: check_id("ab\ud800", LIMITS), "id", "a lone surrogate at position 2", "UTF-8", id="surrogate"
        ),
        pytest.param(lambda: check_ids(["a"] * 1001, LIMITS), "ids", "1001", "at most 1000", id="too many ids"),
        pytest.param(lambda: check_ids(["a", ""], LIMITS), "ids[1]", "", "1 to 256 bytes", id="one bad id of many"),
        pytest.param(
            lambda: check_category("c" * 257, LIMITS), "category", "257 bytes", "at most 256 bytes", id="long category"
        ),
        pytest.param(
            lambda: check_metadata({str(n): 1.0 for n in range(65)}, LIMITS, "item.metadata"),
            "item.metadata",
            "65",
            "at most 64",
            id="too many keys",
        ),
        pytest.param(
            lambda: check_metadata({"": 1.0}, LIMITS), "metadata['']", "", "1 to 128 bytes", id="empty metadata key"
        ),
        pytest.param(
            lambda: check_metadata({"k": "v" * 2049}, LIMITS),
            "metadata['k']",
            "2049 bytes",
            "at most 2048 bytes",
            id="long metadata text",
        ),
        pytest.param(
            lambda: check_metadata({"k": "\udfff"}, LIMITS),
            "metadata['k']",
            "a lone surrogate at position 0",
            "UTF-8",
            id="surrogate in metadata",
        ),
        pytest.param(
            lambda: check_metadata({"k": math.nan}, LIMITS), "metadata['k']", "nan", "a finite number", id="NaN"
        ),
        pytest.param(
            lambda: check_metadata({"k": -math.inf}, LIMITS), "metadata['k']", "-inf", "a finite number", id="infinity"
        ),
        pytest.param(
            lambda: check_metadata({"k": None}, LIMITS),  # type: ignore[dict-item]  # what a caller without types may send
            "metadata['k']",
            "NoneType",
            "text, number or bool",
            id="metadata of another type",
        ),
        pytest.param(lambda: check_k(0, LIMITS), "k", "0", "1 to 1000", id="k of zero"),
        pytest.param(lambda: check_k(1_000_000, LIMITS), "k", "1000000", "1 to 1000", id="k of a million"),
        pytest.param(lambda: check_score(math.nan), "min_score", "nan", "-1 to 1", id="score NaN"),
        pytest.param(lambda: check_score(1.01), "min_score", "1.01", "-1 to 1", id="score above one"),
    ],
)
def test_what_is_past_a_limit_is_refused_with_field_got_and_expected(
    check: Callable[[], None], field: str, got: str, expected: str
) -> None:
    with pytest.raises(InvalidField) as refused:
        check()
    assert (refused.value.field, refused.value.got, refused.value.expected) == (field, got, expected)


def test_an_integer_beyond_all_doubles_is_not_finite() -> None:
    with pytest.raises(InvalidField, match="not finite"):
        check_metadata({"k": 10**400}, LIMITS)


@pytest.mark.parametrize("values", [[3, 4], [3e38, 4e38], [3e-300, 4e-300], [3e300, 4e300]], ids=str)
def test_a_vector_becomes_one_of_unit_length(values: list[float]) -> None:
    vector = unit_vector(values, 2)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "field", "got", "expected"),
    [
        pytest.param([1.0], "vector", "1", "2 numbers", id="too short"),
        pytest.param([], "vector", "0", "2 numbers", id="empty"),
        pytest.param([1.0, math.nan], "vector[1]", "nan", "a finite number", id="NaN"),
        pytest.param([math.inf, 1.0], "vector[0]", "inf", "a finite number", id="infinity"),
        pytest.param([0.0, -0.0], "vector", "zeros", "a direction", id="zeros"),
    ],
)
def test_a_vector_without_direction_is_refused(values: list[float], field: str, got: str, expected: str) -> None:
    with pytest.raises(InvalidVector) as refused:
        unit_vector(values, 2)
    assert isinstance(refused.value, InvalidInput)
    assert (refused.value.field, refused.value.got, refused.value.expected) == (field, got, expected)
