"""`everlook serve`: becomes the server's own program."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from clients.cli.app import fail

# What `pip install everlook` leaves out; looked for, never imported.
_NEEDED = ("server", "faiss", "onnxruntime", "sqlalchemy", "prometheus_client", "pydantic_settings", "grpc_health")


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Start a server; takes the server's own options (`everlook serve --help`)."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        fail(f"the server is not installed (no {', '.join(missing)}): pip install 'everlook[server]'")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "server", *arguments])  # noqa: S606 - no shell is wanted
