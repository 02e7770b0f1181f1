"""Reading lists of conversations while they move.

Turning pages by date loses rows: what is updated between two requests leaves its page, and another takes its place on
a page we have read. So a walk moves a cursor to the last date seen and asks again from there; neither an update nor a
deletion hides anything from it. Where a second holds more rows than a page the cursor would stand still; from there on
the rest is read by number, an order that no update changes, and a deletion is noticed.

A walk has to show what was true when it began; what changes behind its back is the next walk's.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Literal

import msgspec

from freescout_audit.conversation import Sighting
from freescout_audit.rule import Truth
from poller.freescout import RETRIES, DeskUnavailableError, FreeScout, Page

By = Literal["updatedAt", "createdAt"]
Clock = Callable[[], Awaitable[datetime]]
"""Tells our time, the database's."""

_STEPS = 5
"""How many requests a page may take on the average, when rows vanish while the rest is read by number."""


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to a list request."""

    asked_at: datetime
    """*s* of its rows: our clock before the request."""
    cursor: datetime | None
    """Everything dated before this has been read; None at the very beginning."""
    size: int
    """How many rows were asked for."""
    page: Page
    by_number: bool = False
    """Its rows are in the order of their numbers, not of their dates."""

    @property
    def ticket_ids(self) -> set[int]:
        """The ids of its rows."""
        return {sighting.ticket_id for sighting in self.page.sightings}

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
                raise DeskUnavailableError(
                    "FreeScout gave a whole page without one date that we understand", "check FreeScout's version"
                )
            if cursor is not None and max(dates) <= cursor:
                async for read in self._rest_by_number(cursor, by=by, mailboxes=mailboxes):
                    yield read
                return
            cursor = max(dates)

    async def one(self, created_since: datetime | None, *, mailboxes: tuple[int, ...] | None = None) -> Read:
        """Return the page of what was created first from a date on."""
        return await self._read(created_since, by="createdAt", mailboxes=mailboxes)

    async def latest(self, size: int, *, number: int = 1, retries: int = RETRIES) -> Read:
        """Return a page of what was updated last, the latest first."""
        asked_at = await self._clock()
        page = await self._desk.page(size=size, number=number, sort="updatedAt", order="desc", retries=retries)
        return Read(asked_at=asked_at, size=size, cursor=None, page=page)

    async def _rest_by_number(
        self, since: datetime, *, by: By, mailboxes: tuple[int, ...] | None
    ) -> AsyncIterator[Read]:
        """Yield answers until everything from a date on has been in one of them, by number.

        Between two pages a row may vanish from the first, and the next one slip over the edge. So after each page the
        last row of the one before has to be where it was; if it is not, nor on the page, that page is read again, and
        so on back to one whose predecessor has not moved.
        """
        edges: list[int | None] = []
        steps = 0
        while True:
            read = await self._read(since, by=by, mailboxes=mailboxes, number=len(edges) + 1)
            yield read
            steps += 1
            on_page = [sighting.ticket_id for sighting in read.page.sightings]
            edge = edges[-1] if edges else None
            if (
                edge is not None
                and edge not in on_page
                and not await self._stands_at(edge, len(edges) * self._size, since, by=by, mailboxes=mailboxes)
            ):
                if steps > _STEPS * (len(edges) + 2):
                    raise DeskUnavailableError("conversations vanish faster than they can be listed")
                edges.pop()
                continue
            if read.page.rows < self._size:
                return
            edges.append(on_page[-1] if on_page else None)

    async def _stands_at(
        self, ticket_id: int, place: int, since: datetime, *, by: By, mailboxes: tuple[int, ...] | None
    ) -> bool:
        """Tell whether a ticket is the row at position ``place``, by number, of what is dated ``since`` or later."""
        read = await self._read(since, by=by, mailboxes=mailboxes, number=place, size=1)
        return [sighting.ticket_id for sighting in read.page.sightings] == [ticket_id]

    async def _read(
        self,
        since: datetime | None,
        *,
        by: By = "updatedAt",
        mailboxes: tuple[int, ...] | None = None,
        number: int | None = None,
        size: int | None = None,
    ) -> Read:
        """Ask for the first page by date or, when ``number`` is given, for that page by number."""
        asked_at = await self._clock()
        size = size or self._size
        page = await self._desk.page(
            size=size,
            number=number or 1,
            sort=by if number is None else "number",
            updated_since=since if by == "updatedAt" else None,
            created_since=since if by == "createdAt" else None,
            mailboxes=mailboxes,
        )
        return Read(asked_at=asked_at, size=size, cursor=since, page=page, by_number=number is not None)


def _date(sighting: Sighting, by: By) -> datetime | None:
    return sighting.updated_at if by == "updatedAt" else sighting.created_at
