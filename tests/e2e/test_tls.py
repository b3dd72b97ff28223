"""TLS and mutual TLS of the real server, with real certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import Client, Tls, errors
from tests.e2e.folders import tiny_data
from tests.e2e.process import ONCE, ServerProcess, run_to_end


def flags(pem: Path) -> list[str]:
    return ["--tls-cert", str(pem / "cert.pem"), "--tls-key", str(pem / "key.pem")]


def test_with_a_certificate_the_server_speaks_tls_and_nothing_else(tmp_path: Path, pem: Path) -> None:
    certificate = (pem / "cert.pem").read_bytes()
    with ServerProcess(tiny_data(tmp_path), *flags(pem)) as server:
        with Client(server.target, tls=Tls(certificate), retries=ONCE) as client:
            assert client.status().serving
        with Client(server.target, retries=ONCE, timeout_s=5) as client, pytest.raises(errors.EverlookClientError):
            client.status()


def test_mutual_tls_lets_in_only_who_shows_a_certificate(tmp_path: Path, pem: Path) -> None:
    key, certificate = (pem / "key.pem").read_bytes(), (pem / "cert.pem").read_bytes()
    with ServerProcess(tiny_data(tmp_path), *flags(pem), "--tls-client-ca", str(pem / "cert.pem")) as server:
        with Client(server.target, tls=Tls(certificate, key, certificate), retries=ONCE) as client:
            assert client.status().serving
        with (
            Client(server.target, tls=Tls(certificate), retries=ONCE, timeout_s=5) as client,
            pytest.raises(errors.Unavailable),
        ):
            client.status()


def test_a_certificate_that_is_not_there_stops_the_start_with_its_name(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    ended = run_to_end(tiny_data(tmp_path), "--tls-cert", missing, "--tls-key", missing)
    assert ended.returncode == 1
    assert "none.pem" in ended.stderr
