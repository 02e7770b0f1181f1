"""The real cache on a stage: each use of it is a turn, may fail before or after it took effect, and knows its time."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from sqlalchemy import CursorResult, Executable
from sqlalchemy.engine import URL

from db import statements
from db.database import Connection, Database
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import is_ahead
from proof.histories.stage import Stage
from simulator import ManualClock

_SCHEMA = (
    # Our one clock, replaced: each use of the database sets its time first.
    """
    CREATE OR REPLACE FUNCTION freescout_now() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN current_setting('proof.now')::timestamptz
    """,
    """
    CREATE OR REPLACE FUNCTION proof_look(at text) RETURNS TABLE (
        ticket_id bigint, answer text, disputed_at timestamptz, expires timestamptz, updated_at timestamptz,
        claimed_at timestamptz, truth_at timestamptz, doubted_at timestamptz[], doubts timestamptz[],
        passed timestamptz, beaten timestamptz, ahead interval
    ) LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        PERFORM set_config('proof.now', at, false);
        RETURN QUERY
            SELECT t.ticket_id, freescout_ticket_state(t.ticket_id), t.disputed_at, c.ttl_expires,
                   t.updated_at, t.touched_at, t.truth_at, d.doubted_at, d.doubts, l.renewed_by_pass,
                   l.heartbeat_at, l.clock_offset
            FROM freescout_lease l
            LEFT JOIN freescout_ticket t ON true
            LEFT JOIN freescout_ticket_cache c ON c.ticket_id = t.ticket_id
            CROSS JOIN LATERAL (
                SELECT array_agg(came.at) AS doubted_at, array_agg(CASE
                    WHEN d.reason NOT IN ('said_to_be_gone', 'not_understood', 'from_the_future') THEN d.updated_at
                END) AS doubts
                FROM freescout_delivery d
                CROSS JOIN LATERAL (VALUES
                    (d.received_at, d.outcome = 'disputed'), (d.replayed_at, d.replayed_at = t.disputed_at)
                ) came (at, disputes)
                WHERE d.ticket_id = t.ticket_id AND came.disputes
            ) d
            ORDER BY t.ticket_id;
    END $$
    """,
)

_EMPTY = """
SET proof.now = 'epoch';
DELETE FROM freescout_ticket; DELETE FROM freescout_delivery; DELETE FROM freescout_gap;
DELETE FROM freescout_lease; INSERT INTO freescout_lease DEFAULT VALUES;
DELETE FROM freescout_poller; INSERT INTO freescout_poller DEFAULT VALUES;
DELETE FROM freescout_history; DELETE FROM freescout_lease_history;
UPDATE freescout_feed SET (last_id, pruned_through, kept_since) = (0, 0, 'epoch');
INSERT INTO freescout_lease_history VALUES ('epoch', 'epoch', 'epoch', NULL, '1 day');
SELECT setval('freescout_delivery_delivery_id_seq', 1, false);
"""


MICROSECOND = 1e-6
_CONNECTIONS = 40
"""No writer ever waits for one: a writer that has read tickets and waits for its turn to write them keeps its own."""


@dataclass
class CacheFaults:
    """How often a use of the cache goes wrong: away before it began, an error or a death before or after its commit."""

    away: float = 0.0
    error: float = 0.0
    death: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader gets for one ticket, and what the cache says of it."""

    answer: str
    disputed_at: datetime | None
    expires: datetime | None
    """None for a tombstone."""
    updated_at: datetime | None
    claimed_at: datetime | None
    truth_at: datetime | None
    doubted_at: Sequence[datetime] | None = None
    """When each delivery came that disputed the ticket, by the journal, which keeps the last replay of one; None when
    there was none."""
    doubts: Sequence[datetime | None] | None = None
    """The date of each; None where it tells nothing: a deletion for ever, what is not understood, the future."""

    @property
    def said(self) -> Sequence[tuple[datetime, datetime | None]]:
        """When each delivery came that disputed the ticket, and its date."""
        return list(zip(self.doubted_at or (), self.doubts or (), strict=True))

    @property
    def disputed(self) -> bool:
        """Whether FreeScout has to be asked."""
        return self.disputed_at is not None


@dataclass(frozen=True, slots=True)
class Look:
    """What readers get now, by ticket, and what is said of the pollers."""

    tickets: dict[int, Seen]
    passed: datetime | None
    """The *s* of the pass that renewed the lease last."""
    beaten: datetime | None
    """The heartbeat."""
    ahead: timedelta
    """How far the desk's clock is ahead of ours, as last measured."""


class StagedDriver:
    """The driver's connection, which tells the server the time before its first statement.

    Anything may happen between its reading of tickets and their writing: ``between`` is awaited there, unless the
    tickets were locked first, and returns the time at which they are written.
    """

    def __init__(self, driver: asyncpg.Connection, now: datetime, between: Callable[[], Awaitable[datetime]]) -> None:
        self._driver = driver
        self._now: datetime | None = now
        self._between: Callable[[], Awaitable[datetime]] | None = between

    async def tell_the_time(self, before: str = "") -> None:
        """Tell the server the time unless it knows, and run a statement without arguments in the same message."""
        told = "" if self._now is None else f"SET proof.now = '{self._now.isoformat()}';"
        self._now = None
        if told or before:
            await self._driver.execute(told + before)

    async def execute(self, query: str, *arguments: object) -> None:
        """Execute as `asyncpg.Connection` does."""
        if arguments:
            await self.tell_the_time()
            await self._driver.execute(query, *arguments)
        else:
            await self.tell_the_time(query)

    async def fetch(self, query: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Fetch as `asyncpg.Connection` does."""
        await self.tell_the_time()
        if query == statements.LOCK:
            self._between = None
        rows: Sequence[asyncpg.Record] = await self._driver.fetch(query, *arguments)
        return rows

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        """Fetch a row as `asyncpg.Connection` does."""
        await self.tell_the_time()
        row = await self._driver.fetchrow(query, *arguments)
        if query == statements.READ_TICKETS and self._between is not None:
            self._now = await self._between()
        return row


class StagedConnection(Connection):
    """A connection that tells the server the time before its first statement, whichever way that one goes."""

    driver: StagedDriver

    async def execute(self, statement: Executable) -> CursorResult[Any]:
        """Run an expression."""
        await self.driver.tell_the_time()
        return await super().execute(statement)


class StagedCache(Database):
    """The cache as our processes use it; `look` is how the proof sees it from outside."""

    def __init__(self, url: URL) -> None:
        super().__init__(url, connections=_CONNECTIONS)
        self.faults = CacheFaults()
        self.uses = 0
        """How often our processes have used it."""
        self._stage = Stage(random.Random())
        self._rng = random.Random()
        self._clock = ManualClock()
        self._jumps: list[tuple[datetime, timedelta]] = []
        """Since when PostgreSQL's clock has been ahead of the world's, and by how much."""

    async def install(self) -> None:
        """Give a migrated database what the proof needs; once."""
        async with super().session() as connection:
            for statement in _SCHEMA:
                await connection.driver.execute(statement)

    async def reset(self, stage: Stage, rng: random.Random, clock: ManualClock) -> None:
        """Begin another history with an empty cache."""
        self._stage, self._rng, self._clock, self.faults = stage, rng, clock, CacheFaults()
        self._jumps, self.told = [], None
        async with super().session() as connection:
            await connection.driver.execute(_EMPTY)

    @property
    def ahead(self) -> timedelta:
        """How far PostgreSQL's clock is ahead of the world's."""
        return self._jumps[-1][1] if self._jumps else timedelta()

    def jump(self, ahead: timedelta) -> None:
        """Set PostgreSQL's clock, so far ahead of the world's."""
        self._jumps.append((self._clock.now(), ahead))

    @property
    def has_jumped(self) -> bool:
        """Whether PostgreSQL's clock has ever been set."""
        return bool(self._jumps)

    @property
    def most_ahead(self) -> timedelta:
        """How far it has been ahead at the most."""
        return max((ahead for _, ahead in self._jumps), default=timedelta())

    @property
    def clock(self) -> datetime:
        """What PostgreSQL's clock says."""
        return self._clock.now() + self.ahead

    def truly(self, stamp: datetime | None) -> datetime | None:
        """Return when a stamp was written, by the world's clock: it jumps farther than a history lasts."""
        if stamp is None or not self._jumps or stamp <= self._clock.now():
            return stamp
        return stamp - min(ahead for _, ahead in self._jumps if stamp - ahead <= self._clock.now())

    async def vacuum(self) -> None:
        """Clear away what many histories have left behind."""
        async with super().session() as connection:
            await connection.driver.execute(
                "VACUUM freescout_ticket, freescout_delivery, freescout_gap, freescout_lease"
            )

    @asynccontextmanager
    async def session(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection whose clock is the history's; ``deadline`` is in real seconds, and no history has those."""
        del deadline
        now = await self._begin_use()
        self._stage.busy += 1
        try:
            async with super().session() as connection:
                driver = StagedDriver(connection.driver, now, self._let_others_use_it)
                yield StagedConnection(connection.core, driver)
        finally:
            self._stage.busy -= 1
        await self._end_use()

    async def now(self) -> datetime:
        """Return the history's clock; a use like any other, but for the server, which would say the same."""
        now = await self._begin_use()
        await self._end_use()
        return self._note(now)

    async def _begin_use(self) -> datetime:
        await self._stage.turn("turns to the cache")
        if self._happens(self.faults.away):
            raise DatabaseUnavailableError("PostgreSQL is away, in this history")
        self.uses += 1
        self._clock.advance(MICROSECOND)  # no two uses begin at the same moment
        return self.clock

    async def _end_use(self) -> None:
        await self._stage.turn("has used the cache")
        self._go_wrong()

    async def _let_others_use_it(self) -> datetime:
        self._stage.busy -= 1
        try:
            await self._stage.turn("has read tickets")
        finally:
            self._stage.busy += 1
        self._clock.advance(MICROSECOND)
        return self.clock

    @asynccontextmanager
    async def transaction(
        self, deadline: float | None = None, *, durable: bool = True, writes: bool = True
    ) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction, which may fail before its commit."""
        async with super().transaction(deadline, durable=durable, writes=writes) as connection:
            yield connection
            self._go_wrong()

    async def look(self) -> Look:
        """See what readers get at this moment."""
        async with super().session() as connection:
            rows = await connection.driver.fetch("SELECT * FROM proof_look($1)", self.clock.isoformat())
        passed, beaten, ahead = (rows[0][name] for name in ("passed", "beaten", "ahead"))
        return Look(
            {row["ticket_id"]: self._seen(row) for row in rows if row["ticket_id"] is not None},
            self.truly(passed),
            # One that lies ahead is no sign of life, and one grows old as PostgreSQL's clock has it.
            None if beaten is None or is_ahead(beaten, self.clock) else beaten - self.ahead,
            ahead,
        )

    def _seen(self, row: asyncpg.Record) -> Seen:
        seen = Seen(**{name: row[name] for name in Seen.__slots__})
        if not self._jumps:
            return seen
        return replace(
            seen,
            disputed_at=self.truly(seen.disputed_at),
            claimed_at=self.truly(seen.claimed_at),
            truth_at=self.truly(seen.truth_at),
            doubted_at=[came for each in seen.doubted_at or () if (came := self.truly(each)) is not None] or None,
        )

    async def outside(self, query: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Ask the cache something outside of all turns."""
        async with super().session() as connection:
            driver = StagedDriver(connection.driver, self.clock, self._let_others_use_it)
            return await driver.fetch(query, *arguments)

    def _go_wrong(self) -> None:
        if self._happens(self.faults.death):
            self._stage.die()
        if self._happens(self.faults.error):
            raise DatabaseUnavailableError("the connection broke, in this history")

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability
