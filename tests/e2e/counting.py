"""Counts the photos that indexers embed, in whatever process they do it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import ROOT

# Read by every Python that starts: the worker writes down how many photos it has embedded, and takes its time.
_SITE = """
import os, sys, time
if "spawn_main" in " ".join(sys.orig_argv):
    from indexer import worker
    embed, log = worker.embed, os.open(os.environ["EMBEDDED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def counted(*arguments):
        vectors = embed(*arguments)
        os.write(log, b"." * len(vectors))
        time.sleep(0.004 * len(vectors))
        return vectors
    worker.embed = counted
"""


def environment(folder: Path) -> dict[str, str]:
    """Variables for programs of this checkout whose indexers count in `folder`, which is there."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(_SITE)
    paths = os.pathsep.join(map(str, (site, ROOT, ROOT / "proto")))
    return {**os.environ, "PYTHONPATH": paths, "EMBEDDED": str(folder / "embedded")}


def embedded(folder: Path) -> int:
    """Photos that were embedded, by all workers together."""
    return count(folder / "embedded")


def count(log: Path) -> int:
    """The dots in a file; none when it is not there."""
    return log.stat().st_size if log.exists() else 0
