"""How many tickets the cache holds, by what they read and why, and for how long a change was not known.

Every ticket is looked at: what a row reads changes as time passes, and no index knows the time. A million take about a
second of PostgreSQL's, so this is for now and then, never for a request.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import CTE, ColumnElement, case, func, literal, or_, select, text, true
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from db import schema
from db.database import Database
from db.gaps import longest_gap
from db.reads import Reason
from freescout_audit.trust import AHEAD

REASONS: tuple[Reason, ...] = ("ok", "disputed", "expired", "unknown", "unpublished", "gone")
"""The reasons that a ticket can have that the cache holds a row of, as `db.reads.explain` gives them."""
_DAY = timedelta(days=1)
_EPOCH = literal(datetime.fromtimestamp(0, UTC))


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted, and when (UTC)."""

    at: datetime
    tickets: Mapping[Reason, int]
    """By the reason of what they read, for all of `REASONS`; all but those of ``ok`` read ``none``."""
    longest_gap: timedelta
    """The longest time that one of the last day's gaps was not known; see `db.gaps.longest_gap`."""

    @property
    def held(self) -> int:
        """How many tickets have a row, tombstones included."""
        return sum(self.tickets.values())


async def count(database: Database, *, deadline: float) -> Counts:
    """Count everything, on one connection and without PostgreSQL's parallel workers, also on a standby.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away, not migrated, or was not done within ``deadline`` seconds.
    """
    stands = _stands()
    reason = _reason(stands.c)
    query = (
        select(reason.label("reason"), func.count().label("tickets"), func.min(stands.c.now).label("at"))
        .join_from(schema.ticket, stands, true())
        .group_by(reason)
    )
    async with database.transaction(deadline, writes=False) as connection:
        await connection.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        rows = await connection.rows(query)
        at: datetime = rows[0]["at"] if rows else await connection.scalar(select(schema.now))
        longest = await longest_gap(connection, _DAY)
    found = {row["reason"]: row["tickets"] for row in rows}
    return Counts(at=at, tickets={each: found.get(each, 0) for each in REASONS}, longest_gap=longest)


def _stands() -> CTE:
    """Return one row of what is the same for all tickets, computed once: the clock, and what the lease allows."""
    lease = schema.lease.c
    clock = select(schema.now.label("now")).subquery()
    soon = clock.c.now + literal(AHEAD)
    longest = func.greatest(lease.cache_lease, lease.cache_ttl) * literal(timedelta(seconds=1))
    renewed = or_(lease.renewed_by_pass.is_(None), lease.renewed_by_pass <= soon)
    return (
        select(
            clock.c.now,
            soon.label("soon"),
            (soon + longest).label("longest"),
            case((renewed, func.coalesce(lease.lease_until, _EPOCH)), else_=_EPOCH).label("leased"),
        )
        .join_from(schema.lease, clock, true())
        .cte("stands")
    )


def _reason(stands: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[str]:
    """Return what `db.reads.explain` says of a row; a test holds the two together."""
    ticket = schema.ticket.c
    vouched = func.greatest(case((ticket.expires_at <= stands.longest, ticket.expires_at)), stands.leased)
    unknown = or_(ticket.status.is_(None), ticket.state.is_(None), ticket.updated_at.is_(None))
    published = ticket.state == "published"
    is_ahead = func.greatest(ticket.observed_at, ticket.truth_at, ticket.disputed_at) > stands.soon
    return case(
        (ticket.gone & ticket.disputed_at.is_(None), "gone"),
        (ticket.gone, "disputed"),
        (published & ~unknown & ~is_ahead & (func.least(vouched, ticket.grace_until) > stands.now), "ok"),
        (ticket.grace_until <= stands.now, "disputed"),
        (unknown, "unknown"),
        (published, "expired"),
        else_="unpublished",
    )
