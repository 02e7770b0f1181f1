"""What the cache holds of tickets, as operators and the poller look at it: counts, look-ups, rows, open disputes."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, select, true

from db import schema
from db.database import Database
from db.reads import OF_LEASE, Reading, explain
from freescout_audit.conversation import MAX_ID, State, Status

_ticket, _lease, _cache = schema.ticket.c, schema.lease.c, schema.cache.c


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """How many tickets are living, how many FreeScout has to be asked about, and since when the first."""

    living: int
    disputed: int
    oldest_dispute: datetime | None


class TicketRow(msgspec.Struct, frozen=True, kw_only=True):
    """One ticket's row, and until when its value is vouched for."""

    number: int | None
    mailbox_id: int | None
    status: Status | None
    state: State | None
    updated_at: datetime | None
    gone: bool
    observed_at: datetime
    observed_via: str
    expires_at: datetime
    lease_until: datetime | None
    ttl_expires: datetime | None
    touched_at: datetime | None
    truth_at: datetime | None
    disputed_at: datetime | None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds of a ticket, to be compared."""

    ticket_id: int
    status: Status | None
    state: State | None
    updated_at: datetime | None
    gone: bool


class KnownTicket(msgspec.Struct, frozen=True, kw_only=True):
    """A living ticket of which everything is known that a desk shows of it."""

    ticket_id: int
    mailbox_id: int | None
    status: Status
    state: State
    created_at: datetime
    updated_at: datetime


class OpenDispute(msgspec.Struct, frozen=True, kw_only=True):
    """A dispute as people look at it; ``grace_until`` is until when the ticket is still answered as it is held."""

    ticket_id: int
    number: int | None
    status: Status | None
    state: State | None
    gone: bool
    disputed_at: datetime
    grace_until: datetime


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that FreeScout has to be asked about; ``claimed`` when a delivery is why, not a list that lacks it."""

    ticket_id: int
    claimed: bool


_living = select(func.count()).where(~_ticket.gone)
_open = select(func.count(), func.min(_ticket.disputed_at)).where(_ticket.disputed_at.is_not(None)).subquery()
HOLDINGS = select(
    _living.scalar_subquery().label("living"), _open.c[0].label("disputed"), _open.c[1].label("oldest_dispute")
)
"""Counted apart, so that an index answers each, and of ten million tickets no row is read."""


async def read_holdings(database: Database) -> Holdings:
    """Count what the cache holds.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    async with database.connection() as connection:
        (row,) = await connection.rows(HOLDINGS)
    return Holdings(**row)


async def count_disputes(database: Database) -> int:
    """Count the tickets that FreeScout has to be asked about."""
    query = select(func.count()).where(_ticket.disputed_at.is_not(None))
    async with database.connection() as connection:
        count: int = await connection.scalar(query)
    return count


async def find_tickets(database: Database, number: int) -> Sequence[int]:
    """Return the tickets that bear a number; a number may have been used again after a deletion."""
    query = select(_ticket.ticket_id).where(_ticket.number == number).order_by(_ticket.ticket_id)
    async with database.connection() as connection:
        return await connection.column(query)


async def read_row(database: Database, ticket_id: int) -> tuple[Reading, TicketRow | None, datetime]:
    """Read what the cache answers for a ticket and why, its row, and the time of the answer."""
    names = {"ticket_id", "grace_until", *TicketRow.__struct_fields__}
    query = (
        select(
            schema.now.label("now"),
            _lease.complete_through,
            *(_lease[name] for name in OF_LEASE),
            _cache.ttl_expires,
            *(column for column in _ticket if column.name in names),
        )
        .select_from(schema.lease)
        .outerjoin(schema.ticket, _ticket.ticket_id == (ticket_id if 0 < ticket_id <= MAX_ID else 0))
        .outerjoin(schema.cache, _cache.ticket_id == _ticket.ticket_id)
    )
    async with database.connection() as connection:
        (read,) = await connection.rows(query)
    held = read["ticket_id"] is not None
    row = TicketRow(**{name: read[name] for name in TicketRow.__struct_fields__}) if held else None
    return explain(read), row, read["now"]


async def read_contents(database: Database, ticket_ids: Sequence[int]) -> Mapping[int, Held]:
    """Read what is held of some tickets, to compare it with what the desk says."""
    columns = (_ticket[name] for name in Held.__struct_fields__)
    query = select(*columns).where(_ticket.ticket_id.in_(ticket_ids))
    async with database.connection() as connection:
        return {row["ticket_id"]: Held(**row) for row in await connection.rows(query)}


async def count_older(database: Database, than: datetime) -> int:
    """Count the rows that have not changed since a time: those of which a change since then may have been missed."""
    query = select(func.count()).select_from(schema.cache).where(_cache.updated_at < than)
    async with database.connection() as connection:
        count: int = await connection.scalar(query)
    return count


async def disputed_ids(database: Database) -> Sequence[int]:
    """Return the tickets that FreeScout has to be asked about."""
    query = select(_ticket.ticket_id).where(_ticket.disputed_at.is_not(None)).order_by(_ticket.ticket_id)
    async with database.connection() as connection:
        return await connection.column(query)


async def open_disputes(database: Database, *, at_most: int) -> Sequence[Dispute]:
    """Return what FreeScout has to be asked, the newest claims first."""
    claimed = func.coalesce(_ticket.touched_at >= _ticket.disputed_at, False)
    query = (
        select(_ticket.ticket_id, claimed.label("claimed"))
        .where(_ticket.disputed_at.is_not(None))
        .order_by(_ticket.touched_at.desc().nulls_last(), _ticket.ticket_id)
        .limit(at_most)
    )
    async with database.connection() as connection:
        return [Dispute(**row) for row in await connection.rows(query)]


async def read_disputes(database: Database, *, at_most: int, ticket_id: int | None = None) -> Sequence[OpenDispute]:
    """Return the open disputes, the newest first; with ``ticket_id`` that ticket's alone."""
    columns = (_ticket[name] for name in OpenDispute.__struct_fields__)
    wanted = true() if ticket_id is None else _ticket.ticket_id == ticket_id
    query = (
        select(*columns)
        .where(_ticket.disputed_at.is_not(None), wanted)
        .order_by(_ticket.touched_at.desc().nulls_last(), _ticket.ticket_id)
        .limit(at_most)
    )
    async with database.connection() as connection:
        return [OpenDispute(**row) for row in await connection.rows(query)]


async def read_sample(database: Database, at_most: int) -> Mapping[int, datetime]:
    """Return some tickets by which a desk can be recognised: their dates of creation never change."""
    query = (
        select(_ticket.ticket_id, _ticket.created_at)
        .where(~_ticket.gone, _ticket.created_at.is_not(None))
        .order_by(_ticket.created_at.desc())
        .limit(at_most)
    )
    async with database.connection() as connection:
        return {row["ticket_id"]: row["created_at"] for row in await connection.rows(query)}


async def read_known(database: Database) -> Sequence[KnownTicket]:
    """Return the living tickets whose content and dates are all known, in the order of their ids."""
    needed = (_ticket.status, _ticket.state, _ticket.created_at, _ticket.updated_at)
    query = (
        select(_ticket.ticket_id, _ticket.mailbox_id, *needed)
        .where(~_ticket.gone, *(column.is_not(None) for column in needed))
        .order_by(_ticket.ticket_id)
    )
    async with database.connection() as connection:
        return [KnownTicket(**row) for row in await connection.rows(query)]


async def read_quietest(database: Database) -> tuple[int, Status] | None:
    """Return the ticket that has been at rest the longest and its status, among those that are vouched for."""
    query = (
        select(_cache.ticket_id, _cache.status)
        .where(_cache.ttl_expires > schema.now)
        .order_by(_cache.updated_at, _cache.ticket_id)
        .limit(1)
    )
    async with database.connection() as connection:
        row = await connection.row(query)
    return None if row is None else (row["ticket_id"], row["status"])
