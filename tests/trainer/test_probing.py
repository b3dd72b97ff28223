"""Probes: which are chosen, and what their recall says of a model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from indexer.catalogue import Catalogue, Delete
from indexer.datadir import DataDir
from indexer.devices import CPU, Devices
from indexer.encoder import Encoder
from indexer.images import preprocess
from indexer.probes import is_probe, rank
from tests.indexer.catalogues import damage, put
from tests.indexer.tiny_model import write_tiny_model
from tests.trainer import shops
from trainer import probing
from trainer.probing import Probe

COHORTS = {"apples": 0, "kiwis": 0, "pears": 1}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue.open(DataDir(tmp_path).catalogue_url)


def held_out(category: str, count: int) -> list[str]:
    """Ids of so many probes, in the order of their hashes."""
    ids = (f"{category}/{number}" for number in range(10_000))
    return sorted([id for id in ids if is_probe(id)][:count], key=rank)


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def test_they_are_the_held_out_items_of_what_is_learned(catalogue: Catalogue) -> None:
    kiwis, pears = held_out("kiwis", 2), held_out("pears", 2)
    catalogue.apply([put(id, "kiwis") for id in kiwis] + [put(id, "pears") for id in pears])
    catalogue.apply([put(id, "figs") for id in held_out("figs", 2)] + [put("item-0", "kiwis"), put("item-1", "kiwis")])
    chosen = probing.choose(catalogue, COHORTS, trained=())
    assert {probe for probe in chosen if probe.cohort == 0} == {Probe(sha(id), "kiwis", 0) for id in kiwis}
    assert {probe for probe in chosen if probe.cohort == 1} == {Probe(sha(id), "pears", 1) for id in pears}


def test_a_photo_is_taken_once_and_not_where_it_was_trained_on(catalogue: Catalogue) -> None:
    first, second, third = held_out("kiwis", 3)
    catalogue.apply([put(first, "kiwis", shows="one"), put(second, "kiwis", shows="one"), put(third, "kiwis")])
    assert [probe.sha256 for probe in probing.choose(catalogue, COHORTS, trained=())] == [sha("one"), sha(third)]
    assert [probe.sha256 for probe in probing.choose(catalogue, COHORTS, trained={sha(third)})] == [sha("one")]


def test_of_too_many_each_category_gives_its_first_pairs(catalogue: Catalogue) -> None:
    """rank: kiwis before apples."""
    assert rank("kiwis") < rank("apples")
    apples, kiwis, pears = held_out("apples", 5), held_out("kiwis", 3), held_out("pears", 3)
    for category, ids in (("apples", apples), ("kiwis", kiwis), ("pears", pears)):
        catalogue.apply([put(id, category) for id in ids])

    def of(most: int, cohort: int) -> list[str]:
        chosen = probing.choose(catalogue, COHORTS, trained=(), most=most)
        return [probe.sha256 for probe in chosen if probe.cohort == cohort]

    expected = [*kiwis[:2], *apples[:2], kiwis[2], *apples[2:]]
    for most in (1, 2, 4, 5, 8, 100):
        assert of(most, 0) == [sha(id) for id in expected[:most]]
        assert of(most, 1) == [sha(id) for id in pears[:most]]


def test_items_that_come_later_do_not_change_the_others(catalogue: Catalogue) -> None:
    ids = held_out("kiwis", 6)
    catalogue.apply([put(id, "kiwis") for id in ids[:4]])
    before = probing.choose(catalogue, COHORTS, trained=(), most=2)
    catalogue.apply([put(id, "kiwis") for id in ids[4:]])  # higher hashes
    assert probing.choose(catalogue, COHORTS, trained=(), most=2) == before


def test_their_vectors_are_the_encoders_and_those_that_are_gone_are_left_out(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    manifest = write_tiny_model(tmp_path / "models")
    encoder = Encoder.load(tmp_path / "models" / manifest.id[:16], Devices((CPU,), "", 0, ""), 1)
    puts = [shops.put(f"{n}", "kiwis") for n in range(70)]
    catalogue.apply(puts)
    catalogue.apply([Delete("3")])
    shas = [each.photo.sha256 for each in puts if each.photo]
    told: list[tuple[int, int]] = []
    found = probing.embed(
        catalogue, encoder, shas, workers=2, damaged=set(), tick=lambda done, total: told.append((done, total))
    )
    assert set(found) == set(shas) - {shas[3]}
    photo = puts[40].photo
    assert photo is not None
    pixels = preprocess(photo.data, manifest.preprocessing)[0]
    np.testing.assert_allclose(found[shas[40]], encoder.encode(pixels[None])[0], atol=1e-6)
    assert told == [(32, 70), (64, 70), (70, 70)]


def test_a_probe_whose_bytes_have_changed_is_left_out_and_named_once(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_tiny_model(tmp_path / "models")
    encoder = Encoder.load(tmp_path / "models" / manifest.id[:16], Devices((CPU,), "", 0, ""), 1)
    puts = [shops.put(f"{n}", "kiwis") for n in range(6)]
    catalogue.apply(puts)
    shas = [each.photo.sha256 for each in puts if each.photo]
    damage(catalogue, shas[1])
    damage(catalogue, shas[4])
    damaged = set[str]()
    for _ in range(2):
        found = probing.embed(catalogue, encoder, shas, workers=2, damaged=damaged)
        assert set(found) == set(shas) - {shas[1], shas[4]}
    assert damaged == {shas[1], shas[4]}
    assert len(caplog.messages) == 2
    assert f"photo {shas[1]} have changed on the disk; item '1' shows it" in caplog.messages[0]


def unit(degrees: float) -> NDArray[np.float32]:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)


def test_each_is_searched_among_all_the_others_and_counts_where_it_could_be_found() -> None:
    at = {"a": 0.0, "b": 10.0, "c": 14.0, "d": 50.0, "e": 58.0, "f": 200.0}
    probes = [
        Probe("a", "apples", 0),
        Probe("b", "apples", 0),
        Probe("c", "pears", 1),
        Probe("d", "pears", 1),
        Probe("e", "kiwis", 0),
        Probe("f", "apples", 0),
    ]
    found = probing.found_by_cohort(probes, {name: unit(degrees) for name, degrees in at.items()})
    # b's nearest is c, a pear, and so on; e is the only kiwi and says nothing.
    assert {cohort: row.tolist() for cohort, row in found.items()} == {0: [True, False, False], 1: [False, False]}
    assert probing.found_by_cohort([], {}) == {}


def test_how_many_times_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of each encoder's times, on a clock that only they move; each run in turn."""
    now, order = [0.0], list[str]()

    class Fake:
        def __init__(self, name: str, seconds: list[float]) -> None:
            self.name, self._seconds = name, iter(seconds)
            self.device = SimpleNamespace(threads=1)
            self.manifest = SimpleNamespace(preprocessing=SimpleNamespace(image_size=8))

        def run_once(self, pixels: NDArray[np.uint8]) -> None:
            assert pixels.shape == (8, 8, 8, 3)
            order.append(self.name)
            now[0] += next(self._seconds)

    monkeypatch.setattr("time.thread_time", lambda: now[0])
    plain: Any = Fake("plain", [9.0, 4.0, *[5.0] * 8])
    quantised: Any = Fake("int8", [3.0, *[2.0] * 9])
    assert probing.speedup(plain, quantised) == 2.0
    assert order == ["plain", "int8"] * 10
