from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from clients import AnyOf, Client, Item, Range
from clients.cli import main
from clients.cli.search import parse_where
from tests.clients.conftest import COLOURS, photo
from tests.clients.fake_server import MODEL, Failure, FakeServer
from tests.conftest import ROOT

Everlook = Callable[..., Result]


@pytest.fixture
def everlook(server: FakeServer) -> Everlook:
    """Runs the command line against the server, in this process."""

    def run(*arguments: object) -> Result:
        runner = CliRunner(env={"EVERLOOK_SERVER": server.target, "COLUMNS": "200"})
        return runner.invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


def documents(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def red(shop: Path) -> Path:
    return shop / "red" / "0.jpg"


# ---- ingest


def test_a_folder_per_category_is_ingested(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    result = everlook("ingest", shop)
    assert result.exit_code == 0
    assert result.stdout.startswith("12 created, 0 updated, 0 unchanged, 0 skipped")
    assert sorted(server.items) == [f"{c}/{n}.jpg" for c in sorted(COLOURS[:3]) for n in range(4)]
    assert {item.item.category for item in server.items.values()} == set(COLOURS[:3])


def test_a_second_ingest_sends_only_what_is_new(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    everlook("ingest", shop)
    (shop / "red" / "new.jpg").write_bytes(photo("red", 9))
    (shop / "red" / "0.jpg").write_bytes(photo("red", 10))
    server.received.clear()
    result = everlook("ingest", shop, "--json")
    assert documents(result)[-1]["summary"].items() >= {
        "total": 13, "created": 1, "updated": 1, "unchanged": 0, "skipped": 11, "failed": 0,
    }.items()  # fmt: skip
    assert sorted(server.received) == ["red/0.jpg", "red/new.jpg"]


def test_a_change_of_metadata_alone_is_sent_again(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    manifest = shop / "list.jsonl"
    row = {"id": "a", "category": "red", "path": "red/0.jpg", "sale": 1}
    for sale, received in ((1, ["a"]), (1, []), (True, ["a"])):
        manifest.write_text(json.dumps({**row, "sale": sale}))
        server.received.clear()
        assert everlook("ingest", manifest).exit_code == 0
        assert server.received == received


def test_prefix_glob_and_limit_choose_what_is_sent(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    assert everlook("ingest", shop, "--prefix", "2024/", "--glob", "[01].jpg", "--limit", 3).exit_code == 0
    assert sorted(server.items) == ["2024/blue/0.jpg", "2024/blue/1.jpg", "2024/green/0.jpg"]


def test_failures_are_listed_kept_and_make_the_exit_code(
    everlook: Everlook, server: FakeServer, shop: Path, tmp_path: Path
) -> None:
    (shop / "red" / "broken.jpg").write_bytes(b"no photo")
    (shop / "red" / "empty.jpg").write_bytes(b"")
    result = everlook("ingest", shop, "--failures", tmp_path / "failures.jsonl")
    assert result.exit_code == 1
    assert "2 failed" in result.stdout
    assert "red/broken.jpg: the photo cannot be read" in result.stderr
    kept = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert {line["id"]: line["error"]["reason"] for line in kept} == {
        "red/broken.jpg": "IMAGE_UNREADABLE",
        "red/empty.jpg": "IMAGE_UNREADABLE",
    }
    assert len(server.items) == 12


def test_a_csv_has_text_and_the_numbers_that_are_named(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    manifest = shop / "list.csv"
    manifest.write_text(
        '\ufeffid,category,path,price,size,note\nA1,red,red/0.jpg,9.5,42,"a, b"\n,blue,blue/1.jpg,,M,\n',
        encoding="utf-8",
    )
    assert everlook("ingest", manifest, "--number", "price").exit_code == 0
    first, second = server.items["A1"].item, server.items["blue/1.jpg"].item
    assert (first.metadata["price"].number, first.metadata["size"].string) == (9.5, "42")
    assert first.metadata["note"].string == "a, b"
    assert list(second.metadata) == ["size"]


def test_a_jsonl_has_the_types_of_its_values(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    rows = [{"id": "a", "category": "red", "path": "red/0.jpg", "n": 3, "b": False, "s": "3", "nothing": None}]
    (shop / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert everlook("ingest", shop / "list.jsonl").exit_code == 0
    kinds = {key: value.WhichOneof("kind") for key, value in server.items["a"].item.metadata.items()}
    assert kinds == {"n": "number", "b": "bool", "s": "string"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "id,path\na,b\n", "no column category"),
        ("list.csv", "category,path\nred,a.jpg,3\n", "line 2: more cells"),
        ("list.csv", "category,path,price\nred,a.jpg,x\n", "line 2: could not convert"),
        ("list.csv", "id,category,path,price\na,r,p,1\na,r,q,1\n", "'a' is there twice"),
        ("list.csv", "category,path,price\n,a.jpg,1\n", "line 2: category is missing"),
        ("list.jsonl", '{"category": "red"}', "line 1: path is missing"),
        ("list.jsonl", '{"category": "red", "path": "p", "x": [1]}', "line 1: x is no text"),
        ("list.jsonl", "\n[]", "line 2: not an object"),
        ("list.jsonl", "{", "line 1: no JSON"),
        ("list.txt", "", "neither a folder nor"),
    ],
    ids=["column", "cells", "number", "twice", "empty", "missing", "list", "array", "json", "kind"],
)
def test_a_wrong_table_is_refused_before_anything_is_sent(
    server: FakeServer, everlook: Everlook, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    options = ("--number", "price") if "price" in text else ()
    result = everlook("ingest", tmp_path / name, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not server.calls


def test_a_photo_outside_every_category_is_refused(everlook: Everlook, shop: Path) -> None:
    (shop / "stray.jpg").write_bytes(photo("red"))
    result = everlook("ingest", shop)
    assert result.exit_code == 2
    assert "stray.jpg is in no category's folder" in result.stderr


def test_an_ingest_that_the_server_ends_says_how_to_go_on(server: FakeServer, everlook: Everlook, shop: Path) -> None:
    server.fail("Ingest", *[Failure(grpc.StatusCode.PERMISSION_DENIED, "read only")] * 5)
    result = everlook("ingest", shop)
    assert result.exit_code == 1
    assert "read only; 12 of 12 are left; the same command goes on with them" in result.stderr


# ---- real processes

_MAIN = "from clients.cli import main; main(prog_name='everlook')"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", _MAIN, *map(str, arguments)]


def environment(server: FakeServer) -> dict[str, str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "proto")))
    return {**os.environ, "PYTHONPATH": path, "EVERLOOK_SERVER": server.target}


def test_ctrl_c_ends_an_ingest_cleanly_and_the_same_command_goes_on(server: FakeServer, shop: Path) -> None:
    server.cut_after = []
    server.gate.clear()
    process = subprocess.Popen(
        command("ingest", shop), env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 20
    while not server.received and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    server.gate.set()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted; 12 of 12 are left; the same command goes on with them" in err
    assert out.startswith("0 created")
    again = subprocess.run(command("ingest", shop), env=environment(server), capture_output=True, text=True, check=True)
    assert len(server.items) == 12, again.stderr


def test_with_json_nothing_else_is_on_stdout(server: FakeServer, shop: Path) -> None:
    done = subprocess.run(
        command("ingest", shop, "--json"), env=environment(server), capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 13
    assert done.stderr == ""


def test_an_output_that_closes_early_is_no_traceback(server: FakeServer, shop: Path) -> None:
    with Client(server.target) as client:
        for number in range(50):
            client.put(Item(f"i{number}", f"category {number}"), photo("red"))
    shell = " ".join(f"'{word}'" for word in command("categories", "--json")).replace("='everlook'", '="everlook"')
    done = subprocess.run(
        ["bash", "-c", f"{shell} | head -1"], env=environment(server), capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr


# ---- search


def test_hits_are_a_table(everlook: Everlook, shop: Path, red: Path) -> None:
    everlook("ingest", shop)
    result = everlook("search", red, "-k", 3)
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["score", "category", "id"]
    assert lines[1].split() == ["1", "1.0000", "red", "red/0.jpg"]
    assert len(lines) == 5
    assert lines[-1].startswith("generation 1, model fa4efa4efa4e; ")


def test_hits_are_json(everlook: Everlook, shop: Path, red: Path) -> None:
    everlook("ingest", shop)
    (found,) = documents(everlook("search", "--item", "red/0.jpg", "-k", 2, "--json"))
    assert found["query"] == {"image": None, "item": "red/0.jpg", "category": "red"}
    assert [set(hit) for hit in found["hits"]] == [{"id", "score", "category", "seq", "metadata"}] * 2
    assert found["generation"] == {"number": 1, "model": MODEL}
    assert set(found["timing"]) == {"queue_s", "decode_s", "encode_s", "search_s"}


def test_a_search_is_filtered(everlook: Everlook, client: Client, red: Path) -> None:
    for number, colour in enumerate(COLOURS):
        client.put(Item(colour, colour, {"n": number, "shade": "dark" if number % 2 else "light"}), photo(colour))
    cases = {
        ("--category", "red", "--category", "blue"): {"red", "blue"},
        ("--exclude-category", "red"): {"green", "blue", "orange", "purple"},
        ("--where", "shade=dark"): {"green", "orange"},
        ("--where", "n>=1", "--where", "n<=2"): {"green", "blue"},
        ("--where", "n:=4"): {"purple"},
        ("--min-score", "0.999", "--exact"): {"red"},
    }
    for options, wanted in cases.items():
        (found,) = documents(everlook("search", red, "--json", *options))
        assert {hit["id"] for hit in found["hits"]} == wanted


def test_conditions_of_one_key_are_joined() -> None:
    assert parse_where(["a=x", "a:=2", "b>=1", "b<=3", "url=http://x?y=1", "c:=true"]) == {
        "a": AnyOf("x", 2),
        "b": Range(1, 3),
        "url": AnyOf("http://x?y=1"),
        "c": AnyOf(True),
    }


@pytest.mark.parametrize(
    "options",
    [("--where", "x"), ("--where", "x:=oops"), ("--where", "x>=y"), ("--where", "x=1", "--where", "x>=1"), ("-k", "0")],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(everlook: Everlook, red: Path, options: tuple[str, ...]) -> None:
    assert everlook("search", red, *options).exit_code == 2
    assert everlook("search").exit_code == 2
    assert everlook("search", red, "--item", "a").exit_code == 2


def test_a_contact_sheet_is_written(everlook: Everlook, shop: Path, tmp_path: Path, red: Path) -> None:
    everlook("ingest", shop)
    html, png = tmp_path / "sheet.html", tmp_path / "sheet.png"
    everlook("search", red, "-k", 6, "--html", html, "--png", png, "--expected-category", "red")
    page = html.read_text()
    assert page.count("data:image/jpeg;base64,") == 7
    assert page.count('aria-label="same category"') == 4
    with Image.open(png) as sheet:
        assert sheet.format == "PNG"


# ---- the rest


def test_an_item_is_shown_and_its_photo_written(everlook: Everlook, client: Client, tmp_path: Path) -> None:
    client.put(Item("a", "red", {"brand": "Acme"}), photo("red"))
    result = everlook("get", "a", "--image", tmp_path / "a.jpg")
    assert "Acme" in result.stdout
    assert "JPEG, 64 x 48 pixels" in result.stdout
    assert (tmp_path / "a.jpg").read_bytes() == photo("red")
    (item,) = documents(everlook("get", "a", "--json"))
    assert (item["id"], item["metadata"], item["updated_at"][-6:]) == ("a", {"brand": "Acme"}, "+00:00")


def test_deleting_goes_on_past_what_is_missing(everlook: Everlook, server: FakeServer, client: Client) -> None:
    client.put(Item("a", "red"), photo("red"))
    result = everlook("delete", "missing", "a")
    assert result.exit_code == 1
    assert "1 of 2 not found" in result.stderr
    assert "deleted a" in result.stdout
    assert not server.items


def test_categories_are_listed(everlook: Everlook, shop: Path) -> None:
    assert "no categories yet" in everlook("categories").stdout
    everlook("ingest", shop)
    assert documents(everlook("categories", "--json"))[0] == {
        "name": "blue", "items": 4, "state": "new", "cohort": None,
    }  # fmt: skip
    assert [line.split()[0] for line in everlook("categories").stdout.splitlines()[1:]] == ["blue", "green", "red"]


def test_the_status_is_a_panel_or_json(everlook: Everlook, shop: Path) -> None:
    everlook("ingest", shop)
    shown = everlook("status").stdout
    assert "serving" in shown
    assert "12 items in 3 categories" in shown
    (status,) = documents(everlook("status", "--json"))
    assert status["catalogue"]["items"] == 12
    assert status["generation"]["state"] == "live"


def test_watching_ends_with_ctrl_c(server: FakeServer) -> None:
    process = subprocess.Popen(
        command("status", "--watch", "--json", "--interval", "0.1"),
        env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    second = json.loads(process.stdout.readline())
    assert first["version"] == second["version"] == "0.0.0"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_a_photo_is_embedded(everlook: Everlook, red: Path) -> None:
    (embedding,) = documents(everlook("embed", red, "--json"))
    assert (len(embedding["values"]), embedding["model"]) == (48, MODEL)
    assert len(everlook("embed", red).stdout.splitlines()[1].split()) == 48


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure(grpc.StatusCode.INTERNAL, "reference 42"), "everlook: reference 42"),
        (Failure(grpc.StatusCode.UNIMPLEMENTED, "not built"), "everlook: not built"),
        (Failure(grpc.StatusCode.INVALID_ARGUMENT, "bad\nid", field="id"), "everlook: bad id (field id)"),
    ],
    ids=["internal", "unimplemented", "details"],
)
def test_an_error_is_one_line_on_stderr(everlook: Everlook, server: FakeServer, failure: Failure, words: str) -> None:
    server.fail("Get", failure)
    result = everlook("get", "a", "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{words}\n")


def test_a_server_out_of_reach_is_one_line_with_a_hint(everlook: Everlook) -> None:
    result = everlook("status", "--server", "127.0.0.1:1", "--timeout", 1)
    assert result.exit_code == 1
    assert result.stderr.endswith("is the server running? `everlook serve` starts one\n")


def test_a_file_that_cannot_be_written_is_one_line(everlook: Everlook, shop: Path, tmp_path: Path, red: Path) -> None:
    everlook("ingest", shop)
    result = everlook("search", red, "--html", tmp_path / "missing" / "sheet.html")
    assert result.exit_code == 1
    assert result.stderr.startswith("everlook: ")


def test_serve_becomes_the_server_with_its_own_options(monkeypatch: pytest.MonkeyPatch, everlook: Everlook) -> None:
    became: list[str] = []
    monkeypatch.setattr("os.execv", lambda _program, words: became.extend(words))
    everlook("serve", "--port", "7", "--help")
    assert became == [sys.executable, "-m", "server", "--port", "7", "--help"]


def test_serve_without_the_server_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, everlook: Everlook) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "faiss" else object())
    result = everlook("serve")
    assert result.exit_code == 1
    assert result.stderr == "everlook: the server is not installed (no faiss): pip install 'everlook[server]'\n"


def test_no_thread_outlives_a_command(everlook: Everlook, shop: Path) -> None:
    everlook("ingest", shop)
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("everlook-ingest") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
