"""The history of recall: what the probes of each cohort measured, and which generations went live.

One row of `recall` for each cohort of a measurement, all with the same time; one row of `swaps` for each generation of
another model that went live. The reference of a cohort is what was measured right after the swap at which its stage
went live: `reference_swaps` finds that, in the lineage of any model. `after_last_swap` is where the live model began.

What was measured after swaps is kept for good. Of the rest there is everything of the last 31 days on which something
was measured, the day that has begun among them, and one a day before. Days that were measured are counted, and not days
that have passed by a clock: one that is ahead for an hour makes nothing old. But what is measured once it is right
again goes to the end of the day that it was ahead to, until that day is past: so of the newest day only the last five
thousand measurements are kept.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, false, func, insert, select, tuple_

from indexer.catalogue.changes import in_parts
from indexer.catalogue.database import Database
from indexer.catalogue.schema import recall, swaps

DAY_S: Final = 86_400.0
KEEP_DAYS: Final = 31  # the day that has begun, and thirty whole ones
MOST_ROWS: Final = 20_000  # read at a time: measurements times their cohorts
MOST_OF_NEWEST_DAY: Final = 5_000  # measurements: one every 20 s of a day
_THIN_EVERY: Final = 200  # measurements, where the day does not end
_FEW: Final = 10  # measurements that are read however many cohorts they have
_MOST_REPEATED_SWAPS: Final = 1_000  # swaps back and forward that are kept; the first ones of each model all are


class Cause(enum.Enum):
    """What a measurement was made for."""

    START = "start"
    SWAP = "swap"
    TIMER = "timer"


@dataclass(frozen=True, slots=True)
class CohortCounts:
    """How many of a cohort's probes found their own category among their 1, 5 and 10 nearest items."""

    cohort: int | None
    """The stage that taught its categories; None for those that wait."""
    probes: int
    found_1: int
    found_5: int
    found_10: int

    @property
    def recall_1(self) -> float:
        """Recall@1; there are probes."""
        return self.found_1 / self.probes


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the probes of all cohorts measured of one generation. Cohorts ascend; those that wait come last."""

    at: float
    """Unix seconds, when it had ended."""
    generation: int
    model: str
    cause: Cause
    cohorts: tuple[CohortCounts, ...]


@dataclass(frozen=True, slots=True)
class SwapRecord:
    """A generation of another model than before, which went live."""

    at: float
    """Unix seconds."""
    generation: int
    model: str
    base: str
    """The model that it was taught from; empty for a first one."""
    cohort: int | None
    """The newest stage that it has learned; None where it has learned none."""
    again: bool
    """Whether it had been live before."""


class History:
    """Reads are safe from any thread; writes are for the catalogue's one writer, each a short transaction.

    Errors of every method: as of the `Catalogue`; of those that write StorageFull, too.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thinned_on = -1.0  # the day, since 1970
        self._since_thinned = 0

    # --------------------------------------------------------------------------------------------------- reads

    def swaps(self) -> list[SwapRecord]:
        """All of them, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(*_SWAP).order_by(swaps.c.id)).all()
        return [SwapRecord(*row) for row in rows]

    def last_swap(self) -> SwapRecord | None:
        """The newest; None before the first."""
        with self._database.read() as connection:
            row = connection.execute(select(*_SWAP).order_by(swaps.c.id.desc()).limit(1)).one_or_none()
        return None if row is None else SwapRecord(*row)

    def last_generation(self) -> int:
        """The highest number of a generation that went live or was measured; 0 where there is none."""
        with self._database.read() as connection:
            highest = [connection.execute(select(func.max(of.c.generation))).scalar_one() for of in (swaps, recall)]
        return max(number or 0 for number in highest)

    def awaits_measurement(self, model: str) -> bool:
        """Whether a model went live in place of another one, and no measurement has been made for that yet."""
        swap = self.last_swap()
        if swap is None or swap.model != model or (swap.cohort is None and not swap.again):
            return False
        made = exists().where(recall.c.cause == Cause.SWAP.value, recall.c.model == model, recall.c.at >= swap.at)
        with self._database.read() as connection:
            return not connection.execute(select(made)).scalar_one()

    def measurements(self, since: float = 0.0, most: int = 1000, most_rows: int = MOST_ROWS) -> list[Measurement]:
        """Those at this time or later, oldest first, `chosen` where there are more than `most`.

        Which is lowered, to a few at the least, where so many times the cohorts of the widest would be more than
        `most_rows`.
        """
        with self._database.read() as connection:
            times = connection.execute(
                select(recall.c.at, func.min(recall.c.cause), func.count())
                .where(recall.c.at >= since)
                .group_by(recall.c.at)
                .order_by(recall.c.at)
            ).all()
            widest = max((cohorts for _, _, cohorts in times), default=1)
            most = min(most, max(_FEW, most_rows // widest))
            ats = [times[at][0] for at in chosen([cause == Cause.SWAP.value for _, cause, _ in times], most)]
            rows: list[Row[Any]] = []
            for part in in_parts(ats):
                query = select(*_RECALL).where(recall.c.at.in_(part)).order_by(recall.c.at, recall.c.id)
                rows += connection.execute(query).all()
        return _measurements(rows)

    def last_at(self) -> float | None:
        """The time of the latest measurement; None before the first."""
        with self._database.read() as connection:
            at: float | None = connection.execute(select(func.max(recall.c.at))).scalar_one()
        return at

    def references(self, model: str) -> dict[int, CohortCounts]:
        """What each cohort in a model's lineage measured right after the swap at which its stage went live.

        Cohorts of which that is not known are left out. Of a model that has not been live there are none.
        """
        found = reference_swaps(self.swaps(), model)
        pairs = {(swap.model, cohort): swap for cohort, swap in found.items()}
        references: dict[int, CohortCounts] = {}
        with self._database.read() as connection:
            for part in in_parts(pairs):
                query = select(*_RECALL).where(
                    recall.c.cause == Cause.SWAP.value, tuple_(recall.c.model, recall.c.cohort).in_(part)
                )
                for row in connection.execute(query.order_by(recall.c.at)).all():
                    if row.at >= pairs[row.model, row.cohort].at:
                        references.setdefault(row.cohort, _counts(row))
        return references

    def after_last_swap(self, model: str) -> dict[int, CohortCounts]:
        """What each cohort measured right after the latest swap, which made this model live; empty where that has not
        been measured, or another model went live."""
        swap = self.last_swap()
        if swap is None or swap.model != model:
            return {}
        made = (recall.c.cause == Cause.SWAP.value, recall.c.model == model, recall.c.at >= swap.at)
        first = select(func.min(recall.c.at)).where(*made).scalar_subquery()
        query = select(*_RECALL).where(*made, recall.c.at == first)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return {row.cohort: _counts(row) for row in rows if row.cohort is not None}

    # -------------------------------------------------------------------------------------------------- writes

    def append(self, measured: Measurement) -> None:
        """Adds a measurement, which has cohorts. With the first of a day, and every few hundred, thins out what is
        old."""
        rows = [
            {
                "at": measured.at,
                "generation": measured.generation,
                "model": measured.model,
                "cause": measured.cause.value,
                "cohort": each.cohort,
                "probes": each.probes,
                "found_1": each.found_1,
                "found_5": each.found_5,
                "found_10": each.found_10,
            }
            for each in measured.cohorts
        ]
        with self._database.write() as connection:
            connection.execute(insert(recall), rows)
        if measured.cause is Cause.SWAP:
            return  # of which everything is kept, and which begins no day
        self._since_thinned += 1
        if measured.at // DAY_S != self._thinned_on or self._since_thinned >= _THIN_EVERY:
            self.thin()
            self._thinned_on, self._since_thinned = measured.at // DAY_S, 0

    def append_swap(self, swap: SwapRecord) -> None:
        """Adds a swap; it is one `again`, too, where the model is in the history."""
        before = select(exists().where(swaps.c.model == swap.model))
        with self._database.write() as connection:
            again = swap.again or connection.execute(before).scalar_one()
            connection.execute(
                insert(swaps).values(
                    at=swap.at,
                    generation=swap.generation,
                    model=swap.model,
                    base=swap.base,
                    cohort=swap.cohort,
                    again=again,
                )
            )
            repeated = select(swaps.c.id).where(swaps.c.again).order_by(swaps.c.id.desc())
            connection.execute(delete(swaps).where(swaps.c.id.in_(repeated.offset(_MOST_REPEATED_SWAPS))))

    def thin(self) -> int:
        """Removes what is older than the 31 days and is not the first of its day, and of the newest day what is too
        much; nothing that was measured after a swap. Returns the rows."""
        with self._database.write() as connection:
            removed = connection.execute(delete(recall).where(*_too_many_of_newest_day(connection))).rowcount
            old = (recall.c.cause != Cause.SWAP.value, recall.c.at < _kept_since(connection))
            times = connection.execute(select(recall.c.at).where(*old).distinct().order_by(recall.c.at)).scalars()
            for part in in_parts(beyond_the_first_of_each_day(times)):
                removed += connection.execute(delete(recall).where(*old, recall.c.at.in_(part))).rowcount
        return removed


def _kept_since(connection: Connection) -> float:
    """Unix seconds at which the first of the newest days (UTC) begins of which everything is kept."""
    since = math.inf
    for _ in range(KEEP_DAYS):
        newest = select(recall.c.at).where(recall.c.cause != Cause.SWAP.value, recall.c.at < since)
        at: float | None = connection.execute(newest.order_by(recall.c.at.desc()).limit(1)).scalar_one_or_none()
        if at is None:
            break
        since = at // DAY_S * DAY_S
    return since


def _too_many_of_newest_day(connection: Connection) -> tuple[ColumnElement[bool], ...]:
    """The rows of the newest day (UTC) that are beyond its last MOST_OF_NEWEST_DAY measurements."""
    ordinary = recall.c.cause != Cause.SWAP.value
    newest: float | None = connection.execute(select(func.max(recall.c.at)).where(ordinary)).scalar_one()
    if newest is None:
        return (false(),)
    of_day = (ordinary, recall.c.at >= newest // DAY_S * DAY_S)
    times = select(recall.c.at).where(*of_day).distinct().order_by(recall.c.at.desc())
    beyond = connection.execute(times.offset(MOST_OF_NEWEST_DAY).limit(1)).scalar_one_or_none()
    return (*of_day, recall.c.at <= beyond) if beyond is not None else (false(),)


_SWAP = (swaps.c.at, swaps.c.generation, swaps.c.model, swaps.c.base, swaps.c.cohort, swaps.c.again)
_RECALL = tuple(column for column in recall.c if column.name != "id")


def _counts(row: Row[Any]) -> CohortCounts:
    return CohortCounts(row.cohort, row.probes, row.found_1, row.found_5, row.found_10)


def _measurements(rows: Sequence[Row[Any]]) -> list[Measurement]:
    """Rows in the order of their time, put together."""
    return [
        Measurement(at, of_one[0].generation, of_one[0].model, Cause(of_one[0].cause), tuple(map(_counts, of_one)))
        for at, group in itertools.groupby(rows, key=lambda row: row.at)
        if (of_one := list(group))
    ]


# ------------------------------------------------------------------------------------------------------ what to keep


def reference_swaps(history: Sequence[SwapRecord], model: str) -> dict[int, SwapRecord]:
    """For each cohort in a model's lineage the swap at which its stage went live: the first of the model whose newest
    cohort it is. Lineage is walked from model to base as far as the history, oldest first, has them."""
    first: dict[str, SwapRecord] = {}
    for swap in history:
        if not swap.again:
            first.setdefault(swap.model, swap)
    bases = {swap.model: swap.base for swap in history}
    found: dict[int, SwapRecord] = {}
    seen = set[str]()
    while model in bases and model not in seen:
        seen.add(model)
        swap_of_model = first.get(model)
        if swap_of_model is not None and swap_of_model.cohort is not None:
            found.setdefault(swap_of_model.cohort, swap_of_model)
        model = bases[model]
    return found


def chosen(after_swap: Sequence[bool], most: int) -> list[int]:
    """Which measurements to show when at most `most`, 1 or more, may be: those after swaps, the first and the last, and
    every n-th of the others. Where even those after swaps are too many, every n-th of them."""
    count = len(after_swap)
    if count <= most:
        return list(range(count))
    always = {number for number, swap in enumerate(after_swap) if swap} | {0, count - 1}
    if len(always) > most:
        return _spread(sorted(always), most)
    others = [number for number in range(count) if number not in always]
    return sorted(always.union(_every_nth(others, most - len(always))))


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """So many of them, as evenly as can be, the last always and the first where there are two."""
    if most == 1:
        return [numbers[-1]]
    return [numbers[round(step * (len(numbers) - 1) / (most - 1))] for step in range(most)]


def _every_nth(numbers: Sequence[int], most: int) -> Sequence[int]:
    return numbers[:: -(-len(numbers) // most)] if most else []


def beyond_the_first_of_each_day(times: Iterable[float]) -> list[float]:
    """Of ascending Unix seconds those that are not the first of their day (UTC)."""
    days = itertools.groupby(times, key=lambda at: at // DAY_S)
    return [at for _, of_day in days for at in itertools.islice(of_day, 1, None)]
