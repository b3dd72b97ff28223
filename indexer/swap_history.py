"""Which generations of another model went live, written into the catalogue's history.

What is live is for `live.json` to say; the history only remembers it. A row that cannot be written is logged, and
neither a swap nor a start fails for it: it is put in at the next start, before the probes are measured or before the
next swap, whichever comes first.

| crash at this step                                 | found so at restart                                    |
|----------------------------------------------------|--------------------------------------------------------|
| after live.json, before the row                    | the new generation is live; the start adds the row     |
| after the row could not be written                 | the same                                               |

Both functions are for the catalogue's one writer: so nothing comes between a swap and its row, and no row is written
twice.
"""

from __future__ import annotations

import logging
import time

from indexer.catalogue import History, SwapRecord
from indexer.datadir import DataDir
from indexer.generation import GenerationInfo
from indexer.lineage import load_lineage

log = logging.getLogger(__name__)


def note_swap(data: DataDir, history: History, info: GenerationInfo, *, again: bool = False) -> None:
    """Adds the generation that has just gone live in place of another model's. Never raises."""
    try:
        lineage = load_lineage(data.model(info.model))
        cohort = len(lineage.cohorts) - 1 if lineage.cohorts else None
        history.append_swap(SwapRecord(time.time(), info.number, info.model, lineage.base, cohort, again))
    except Exception as error:  # whatever it is, queries are answered
        log.warning("that generation %d went live is missing from the history: %s", info.number, error)


def note_live(data: DataDir, history: History, info: GenerationInfo) -> None:
    """Adds the live generation where the history does not end with its model. Never raises.

    A history begins with a first model. Where another one is live when there is none yet, an earlier version of
    Everlook made it so, nobody knows when, and the history begins with the next swap.
    """
    try:
        last = history.last_swap()
        first = last is None and not load_lineage(data.model(info.model)).cohorts
    except Exception as error:
        log.warning("the history of what went live cannot be read: %s", error)
        return
    if first or (last is not None and last.model != info.model):
        note_swap(data, history, info)
