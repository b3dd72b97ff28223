"""What an operator can set: by flag, by environment, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from server.__main__ import main
from server.settings import Settings
from tests.server.running import settings_of

VALUES = {
    "data": "elsewhere",
    "host": "localhost",
    "database_url": "sqlite:///x",
    "log_level": "debug",
    "log_format": "json",
    "otlp_endpoint": "http://collector:4317",
    "hold": "True",
    "supervise": "False",
    "most_drop": "0.7",
    "floor": "0.7",
    "watch_share": "0.7",
    "drift_reference": "70",
    "drift_window": "70",
    "drift_alpha": "0.7",
    "max_image_bytes": "7000000",
    "max_message_bytes": "7000000",
    "query_queue_bytes": "7000000",
    "ingest_queue_bytes": "7000000",
}
TOGETHER = {
    "tls_cert": ["--tls-key", "key.pem"],
    "tls_key": ["--tls-cert", "cert.pem"],
    "tls_client_ca": ["--tls-cert", "cert.pem", "--tls-key", "key.pem"],
}
SWITCHES = {"hold": ["--hold"], "supervise": ["--no-supervise"]}
FIELDS = [pytest.param(name, id=name) for name in Settings.model_fields]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parsed(*arguments: str) -> Settings:
    return CliApp.run(Settings, list(arguments))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.settings._installed", lambda module: True)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EVERLOOK_{name.upper()}", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Standard error of a start that is refused."""
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    assert status == 2
    return capsys.readouterr().err


def test_a_flag_wins_over_the_environment_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed().max_batch == Settings.model_fields["max_batch"].default
    monkeypatch.setenv("EVERLOOK_MAX_BATCH", "16")
    assert parsed().max_batch == 16
    assert parsed("--max-batch", "32").max_batch == 32


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_its_flag_and_its_environment_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = VALUES.get(name, "7")
    others = TOGETHER.get(name, [])
    by_flag = getattr(parsed(*SWITCHES.get(name, [flag(name), value]), *others), name)
    assert str(by_flag) in (value, f"{value}.0")
    monkeypatch.setenv(f"EVERLOOK_{name.upper()}", value)
    assert getattr(parsed(*others), name) == by_flag


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--no-such-flag", "1"], "no-such-flag"),
        (["--port", "many"], "port"),
        (["--port", "70000"], "port"),
        (["--threads", "0"], "threads"),
        (["--tls-cert", "cert.pem"], "tls_cert and tls_key go together"),
        (["--tls-key", "key.pem"], "tls_cert and tls_key go together"),
        (["--tls-client-ca", "ca.pem"], "tls_client_ca needs tls_cert and tls_key"),
        (["--merge-ratio", "-1"], "merge_ratio|merge-ratio"),
        (["--log-level", "loud"], "log_level|log-level"),
        (["--log-format", "xml"], "log_format|log-format"),
        (["--otlp-endpoint", "collector:4317"], "otlp_endpoint|otlp-endpoint"),
        (["--floor", "1.5"], "floor"),
        (["--watch-share", "2"], "watch_share|watch-share"),
        (["--drift-window", "4"], "drift_window|drift-window"),
        (["--drift-alpha", "0.001"], "drift_alpha|drift-alpha"),
        (["--trainer-args='"], "trainer_args|trainer-args"),
        (["--max-batch"], "max-batch"),
        (["stray"], "stray"),
    ],
    ids=" ".join,
)
def test_an_unknown_flag_or_a_bad_value_stops_the_start_and_is_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(named, refused(capsys, *arguments))


def test_a_bad_value_in_the_environment_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERLOOK_PORT", "many")
    message = refused(capsys)
    assert message.startswith("everlook serve: port: ")
    assert len(message.splitlines()) == 1


def test_help_lists_every_setting_with_what_it_means_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert flag(name) in shown
        assert field.description, f"{name} has no description"
        assert " ".join(field.description.split()) in shown
        if name not in ("data", "database_url"):
            assert f"(default: {field.default})" in shown
    assert "(default: everlook-data)" in shown


def test_by_default_the_queues_are_full_before_grpc_refuses_calls_without_a_word() -> None:
    """With work in hand on 64 cores, and a hundred streams and other calls beside."""
    default = parsed("--threads", "64")
    in_work = default.threads * max(default.max_batch, default.max_ingest_batch)
    assert default.query_queue + default.ingest_queue + in_work + 100 < default.max_concurrent_calls


def test_settings_do_not_change_once_they_are_read(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1
