"""The process that does one task of a bench. It ends with its parent, whatever that died of."""

from __future__ import annotations

import errno
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import torch

from indexer.allocator import keep_freed_memory
from indexer.errors import EverlookError
from trainer.bench.config import Bench
from trainer.bench.plan import Task
from trainer.bench.run import News, Runner
from trainer.stage import Diverged

_TELL_EVERY_S: Final = 1.0


class Stopped(Exception):
    """The parent wants no more, or is gone."""


def work(bench: Bench, out: Path, task: Task, threads: int, parent: Connection) -> None:
    """Sends `News` to the parent, and the error that it ends with. What the parent sends stops it at its next step."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    told_at = 0.0

    def tell(news: News) -> None:
        nonlocal told_at
        if parent.poll():  # true also at the end of file that a dead parent leaves
            raise Stopped
        if news.step in (0, news.stage.steps) or time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = time.monotonic()
            parent.send(news)

    try:
        Runner(bench, out, tell).do(task)
    except (Stopped, ConnectionError):
        pass
    except torch.OutOfMemoryError as error:
        parent.send(OSError(errno.ENOMEM, str(error).partition(".")[0]))
    except (EverlookError, OSError, Diverged) as error:
        parent.send(error)
