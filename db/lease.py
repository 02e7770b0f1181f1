"""The lease and what else the poller says of itself: two rows that stand for everything."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import BigInteger, case, delete, func, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY

from db import schema
from db.database import Connection, Database
from db.history import begin_the_feed_again, forget_history
from freescout_audit.desk_clock import DeskClock, note_desk_clock, note_rows_ahead
from freescout_audit.errors import DatabaseUnavailableError, FreescoutAuditError
from freescout_audit.rule import AHEAD, Lease, Terms

DeskState = Literal["unknown", "ok", "refused", "unavailable"]

COLUMNS = tuple(schema.lease.c[name] for name in Lease.__struct_fields__)
_begun = schema.lease.c.begun_by_pass
_FORGETTING = 600.0
"""Seconds that forgetting a million tickets may take."""


class OtherDeskError(FreescoutAuditError):
    """This database holds the tickets of another desk."""


class ClockWentBackError(DatabaseUnavailableError):
    """The database's clock was set back while a pass went on: which of its reads was the later is not known."""


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the first load has come: everything created before ``cursor``; and the desk's clock when it began."""

    cursor: datetime | None
    began: datetime


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass begins with: *s*, the lease as it stands, and how far an unfinished first load has come."""

    asked_at: datetime
    lease: Lease
    load: LoadProgress | None
    complete_offset: timedelta | None
    """How far the desk's clock was ahead of ours in the last complete pass."""

    @property
    def ahead(self) -> timedelta | None:
        """How far the desk's clock is ahead of ours; None while no pass has read it."""
        return None if self.lease.seen_through is None else self.lease.clock_offset


class DeskBefore(msgspec.Struct, frozen=True, kw_only=True):
    """What was reported of the desk before."""

    state: DeskState
    detail: str
    silent_since: datetime | None


def lease_of(row: Mapping[str, Any]) -> Lease:
    """Return the lease out of a row that carries its columns."""
    return Lease(**{name: row[name] for name in Lease.__struct_fields__})


async def read_beginning(database: Database) -> Beginning:
    """Return what a pass begins with.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    reports = schema.poller.c
    query = select(
        schema.now.label("now"), *COLUMNS, reports.load_cursor, reports.load_began, reports.complete_offset
    ).join_from(schema.lease, schema.poller, true())
    async with database.connection() as connection:
        (row,) = await connection.rows(query)
    return Beginning(
        asked_at=row["now"],
        lease=lease_of(row),
        load=None if row["load_began"] is None else LoadProgress(cursor=row["load_cursor"], began=row["load_began"]),
        complete_offset=row["complete_offset"],
    )


async def claim_desk(database: Database, url: str) -> None:
    """Tie the database to a desk, once.

    Raises:
        OtherDeskError: It is tied to another: its tickets would be taken for this one's.
    """
    mine = schema.lease.c.desk_url
    async with database.connection() as connection:
        claim = update(schema.lease).where(or_(mine.is_(None), mine == url)).values(desk_url=url).returning(mine)
        held = await connection.scalar(claim) or await connection.scalar(select(mine))
    if held != url:
        raise OtherDeskError(
            f"this database holds the tickets of {held}, and FREESCOUT_URL is {url}",
            f"use another DATABASE_URL, or freescout-audit desk change {url}, if the same desk has a new address",
        )


async def change_desk(database: Database, url: str, *, forget: bool) -> None:
    """Tie the database to a desk, whatever it was tied to; ``forget`` what is known of the one before.

    A pass that is under way over the old desk renews no lease.
    """
    async with database.transaction(_FORGETTING) as connection:
        if not forget:
            await connection.execute(update(schema.lease).values(desk_url=url))
            return
        for table in (
            schema.ticket,
            *schema.webhooks.values(),
            schema.gap,
            schema.delivery,
            schema.answer,
            schema.minute,
            schema.lease,
            schema.poller,
        ):
            await connection.execute(delete(table))
        await forget_history(connection)
        await connection.execute(schema.lease.insert().values(desk_url=url, renewed_by_pass=schema.now))
        await connection.execute(schema.poller.insert())


async def vouch_for_nothing(database: Database) -> int:
    """Let every ticket read none until FreeScout is asked anew; return how many had an answer of their own.

    For a database that was restored: what it held was right when the backup was made. The lease ends, no pass that is
    under way renews it, and what deliveries and questions had prolonged expires.
    """
    ticket, lease = schema.ticket.c, schema.lease.c
    # In the order in which every writer locks them.
    lasting = select(ticket.ticket_id).where(ticket.expires_at > schema.now)
    lasting_ids = lasting.order_by(ticket.ticket_id).with_for_update().cte("lasting")
    async with database.transaction(_FORGETTING) as connection:
        ended = case((lease.lease_until > schema.now, schema.now), else_=lease.lease_until)
        await connection.execute(update(schema.lease).values(lease_until=ended, renewed_by_pass=schema.now))
        expired = update(schema.ticket).where(ticket.ticket_id == lasting_ids.c.ticket_id)
        ids = await connection.column(expired.values(expires_at=schema.now).returning(ticket.ticket_id))
        await connection.execute(select(func.freescout_note_history(literal(ids, ARRAY(BigInteger)))))
        await begin_the_feed_again(connection)
    return len(ids)


async def beat(
    database: Database, terms: Terms, *, answered_ago: float | None = None, peeked_ago: float | None = None
) -> None:
    """Say that a poller is alive, and which terms are in force.

    ``answered_ago`` and ``peeked_ago``: how many seconds ago the desk answered it last, and a peek of it; None: never.
    """
    heard = {
        name: schema.now - timedelta(seconds=ago)
        for name, ago in (("desk_answered_at", answered_ago), ("peeked_at", peeked_ago))
        if ago is not None
    }
    async with database.connection() as connection:
        await connection.execute(update(schema.lease).values(heartbeat_at=schema.now, **_in_force(terms)))
        if heard:
            await connection.execute(update(schema.poller).values(heard))


async def note_terms(database: Database, terms: Terms) -> None:
    """Say which terms are in force, so that readers know how long anything can be vouched for."""
    async with database.connection() as connection:
        await connection.execute(update(schema.lease).values(**_in_force(terms)))


def _in_force(terms: Terms) -> Mapping[str, float]:
    return {"cache_lease": terms.lease.total_seconds(), "cache_ttl": terms.ttl.total_seconds()}


async def see_through(
    database: Database, desk_clock: datetime, *, asked_at: datetime, at_least: timedelta | None = None
) -> DeskClock:
    """Note the desk's clock as a pass begins to read; to be called before anything of its answer is used.

    ``asked_at`` is our clock before the request; ``at_least`` as in `note_desk_clock`.
    """
    async with database.transaction() as connection:
        # The clock is read when the row is locked: what another writer did before is in it.
        await connection.execute(select(true()).select_from(schema.lease).with_for_update())
        (row,) = await connection.rows(select(schema.now.label("now"), *COLUMNS))
        noted = note_desk_clock(lease_of(row), desk_clock, asked_at=asked_at, now=row["now"], at_least=at_least)
        await connection.execute(
            update(schema.lease).values(
                clock_offset=noted.clock_offset,
                seen_through=noted.seen_through,
                covered_through=noted.covered_through,
                set_back_through=noted.set_back_through,
                set_back_at=noted.set_back_at,
                begun_by_pass=case((_begun > row["now"], asked_at), else_=func.greatest(_begun, asked_at)),
            )
        )
    return DeskClock(
        at=desk_clock, asked_at=asked_at, offset=noted.clock_offset, seen_through=noted.seen_through or desk_clock
    )


async def see_rows_ahead(
    database: Database, dates: Iterable[datetime], desk_clock: datetime, *, asked_at: datetime
) -> datetime | None:
    """Note that an answer's rows bear dates ahead of the desk's clock, and return what has been seen now.

    ``desk_clock`` and ``asked_at`` are the answer's.
    """
    async with database.transaction() as connection:
        (row,) = await connection.rows(select(*COLUMNS).with_for_update())
        noted = note_rows_ahead(lease_of(row), dates, desk_clock, asked_at=asked_at)
        changed = ("seen_through", "set_back_through", "set_back_at")
        await connection.execute(update(schema.lease).values({name: getattr(noted, name) for name in changed}))
    return noted.seen_through


async def renew(
    database: Database,
    beginning: Beginning,
    *,
    clock: DeskClock,
    covered_through: datetime,
    terms: Terms,
    rows: int,
    requests: int,
) -> float | None:
    """Renew the lease for a complete pass, and return the seconds that it took; None when a later one has overtaken it.

    This pass does not write a ticket that the later one may lack, and so counts without it.
    ``covered_through``: the latest date that the pass has seen, or would have seen; no claim as old is news.
    """
    renewed = schema.lease.c.renewed_by_pass
    renewal = (
        update(schema.lease)
        .where(
            or_(renewed.is_(None), renewed < beginning.asked_at, renewed > schema.now + AHEAD),
            or_(_begun.is_(None), _begun <= clock.asked_at, _begun > schema.now),
        )
        .values(
            lease_until=beginning.asked_at + terms.lease,
            complete_through=clock.at,
            covered_through=covered_through,
            renewed_by_pass=beginning.asked_at,
            **_in_force(terms),
        )
        .returning(renewed)
    )
    async with database.transaction() as connection:
        ended_at: datetime = await connection.scalar(select(schema.now))
        if await connection.scalar(renewal) is None:
            return None
        seconds = (ended_at - beginning.asked_at).total_seconds()
        await _report_pass(connection, seconds, rows, requests, clock.offset)
        return seconds


async def _report_pass(
    connection: Connection, seconds: float, rows: int, requests: int, complete_offset: timedelta
) -> None:
    """Report a complete pass; a first load is over then, and has read everything."""
    poller = schema.poller.c
    await connection.execute(
        update(schema.poller).values(
            passed_at=schema.now,
            pass_seconds=seconds,
            pass_rows=rows,
            pass_requests=requests,
            complete_offset=complete_offset,
            load_cursor=None,
            load_began=None,
            full_walk_at=case((poller.load_began.is_(None), poller.full_walk_at), else_=schema.now),
        )
    )


async def save_load(connection: Connection, load: LoadProgress) -> None:
    """Note how far the first load has come, in the transaction that writes its rows."""
    await connection.execute(update(schema.poller).values(load_cursor=load.cursor, load_began=load.began))


async def due_for_a_full_walk(database: Database, *, hour: int) -> datetime | None:
    """Return our clock if everything has to be read once more: the day's ``hour`` (UTC) came after the last time.

    None when it is not due, or when the first load, which reads everything, is not over.
    """
    query = select(
        schema.now.label("now"),
        schema.poller.c.full_walk_at,
        schema.lease.c.complete_through.is_not(None).label("loaded"),
    ).join_from(schema.lease, schema.poller, true())
    async with database.connection() as connection:
        (row,) = await connection.rows(query)
    now: datetime = row["now"]
    due = now.astimezone(UTC).replace(hour=hour, minute=0, second=0, microsecond=0)
    if due > now:
        due -= timedelta(days=1)
    return now if row["loaded"] and (row["full_walk_at"] is None or row["full_walk_at"] < due) else None


async def note_full_walk(database: Database, began: datetime) -> None:
    """Note that everything has been read once more, by a reading that began then."""
    async with database.connection() as connection:
        await connection.execute(update(schema.poller).values(full_walk_at=began))


async def report_desk(database: Database, state: DeskState, detail: str = "", next_step: str = "") -> DeskBefore:
    """Report how the desk's API answers, and since when it does or does not; return what was reported before.

    An API that answers ends the alarm of two silent paths.
    """
    poller = schema.poller.c
    since = case(
        (((poller.desk_state == "ok") == (state == "ok")) & poller.desk_since.is_not(None), poller.desk_since),
        else_=schema.now,
    )
    async with database.transaction() as connection:
        (before,) = await connection.rows(
            select(
                poller.desk_state.label("state"), poller.desk_detail.label("detail"), poller.silent_since
            ).with_for_update()
        )
        values = {"desk_since": since, "desk_state": state, "desk_detail": detail, "desk_next_step": next_step}
        silence = {"silent_since": None} if state == "ok" else {}
        await connection.execute(update(schema.poller).values(**values, **silence))
    return DeskBefore(**before)


async def report_trouble(database: Database, detail: str) -> None:
    """Report what FreeScout does wrong for some tickets while its API answers; empty: nothing."""
    since = schema.now if detail else None
    async with database.connection() as connection:
        await connection.execute(update(schema.poller).values(trouble=detail, trouble_since=since))
