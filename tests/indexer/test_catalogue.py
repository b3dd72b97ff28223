"""What the catalogue promises, on each database it runs on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from indexer.catalogue import Applied, Catalogue, CategoryCount, Delete, MetadataValue, Outcome, Put, Totals
from indexer.catalogue.values import decode_metadata, encode_metadata
from indexer.errors import CatalogueDamaged, InvalidField, ItemNotFound, NotServing, PhotoDamaged
from tests.indexer.catalogues import DATABASES, MODEL, damage, fresh_url, keep_photo, needs_postgres, photo, put, vector


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return fresh_url(request.param, tmp_path)


@pytest.fixture
def catalogue(url: str) -> Iterator[Catalogue]:
    with Catalogue.open(url) as opened:
        yield opened
        opened.verify()


def outcomes(answers: list[Applied | ItemNotFound]) -> list[tuple[int, Outcome] | None]:
    return [(each.seq, each.outcome) if isinstance(each, Applied) else None for each in answers]


def test_what_was_put_is_read_back_whole(catalogue: Catalogue) -> None:
    (answer,) = catalogue.apply([put("a", "Äpfel", {"price": 1.5, "fresh": True, "size": "1"})])
    item = catalogue.get("a")
    assert (item.id, item.category, item.metadata) == ("a", "Äpfel", {"price": 1.5, "fresh": True, "size": "1"})
    assert (item.seq, item.image_sha256, item.image_bytes) == (1, photo("a").sha256, 1)
    assert (item.width, item.height, item.format) == (320, 240, "JPEG")
    assert item.updated_at > 1.7e9
    assert catalogue.image("a") == photo("a")
    assert catalogue.photo(photo("a").sha256) == photo("a")
    assert isinstance(answer, Applied)
    assert answer.entry is not None
    assert (answer.outcome, answer.entry.seq, answer.entry.image_sha256) == (Outcome.CREATED, 1, photo("a").sha256)
    np.testing.assert_array_equal(answer.vectors[MODEL], vector("a"))


def test_every_change_takes_the_next_seq_and_an_unchanged_item_none(catalogue: Catalogue) -> None:
    answers = catalogue.apply([put("a"), put("b"), put("a"), put("a", "pears"), Delete("b"), put("b")])
    assert outcomes(answers) == [
        (1, Outcome.CREATED),
        (2, Outcome.CREATED),
        (1, Outcome.UNCHANGED),
        (3, Outcome.UPDATED),
        (4, Outcome.DELETED),
        (5, Outcome.CREATED),
    ]
    assert outcomes(catalogue.apply([put("b")])) == [(5, Outcome.UNCHANGED)]
    assert catalogue.last_seq == 5


def test_a_seq_is_never_used_again_after_the_last_item_is_deleted_and_the_catalogue_reopened(url: str) -> None:
    with Catalogue.open(url) as catalogue:
        catalogue.apply([put("a"), Delete("a"), put("b")])
        catalogue.apply([Delete("b")])
    with Catalogue.open(url) as catalogue:
        assert catalogue.totals() == Totals(0, 0, 0, 0, 4)
        assert outcomes(catalogue.apply([put("a")])) == [(5, Outcome.CREATED)]


def test_an_item_that_comes_and_goes_in_one_batch_leaves_only_its_seqs(catalogue: Catalogue) -> None:
    catalogue.apply([put("a"), Delete("a")])
    assert catalogue.totals() == Totals(0, 0, 0, 0, 2)
    assert catalogue.categories(10) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"a": 1.0}, {"a": True}, id="number and bool"),
        pytest.param({"a": 1.0}, {"a": "1"}, id="number and text"),
        pytest.param({"a": True}, {"a": "true"}, id="bool and text"),
        pytest.param({"a": 0.1}, {"a": 0.1 + 2**-56}, id="numbers one bit apart"),
        pytest.param({"a": ""}, {}, id="empty text and none"),
    ],
)
def test_metadata_of_another_type_is_another_value(
    catalogue: Catalogue, one: dict[str, MetadataValue], other: dict[str, MetadataValue]
) -> None:
    catalogue.apply([put("a", metadata=one)])
    assert outcomes(catalogue.apply([put("a", metadata=other)])) == [(2, Outcome.UPDATED)]
    assert {key: (type(value), value) for key, value in catalogue.get("a").metadata.items()} == {
        key: (type(value), value) for key, value in other.items()
    }


def test_the_text_of_metadata_does_not_depend_on_the_order_of_its_keys() -> None:
    assert encode_metadata({"b": 1.0, "a": True}) == encode_metadata({"a": True, "b": 1.0})
    assert decode_metadata(encode_metadata({"n": 3})) == {"n": 3.0}
    assert isinstance(decode_metadata(encode_metadata({"n": 3}))["n"], float)


def test_a_put_without_photo_keeps_the_photo_and_its_vector(catalogue: Catalogue) -> None:
    catalogue.apply([put("a", "apples", {"price": 1.0})])
    (answer,) = catalogue.apply([keep_photo("a", "pears")], [MODEL, "none"])
    assert isinstance(answer, Applied)
    assert (answer.seq, answer.outcome) == (2, Outcome.UPDATED)
    np.testing.assert_array_equal(answer.vectors[MODEL], vector("a"))
    assert catalogue.image("a") == photo("a")
    assert (catalogue.get("a").category, catalogue.get("a").metadata) == ("pears", {})


@pytest.mark.parametrize("change", [Delete("x"), keep_photo("x")], ids=["delete", "put without photo"])
def test_an_unknown_id_is_not_found_and_takes_no_seq(catalogue: Catalogue, change: Delete | Put) -> None:
    answers = catalogue.apply([put("a"), change, put("b")])
    assert isinstance(answers[1], ItemNotFound)
    assert (answers[1].field, answers[1].got) == ("id", "x")
    assert outcomes(answers) == [(1, Outcome.CREATED), None, (2, Outcome.CREATED)]


def test_reading_what_is_not_there_is_item_not_found(catalogue: Catalogue) -> None:
    for read in (catalogue.get, catalogue.image, catalogue.photo):
        with pytest.raises(ItemNotFound):
            read("x")
    assert catalogue.get_many(["x"]) == {}


def test_items_share_a_photo_and_the_last_one_takes_it_along_with_its_vectors(catalogue: Catalogue) -> None:
    sha256 = photo("p", 100).sha256
    catalogue.apply([put("a", shows="p", size=100), put("b", "pears", shows="p", size=100)])
    assert catalogue.totals() == Totals(2, 2, 1, 100, 2)
    catalogue.apply([Delete("a")])
    assert catalogue.totals() == Totals(1, 1, 1, 100, 3)
    assert list(catalogue.vectors(MODEL, [sha256])) == [sha256]
    catalogue.apply([put("b", "pears", shows="q")])
    assert catalogue.totals() == Totals(1, 1, 1, 1, 4)
    assert catalogue.vectors(MODEL, [sha256]) == {}
    with pytest.raises(ItemNotFound):
        catalogue.photo(sha256)


def test_a_photo_that_moves_to_another_item_within_a_batch_stays(catalogue: Catalogue) -> None:
    catalogue.apply([put("a", shows="p")])
    catalogue.apply([Delete("a"), Put("b", "apples", {}, photo("p"))])
    np.testing.assert_array_equal(catalogue.vectors(MODEL, [photo("p").sha256])[photo("p").sha256], vector("p"))


def test_categories_come_by_name_in_byte_order_a_page_at_a_time(catalogue: Catalogue) -> None:
    catalogue.apply([put(str(n), name) for n, name in enumerate(["b", "a", "B", "é", "b", "z"])])
    assert catalogue.categories(3) == [CategoryCount("B", 1), CategoryCount("a", 1), CategoryCount("b", 2)]
    assert catalogue.categories(3, "b") == [CategoryCount("z", 1), CategoryCount("é", 1)]
    catalogue.apply([Delete("1"), Delete("0")])
    assert [count.name for count in catalogue.categories(10)] == ["B", "b", "z", "é"]


def test_entries_come_in_the_order_of_seq_and_only_live_ones(catalogue: Catalogue) -> None:
    catalogue.apply([put("a"), put("b", metadata={"price": 2.0}), put("c"), put("a", "pears"), Delete("c")])
    assert [(each.seq, each.id, each.category, dict(each.metadata)) for each in catalogue.entries()] == [
        (2, "b", "apples", {"price": 2.0}),
        (4, "a", "pears", {}),
    ]
    assert [each.seq for each in catalogue.entries(after_seq=2)] == [4]


def test_entries_come_with_the_vectors_of_one_model(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.catalogue.store._CHUNK", 2)
    bare = Put("bare", "apples", {}, photo("bare"))
    other = Put("other", "apples", {}, photo("other"), {"b": vector("other", "b")})
    catalogue.apply([put("a"), bare, put("c"), other, put("e")])
    chunks = list(catalogue.entries_with_vectors(MODEL))
    assert [chunk.present.tolist() for chunk in chunks] == [[True, False], [True, False], [True]]
    found = {entry.id: row for chunk in chunks for entry, row in chunk}
    assert [id for id, row in found.items() if row is None] == ["bare", "other"]
    np.testing.assert_array_equal(found["c"], vector("c"))
    assert [len(chunk.vectors) for chunk in catalogue.entries_with_vectors("unknown")] == [0, 0, 0]


def test_missing_vectors_are_named_once_and_can_be_stored_later(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.catalogue.store._CHUNK", 2)
    catalogue.apply([put("a"), put("b"), put("c", shows="a"), put("d"), put("e")])
    assert list(catalogue.missing_vectors(MODEL)) == []
    addresses = [photo(name).sha256 for name in "abde"]
    assert list(catalogue.missing_vectors("new")) == addresses
    made = {photo(name).sha256: vector(name, "new") for name in "ab"}
    assert catalogue.store_vectors("new", made | {"0" * 64: vector("gone")}) == 2
    assert catalogue.store_vectors("new", made) == 0
    assert list(catalogue.missing_vectors("new")) == addresses[2:]
    np.testing.assert_array_equal(catalogue.vectors("new", addresses)[addresses[1]], vector("b", "new"))


def test_a_put_is_answered_with_the_vectors_of_the_models_that_are_asked_for(catalogue: Catalogue) -> None:
    both = {MODEL: vector("p"), "new": vector("p", "new")}
    catalogue.apply([Put("a", "apples", {}, photo("p"), both)])
    again, other, bare = catalogue.apply(
        [Put("b", "apples", {}, photo("p")), Put("c", "apples", {}, photo("q"), {"new": vector("q", "new")}), put("d")],
        ["new"],
    )
    assert isinstance(again, Applied)
    assert isinstance(other, Applied)
    assert isinstance(bare, Applied)
    np.testing.assert_array_equal(again.vectors["new"], vector("p", "new"))
    np.testing.assert_array_equal(other.vectors["new"], vector("q", "new"))
    assert [set(each.vectors) for each in (again, other, bare)] == [{"new"}, {"new"}, {MODEL}]


def test_the_vector_that_is_stored_stays(catalogue: Catalogue) -> None:
    catalogue.apply([put("a", shows="p")])
    (answer,) = catalogue.apply([Put("b", "apples", {}, photo("p"), {MODEL: vector("another")})])
    assert isinstance(answer, Applied)
    np.testing.assert_array_equal(answer.vectors[MODEL], vector("p"))


def test_an_unchanged_put_brings_a_missing_vector(catalogue: Catalogue) -> None:
    catalogue.apply([Put("a", "apples", {}, photo("a"))])
    assert list(catalogue.missing_vectors(MODEL)) == [photo("a").sha256]
    assert outcomes(catalogue.apply([put("a")])) == [(1, Outcome.UNCHANGED)]
    assert list(catalogue.missing_vectors(MODEL)) == []


def test_dropping_a_models_vectors_leaves_those_of_others(catalogue: Catalogue) -> None:
    catalogue.apply([put(name) for name in "abc"])
    catalogue.store_vectors("new", {photo(name).sha256: vector(name, "new") for name in "abc"})
    assert [catalogue.drop_vectors(MODEL, limit=2) for _ in range(3)] == [2, 1, 0]
    assert len(list(catalogue.missing_vectors(MODEL))) == 3
    assert list(catalogue.missing_vectors("new")) == []
    assert catalogue.drop_vectors("unknown") == 0


def test_the_models_whose_vectors_are_kept_are_known_with_how_many(catalogue: Catalogue) -> None:
    assert catalogue.models_with_vectors() == []
    assert catalogue.vector_count(MODEL) == 0
    catalogue.apply([put("a"), put("b"), put("same", shows="a")])
    catalogue.store_vectors("new", {photo("b").sha256: vector("b", "new")})
    assert catalogue.models_with_vectors() == [MODEL, "new"]
    assert (catalogue.vector_count(MODEL), catalogue.vector_count("new")) == (2, 1)
    catalogue.drop_vectors("new")
    assert catalogue.models_with_vectors() == [MODEL]
    catalogue.apply([Delete("a"), Delete("b")])
    assert catalogue.vector_count(MODEL) == 1


def test_more_ids_than_fit_one_statement_are_looked_up_and_changed(catalogue: Catalogue) -> None:
    ids = [f"item {n}" for n in range(1200)]
    catalogue.apply([put(id, shows=f"photo {n % 700}") for n, id in enumerate(ids)])
    assert catalogue.totals().photos == 700
    assert list(catalogue.get_many([*ids, "x"])) == ids
    catalogue.apply([Delete(id) for id in ids])
    assert catalogue.totals() == Totals(0, 0, 0, 0, 2400)


def test_readers_see_whole_transactions_while_one_thread_writes(catalogue: Catalogue) -> None:
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            totals = catalogue.totals()
            if totals.items % 2 or totals.photos != totals.items:
                wrong.append(f"half a transaction: {totals}")
            wrong.extend(id for id in catalogue.get_many(["a0", "a1"]) if catalogue.image(id) != photo(id))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for n in range(0, 100, 2):
        catalogue.apply([put(f"a{n}"), put(f"a{n + 1}")])
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_photo_bytes_that_changed_on_the_disk_are_not_handed_out(catalogue: Catalogue) -> None:
    catalogue.apply([put("a"), put("also", shows="a")])
    address = hashlib.sha256(b"a").hexdigest()
    damage(catalogue, address)
    for read, name in ((catalogue.image, "a"), (catalogue.photo, address)):
        with pytest.raises(PhotoDamaged, match="changed on the disk") as refused:
            read(name)
        assert refused.value.message == f"the bytes of photo {address} have changed on the disk; item 'a' shows it"
        assert refused.value.expected == address


def test_counts_that_do_not_match_the_tables_are_found(url: str) -> None:
    with Catalogue.open(url) as catalogue:
        catalogue.apply([put("a")])
        with catalogue._database.write() as connection:
            connection.execute(text("UPDATE meta SET item_count = 7"))
        with pytest.raises(CatalogueDamaged, match="the counts say"):
            catalogue.verify()


@pytest.mark.parametrize(("version", "says"), [(3, "newer Everlook"), (0, "no release has written")])
def test_another_schema_version_is_refused(url: str, version: int, says: str) -> None:
    with Catalogue.open(url) as catalogue, catalogue._database.write() as connection:
        connection.execute(text("UPDATE meta SET schema_version = :version"), {"version": version})
    with pytest.raises(CatalogueDamaged, match=says) as refused:
        Catalogue.open(url)
    assert (refused.value.got, refused.value.expected) == (f"schema {version}", "schema 2")


@pytest.mark.parametrize("url", ["sqlite://", "mysql://host/name", "catalogue.db", "sqlite:///:memory:"])
def test_a_url_of_another_kind_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidField, match="database URL") as refused:
        Catalogue.open(url)
    assert "host" not in refused.value.got


@needs_postgres
def test_a_postgresql_connection_lost_in_a_transaction_leaves_its_outcome_unknown_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    with Catalogue.open(fresh_url("postgresql", tmp_path)) as catalogue:
        with pytest.raises(NotServing):
            _lose_the_connection(catalogue)
        assert outcomes(catalogue.apply([put("a")])) == [(1, Outcome.CREATED)]


def _lose_the_connection(catalogue: Catalogue) -> None:
    with catalogue._database.write() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with catalogue._database.read() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        connection.execute(text("SELECT 1"))
