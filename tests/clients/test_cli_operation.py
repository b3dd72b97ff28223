"""`everlook models`, `promote`, `rollback`, `train` and `watch`, against the fake server."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from clients import Client, wire
from clients.cli import main
from clients.cli.app import App
from clients.cli.watch import Screen
from clients.status import Event
from everlook.v1 import everlook_pb2 as pb
from tests.clients.fake_server import Failure, FakeServer, fake_generation
from tests.clients.test_cli import command, environment

Everlook = Callable[..., Result]
READY, REJECTED = pb.GENERATION_STATE_READY, pb.GENERATION_STATE_REJECTED


@pytest.fixture
def server(server: FakeServer) -> FakeServer:
    """Generation 1 is live, 2 failed a gate, 3 is ready, and a fourth model never had a generation."""
    fell = pb.Gate(name="old cohort 0", measured=-0.2, required=-0.02, reason="it fell by 0.2, 1200 probes")
    server.generations = [
        fake_generation(0, REJECTED, stages=2, gates=[pb.Gate(name="parity", reason="cosine 0.5")]),
        fake_generation(3, READY, stages=2, gates=[pb.Gate(name="parity", passed=True, reason="close")]),
        fake_generation(2, REJECTED, stages=1, gates=[fell]),
        *server.generations,
    ]
    return server


@pytest.fixture
def everlook(server: FakeServer) -> Everlook:
    """Runs the command line against the server, in this process."""

    def run(*arguments: object) -> Result:
        runner = CliRunner(env={"EVERLOOK_SERVER": server.target, "COLUMNS": "200"})
        return runner.invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


def documents(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---- models, promote, rollback


def test_the_generations_are_a_table_with_the_reasons_of_those_that_failed(everlook: Everlook) -> None:
    lines = [line.split() for line in everlook("models").stdout.splitlines()]
    assert lines[0][:6] == ["generation", "state", "model", "precision", "stages", "made"]
    rows = [line for line in lines[1:] if len(line) > 3 and line[1] in ("live", "ready", "rejected")]
    assert [row[:2] for row in rows] == [["-", "rejected"], ["3", "ready"], ["2", "rejected"], ["1", "live"]]
    assert rows[2][2:5] == ["1" * 12, "fp32", "1"]
    shown = everlook("models").stdout
    assert "old cohort 0: it fell by 0.2, 1200 probes" in shown
    assert "parity: cosine 0.5" in shown
    assert "close" not in shown
    assert "0: 0.750 of 1,200" in shown


def test_the_generations_are_json_a_line_each(everlook: Everlook) -> None:
    found = documents(everlook("models", "--json"))
    assert [(each["number"], each["state"]) for each in found] == [
        (0, "rejected"),
        (3, "ready"),
        (2, "rejected"),
        (1, "live"),
    ]
    assert found[2]["gates"][0]["name"] == "old cohort 0"
    assert set(found[0]) == {field.name for field in pb.Generation.DESCRIPTOR.fields}


def test_a_generation_is_promoted_and_rolled_back(everlook: Everlook, server: FakeServer) -> None:
    promoted = everlook("promote", 3)
    assert (promoted.exit_code, promoted.stdout) == (0, "generation 3 is live, model 222222222222\n")
    assert everlook("rollback").stdout == "generation 1 is live, model fa4efa4efa4e\n"
    (document,) = documents(everlook("rollback", 3, "--json"))
    assert (document["number"], document["state"]) == (3, "live")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("promote", 9), "everlook: no generation 9 (got 9)\n"),
        (("rollback",), "everlook: nothing to go back to\n"),
        (("train", "--cancel"), "everlook: no training is under way\n"),
    ],
    ids=["promote", "rollback", "cancel"],
)
def test_what_cannot_be_done_is_one_line(everlook: Everlook, arguments: tuple[object, ...], line: str) -> None:
    result = everlook(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)


@pytest.mark.parametrize(
    "arguments",
    [("promote",), ("promote", "x"), ("promote", 0), ("rollback", 0), ("train", "--cancel", "a"),
     ("train", "--cancel", "--follow")],
    ids=str,
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(everlook: Everlook, server: FakeServer, arguments: tuple[object, ...]) -> None:
    assert everlook(*arguments).exit_code == 2
    assert not server.calls


# ---- train


def test_a_training_is_started_and_cancelled(everlook: Everlook, server: FakeServer) -> None:
    assert everlook("train", "mugs", "bowls").stdout == "stage 1: training began\n"
    assert documents(everlook("train", "--json")) == [{"stage": 1}]
    assert server.asked_for == [["mugs", "bowls"], []]
    assert everlook("train", "--cancel").stdout == "stage 1: training stopped\n"


def finishing(server: FakeServer, finish: Callable[[], None]) -> threading.Thread:
    """What happens once the training is followed: an event, and then the end of it."""

    def work() -> None:
        wait_for(lambda: server.watched == 1)
        server.tell("stage 1: exporting began")
        time.sleep(0.05)
        finish()
        server.training = None
        server.tell("that was it")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def make_live(server: FakeServer) -> None:
    server._make_live(3)


def nothing(server: FakeServer) -> None:
    server.generations = [each for each in server.generations if each.number != 3]


@pytest.mark.parametrize(
    ("finish", "code", "last"),
    [
        (make_live, 0, "stage 1 is live, in generation 3"),
        (lambda server: None, 0, "stage 1 is ready: `everlook promote 3` makes it live"),
        (nothing, 1, "everlook: stage 1 has come to nothing; `everlook models` says why"),
    ],
    ids=["live", "held", "rejected"],
)
def test_a_training_is_followed_to_its_end(
    everlook: Everlook, server: FakeServer, finish: Callable[[FakeServer], None], code: int, last: str
) -> None:
    thread = finishing(server, lambda: finish(server))
    result = everlook("train", "--follow")
    thread.join()
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.output.splitlines()[-1]) == (code, last)
    assert lines[0] == "stage 1: training began"
    told = [line[10:] for line in lines[1:]]
    assert told[:2] == ["generation 1 is live, 0 items", "stage 1: training, 0 of 10"]
    assert "stage 1: exporting began" in told


# ---- watch


@pytest.fixture
def watching(server: FakeServer) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `everlook watch` in a process of its own, and waits until it has the first status."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("watch", *arguments),
            env=environment(server),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        wait_for(lambda: server.watched == len(processes))
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_watch_shows_events_as_lines_and_ends_quietly_with_ctrl_c(
    server: FakeServer, watching: Callable[..., subprocess.Popen[str]]
) -> None:
    process = watching()
    assert process.stdout is not None
    assert process.stdout.readline()[10:] == "generation 1 is live, 0 items\n"
    server.tell("generation 2 is live")
    assert process.stdout.readline()[10:] == "generation 2 is live\n"
    server.tell("")  # progress alone is no line
    server.tell("trainer restarted")
    assert process.stdout.readline()[10:] == "trainer restarted\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def test_a_watch_with_json_has_each_message_on_a_line(
    server: FakeServer, watching: Callable[..., subprocess.Popen[str]]
) -> None:
    process = watching("--json")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert (first["event"], first["status"]["version"]) == ("", "0.0.0")
    server.tell("")
    assert json.loads(process.stdout.readline())["event"] == ""
    server.hang_up()
    rest, err = process.communicate(timeout=20)
    assert (process.returncode, rest) == (1, "")
    assert err.startswith("everlook: the server is stopping; is the server running?")


def seen(event: str, training: pb.TrainingStatus | None) -> Event:
    message = pb.WatchStatusResponse(status=pb.StatusResponse(training=training), event=event)
    return wire.event(message.SerializeToString())


def test_on_a_terminal_a_bar_shows_the_phase_that_is_under_way(client: Client) -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=100, color_system=None)
    with Screen(App(client, False, terminal, terminal)) as screen:

        def shown(event: str, training: pb.TrainingStatus | None) -> str:
            out.seek(0)
            out.truncate()
            screen.show(seen(event, training))
            screen.bar.refresh()
            return out.getvalue()

        assert "stage" not in shown("", None)
        shows = shown("", pb.TrainingStatus(stage=1, phase="training", done=30, total=100))
        assert "stage 1: training" in shows
        assert "30/100" in shows
        shows = shown("stage 1: exporting began", pb.TrainingStatus(stage=1, phase="exporting"))
        assert "stage 1: exporting began" in shows
        assert "0/?" in shows
        _, line, below = shown("generation 2 is live", None).partition("generation 2 is live")
        assert line
        assert "0/?" not in below


def test_a_watch_of_a_server_out_of_reach_is_one_line(everlook: Everlook, server: FakeServer) -> None:
    server.fail("WatchStatus", Failure(grpc.StatusCode.PERMISSION_DENIED, "not for you"))
    result = everlook("watch")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "everlook: not for you\n")
