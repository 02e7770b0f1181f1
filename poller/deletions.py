"""Finding what a deletion for ever leaves no trace of: counts are compared, and where they differ, narrowed down.

The desk says how many conversations there are; the newest are compared one by one, and all before them by count. When
the counts differ, halves are compared by mailbox and by date of creation until a page holds the difference. What we
lack is added from that page; what the desk lacks is disputed, and its 404 makes the tombstone.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

import msgspec

from db.census import Cell, Census
from poller.answer import DeskUnavailableError
from poller.unlisted import Listed, ListMovedError, Second, Unlisted
from poller.walk import Read, Reader

TRIES = 6
"""How often the counts may differ, because the desk moves while they are taken, before a pass gives up."""
IN_ONE_GO = timedelta(seconds=2)
"""The longest time that two counts of the desk's and ours behind them may take to be compared at once."""
_BATCH = 1000
_COUNTS = 2
"""Requests that a comparison takes when nothing differs, nor fails."""
_LATEST, _LATEST_OF_A_PAGE = 10, 20
"""So many conversations that were updated last come with a total, or this part of a page where that is less: a few that
cost nothing, and on a small page no more of it than on a large one."""

WriteRead = Callable[[Read], Awaitable[None]]
"""Writes an answer's rows as truths."""
DisputeMissing = Callable[[Collection[int], datetime], Awaitable[Collection[int]]]
"""Disputes tickets that a list asked at that time lacks; returns those that now are disputed."""


class Deletions:
    """One pass's search; what has happened since the pass began is dated ``since`` or later, in a repeated hour too.

    ``nameless`` tells when conversations were created that the pass's walk has counted, and whose ids are not known.
    ``census.suspects`` is what it found, and no longer counts as living.
    """

    def __init__(
        self,
        reader: Reader,
        census: Census,
        unlisted: Unlisted,
        *,
        since: datetime,
        nameless: Sequence[Second] = (),
        write: WriteRead,
        dispute: DisputeMissing,
    ) -> None:
        self._reader = reader
        self._desk = reader.desk
        self._census = census
        self._unlisted = unlisted
        self._since = since
        self._write = write
        self._dispute = dispute
        self._in_one_go = True
        self._counted = 0, 0
        self._nameless: dict[Cell | None, Sequence[Second]] = {None: nameless}
        """When conversations were created that the desk counts, that we do not hold, and whose ids are not known."""

    async def search(self) -> None:
        """Return when we hold exactly what the desk has, suspects left out.

        Raises:
            DeskError: The desk did not answer, or its counts never agreed with ours.
        """
        before: tuple[int, int] | None = None
        for _ in range(TRIES):
            try:
                agrees = await self._agrees()
            except ListMovedError:
                agrees = False
            # What comes and goes between two counts can hide what had vanished before: they are taken in one go, or
            # show the same twice.
            if agrees and (self._in_one_go or self._counted == before):
                return
            before = self._counted if agrees else None
            if self._census.suspects:
                await self._clear_who_moved()
        raise DeskUnavailableError("the desk changes so fast that its counts and ours never agree")

    async def _finds_new_ones(self, latest: Read) -> bool:
        """Tell whether a total counts a conversation that we do not hold: it would make up for one that vanished.

        ``latest`` came with the total. What was created since the walk was updated since, even if its creation bears an
        early date. The hour that daylight saving repeats makes both dates early: rows of the hour before can be later.
        """
        dates = [sighting.updated_at for sighting in latest.page.sightings if sighting.updated_at is not None]
        if latest.page.ends or (dates and min(dates) < self._since):
            return await self._takes_over(latest)
        found = False
        async for read in self._reader.walk(self._since):
            found |= await self._takes_over(read)
        return found

    async def _takes_over(self, read: Read) -> bool:
        """Write an answer if it has a conversation that we do not hold, and return whether it has."""
        new = await self._census.lacks(read.ticket_ids)
        if new:
            await self._write(read)
            self._census.suspects -= new
        return bool(new)

    async def _clear_who_moved(self) -> None:
        """Clear what was changed since the pass began: a moved ticket is missing from the mailbox it left."""
        async for read in self._reader.walk(self._since):
            await self._write(read)
            self._census.suspects -= read.ticket_ids

    async def _agrees(self) -> bool:
        """Compare once, and take care of every difference; return whether there was none."""
        newest = Cell(since=await self._census.newest(max(1, self._reader.size * 3 // 4)))
        requests, began = self._desk.requests, await self._reader.clock()
        latest = await self._reader.latest(max(1, min(_LATEST, self._reader.size // _LATEST_OF_A_PAGE)))
        total = latest.page.total
        if total == 0 and await self._census.count(Cell()) > 0:
            # An API that lists nothing at all is more likely broken than a desk that lost everything.
            raise DeskUnavailableError(
                "FreeScout lists no conversation at all, and we hold some",
                "look at the desk: are its conversations there?",
            )
        read = await self._reader.one(newest.since)
        self._in_one_go = self._desk.requests - requests == _COUNTS
        if not read.page.ends:
            self._in_one_go = False
            differed = await self._compare_all(newest)
        else:
            differed = await self._compare(newest, [read])
        if newest.since is None:
            self._in_one_go = True
            return not differed
        after = read.page.total
        # Before ours are counted: a delivery may tell of it meanwhile.
        if await self._finds_new_ones(latest):
            differed = True
        if differed:
            total, after = await self._reader.count(), await self._reader.count(created_since=newest.since)
        older = Cell(until=newest.since)
        ours = await self._census.count(Cell()) - await self._census.count(newest)
        ours += self._without_a_name(older)
        if ours == total - after:
            self._counted = total, after
            # What the desk has counted, and we have found gone since, makes up for what had vanished before.
            self._in_one_go = self._in_one_go and await self._reader.clock() - began < IN_ONE_GO
            return not differed
        if not await self._by_mailbox():
            await self._narrow(older, ours, total - after, after=after)
        return False

    def _without_a_name(self, cell: Cell) -> int:
        """Return how many a cell has whose ids we cannot tell; the same one may be known from several lists."""
        seconds = Counter[Second]()
        for found in self._nameless.values():
            seconds |= Counter(found)
        return sum(times for second, times in seconds.items() if cell.holds(second))

    async def _by_mailbox(self, mailboxes: tuple[int, ...] | None = None) -> bool:
        """Look in the mailboxes that differ, and return whether there was one; a mailbox that is gone answers 0."""
        if mailboxes is None:
            mailboxes = tuple(sorted(await self._census.mailboxes() | await self._reader.mailboxes()))
        cell = Cell(mailboxes=mailboxes)
        asked_at = await self._reader.clock()
        theirs, ours = await self._reader.count(mailboxes=mailboxes), await self._census.count(cell)
        if ours == theirs:
            return False
        if theirs == 0:
            await self._suspect(await self._census.ids(cell), asked_at)
        elif len(mailboxes) == 1:
            await self._narrow(cell, ours, theirs, after=0)
        else:
            half = len(mailboxes) // 2
            for part in (mailboxes[:half], mailboxes[half:]):
                await self._by_mailbox(part)
        return True

    async def _narrow(self, cell: Cell, ours: int, theirs: int, *, after: int) -> None:
        """Halve a cell by creation until one page holds what differs; ``after``: how many the desk has behind it."""
        if ours == theirs:
            return
        if theirs <= self._reader.size:
            read = await self._reader.one(cell.since, mailboxes=cell.mailboxes)
            if _covers(read, cell):
                await self._compare(cell, [read])
                return
        middle = await self._census.middle(cell)
        if middle is None:
            await self._compare_all(cell)
            return
        later = await self._reader.count(created_since=middle, mailboxes=cell.mailboxes)
        older = msgspec.structs.replace(cell, until=middle)
        newer = msgspec.structs.replace(cell, since=middle)
        ours_newer = await self._census.count(newer)
        await self._narrow(older, ours - ours_newer, theirs + after - later, after=later)
        await self._narrow(newer, ours_newer, later - after, after=after)

    async def _compare_all(self, cell: Cell) -> bool:
        """Compare a cell that no page holds and nothing halves, by reading all of it; return whether it differed."""
        reads: list[Read] = []
        found: set[int] = set()
        counted: tuple[int, int] | None = None
        holes = 0
        async for read in self._reader.walk(cell.since, by="createdAt", mailboxes=cell.mailboxes):
            reads.append(read)
            on_page = _of(cell, read)
            found |= on_page
            holes += read.holes
            if read.by_number:
                # Numbers need not be in the order of dates: only the desk knows how many there are.
                if not on_page and cell.until is not None:
                    if counted is None or counted[0] != len(found):
                        counted = len(found), await self._count(cell)
                    if len(found) + holes >= counted[1]:
                        break
            elif _covers(read, cell):
                break
        return await self._compare(cell, reads)

    async def _count(self, cell: Cell) -> int:
        """Return how many the desk has in a cell now."""
        since = await self._reader.count(created_since=cell.since, mailboxes=cell.mailboxes)
        return since - await self._reader.count(created_since=cell.until, mailboxes=cell.mailboxes)

    async def _compare(self, cell: Cell, reads: Sequence[Read]) -> bool:
        """Take over the rows of a cell that was read completely, suspect what it lacks; return whether it differed."""
        theirs = set[int]().union(*(_of(cell, read) for read in reads))
        for read in reads:
            await self._write(read)
        if any(read.apart for read in reads):
            rows = {row.ticket_id: row for read in reads for row in read.page.sightings}
            listed = Listed(since=cell.since, until=cell.until, mailboxes=cell.mailboxes)
            unlisted, self._nameless[cell] = await self._unlisted.account(listed, rows)
            theirs |= unlisted
        ours = await self._census.ids(cell)
        await self._suspect(ours - theirs, reads[0].asked_at)
        return ours != theirs

    async def _suspect(self, ticket_ids: Collection[int], asked_at: datetime) -> None:
        missing = sorted(ticket_ids)
        for start in range(0, len(missing), _BATCH):
            self._census.suspects.update(await self._dispute(missing[start : start + _BATCH], asked_at))


def _of(cell: Cell, read: Read) -> set[int]:
    """Return the tickets of an answer that belong to a cell."""
    return {sighting.ticket_id for sighting in read.page.sightings if cell.holds(sighting.created_at)}


def _covers(read: Read, cell: Cell) -> bool:
    """Whether an answer reaches the end of the list, or of the cell."""
    if read.page.ends:
        return True
    created = [sighting.created_at for sighting in read.page.sightings if sighting.created_at is not None]
    return cell.until is not None and bool(created) and max(created) >= cell.until
