"""Elects one poller of several by a row that its holder renews by short transactions, and that ends by itself.

It saves the desk from being read twice; correctness does not rest on it. It is no advisory lock, since any role of the
database may take one. It is no transaction that stays open either: that keeps PostgreSQL from clearing away old
versions of the lease, which every reader would have to walk past.
"""

from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, and_, case, func, or_, select, true, update

from db import schema
from db.database import Database
from db.standing import HEARTBEAT_OVERDUE
from freescout_audit.rule import AHEAD

TERM = timedelta(seconds=6)
"""How long a leader leads without renewing it. After ``kill -9`` another leads no later than this and a try."""

_poller, _lease = schema.poller.c, schema.lease.c


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads instead, and whether it does its work: it has a heartbeat, or has only just begun."""

    name: str
    beats: bool


async def claim(database: Database, *, session: str, name: str) -> Holder | None:
    """Take or renew the right to poll for `TERM`; return who has it, or None: it is ours.

    ``session`` tells this process from all others, and ``name`` names it to people.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    now = schema.now
    # What ends later than any claim allows was written while our clock was ahead.
    is_free = or_(_poller.leads_until.is_(None), _poller.leads_until <= now, _poller.leads_until > now + TERM + AHEAD)
    ours = _poller.leader_session == session
    claiming = (
        update(schema.poller)
        .where(or_(ours, is_free))
        .values(
            leader=name,
            leader_session=session,
            leads_until=now + TERM,
            led_since=case((ours & ~is_free, _poller.led_since), else_=now),
        )
        .returning(_poller.leader)
    )

    def is_of_late(moment: ColumnElement[datetime]) -> ColumnElement[bool]:
        return and_(moment > now - HEARTBEAT_OVERDUE, moment <= now + AHEAD)

    holder = select(
        func.coalesce(_poller.leader, "").label("name"),
        func.coalesce(or_(*(is_of_late(since) for since in (_lease.heartbeat_at, _poller.led_since))), False).label(
            "beats"
        ),
    ).join_from(schema.lease, schema.poller, true())
    async with database.connection() as connection:
        if await connection.scalar(claiming) is not None:
            return None
        (row,) = await connection.rows(holder)
    return Holder(**row)


async def release(database: Database, *, session: str, stepped_down: bool) -> None:
    """Let another process lead at once; ``stepped_down``: this one ends because it was told to."""
    values: dict[str, object] = {"leads_until": schema.now}
    if stepped_down:
        values["stepped_down_at"] = schema.now
    async with database.connection() as connection:
        await connection.execute(
            update(schema.poller).where(_poller.leader_session == session).values(leader_session=None, **values)
        )


async def retire(database: Database) -> datetime:
    """Note that push alone is meant, and return since when."""
    async with database.connection() as connection:
        since: datetime = await connection.scalar(
            update(schema.poller)
            .values(retired_at=func.coalesce(_poller.retired_at, schema.now))
            .returning(_poller.retired_at)
        )
    return since


async def expect(database: Database) -> None:
    """Note that a poller is expected."""
    async with database.connection() as connection:
        await connection.execute(update(schema.poller).values(retired_at=None))
