"""The lease and what else the poller says of itself: two rows that stand for everything."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from db import statements
from db.database import Database
from db.store import LoadProgress, lease_of
from freescout_audit.errors import FreescoutAuditError
from freescout_audit.rule import Lease

DeskState = Literal["unknown", "ok", "refused", "unavailable"]


class OtherDeskError(FreescoutAuditError):
    """This database holds the tickets of another desk."""


CLOCK_TOLERANCE = timedelta(seconds=5)
"""A desk's clock that was set back by so little makes no walk begin earlier, and no pass fail."""


class DeskClock(msgspec.Struct, frozen=True, kw_only=True):
    """The desk's clock at an answer, and how far it was ahead of ours."""

    at: datetime
    offset: timedelta
    seen_through: datetime
    """A claim dated no later than this is no news to a pass that begins at this answer."""

    def went_back(self, offset_before: timedelta | None) -> timedelta:
        """Return by how much it was set back since its offset was ``offset_before``; zero if it was not."""
        back = timedelta() if offset_before is None else offset_before - self.offset
        return back if back > CLOCK_TOLERANCE else timedelta()


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass begins with: *s*, the lease as it stands, and how far an unfinished first load has come."""

    asked_at: datetime
    lease: Lease
    load: LoadProgress | None
    complete_offset: timedelta | None
    """How far the desk's clock was ahead of ours in the last complete pass."""


async def now(database: Database) -> datetime:
    """Return our clock: the *s* of a request that is about to be sent."""
    async with database.connection() as connection:
        moment: datetime = await connection.fetchval(statements.NOW)
        return moment


async def read_beginning(database: Database) -> Beginning:
    """Return what a pass begins with."""
    async with database.connection() as connection:
        record = await connection.fetchrow(statements.READ_PASS)
    began = record["load_began"]
    return Beginning(
        asked_at=record["now"],
        lease=lease_of(record),
        load=None if began is None else LoadProgress(cursor=record["load_cursor"], began=began),
        complete_offset=record["complete_offset"],
    )


async def claim_desk(database: Database, url: str) -> None:
    """Tie the database to a desk, once.

    Raises:
        OtherDeskError: It is tied to another: its tickets would be taken for this one's.
    """
    async with database.connection() as connection:
        if await connection.fetchval(statements.CLAIM_DESK, url) is None:
            other = await connection.fetchval("SELECT desk_url FROM freescout_lease")
            raise OtherDeskError(
                f"this database holds the tickets of {other}, and FREESCOUT_URL is {url}: use another DATABASE_URL,"
                f" or freescout-audit desk change {url}, if the same desk has a new address"
            )


async def beat(database: Database) -> None:
    """Say that a poller is alive."""
    async with database.connection() as connection:
        await connection.execute(statements.BEAT)


async def see_through(database: Database, desk_clock: datetime, *, asked_at: datetime) -> DeskClock:
    """Note the desk's clock as a pass begins to read; to be called before anything of its answer is used.

    ``asked_at`` is our clock before the request.
    """
    async with database.connection() as connection:
        noted = await connection.fetchrow(statements.SEE_THROUGH, desk_clock, asked_at, CLOCK_TOLERANCE)
    return DeskClock(at=desk_clock, offset=noted["clock_offset"], seen_through=noted["seen_through"])


async def see_at_least(database: Database, date: datetime) -> None:
    """Note that a row bears a date ahead of the desk's clock; errors as `see_through`."""
    async with database.connection() as connection:
        await connection.execute(statements.SEE_AT_LEAST, date)


async def renew(
    database: Database,
    beginning: Beginning,
    *,
    clock: DeskClock,
    covered_through: datetime,
    lease: timedelta,
    rows: int,
    requests: int,
) -> float:
    """Renew the lease for a complete pass, unless a later one has done so; return the seconds it took.

    ``covered_through``: the latest date that the pass has seen, or would have seen; no claim as old is news.
    """
    async with database.transaction() as connection:
        ended_at: datetime = await connection.fetchval(statements.NOW)
        seconds = (ended_at - beginning.asked_at).total_seconds()
        if await connection.fetchval(statements.RENEW, beginning.asked_at, lease, clock.at, covered_through):
            await connection.execute(statements.REPORT_PASS, seconds, rows, requests, clock.offset)
    return seconds


async def due_for_a_full_walk(database: Database, *, hour: int) -> datetime | None:
    """Return our clock if everything has to be read once more: the day's ``hour`` (UTC) came after the last time.

    None when it is not due, or when the first load, which reads everything, is not over.
    """
    async with database.connection() as connection:
        record = await connection.fetchrow(statements.READ_FULL_WALK)
    now: datetime = record["now"]
    last: datetime | None = record["full_walk_at"]
    due = now.astimezone(UTC).replace(hour=hour, minute=0, second=0, microsecond=0)
    if due > now:
        due -= timedelta(days=1)
    return now if record["loaded"] and (last is None or last < due) else None


async def note_full_walk(database: Database, began: datetime) -> None:
    """Note that everything has been read once more, by a reading that began then."""
    async with database.connection() as connection:
        await connection.execute(statements.NOTE_FULL_WALK, began)


async def report_desk(database: Database, state: DeskState, detail: str = "") -> DeskState:
    """Report how the desk's API answers, and return the state before."""
    async with database.connection() as connection:
        before: DeskState = await connection.fetchval(statements.REPORT_DESK, state, detail)
        return before


async def report_leader(database: Database, name: str) -> None:
    """Report who polls."""
    async with database.connection() as connection:
        await connection.execute(statements.REPORT_LEADER, name)


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that FreeScout has to be asked about; ``claimed`` when a delivery is why, not a list that lacks it."""

    ticket_id: int
    claimed: bool


async def open_disputes(database: Database, *, at_most: int) -> list[Dispute]:
    """Return what FreeScout has to be asked, the newest claims first."""
    async with database.connection() as connection:
        return [Dispute(**record) for record in await connection.fetch(statements.OPEN_DISPUTES, at_most)]
