"""`python -m server`, or `everlook serve`: reads flags and environment, and serves until it is told to stop."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy
from pydantic import ValidationError
from pydantic_settings import CliApp
from pydantic_settings.exceptions import SettingsError
from threadpoolctl import ThreadpoolController

from indexer.datadir import DataDir
from indexer.engine import published_models
from indexer.errors import EverlookError
from indexer.logs import configure, relay
from server.app import App
from server.logs import add_request
from server.settings import Settings

log = logging.getLogger("server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 after a stop that was asked for, 1 when it cannot start or go on, 2 for bad flags."""
    try:
        settings = CliApp.run(Settings, list(arguments if arguments is not None else sys.argv[1:]))
    except (ValidationError, SettingsError) as error:
        print(f"everlook serve: {_bad_settings(error)}", file=sys.stderr)
        return 2
    configure("server", settings.log_format, logging.getLevelNamesMapping()[settings.log_level.upper()], add_request)
    spare_cores()
    try:
        ensure_model(DataDir(settings.data))
        return asyncio.run(serve(settings))
    except (EverlookError, OSError, RuntimeError) as error:
        if settings.log_format == "json":
            log.critical("%s", error)
        else:  # whoever typed the command reads it
            print(f"everlook serve: {error}", file=sys.stderr)
        return 1


def spare_cores() -> None:
    """Has numpy's BLAS multiply with one thread, in the whole process. Faiss brings a BLAS of its own, and keeps it.

    The workers use every core already, and only the watch multiplies matrices. OpenBLAS's threads wait by spinning
    after each product: with the watch's pauses between products they take several times what these take.
    """
    for library in ThreadpoolController().select(user_api="blas").lib_controllers:
        if Path(library.filepath).is_relative_to(Path(numpy.__file__).parents[1] / "numpy.libs"):
            library.set_num_threads(1)


async def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT, or until a part fails for good."""
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    async with App(settings) as app:
        print(
            f"everlook: serving on {settings.host}:{app.port},"
            f" metrics on http://{settings.metrics_address}:{app.metrics_port}/metrics",
            flush=True,
        )
        waits = [asyncio.create_task(event.wait()) for event in (asked_to_stop, app.failed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        log.info("stopping")
        return 1 if app.failed.is_set() else 0


def ensure_model(data: DataDir) -> None:
    """Has the trainer, where it is installed, export the first model into a data directory that has none.

    In a process of its own: this one never imports torch.
    """
    data.create()
    if published_models(data) or importlib.util.find_spec("torch") is None:
        return
    log.info("no model yet: exporting the default one")
    command = [sys.executable, "-m", "trainer", "export", "--data", str(data.root)]
    said, into = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(command, stdout=said, stderr=into) as exporter:  # noqa: S603  # every word of it is ours
        for line in exporter.stdout or ():
            relay("trainer", line)


def _bad_settings(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
