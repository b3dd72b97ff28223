"""The command line `everlook`: `serve` and `demo` start a server, everything else talks to one."""

from __future__ import annotations

import click

from clients.cli.catalogue import categories, delete, get
from clients.cli.demo import demo
from clients.cli.ingest import ingest
from clients.cli.models import models
from clients.cli.promote import promote
from clients.cli.report import report
from clients.cli.rollback import rollback
from clients.cli.search import embed, search
from clients.cli.serve import serve
from clients.cli.status import status
from clients.cli.train import train
from clients.cli.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="everlook")
def main() -> None:
    """Search a catalogue by photo.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """


for _command in (
    *(serve, ingest, search, get, delete, categories, status, embed, demo),
    *(models, promote, rollback, train, watch, report),
):
    main.add_command(_command)
