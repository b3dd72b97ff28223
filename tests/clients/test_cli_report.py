"""`everlook report`, against the fake server."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from clients.cli import main
from clients.cli.report import Since
from everlook.v1 import everlook_pb2 as pb
from tests.clients.fake_server import Failure, FakeServer
from tests.clients.made_up_history import confusions

Everlook = Callable[..., Result]
NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC)


@pytest.fixture
def everlook(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Everlook:
    """Runs the command line against the server, in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        runner = CliRunner(env={"EVERLOOK_SERVER": server.target, "COLUMNS": "200"})
        return runner.invoke(main, ["report", *arguments], catch_exceptions=False)

    return run


def measure(server: FakeServer) -> None:
    for hour in range(2):
        measured = server.history.measurements.add(generation=pb.GenerationRef(number=1, model="ab" * 32))
        measured.at.FromDatetime(NOON + datetime.timedelta(hours=hour))
        measured.cohorts.add(probes=9, found_at_1=4, found_at_5=6, found_at_10=6)


def test_it_says_where_the_page_is(server: FakeServer, everlook: Everlook, tmp_path: Path) -> None:
    measure(server)
    server.confusions = confusions(server)
    result = everlook()
    assert (result.exit_code, result.stdout) == (
        0,
        "everlook-report/report.html: 2 measurements; beside it recall.png\n",
    )
    page = (tmp_path / "everlook-report" / "report.html").read_text(encoding="utf-8")
    assert server.target in page
    assert "coffee mugs" in page


def test_its_json_is_one_document(server: FakeServer, everlook: Everlook) -> None:
    measure(server)
    result = everlook("--json", "--out", "there", "--since", "2026-11-21T13:00")
    assert json.loads(result.stdout) == {
        "page": "there/report.html",
        "pictures": ["there/recall.png"],
        "measurements": 1,
    }


def test_on_a_fresh_server_it_writes_that_nothing_was_measured(everlook: Everlook, tmp_path: Path) -> None:
    assert everlook("--out", "x").stdout == "x/report.html: nothing has been measured yet\n"
    assert "Nothing has been measured yet" in (tmp_path / "x" / "report.html").read_text(encoding="utf-8")


def test_so_many_categories_and_examples_are_asked_for(server: FakeServer, everlook: Everlook, tmp_path: Path) -> None:
    server.confusions = confusions(server)
    everlook("--categories", "2", "--examples", "1", "--out", "x")
    page = (tmp_path / "x" / "report.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert page.count("<img") == 4


@pytest.mark.parametrize(
    ("method", "failure", "line"),
    [
        pytest.param(
            "GetRecallHistory",
            Failure(grpc.StatusCode.UNIMPLEMENTED, "not built"),
            "everlook: not built\n",
            id="an-older-server",
        ),
        pytest.param(
            "ListGenerations",
            Failure(grpc.StatusCode.PERMISSION_DENIED, "not for you"),
            "everlook: not for you\n",
            id="not-allowed",
        ),
    ],
)
def test_what_fails_is_one_line_and_leaves_nothing(
    server: FakeServer, everlook: Everlook, tmp_path: Path, method: str, failure: Failure, line: str
) -> None:
    server.fail(method, failure)
    result = everlook()
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(everlook: Everlook, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    result = everlook("--out", "taken/below")
    assert result.exit_code == 1
    assert result.stderr.startswith("everlook: [Errno")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--since", "soon"), ("--since", "12"), ("--categories", "0")], ids=str)
def test_wrong_usage_is_exit_code_2(server: FakeServer, everlook: Everlook, arguments: tuple[str, ...]) -> None:
    assert everlook(*arguments).exit_code == 2
    assert not server.calls


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-21", datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)),
        ("2026-11-21T12:00", NOON),
        ("2026-11-21T14:00+02:00", NOON),
    ],
)
def test_a_time_is_in_utc_unless_it_has_a_zone(text: str, at: datetime.datetime) -> None:
    assert Since().convert(text, None, None) == at


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)])
def test_an_age_counts_back_from_now(text: str, seconds: float) -> None:
    at = Since().convert(text, None, None)
    assert 0 <= (datetime.datetime.now(datetime.UTC) - at).total_seconds() - seconds < 60
