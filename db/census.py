"""How many living tickets we hold, and which: what is compared with the desk's own counts to find deletions."""

from collections.abc import Collection
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, Select, func, select

from db import schema
from db.database import Database

_ticket = schema.ticket.c
_SECOND = timedelta(seconds=1)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Tickets by mailbox and creation: ``since`` <= created < ``until``, by the desk's clock; None leaves it open.

    A ticket whose creation we do not know is older than any date, as a count from a date on does not have it.
    """

    mailboxes: tuple[int, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def holds(self, created_at: datetime | None) -> bool:
        """Whether the cell's dates hold a ticket created then."""
        if created_at is None:
            return self.since is None
        return (self.since is None or created_at >= self.since) and (self.until is None or created_at < self.until)


class Census:
    """Counts and lists living tickets; those that are suspected to be gone, and asked about, are left out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.suspects: set[int] = set()

    async def count(self, cell: Cell) -> int:
        """Count the living tickets of a cell."""
        async with self._database.connection() as connection:
            count: int = await connection.scalar(select(func.count()).where(*self._conditions(cell)))
        return count

    async def ids(self, cell: Cell) -> set[int]:
        """Return the living tickets of a cell."""
        async with self._database.connection() as connection:
            result = await connection.execute(select(_ticket.ticket_id).where(*self._conditions(cell)))
        return set(result.scalars())

    async def lacks(self, ticket_ids: Collection[int]) -> set[int]:
        """Return those of the tickets that we do not hold as living."""
        query = select(_ticket.ticket_id).where(~_ticket.gone, _ticket.ticket_id.in_(ticket_ids))
        async with self._database.connection() as connection:
            held = set(await connection.column(query))
        return set(ticket_ids) - (held - self.suspects)

    async def created_in(self, second: datetime | None) -> set[int]:
        """Return the living tickets created within a second, suspects too; None: those whose creation is not known."""
        created = _ticket.created_at
        within = created.is_(None) if second is None else (created >= second) & (created < second + _SECOND)
        async with self._database.connection() as connection:
            return set(await connection.column(select(_ticket.ticket_id).where(~_ticket.gone, within)))

    async def neighbours(self, second: datetime) -> tuple[int | None, int | None]:
        """Return the living tickets that were created last until a second, and first after it."""
        created, ticket_id = _ticket.created_at, _ticket.ticket_id
        until = select(ticket_id).where(~_ticket.gone, created < second + _SECOND)
        after = select(ticket_id).where(~_ticket.gone, created >= second + _SECOND)
        async with self._database.connection() as connection:
            before: int | None = await connection.scalar(until.order_by(created.desc(), ticket_id.desc()).limit(1))
            behind: int | None = await connection.scalar(after.order_by(created, ticket_id).limit(1))
        return before, behind

    async def middle(self, cell: Cell) -> datetime | None:
        """Return the date of creation that halves a cell; None when it does not split it."""
        conditions = (*self._conditions(cell), _ticket.created_at.is_not(None))
        half = select(func.count() / 2).where(*conditions).scalar_subquery()
        by_creation = select(_ticket.created_at).where(*conditions).order_by(_ticket.created_at)
        middle = await self._date(by_creation.offset(half))
        return middle if middle is not None and (cell.since is None or middle > cell.since) else None

    async def newest(self, number: int) -> datetime | None:
        """Return when the ``number``-th newest ticket was created; None when there are not so many."""
        conditions = (*self._conditions(Cell()), _ticket.created_at.is_not(None))
        newest = select(_ticket.created_at).where(*conditions).order_by(_ticket.created_at.desc())
        return await self._date(newest.offset(number - 1))

    async def mailboxes(self) -> set[int]:
        """Return the mailboxes of our living tickets."""
        query = select(_ticket.mailbox_id).distinct().where(*self._conditions(Cell()))
        async with self._database.connection() as connection:
            return {mailbox for mailbox in await connection.column(query) if mailbox is not None}

    async def _date(self, query: Select[datetime | None]) -> datetime | None:
        async with self._database.connection() as connection:
            date: datetime | None = await connection.scalar(query.limit(1))
        return date

    def _conditions(self, cell: Cell) -> list[ColumnElement[bool]]:
        """Return what makes a ticket a living one of a cell.

        Only the conditions that are needed get into the query, so that each combination has a plan of its own.
        """
        conditions: list[ColumnElement[bool]] = [~_ticket.gone]
        if cell.mailboxes is not None:
            conditions.append(_ticket.mailbox_id.in_(cell.mailboxes))
        if cell.since is not None:
            conditions.append(_ticket.created_at >= cell.since)
        if cell.until is not None:
            before = _ticket.created_at < cell.until
            conditions.append(before if cell.since is not None else before.is_not(False))
        if self.suspects:
            conditions.append(_ticket.ticket_id.not_in(sorted(self.suspects)))
        return conditions
