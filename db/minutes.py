"""What each process counted and found in each minute, kept for seven days, so that a page can draw the last day.

A minute that cannot be written waits in memory until the database is back.
"""

import asyncio
import math
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Text, delete, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from db import schema
from db.condition import STATES, State, worst
from db.database import Database
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import LogEvent
from freescout_audit.repeats import Repeats

EVERY = 60.0
"""Seconds from one row of a process to the next."""
KEEP = timedelta(days=7)
LIGHTS = ("push", "pull", "desk", "database")
COUNTS = schema.COUNTED
LAG_BOUNDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900, 3600)
"""Upper bounds, in seconds, of the groups that changes are counted in; the last group has none."""
_SAID_EVERY = 900.0
"""Seconds from one line about an error to the next: it comes each minute."""
_WAITING = 24 * 60
"""Minutes that wait for the database at the most; the oldest goes first."""

_minute = schema.minute.c
_STATES = literal(list(STATES), ARRAY(Text))


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes found in a stretch of time that begins at ``at``: each light at its worst, None: not known."""

    at: datetime
    push: State | None
    pull: State | None
    desk: State | None
    database: State | None


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes counted in a stretch of time that begins at ``at``, and how many changes took how long."""

    at: datetime
    counts: Mapping[str, int]
    lags: Sequence[int]


async def read_columns(database: Database, begin: datetime, step: timedelta) -> Sequence[Column]:
    """Read the lights since ``begin``, a column each ``step``, without those of which nothing is known.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same below.
    """
    at = func.date_bin(step, _minute.ended_at, begin).label("at")
    ranks = (func.max(func.array_position(_STATES, _minute[name])).label(name) for name in LIGHTS)
    query = select(at, *ranks).where(_minute.ended_at >= begin).group_by(at).order_by(at)
    async with database.connection() as connection:
        rows = await connection.rows(query)
    return [
        Column(at=row["at"], **{name: None if row[name] is None else STATES[row[name] - 1] for name in LIGHTS})
        for row in rows
    ]


async def read_counted(database: Database, begin: datetime, step: timedelta) -> Sequence[Counted]:
    """Read what was counted since ``begin``, a stretch each ``step``, without those in which nothing ran."""
    at = func.date_bin(step, _minute.ended_at, begin).label("at")
    sums = (func.sum(_minute[name]).cast(BigInteger).label(name) for name in COUNTS)
    counted = select(at, *sums).where(_minute.ended_at >= begin).group_by(at).order_by(at)
    lag = (
        func.unnest(_minute.lags)
        .table_valued("changes", with_ordinality="place", joins_implicitly=True)
        .render_derived()
    )
    took = (
        select(at, lag.c.place, func.sum(lag.c.changes).cast(BigInteger).label("changes"))
        .where(_minute.ended_at >= begin)
        .group_by(at, lag.c.place)
    )
    async with database.connection() as connection:
        rows, lags = await connection.rows(counted), await connection.rows(took)
    by_time: dict[datetime, list[int]] = {row["at"]: [0] * (len(LAG_BOUNDS) + 1) for row in rows}
    for row in lags:
        by_time[row["at"]][row["place"] - 1] = row["changes"]
    return [Counted(at=row["at"], counts={name: row[name] for name in COUNTS}, lags=by_time[row["at"]]) for row in rows]


class MinuteBook:
    """Counts for one process until a minute is over; ``clock`` gives seconds that only go forward."""

    def __init__(self, database: Database, process: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._process = process
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._lags = [0] * (len(LAG_BOUNDS) + 1)
        self._lights: dict[str, State] = {}
        self._waiting: deque[tuple[float, dict[str, Any]]] = deque(maxlen=_WAITING)
        """What is not written yet: when the minute ended, by our clock, and its row."""

    def count(self, name: str) -> None:
        """Count one of `COUNTS`."""
        self._counts[name] += 1

    def known_after(self, seconds: float) -> None:
        """Count a change by how long it took until it was known."""
        self._lags[bisect_left(LAG_BOUNDS, seconds)] += 1

    def note(self, lights: Mapping[str, State]) -> None:
        """Note how the lights are; the worst of a minute stays."""
        for name, state in lights.items():
            self._lights[name] = worst(state, self._lights.get(name, state))

    async def keep(self, at_fault: LogEvent) -> None:
        """Write a row each minute, for ever; an error that is not the database's is logged as ``at_fault``."""
        repeats = Repeats(every=_SAID_EVERY)
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.write()
            except DatabaseUnavailableError:
                pass  # readiness says so
            except Exception as error:  # noqa: BLE001 - the next minute comes, whatever this one met
                repeats.emit(at_fault, type(error).__name__, error=type(error).__name__, where="minutes")

    async def write(self) -> None:
        """End the minute, and write it with those that wait; what cannot be written goes on waiting."""
        counts, self._counts = self._counts, Counter()
        lags, self._lags = self._lags, [0] * len(self._lags)
        lights, self._lights = self._lights, {}
        row = {name: lights.get(name) for name in LIGHTS} | {name: counts[name] for name in COUNTS}
        self._waiting.append((self._clock(), row | {"process": self._process, "lags": lags if any(lags) else []}))
        now, rows = self._clock(), list(self._waiting)
        # Our clock is the database's: it says when those minutes were.
        dated = [row | {"ended_at": schema.now - timedelta(seconds=now - ended)} for ended, row in rows]
        async with self._database.connection() as connection:
            await connection.execute(schema.minute.insert().values(dated))
            await connection.execute(delete(schema.minute).where(_minute.ended_at < schema.now - KEEP))
        for _ in rows:
            self._waiting.popleft()


def added(lags: Iterable[Sequence[int]]) -> Sequence[int]:
    """Add up what several minutes counted."""
    total = [0] * (len(LAG_BOUNDS) + 1)
    for counted in lags:
        for at, count in enumerate(counted):
            total[at] += count
    return total


def percentile(lags: Sequence[int], share: float) -> float | None:
    """Return how long a share of the changes took at the most, in seconds, between the bounds by proportion.

    None when there were none; infinite when it lies beyond the last bound.
    """
    wanted, below, lower = share * sum(lags), 0, 0.0
    if not wanted:
        return None
    for count, upper in zip(lags, (*LAG_BOUNDS, math.inf), strict=True):
        if below + count >= wanted:
            return upper if math.isinf(upper) else lower + (upper - lower) * (wanted - below) / count
        below, lower = below + count, upper
    return math.inf
