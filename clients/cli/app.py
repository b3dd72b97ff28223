"""What the commands share: the options that name the server, one place for output, and errors as one line."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from clients.client import Client
from clients.connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_S, Tls
from clients.errors import EverlookClientError, Unavailable
from clients.retry import RetryPolicy


@dataclasses.dataclass(frozen=True)
class App:
    """A command's client, and where it writes. With `--json`, only `emit` writes to stdout."""

    client: Client
    json: bool
    out: Console
    err: Console

    def emit(self, document: object) -> None:
        """One JSON document on a line of its own."""
        click.echo(json.dumps(to_json(document), ensure_ascii=False, allow_nan=False))

    def say(self, renderable: object) -> None:
        """Something for people; nothing with `--json`."""
        if not self.json:
            self.out.print(renderable)


def to_json(value: object) -> Any:
    """Plain JSON values. Dataclasses become objects with the same names, errors their facts, times ISO 8601."""
    if isinstance(value, EverlookClientError):
        return {"error": type(value).__name__, **vars(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(element) for element in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.isoformat() if isinstance(value, datetime.datetime) else value


def one_line(error: BaseException) -> str:
    """An error as one line for people."""
    text = " ".join(str(error).split()) or type(error).__name__
    hint = "; is the server running? `everlook serve` starts one" if isinstance(error, Unavailable) else ""
    return f"{text}{hint}"


def fail(message: str, code: int = 1) -> None:
    """Ends the command with one line on stderr."""
    click.echo(f"everlook: {message}", err=True)
    sys.exit(code)


_File = click.Path(exists=True, dir_okay=False, path_type=Path)

_OPTIONS = (
    click.option(
        "--server", "target", envvar="EVERLOOK_SERVER", default=DEFAULT_TARGET, show_default=True, metavar="HOST:PORT",
        help="The server's address [env: EVERLOOK_SERVER].",
    ),
    click.option(
        "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=DEFAULT_TIMEOUT_S,
        show_default=True, metavar="SECONDS", help="Deadline of each call.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Write JSON, and nothing else, to stdout."),
    click.option("--tls", is_flag=True, help="Encrypt; trust the system's certificate authorities."),
    click.option("--ca", type=_File, help="Encrypt; trust the authorities in this PEM file."),
    click.option("--cert", type=_File, help="The client's certificate (PEM), for mutual TLS."),
    click.option("--key", type=_File, help="The client's private key (PEM), for mutual TLS."),
    click.option("--token", envvar="EVERLOOK_TOKEN", help="Bearer token [env: EVERLOOK_TOKEN]."),
)  # fmt: skip


def _tls_files(ca: Path | None, key: Path | None, cert: Path | None) -> dict[str, Path | None]:
    return {"root_certificates": ca, "private_key": key, "certificate_chain": cert}


def connected(command: Callable[..., None], retries: RetryPolicy | None = None) -> Callable[..., None]:
    """Adds the options that every command has, and calls it with an `App` in their place."""

    @functools.wraps(command)
    def run(
        *,
        target: str,
        timeout_s: float,
        as_json: bool,
        tls: bool,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        token: str | None,
        **arguments: Any,
    ) -> None:
        if (cert is None) != (key is None):
            raise click.UsageError("--cert and --key go together")
        try:
            pem = {name: path.read_bytes() for name, path in _tls_files(ca, key, cert).items() if path is not None}
            encryption = Tls(**pem) if tls or pem else None
            with Client(target, timeout_s=timeout_s, retries=retries, tls=encryption, token=token) as client:
                app = App(client, as_json, Console(highlight=False), Console(stderr=True, highlight=False))
                command(app, **arguments)
        except BrokenPipeError:
            raise
        except (EverlookClientError, OSError) as error:
            fail(one_line(error))

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
