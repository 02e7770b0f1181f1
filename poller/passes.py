"""The pass: read what changed since the last one, compare counts, and only then vouch for everything.

A pass that ends early has changed the rows it read, and nothing else.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

from db import lease
from db.census import Census
from db.clocks import clear_stamps_ahead
from db.database import Database
from db.lease import LoadProgress
from db.store import record_absences, record_truths
from freescout_audit.desk_clock import CLOCK_TOLERANCE, DeskClock, before_the_question
from freescout_audit.events import (
    DATABASE_CLOCK_WENT_BACK,
    DESK_CLOCK_WENT_BACK,
    PASS_COMPLETED,
    PASS_OVERTAKEN,
    PASS_STARTED,
    TICKET_MISSING,
)
from freescout_audit.logs import emit
from freescout_audit.rule import ABSURD, Terms, Truth, is_ahead
from poller.answer import LATEST, DeskUnavailableError, later_than_the_desk, older_than_asked
from poller.deletions import TRIES, Deletions
from poller.freescout import FreeScout
from poller.tally import Tally
from poller.unlisted import Listed, ListMovedError, Second, Unlisted
from poller.walk import Read, Reader
from poller.watch import tell_of_gap

Progress = Callable[[int, int], None]
"""Told how many of how many conversations a long read has come to."""

_NAMED = 20
"""How many tickets a log line names at the most."""


class Passes:
    """Makes passes over one desk.

    Args:
        desk: The desk's API.
        database: The cache.
        terms: How long answers are vouched for.
        overlap: How far before the last complete pass a walk begins.
        page_size: Conversations in one list request.
        progress: Told how far a first load has come; one that goes on where it was broken off counts what was left.
        known_after: Told of each change that no delivery had told of how many seconds it took until it is known.
    """

    def __init__(
        self,
        desk: FreeScout,
        database: Database,
        *,
        terms: Terms,
        overlap: timedelta,
        page_size: int,
        progress: Progress = lambda _done, _total: None,
        known_after: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._desk = desk
        self._database = database
        self._terms = terms
        self._overlap = overlap
        self._progress = progress
        self._known_after = known_after
        self._ahead: timedelta | None = None
        """How far the desk's clock is ahead of ours; None until this pass has read it."""
        self._reader = Reader(desk, self._now, size=page_size, ahead=lambda: self._ahead)
        self._unlisted = Unlisted(self._reader, Census(database), write=self._write_truths, dispute=self._distrust)
        self._rows = 0
        self._understood = 0
        self._nameless: list[Second] = []
        """When conversations were created that this pass's walk could not show, and whose ids we cannot tell."""
        self._seen: datetime | None = None
        self._told: datetime | None = None
        """The latest that our clock has told this pass."""
        self._looked = False

    async def run(self) -> None:
        """Make a pass and renew the lease, unless a later pass, another poller's, has overtaken it.

        Raises:
            DeskError: The pass is not complete; the lease stays as it was.
            DatabaseUnavailableError: The same, for the database.
        """
        self._rows, self._understood, self._ahead, requests = 0, 0, None, self._desk.requests
        self._unlisted.met.clear()
        await self._clear_stamps_ahead()
        beginning = await lease.read_beginning(self._database)
        self._told = beginning.asked_at
        emit(PASS_STARTED, complete_through=beginning.lease.complete_through)
        clock = await self._read_changes(beginning)
        census = Census(self._database)
        deletions = Deletions(
            self._reader,
            census,
            self._unlisted,
            since=clock.at - self._overlap,
            nameless=self._nameless,
            write=self._write,
            dispute=self._dispute,
        )
        await deletions.search()
        requests = self._desk.requests - requests
        await self._now()  # the last answer was written before
        seconds = await lease.renew(
            self._database,
            beginning,
            clock=clock,
            covered_through=self._seen or clock.seen_through,
            terms=self._terms,
            rows=self._rows,
            requests=requests,
        )
        if seconds is None:
            emit(PASS_OVERTAKEN)
            return
        emit(
            PASS_COMPLETED,
            rows=self._rows,
            requests=requests,
            missing=len(census.suspects) or None,
            seconds=round(seconds, 3),
            desk_clock=clock.at,
        )

    @property
    def trouble(self) -> str:
        """What the last pass met that FreeScout does wrong although its lists answer; empty: nothing."""
        if self._rows and not self._understood:
            return f"none of the {self._rows} rows of its list is understood: are its dates without a time zone?"
        if not self._unlisted.met:
            return ""
        named = ", ".join(str(each) for each in sorted(self._unlisted.met, key=str)[:_NAMED])
        return f"lists with these tickets fail: {named}"

    async def read_everything(self, *, pause: Callable[[float], Awaitable[None]]) -> int:
        """Read every conversation once more, whatever its date says, and return how many; vouches for nothing.

        Finds what no date tells of: a desk restored from a backup, an edit behind FreeScout's back. ``pause`` is
        called with the seconds that each answer took, to leave the desk as much time for others.
        """
        rows, ahead = 0, (await lease.read_beginning(self._database)).ahead
        reader = Reader(self._desk, self._now, size=self._reader.size, ahead=lambda: ahead)
        async for read in reader.walk(None, by="createdAt"):
            await write_truths(self._database, read.truths, terms=self._terms)
            rows += read.page.rows
            await pause((await self._now() - read.asked_at).total_seconds())
        return rows

    async def _read_changes(self, beginning: lease.Beginning) -> DeskClock:
        """Read what changed since the last complete pass, and return the desk's clock at the first answer."""
        complete_through = beginning.lease.complete_through
        if complete_through is None:
            return await self._first_load(beginning)
        since = complete_through - self._overlap
        clock: DeskClock | None = None
        reads: list[Read] = []
        async for read in self._reader.walk(since):
            reads.append(read)
            if clock is None:
                clock = await self._look_at_the_clock(read, beginning)
                went_back = clock.went_back(beginning.complete_offset)
                if went_back:
                    # What changed since then bears dates that are so much older: begin there.
                    emit(DESK_CLOCK_WENT_BACK, desk_clock=clock.at, seconds=round(went_back.total_seconds()))
                    break
            await self._write(read)
        else:
            if await self._something_moved_past(reads, since) or self._nameless:
                await self._walk(since)
            return _known(clock)
        await self._walk(since - went_back)
        return clock

    async def _walk(self, since: datetime) -> None:
        """Read what is dated ``since`` or later, until nothing has moved past us meanwhile."""
        for attempt in range(TRIES):
            reads: list[Read] = []
            async for read in self._reader.walk(since):
                reads.append(read)
                await self._write(read)
            # What has no name yet may be shown by now.
            if not await self._something_moved_past(reads, since) and (attempt or not self._nameless):
                return
        raise DeskUnavailableError("conversations come and go, or get earlier dates, faster than they can be read")

    async def _something_moved_past(self, reads: Sequence[Read], since: datetime) -> bool:
        """Tell whether a walk of several requests can have missed a conversation.

        In the hour that daylight saving repeats, a change gives a conversation an earlier date than it had: from ahead
        of the cursor it comes to lie behind it. What makes lists fail is missing too, and taken care of by itself.
        """
        shown = {sighting.ticket_id: sighting for read in reads for sighting in read.page.sightings}
        apart = any(read.apart for read in reads)
        self._nameless = []
        if len(reads) == 1 and not apart:
            return False
        counted = await self._reader.count(updated_since=since)
        if apart and counted < reads[0].page.total:
            return True  # one that was shown has vanished: it would make up for one that makes lists fail
        missing = counted - len(shown)
        if missing > 0 and apart:
            try:
                _, self._nameless = await self._unlisted.account(Listed(updated_since=since), shown)
            except ListMovedError:
                return True
            return False
        return missing != 0

    async def _first_load(self, beginning: lease.Beginning) -> DeskClock:
        """Read everything, going on where an earlier attempt came to, and then what changed since it began."""
        load, clock, tally = beginning.load, None, Tally()
        async for read in self._reader.walk(None if load is None else load.cursor, by="createdAt"):
            if clock is None:
                clock = await self._look_at_the_clock(read, beginning)
                load = LoadProgress(cursor=read.cursor, began=clock.at if load is None else min(load.began, clock.at))
            assert load is not None  # noqa: S101 - set at the first answer
            load = LoadProgress(cursor=read.cursor, began=load.began)
            await self._write(read, load)
            tally.add(read)
            self._progress(tally.done, tally.total)
        clock = _known(clock)
        await self._walk((clock.at if load is None else load.began) - self._overlap)
        return clock

    async def _look_at_the_clock(self, read: Read, beginning: lease.Beginning) -> DeskClock:
        """Note the desk's clock before anything of the first answer is used."""
        at_least = await self._check_that_it_is_of_now(read, beginning)
        clock = await lease.see_through(self._database, read.page.desk_clock, asked_at=read.asked_at, at_least=at_least)
        self._seen, self._ahead = clock.seen_through, clock.offset
        return clock

    async def _check_that_it_is_of_now(self, read: Read, beginning: lease.Beginning) -> timedelta | None:
        """Check that a pass's first answer is no cache's, and dated unexpectedly only if the desk's clock was set.

        Return how far that clock is ahead of ours at the least, where another answer had to tell.

        Raises:
            DeskUnavailableError: A cache gave it.
        """
        date = read.page.desk_clock
        asked = None if beginning.ahead is None else read.asked_at + beginning.ahead
        if asked is not None and not before_the_question(date, asked) and date <= asked + LATEST:
            return None
        told = await self._desk.clock()
        ahead = told - await self._now()
        older = before_the_question(date, read.asked_at + ahead)
        if older:
            raise older_than_asked(older)
        if date > told + CLOCK_TOLERANCE:
            raise later_than_the_desk(date - told)
        return ahead

    async def _write(self, read: Read, load: LoadProgress | None = None) -> None:
        self._rows += read.page.rows
        self._understood += sum(sighting.understood for sighting in read.page.sightings)
        await self._see_dates_ahead(read)
        await self._write_truths(read.truths, load)

    async def _write_truths(self, truths: Sequence[Truth], load: LoadProgress | None = None) -> None:
        for seconds in await write_truths(self._database, truths, terms=self._terms, load=load):
            self._known_after(seconds)

    async def _distrust(self, ticket_ids: Collection[int], asked_at: datetime) -> None:
        await record_absences(self._database, ticket_ids, asked_at=asked_at, terms=self._terms)

    async def _see_dates_ahead(self, read: Read) -> None:
        """Note that we have seen a row dated after the desk's clock, whose dates repeat: claims as old are no news."""
        clock, seen = read.page.desk_clock, self._seen
        dates = [row.updated_at for row in read.page.sightings if row.updated_at is not None]
        if seen is not None and any(seen < date <= clock + ABSURD for date in dates):
            self._seen = await lease.see_rows_ahead(self._database, dates, clock, asked_at=read.asked_at)

    async def _dispute(self, ticket_ids: Collection[int], asked_at: datetime) -> Collection[int]:
        disputed = await record_absences(self._database, ticket_ids, asked_at=asked_at, terms=self._terms)
        if disputed:
            emit(TICKET_MISSING, count=len(disputed), tickets=disputed[:_NAMED])
        return disputed

    async def _clear_stamps_ahead(self) -> None:
        """Take away what was stamped while our clock was ahead, before anything is judged by it."""
        cleared = await clear_stamps_ahead(self._database, look_closely=not self._looked)
        self._looked = True
        if cleared is not None:
            emit(
                DATABASE_CLOCK_WENT_BACK,
                tickets=cleared.tickets,
                everything=cleared.everything,
                seconds=round(cleared.ahead.total_seconds(), 1),
            )

    async def _now(self) -> datetime:
        """Return our clock.

        Raises:
            ClockWentBackError: It tells an earlier time than before in this pass.
        """
        now = await self._database.now()
        if is_ahead(self._told, now):
            raise lease.ClockWentBackError(
                "the database's clock was set back while the desk was read",
                "the next pass reads it again; look at the time server of the database's host",
            )
        self._told = now
        return now


async def write_truths(
    database: Database,
    truths: Sequence[Truth],
    *,
    terms: Terms,
    load: LoadProgress | None = None,
    durable: bool = True,
    deadline: float | None = None,
    lock_patience: float | None = None,
) -> Sequence[float]:
    """Write truths and tell of the gaps they healed; arguments and errors as `record_truths`.

    Return how many seconds after each change it is known that no delivery had told of.
    """
    recorded = await record_truths(
        database, truths, terms=terms, load=load, durable=durable, deadline=deadline, lock_patience=lock_patience
    )
    for gap in recorded.gaps:
        tell_of_gap(gap)
    return recorded.known_after


def _known(clock: DeskClock | None) -> DeskClock:
    assert clock is not None, "a walk has at least one answer"  # noqa: S101 - the walk's promise
    return clock
