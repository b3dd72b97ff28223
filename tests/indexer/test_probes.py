"""Which items are held out (promise 6)."""

from __future__ import annotations

import pytest

from indexer.probes import is_probe, rank

# The first 8 bytes of SHA-256 of each id, as sha256sum prints them.
DIGESTS = {
    "item-0": 0x69B65BBED30CA00A,
    "item-6": 0x03BEDCE883C01C6E,
    "item-8": 0x18B73384516AA477,
    "item-10": 0xF1F2FEE5AB5CA7A1,
    "é": 0x4A99557E4033C353,
    "": 0xE3B0C44298FC1C14,
}


def test_of_twelve_items_these_three_are_probes() -> None:
    assert [n for n in range(12) if is_probe(f"item-{n}")] == [6, 8, 11]


@pytest.mark.parametrize("id", DIGESTS)
def test_the_rank_is_the_hash_as_a_share(id: str) -> None:
    assert rank(id) == pytest.approx(DIGESTS[id] / 2**64, abs=1e-15)


def test_a_fifth_of_many_items_is_held_out() -> None:
    share = sum(is_probe(f"{n}.jpg") for n in range(10_000)) / 10_000
    assert 0.188 < share < 0.212  # three standard errors
