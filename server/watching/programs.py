"""The trainer and the indexer: whether they run, when they were last heard of, and how much memory they take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.core import Metric

from indexer.datadir import DataDir
from indexer.programs import read_activity
from server.progress import Progress
from server.supervisor import PROGRAMS, Supervisor
from server.watching.operator import gauges

_MOST_PROCESSES: Final = 64  # of one program that are looked at


class Programs:
    """The reading. A program that the server does not run, and that never said anything, is not missed."""

    def __init__(self, data: DataDir, progress: Progress, supervisor: Supervisor) -> None:
        self._data = data
        self._progress = progress
        self._supervisor = supervisor

    def __call__(self) -> Iterator[Metric]:
        news = {name: activity for name in PROGRAMS if (activity := read_activity(self._data, name)) is not None}
        said = {name: activity.at for name, activity in news.items()}
        children = self._supervisor.children
        up = {name: float(self._progress.runs(name)) for name in PROGRAMS if name in children or name in said}
        text = "Whether the program runs: as the server's child, or elsewhere by its signs of life."
        yield gauges("everlook_program_up", text, "program", up)
        text = "Unix time when the program was last heard of."
        yield gauges("everlook_program_heartbeat_timestamp_seconds", text, "program", said)
        text = "Unix time when the process of the program started that was last heard of."
        started = {name: activity.started_at for name, activity in news.items() if activity.started_at}
        yield gauges("everlook_program_start_timestamp_seconds", text, "program", started)
        memory = {name: resident_bytes(child.pid) for name, child in children.items() if child.pid}
        text = "Size of the memory of a program that the server runs and of its processes, in bytes."
        found = {name: size for name, size in memory.items() if size is not None}
        yield gauges("everlook_program_resident_memory_bytes", text, "program", found)


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process and of those that it has started; None where the system does not tell."""
    page, total, waiting, seen = os.sysconf("SC_PAGE_SIZE"), None, [pid], 0
    while waiting and seen < _MOST_PROCESSES:
        folder, seen = Path("/proc") / str(waiting.pop()), seen + 1
        try:
            total = (total or 0) + int((folder / "statm").read_text().split()[1]) * page
            for thread in os.listdir(folder / "task"):
                waiting += map(int, (folder / "task" / thread / "children").read_text().split())
        except OSError:
            continue  # it has ended, or this is not Linux
    return total
