"""Reading lists of conversations while they move.

Turning pages by date loses rows: what is updated between two requests leaves its page, and another takes its place on
a page we have read. So a walk moves a cursor to the last date seen and asks again from there; neither an update nor a
deletion hides anything from it. Where a second holds more rows than a page the cursor would stand still; from there on
the rest is read by number, an order that no update changes, and a deletion is noticed.

The end of a list is where its own total says, never where a page is smaller than asked: a desk may cap its pages. A row
that makes every list with it fail is stepped around: a `Read` has a hole there.

A walk has to show what was true when it began; what changes behind its back is the next walk's.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec

from freescout_audit.conversation import Sighting
from freescout_audit.events import DESK_CAPS_PAGES
from freescout_audit.logs import emit
from freescout_audit.rule import Truth
from poller.answer import IN_BETWEEN, DeskBrokeOffError, DeskServerError, DeskUnavailableError, of_now
from poller.freescout import RETRIES, FreeScout, Page
from poller.pieces import around

By = Literal["updatedAt", "createdAt"]
Clock = Callable[[], Awaitable[datetime]]
"""Tells our time, the database's."""

_STEPS = 5
"""How many requests a page may take on the average, when rows vanish while the rest is read by number."""


_TRIES = 6
"""How often a page is read in parts while the list moves."""


class Edge(NamedTuple):
    """The last row of an answer: which ticket, and its position in the list, from 1."""

    ticket_id: int
    place: int


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to a list request, or several to its parts where a row of it makes lists fail."""

    asked_at: datetime
    """*s* of its rows: our clock before the request."""
    cursor: datetime | None
    """Everything dated before this has been read; None at the very beginning."""
    page: Page
    by_number: bool = False
    """Its rows are in the order of their numbers, not of their dates."""
    holes: int = 0
    """How many rows of it make lists fail: the desk counts them, and cannot show them."""
    apart: bool = False
    """It was read in parts, so it may lack a row that the desk can show."""
    edge: Edge | None = None
    """Its last row; None when it has none."""

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
    """Reads a desk's lists in pages.

    Args:
        desk: The desk's API.
        clock: Tells our time.
        size: Rows in one request; fewer once the desk has shown that it caps its pages.
        ahead: How far the desk's clock is known to be ahead of ours, None when it is not: an answer dated before it was
            asked for comes from a cache, and is refused.
    """

    def __init__(
        self, desk: FreeScout, clock: Clock, *, size: int, ahead: Callable[[], timedelta | None] = lambda: None
    ) -> None:
        self.desk = desk
        self.clock = clock
        self.size = size
        self._ahead = ahead

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
            if read.page.ends:
                return
            dates = [date for sighting in read.page.sightings if (date := _date(sighting, by)) is not None]
            if not dates or (cursor is not None and max(dates) <= cursor):
                async for read in self._rest_by_number(cursor, by=by, mailboxes=mailboxes):
                    yield read
                return
            cursor = max(dates)

    async def one(self, created_since: datetime | None, *, mailboxes: tuple[int, ...] | None = None) -> Read:
        """Return the page of what was created first from a date on."""
        return await self._read(created_since, by="createdAt", mailboxes=mailboxes)

    async def latest(self, size: int, *, retries: int = RETRIES) -> Read:
        """Return a page of what was updated last, the latest first."""
        ask = partial(self.desk.page, sort="updatedAt", order="desc", retries=retries)
        return await self._ask(ask, size=size, patient=retries > 0)

    async def count(
        self,
        *,
        updated_since: datetime | None = None,
        created_since: datetime | None = None,
        mailboxes: tuple[int, ...] | None = None,
    ) -> int:
        """Return how many conversations there are."""
        with self.of_now(await self.clock()):
            return await self.desk.count(updated_since=updated_since, created_since=created_since, mailboxes=mailboxes)

    async def mailboxes(self) -> set[int]:
        """Return the ids of the mailboxes."""
        with self.of_now(await self.clock()):
            return await self.desk.mailboxes()

    def of_now(self, asked_at: datetime) -> AbstractContextManager[None]:
        """Refuse, within the block, an answer that was not given since ``asked_at``, as far as its date tells."""
        return of_now(asked_at, self._ahead())

    async def _rest_by_number(
        self, since: datetime | None, *, by: By, mailboxes: tuple[int, ...] | None
    ) -> AsyncIterator[Read]:
        """Yield answers until everything from a date on has been in one of them, by number.

        Between two pages a row may vanish from the first, and the next one slip over the edge. So after each page the
        last row of the one before has to be where it was; if it is not, nor on the page, that page is read again, and
        so on back to one whose predecessor has not moved.
        """
        edges: list[Edge | None] = []
        steps, size = 0, self.size
        while True:
            read = await self._read(since, by=by, mailboxes=mailboxes, number=len(edges) + 1)
            yield read
            if self.size < size:  # the desk caps its pages: their numbers count smaller ones from now on
                edges, size = [], self.size
                continue
            steps += 1
            edge = edges[-1] if edges else None
            if (
                edge is not None
                and edge.ticket_id not in read.ticket_ids
                and not await self._stands_there(edge, since, by=by, mailboxes=mailboxes)
            ):
                if steps > _STEPS * (len(edges) + 2):
                    raise DeskUnavailableError("conversations vanish faster than they can be listed")
                edges.pop()
                continue
            if read.page.ends:
                return
            edges.append(read.edge)

    async def _stands_there(
        self, edge: Edge, since: datetime | None, *, by: By, mailboxes: tuple[int, ...] | None
    ) -> bool:
        """Tell whether a ticket is still at its position, by number, in what is dated ``since`` or later."""
        read = await self._read(since, by=by, mailboxes=mailboxes, number=edge.place, size=1)
        return read.ticket_ids == {edge.ticket_id}

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
        ask = partial(
            self.desk.page,
            sort=by if number is None else "number",
            updated_since=since if by == "updatedAt" else None,
            created_since=since if by == "createdAt" else None,
            mailboxes=mailboxes,
        )
        asked = size or self.size
        read_it = partial(self._ask, ask, size=asked, number=number or 1, cursor=since, by_number=number is not None)
        read = await read_it()
        limit = read.page.limit
        if size is None and read.page.is_short and not read.apart:
            # The desk counts, and then reads: a row that vanished in between looks like a cap that it does not tell.
            short, read = read, await read_it()
            if read.page.is_short and read.page.rows == short.page.rows:
                limit = read.page.rows
        if size is None and limit < asked and not read.page.holds_all:
            emit(DESK_CAPS_PAGES, asked=asked, given=limit)
            self.size = limit
        return read

    async def _ask(
        self,
        ask: Callable[..., Awaitable[Page]],
        *,
        size: int,
        number: int = 1,
        cursor: datetime | None = None,
        by_number: bool = False,
        patient: bool = True,
    ) -> Read:
        """Ask for a page, and step around what makes it fail."""
        asked_at = await self.clock()
        holes, before, apart = 0, (number - 1) * size, False
        try:
            with self.of_now(asked_at):
                page = await ask(size=size, number=number, once=True)
        except DeskServerError as error:
            part = partial(self._ask_for_a_part, ask)
            if isinstance(error, DeskBrokeOffError):
                if not patient:
                    raise
                part = partial(part, retries=0)
            page, holes, before = await _step_around(part, size=size, number=number, since=cursor)
            apart = True
        if not page.rows and not holes and not page.ends:
            raise DeskUnavailableError(
                f"FreeScout's list counts {page.total} conversations, and shows none of them", IN_BETWEEN
            )
        ids = [sighting.ticket_id for sighting in page.sightings]
        edge = Edge(ids[-1], before + page.rows) if ids else None
        return Read(
            asked_at=asked_at, cursor=cursor, page=page, by_number=by_number, holes=holes, apart=apart, edge=edge
        )

    async def _ask_for_a_part(self, ask: Callable[..., Awaitable[Page]], **asked: Any) -> Page:
        """Ask for a part of a page, which has a date of its own."""
        with self.of_now(await self.clock()):
            return await ask(**asked)


async def _step_around(
    ask: Callable[..., Awaitable[Page]], *, size: int, number: int, since: datetime | None
) -> tuple[Page, int, int]:
    """Read a page in parts while the list stands still, and return it, its holes and where it begins.

    Raises:
        DeskUnavailableError: Conversations come and go faster than that.
    """
    for _ in range(_TRIES):
        read = await around(ask, size=size, number=number, since=since)
        if read.stood:
            return read.page, read.holes, read.before
    raise DeskUnavailableError("conversations come and go faster than a list that fails can be read in parts")


def _date(sighting: Sighting, by: By) -> datetime | None:
    return sighting.updated_at if by == "updatedAt" else sighting.created_at
