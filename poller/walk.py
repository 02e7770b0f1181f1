"""Reading lists of conversations while they move.

Turning pages by date loses rows: what is updated between two requests leaves its page, and another takes its place on
a page we have read. So a walk moves a cursor to the last date seen and asks again from there. Where a second holds more
rows than a page the cursor would stand still; from there on the rest is read by number, an order that no update
changes. Only a row that vanishes shifts it, and then the total falls.

A walk has to show what was true when it began; what changes behind its back is the next walk's.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Literal

import msgspec

from freescout_audit.conversation import Sighting
from freescout_audit.rule import Truth
from poller.freescout import DeskUnavailableError, FreeScout, Page

By = Literal["updatedAt", "createdAt"]
Clock = Callable[[], Awaitable[datetime]]
"""Tells our time, the database's."""

ROUNDS = 10
"""How often the rest is read again by number because rows vanished meanwhile."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to a list request."""

    asked_at: datetime
    """*s* of its rows: our clock before the request."""
    number: int
    """Which page it was; 1 but when reading by number."""
    size: int
    """How many rows were asked for."""
    page: Page

    @property
    def truths(self) -> list[Truth]:
        """The rows as truths."""
        return [
            Truth(ticket_id=sighting.ticket_id, sighting=sighting, asked_at=self.asked_at)
            for sighting in self.page.sightings
        ]


class Reader:
    """Reads a desk's lists in pages of ``size``; ``clock`` tells our time."""

    def __init__(self, desk: FreeScout, clock: Clock, *, size: int) -> None:
        self._desk = desk
        self._clock = clock
        self._size = size

    async def walk(
        self, since: datetime | None, *, by: By = "updatedAt", mailboxes: tuple[int, ...] | None = None
    ) -> AsyncIterator[Read]:
        """Yield answers until everything that was dated ``since`` or later when it began has been in one of them.

        Raises:
            DeskError: The walk cannot go on; what it has read counts all the same.
        """
        cursor = since
        while True:
            read = await self._read(cursor, by=by, mailboxes=mailboxes)
            yield read
            if read.page.rows < self._size:
                return
            dates = [date for sighting in read.page.sightings if (date := _date(sighting, by)) is not None]
            if not dates:
                raise DeskUnavailableError("FreeScout gave a whole page without one date that we understand")
            if cursor is not None and max(dates) <= cursor:
                async for read in self._rest_by_number(cursor, by=by, mailboxes=mailboxes):
                    yield read
                return
            cursor = max(dates)

    async def one(self, created_since: datetime | None, *, mailboxes: tuple[int, ...] | None = None) -> Read:
        """Return the page of what was created first from a date on."""
        return await self._read(created_since, by="createdAt", mailboxes=mailboxes)

    async def everything(self, *, first_page: int = 1) -> AsyncIterator[Read]:
        """Yield answers with every conversation there is, by number, from ``first_page`` on.

        A row can be missed when others vanish meanwhile: what is read is true, but to know that it is all, count.
        """
        number = first_page
        while True:
            read = await self._read(None, number=number)
            yield read
            if read.page.rows < self._size:
                return
            number += 1

    async def everything_for_sure(self) -> AsyncIterator[Read]:
        """Yield answers with every conversation there is, again and again until none can have been missed.

        Raises:
            DeskError: As `walk`.
        """
        async for read in self._rest_by_number(None):
            yield read

    async def _rest_by_number(
        self, since: datetime | None, *, by: By = "updatedAt", mailboxes: tuple[int, ...] | None = None
    ) -> AsyncIterator[Read]:
        for _ in range(ROUNDS):
            total, shrank, number = 0, False, 1
            while True:
                read = await self._read(since, by=by, mailboxes=mailboxes, number=number)
                yield read
                shrank = shrank or read.page.total < total
                total = read.page.total
                if read.page.rows < self._size:
                    break
                number += 1
            if not shrank:
                return
        raise DeskUnavailableError("conversations vanish faster than they can be listed")

    async def _read(
        self,
        since: datetime | None,
        *,
        by: By = "updatedAt",
        mailboxes: tuple[int, ...] | None = None,
        number: int | None = None,
    ) -> Read:
        """Ask for the first page by date or, when ``number`` is given, for that page by number."""
        asked_at = await self._clock()
        page = await self._desk.page(
            size=self._size,
            number=number or 1,
            sort=by if number is None else "number",
            updated_since=since if by == "updatedAt" else None,
            created_since=since if by == "createdAt" else None,
            mailboxes=mailboxes,
        )
        return Read(asked_at=asked_at, number=number or 1, size=self._size, page=page)


def _date(sighting: Sighting, by: By) -> datetime | None:
    return sighting.updated_at if by == "updatedAt" else sighting.created_at
