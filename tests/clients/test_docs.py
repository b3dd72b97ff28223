"""What docs/clients.md shows is run, and what it lists is there."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

import clients
from clients import errors
from clients.cli.app import to_json
from clients.cli.ingest import Tally
from clients.client import Client
from clients.status import Event
from clients.types import Acknowledgement, Category, Hit, Item, StoredItem, Timing
from tests.clients.conftest import COLOURS, photo
from tests.clients.fake_server import FakeServer
from tests.clients.made_up_history import confusions, history
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "clients.md").read_text()
REASONS = {  # of the errors that share a code with others
    "GenerationNotFound": "GENERATION_NOT_FOUND",
    "ModelMismatch": "MODEL_MISMATCH",
    "NotReady": "NOT_READY",
}
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def documented_shop(server: FakeServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The files and items that the examples speak of, in the working folder and on the server."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("mug.jpg", "query.jpg")):
        (tmp_path / name).write_bytes(photo("red", number))
    for colour in COLOURS:
        (tmp_path / "photos" / colour).mkdir(parents=True)
        (tmp_path / "photos" / colour / "1.jpg").write_bytes(photo(colour))
    (tmp_path / "photos" / "red" / "broken.jpg").write_bytes(b"")
    client.put(Item("mug-1", "mugs", {"brand": "Acme", "price": 9.5, "colour": "red"}), photo("red"))
    client.put(Item("mug-2", "mugs", {"brand": "Acme", "price": 8.0, "colour": "blue"}), photo("orange"))
    server.history, server.confusions = history(), confusions(server)
    for measurement in server.history.measurements:
        measurement.at.GetCurrentTime()
    return server


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(len(BLOCKS))])
def test_an_example_runs(documented_shop: FakeServer, block: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "documentation"}
    exec(compile(block.replace("127.0.0.1:50051", documented_shop.target), "docs/clients.md", "exec"), names)  # noqa: S102
    for value in names.values():
        if isinstance(value, Client):
            value.close()
    shown = capsys.readouterr().out
    if "acme_below_ten" in block:
        assert [hit.id for hit in names["found"].hits] == ["mug-2"]  # type: ignore[attr-defined]
    if "refused" in block:
        assert shown.startswith("refused: photos/red/broken.jpg")
    if "is taken for" in block:
        assert " 0 0.814 of 500\n" in shown
        assert "coffee mugs is taken for" in shown
    if "error.reason" in block:
        assert shown.splitlines() == ["IMAGE_UNREADABLE image 11 bytes an image file", "nobody"]


def test_every_public_method_of_the_client_is_listed() -> None:
    methods = {name for name, value in vars(Client).items() if callable(value) and not name.startswith("_")}
    assert methods - {"close"} == set(re.findall(r"`(\w+)\(", _table("method")))


def test_every_error_is_in_the_table_with_its_codes() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and _is_leaf(value)}
    rows = dict(re.findall(r"^\| `(\w+)` \| ([A-Z_, ]+|-) \|", _table("error"), re.MULTILINE))
    assert set(rows) == classes
    for name, codes in rows.items():
        for code in codes.split(", ") if codes != "-" else ():  # the client's own
            reason = REASONS.get(name, "")
            assert errors.error_class(getattr(grpc.StatusCode, code), reason).__name__ == name
    assert set(rows) <= set(clients.__all__)


def _is_leaf(value: type) -> bool:
    return issubclass(value, errors.EverlookClientError) and not value.__subclasses__()


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        ("search", [Hit, Timing]),
        ("ingest", [Acknowledgement]),
        ("get", [StoredItem]),
        ("categories", [Category]),
        ("watch", [Event]),
    ],
)
def test_the_json_of_a_command_has_the_names_that_are_listed(command: str, kinds: list[Any]) -> None:
    (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", _table("command"), re.MULTILINE)
    listed = set(re.findall(r"`(\w+)`", row))
    assert listed >= {field.name for kind in kinds for field in dataclasses.fields(kind)}
    if command == "ingest":
        assert listed >= set(Tally(0).summary())


def test_every_fact_of_an_error_is_listed() -> None:
    (sentence,) = re.findall(r"^An `error` has (.*)$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", sentence)) == set(to_json(errors.NotFound("x")))


def _table(first: str) -> str:
    return PAGE[PAGE.index(f"| {first} |") :].split("\n\n")[0]
