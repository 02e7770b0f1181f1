"""What the desk counts and cannot show: a conversation that makes every list with it fail.

Counts show no row, so they tell when such a conversation was created: so many were created from a date on, and so many
of them were shown. That second names the ticket. It is asked about by itself; if it fails there too, it is disputed,
and the lease vouches for all the others.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import msgspec

from db.census import Census
from freescout_audit.conversation import Sighting
from freescout_audit.events import DESK_UNLISTABLE
from freescout_audit.logs import emit
from freescout_audit.rule import ABSURD, Truth
from poller.answer import DeskBrokeOffError, DeskServerError, DeskUnavailableError
from poller.walk import Reader

MOST = 8
"""More conversations that a list counts and does not show are the desk's trouble."""
_ASKED = 10
"""How many tickets are asked about to find one of which only the second of its creation is known."""
_SECOND = timedelta(seconds=1)
_MOVED = "the list changed while it was counted"
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)

Second = datetime | None
"""When something was created, in whole seconds; None: it bears no such date."""
WriteTruths = Callable[[Sequence[Truth]], Awaitable[object]]
"""Writes truths."""
DisputeUnlisted = Callable[[Collection[int], datetime], Awaitable[object]]
"""Disputes tickets that a list asked at that time does not show."""


class ListMovedError(DeskUnavailableError):
    """The list changed while it was counted."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """Which list: dated ``updated_since`` or later, created from ``since`` on and before ``until``; None: any."""

    updated_since: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None
    mailboxes: tuple[int, ...] | None = None


class Unlisted:
    """Finds them for one process, which remembers where they were.

    Args:
        reader: Asks the desk.
        census: What we hold; used for what it holds at this moment.
        write: Writes truths.
        dispute: Disputes tickets.
    """

    def __init__(self, reader: Reader, census: Census, *, write: WriteTruths, dispute: DisputeUnlisted) -> None:
        self._reader = reader
        self._census = census
        self._write = write
        self._dispute = dispute
        self._found: set[Second] = set()
        self._named: set[int | Second] = set()
        self.met: set[int | Second] = set()
        """The tickets that this pass met, or when those were created whose ids we cannot tell."""

    async def account(self, listed: Listed, shown: Mapping[int, Sighting]) -> tuple[set[int], list[Second]]:
        """Take care of what a list has besides ``shown``: return which tickets that is, and when others were created.

        The others are conversations that we do not hold, and whose ids we cannot tell.

        Raises:
            ListMovedError: The list is another by now; read it again.
            DeskError: The desk does not answer, or there are too many.
        """
        tickets: set[int] = set()
        nameless: list[Second] = []
        for second, missing in (await self._search(listed, shown)).items():
            overlooked = await self._overlooked(listed, second, shown, missing)
            unlisted = await self._tickets(listed, second, shown.keys() | overlooked, missing - len(overlooked))
            tickets |= overlooked | unlisted
            unknown = missing - len(overlooked) - len(unlisted)
            nameless += [second] * unknown
            if unknown > 0:
                self.met.add(second)
            if unknown > 0 and second not in self._named:
                self._named.add(second)
                emit(DESK_UNLISTABLE, created_at=second, count=unknown)
        return tickets, nameless

    async def _search(self, listed: Listed, shown: Mapping[int, Sighting]) -> dict[Second, int]:
        """Return the seconds in which what is not shown was created, and how many in each."""
        count = _Count(self._reader, listed, shown)
        end = listed.until or (await self._reader.clock()).replace(microsecond=0) + 2 * ABSURD
        begin = listed.since or _FIRST
        total = await count.missing(listed.since) - await count.missing(end)
        if total < 0 or (listed.until is None and await count.missing(end)):
            raise ListMovedError(_MOVED)
        if total > MOST:
            raise DeskUnavailableError(
                f"FreeScout's list counts {total} conversations that it does not show", "see storage/logs at the desk"
            )
        if total == 0:
            return {}
        found: dict[Second, int] = {}
        if listed.since is None and (undated := await count.missing(None) - await count.missing(begin)):
            found[None] = undated
        known = {date for date in self._found if date is not None and begin <= date < end}
        points = sorted({begin, end, *known, *(date + _SECOND for date in known if date + _SECOND < end)})
        for since, until in pairwise(points):
            found |= await count.seconds(since, until)
        if sum(found.values()) != total or not await count.stands(listed.since):
            raise ListMovedError(_MOVED)
        self._found |= found.keys()
        return found

    async def _overlooked(
        self, listed: Listed, second: Second, shown: Mapping[int, Sighting], missing: int
    ) -> set[int]:
        """Return what a list of that second alone shows: it was missing only because the longer one moved."""
        rows = missing + sum(row.created_at == second for row in shown.values())
        asked_at = await self._reader.clock()
        try:
            with self._reader.of_now(asked_at):
                page = await self._reader.desk.page(
                    size=min(rows, self._reader.size),
                    sort="createdAt",
                    updated_since=listed.updated_since,
                    created_since=second,
                    mailboxes=listed.mailboxes,
                    once=True,
                )
        except DeskServerError:
            return set()
        new = [row for row in page.sightings if row.created_at == second and row.ticket_id not in shown]
        await self._write([Truth(ticket_id=row.ticket_id, sighting=row, asked_at=asked_at) for row in new])
        return {row.ticket_id for row in new}

    async def _tickets(self, listed: Listed, second: Second, shown: Collection[int], missing: int) -> set[int]:
        """Return the tickets created in a second that make lists fail, each asked about by itself."""
        found: set[int] = set()
        if missing <= 0:
            return found
        held = sorted(await self._census.created_in(second) - set(shown))
        for ticket_id in held[:_ASKED]:
            if await self._is_of(listed, ticket_id, second, held=True):
                found.add(ticket_id)
        if len(found) < missing and held[_ASKED:]:
            # Any of them may be the one: the questions ask about each.
            await self._dispute(held[_ASKED:], await self._reader.clock())
            found.update(held[_ASKED:])
        if len(found) < missing and second is not None:
            before, behind = await self._census.neighbours(second)
            first = (before or max(0, (behind or 1) - _ASKED - 1)) + 1
            for ticket_id in islice(range(first, behind or first + _ASKED), _ASKED):
                if len(found) < missing and await self._is_of(listed, ticket_id, second, held=False):
                    found.add(ticket_id)
        return found

    async def _is_of(self, listed: Listed, ticket_id: int, second: Second, *, held: bool) -> bool:
        """Ask about one ticket, write its answer or dispute it, and return whether the list should show it."""
        asked_at = await self._reader.clock()
        with self._reader.of_now(asked_at):
            try:
                sighting = await self._reader.desk.conversation(ticket_id)
            except DeskServerError as error:
                if not held and isinstance(error, DeskBrokeOffError):
                    return False  # it may not be there at all
                await self._distrust(ticket_id, second, asked_at, held=held)
                self._name(ticket_id)
                return True
        if sighting is None:
            if held:  # only a question's own care makes a tombstone
                await self._dispute([ticket_id], asked_at)
            return False
        await self._write([Truth(ticket_id=ticket_id, sighting=sighting, asked_at=asked_at)])
        dated, since = sighting.updated_at, listed.updated_since
        is_of = since is None or dated is None or dated >= since
        if is_of:
            self._name(ticket_id)
        return is_of

    async def _distrust(self, ticket_id: int, second: Second, asked_at: datetime, *, held: bool) -> None:
        """Dispute a ticket that fails; of one that we do not hold we know that it is there, and nothing else."""
        if not held:
            there = Sighting(ticket_id=ticket_id, status=None, state=None, updated_at=None, created_at=second)
            await self._write([Truth(ticket_id=ticket_id, sighting=there, asked_at=asked_at)])
            asked_at = await self._reader.clock()
        await self._dispute([ticket_id], asked_at)

    def _name(self, ticket_id: int) -> None:
        self.met.add(ticket_id)
        if ticket_id not in self._named:
            self._named.add(ticket_id)
            emit(DESK_UNLISTABLE, ticket_id=ticket_id)


class _Count:
    """Counts what a list has and does not show, by when it was created; no count is asked for twice."""

    def __init__(self, reader: Reader, listed: Listed, shown: Mapping[int, Sighting]) -> None:
        self._reader = reader
        self._listed = listed
        self._rows = len(shown)
        self._created = [row.created_at for row in shown.values() if row.created_at is not None]
        self._counted: dict[Second, int] = {}

    async def missing(self, since: Second) -> int:
        """Return how many, created from a date on, are not shown; None: whenever."""
        if since not in self._counted:
            self._counted[since] = await self._count(since)
        return self._counted[since] - (self._rows if since is None else sum(date >= since for date in self._created))

    async def seconds(self, since: datetime, until: datetime) -> dict[Second, int]:
        """Return the seconds between two dates in which something was created that is not shown, and how much."""
        more, less = await self.missing(since), await self.missing(until)
        if more < less:
            raise ListMovedError(_MOVED)
        if more == less:
            return {}
        if until - since <= _SECOND:
            return {since: more - less}
        middle = since + timedelta(seconds=(until - since) // _SECOND // 2)
        return await self.seconds(since, middle) | await self.seconds(middle, until)

    async def stands(self, since: Second) -> bool:
        """Tell whether the list has as many as when it was counted first."""
        return await self._count(since) == self._counted[since]

    async def _count(self, since: Second) -> int:
        listed = self._listed
        return await self._reader.count(
            updated_since=listed.updated_since, created_since=since, mailboxes=listed.mailboxes
        )
