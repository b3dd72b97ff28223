from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from clients import Client, RetryPolicy, Tls, errors
from clients.cli import main
from tests.clients.fake_server import FakeServer

ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def mutual(pem: Path) -> Iterator[FakeServer]:
    """A server that asks its clients for a certificate too."""
    key, certificate = (pem / "key.pem").read_bytes(), (pem / "cert.pem").read_bytes()
    credentials = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    with FakeServer(credentials=credentials) as server:
        yield server


def test_client_and_server_show_each_other_their_certificates(mutual: FakeServer, pem: Path) -> None:
    key, certificate = (pem / "key.pem").read_bytes(), (pem / "cert.pem").read_bytes()
    with Client(mutual.target, tls=Tls(certificate, key, certificate), token="secret") as client:  # noqa: S106 - no secret
        assert client.status().serving
    assert mutual.metadata["authorization"] == "Bearer secret"


def test_a_client_without_certificate_is_out(mutual: FakeServer, pem: Path) -> None:
    with (
        Client(mutual.target, tls=Tls((pem / "cert.pem").read_bytes()), retries=ONCE) as client,
        pytest.raises(errors.Unavailable),
    ):
        client.status()


def test_a_server_that_nobody_vouches_for_is_not_trusted(mutual: FakeServer) -> None:
    with Client(mutual.target, tls=Tls(), retries=ONCE) as client, pytest.raises(errors.Unavailable):
        client.status()


def test_the_command_line_takes_pem_files(mutual: FakeServer, pem: Path) -> None:
    files = ["--ca", pem / "cert.pem", "--cert", pem / "cert.pem", "--key", pem / "key.pem"]
    status = ["status", "--json", "--server", mutual.target]
    assert CliRunner().invoke(main, [*status, *map(str, files)]).exit_code == 0
    assert CliRunner().invoke(main, [*status, *map(str, files[:4])]).exit_code == 2
