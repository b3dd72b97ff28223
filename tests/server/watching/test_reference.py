"""Reference windows on the disk: what each row of the table of crashes promises, and which are kept."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from indexer.datadir import DataDir
from indexer.files import STAGING
from server.watching import reference
from server.watching.reference import Query, Reference
from tests.indexer.vectors import clustered

MODEL, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path)
    data.create()
    for model in (MODEL, OTHER):
        data.model(model).mkdir()
    return data


def queries(count: int, seed: int = 0) -> Reference:
    found: list[Query] = [(vector, 0.5 + n / 1000) for n, vector in enumerate(clustered(count, 8, 4, seed=seed))]
    return Reference(found, 3 * count, 1000.5)


def equal(a: Reference, b: Reference) -> bool:
    pairs = zip(a.queries, b.queries, strict=False)
    same = all(np.array_equal(x, y) and s == t for (x, s), (y, t) in pairs)
    return len(a.queries) == len(b.queries) and (a.seen, a.began) == (b.seen, b.began) and same


def test_what_was_saved_is_loaded_to_the_bit_and_in_its_order(data: DataDir) -> None:
    reference.save(data, MODEL, queries(5))
    reference.save(data, OTHER, queries(3, seed=1))
    assert equal(reference.load(data, MODEL), queries(5))
    assert equal(reference.load(data, OTHER), queries(3, seed=1))


def test_a_model_without_a_reference_has_none(data: DataDir) -> None:
    assert reference.load(data, MODEL) == Reference()


def test_a_kill_while_the_file_is_written_leaves_the_one_before(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    reference.save(data, MODEL, queries(5))
    with monkeypatch.context() as killed:

        def kill(*_: object) -> None:
            raise KeyboardInterrupt

        killed.setattr(os, "replace", kill)
        killed.setattr(os, "unlink", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            reference.save(data, MODEL, queries(9))
    assert [path.name for path in data.watching.iterdir() if path.name.startswith(STAGING)]
    assert equal(reference.load(data, MODEL), queries(5))
    reference.tidy(data)
    assert [path.name for path in data.watching.iterdir()] == [reference.path_of(data, MODEL).name]


def test_only_the_references_of_models_that_are_gone_are_removed(data: DataDir) -> None:
    reference.save(data, MODEL, queries(5))
    reference.save(data, OTHER, queries(5))
    data.model(OTHER).rmdir()
    reference.tidy(data)
    assert equal(reference.load(data, MODEL), queries(5))
    assert not reference.path_of(data, OTHER).exists()


def test_a_kill_while_references_are_removed_leaves_the_rest_to_the_next_start(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in (MODEL, OTHER):
        reference.save(data, model, queries(2))
        data.model(model).rmdir()
    unlink = Path.unlink

    def first_only(path: Path, **_: object) -> None:
        unlink(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", first_only)
        with pytest.raises(KeyboardInterrupt):
            reference.tidy(data)
    assert len(list(data.watching.iterdir())) == 1
    reference.tidy(data)
    assert list(data.watching.iterdir()) == []


@pytest.mark.parametrize("spoil", ["cut off", "altered", "empty", "another format", "no file", "another model's"])
def test_a_damaged_file_is_no_reference_and_the_log_says_so(
    data: DataDir, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = reference.path_of(data, MODEL)
    reference.save(data, MODEL, queries(50))
    content = bytearray(path.read_bytes())
    if spoil == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif spoil == "altered":
        at = content.index(queries(50).queries[0][0].tobytes())
        content[at] ^= 0xFF
        path.write_bytes(content)
    elif spoil == "empty":
        path.write_bytes(b"")
    elif spoil == "another format":
        content[content.index(b"PK\x01\x02") + 10] = 99  # a compression that there is none of: NotImplementedError
        path.write_bytes(content)
    elif spoil == "no file":
        path.unlink()
        path.mkdir()
    else:
        reference.save(data, OTHER, queries(50))
        path.write_bytes(reference.path_of(data, OTHER).read_bytes())
    with caplog.at_level(logging.WARNING):
        assert reference.load(data, MODEL) == Reference()
    assert "is begun anew" in caplog.text
