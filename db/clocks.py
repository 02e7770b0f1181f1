"""What a clock that was wrong has left behind: stamps ahead of our own, and what was taken for the desk's.

Our clock is the database's. A stamp of ours that lies ahead of it was written while it was wrong; readers believe none
such (`freescout_audit.trust`), and here they are found and taken away.
"""

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from sqlalchemy import BigInteger, Interval, Text, case, cast, func, literal, null, or_, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY

from db import schema
from db.database import Connection, Database
from db.store import record_stamps
from freescout_audit.rule import ABSURD, AHEAD

MANY = 1000
"""Above this number of tickets we read everything anew, which is cheaper than to ask FreeScout about each."""
_PATIENCE = 600.0
"""Seconds that a million tickets may take."""
_MINUTE = timedelta(seconds=60)

_ticket, _lease, _poller = schema.ticket.c, schema.lease.c, schema.poller.c
_STAMPS = (_ticket.observed_at, _ticket.touched_at, _ticket.truth_at, _ticket.truth_until, _ticket.disputed_at)
"""A ticket's stamps of our clock, but those that are meant to lie ahead."""
_SOON = select(schema.now + AHEAD).scalar_subquery()
"""Read when a statement runs, after everything that it sees was written: what waits in between is not ahead."""
_IS_AHEAD = or_(*(stamp > _SOON for stamp in _STAMPS))
_REPORTED = (
    "led_since",
    "passed_at",
    "desk_since",
    "silent_since",
    "full_walk_at",
    "desk_answered_at",
    "peeked_at",
)
"""The stamps of ours among what the poller reports."""


class Cleared(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken away: of how many tickets, how far it lay ahead, and whether everything has to be read anew."""

    tickets: int
    everything: bool
    ahead: timedelta


class Clocks(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds of the desk's clock and of the lease's times, as PostgreSQL writes them; None: nothing.

    Text, because an impossible date is just what an operator has to see. ``offset_s``: how far the desk's clock is
    ahead of ours, in seconds.
    """

    now: str
    offset_s: float
    seen_through: str | None
    complete_through: str | None
    covered_through: str | None
    set_back_through: str | None
    set_back_at: str | None
    lease_until: str | None
    renewed_by_pass: str | None
    heartbeat_at: str | None


async def clear_stamps_ahead(database: Database, *, look_closely: bool) -> Cleared | None:
    """Take away what was stamped ahead of our clock; None when nothing was.

    The lease ends, if it was renewed so. The tickets are disputed, so that FreeScout is asked about each; of more than
    `MANY` the stamps are taken away, and the next pass reads everything.

    Every ticket is looked at only if something else was stamped ahead (the lease, a report, a delivery), if this
    process was told such a time (`Database.told`), or to ``look_closely``: a million tickets take a tenth of a second.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    # In a transaction, which gives the server the same patience; by itself it would end a statement after 30 s.
    async with database.transaction(_PATIENCE) as connection:
        reported = func.greatest(_lease.renewed_by_pass, *(_poller[name] for name in _REPORTED))
        delivered = select(func.max(schema.delivery.c.received_at)).scalar_subquery()
        stands = await connection.row(
            select(_SOON.label("soon"), reported.label("reported"), delivered.label("delivered")).join_from(
                schema.lease, schema.poller, true()
            )
        )
        assert stands is not None, "both have their one row"  # noqa: S101 - the schema's promise
        soon = stands.pop("soon")
        stamps = [stamp for stamp in (database.told, *stands.values()) if stamp is not None and stamp > soon]
        tickets: Sequence[int] = []
        if stamps or look_closely:
            query = select(_ticket.ticket_id, func.greatest(*_STAMPS).label("latest")).where(_IS_AHEAD)
            query = query.limit(MANY + 1)
            rows = await connection.rows(query)
            tickets = [row["ticket_id"] for row in rows]
            stamps += [row["latest"] for row in rows]
    if not stamps:
        return None
    count, everything = len(tickets), len(tickets) > MANY
    async with database.transaction(_PATIENCE) as connection:
        await _end_the_lease(connection, everything=everything)
        if everything:
            count = await _clear_all(connection)
    if tickets and not everything:
        await record_stamps(database, tickets)
    database.told = None
    return Cleared(tickets=count, everything=everything, ahead=max(stamps) - soon + AHEAD)


async def _end_the_lease(connection: Connection, *, everything: bool) -> None:
    """End a lease that was renewed ahead of our clock, or any if everything has to be read anew.

    What is reported and journalled happened no later than now: alarms wait for none of it.
    """
    ended = {
        "lease_until": func.least(_lease.lease_until, schema.now),
        "renewed_by_pass": null(),
        "begun_by_pass": null(),
    }
    if everything:
        await connection.execute(update(schema.lease).values(**ended, complete_through=null()))
    else:
        await connection.execute(
            update(schema.lease).where(_lease.renewed_by_pass > schema.now + AHEAD).values(**ended)
        )
    no_later = {name: func.least(_poller[name], schema.now) for name in _REPORTED}
    load = {"load_cursor": null(), "load_began": null()} if everything else {}
    await connection.execute(update(schema.poller).values(**no_later, **load))
    for stamp in (schema.delivery.c.received_at, schema.gap.c.healed_at):
        late = update(stamp.table).where(stamp > schema.now + AHEAD).values({stamp.name: schema.now})
        await connection.execute(late)


async def _clear_all(connection: Connection) -> int:
    """Take away the stamps ahead of our clock in all tickets, which vouch for nothing then; return how many there are.

    As `freescout_audit.rule.judge_stamps` has it, but that no dispute is opened: a pass that reads all is to come.
    """
    # In the order in which every writer locks them.
    ahead = select(_ticket.ticket_id).where(_IS_AHEAD).order_by(_ticket.ticket_id).with_for_update().cte("ahead")
    now = schema.now
    cleared = (
        update(schema.ticket)
        .where(_ticket.ticket_id == ahead.c.ticket_id)
        .values(
            observed_at=func.least(_ticket.observed_at, now),
            expires_at=func.least(_ticket.expires_at, now),
            touched_at=now,
            truth_at=case((_ticket.gone & _ticket.truth_at.is_not(None), now)),
            truth_until=null(),
            disputed_at=case((_ticket.disputed_at.is_not(None), func.least(_ticket.disputed_at, now))),
            grace_until=case((_ticket.disputed_at.is_not(None), func.least(_ticket.grace_until, now))),
            doubted_through=case((_ticket.doubted_through <= now + ABSURD, _ticket.doubted_through)),
        )
    )
    ids = await connection.column(cleared.returning(_ticket.ticket_id))
    await connection.execute(select(func.freescout_note_history(literal(ids, ARRAY(BigInteger)))))
    return len(ids)


async def read_clocks(database: Database) -> Clocks:
    """Return what is held of clocks, whatever it is."""
    names = [name for name in Clocks.__struct_fields__ if name not in {"now", "offset_s"}]
    query = select(
        cast(schema.now, Text).label("now"),
        cast(func.extract("epoch", _lease.clock_offset), schema.lease.c.cache_ttl.type).label("offset_s"),
        *(cast(_lease[name], Text).label(name) for name in names),
    )
    async with database.connection() as connection:
        (row,) = await connection.rows(query)
    return Clocks(**row)


async def reset_clock(database: Database) -> None:
    """Forget what was taken for the desk's clock, and take no date of the lease to lie ahead of ours.

    Everything dated up to now counts as seen. The next pass measures the clock anew; it reads everything if the last
    complete pass is dated more than a minute ahead. Works on dates that Python has no value for.
    """
    no_later = ("covered_through", "renewed_by_pass", "begun_by_pass", "lease_until", "heartbeat_at")
    load_is_ahead = _poller.load_began > schema.now + _MINUTE
    async with database.transaction() as connection:
        await connection.execute(
            update(schema.lease).values(
                {name: func.least(_lease[name], schema.now) for name in no_later}
                | {
                    "seen_through": schema.now,
                    "clock_offset": literal(timedelta(), Interval),
                    "set_back_through": null(),
                    "set_back_at": null(),
                    "complete_through": case(
                        (_lease.complete_through <= schema.now + _MINUTE, _lease.complete_through)
                    ),
                }
            )
        )
        await connection.execute(
            update(schema.poller).values(
                complete_offset=null(),
                load_cursor=case((load_is_ahead, null()), else_=_poller.load_cursor),
                load_began=case((load_is_ahead, null()), else_=_poller.load_began),
            )
        )
