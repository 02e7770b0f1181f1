"""The pass: read what changed since the last one, compare counts, and only then vouch for everything.

A pass that ends early has changed the rows it read, and nothing else.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

from db import lease
from db.census import Census
from db.database import Database
from db.store import LoadProgress, record_absences, record_truths
from freescout_audit.events import (
    DESK_CLOCK_WENT_BACK,
    GAP_FOUND,
    LOAD_PROGRESS,
    PASS_COMPLETED,
    PASS_STARTED,
    TICKET_MISSING,
)
from freescout_audit.logs import emit
from freescout_audit.rule import Terms, Truth
from poller.deletions import Deletions
from poller.freescout import FreeScout
from poller.walk import Read, Reader

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
        progress: Told how far a first load has come.
    """

    def __init__(
        self,
        desk: FreeScout,
        database: Database,
        *,
        terms: Terms,
        overlap: timedelta,
        page_size: int,
        progress: Progress = lambda done, total: emit(LOAD_PROGRESS, done=done, total=total),
    ) -> None:
        self._desk = desk
        self._database = database
        self._terms = terms
        self._overlap = overlap
        self._size = page_size
        self._progress = progress
        self._reader = Reader(desk, self._now, size=page_size)
        self._rows = 0

    async def run(self) -> None:
        """Make a pass and renew the lease.

        Raises:
            DeskError: The pass is not complete; the lease stays as it was.
            DatabaseUnavailableError: The same, for the database.
        """
        self._rows, requests = 0, self._desk.requests
        beginning = await lease.read_beginning(self._database)
        emit(PASS_STARTED, complete_through=beginning.lease.complete_through)
        desk_clock = await self._read_changes(beginning)
        census = Census(self._database)
        await Deletions(
            self._desk, census, self._now, size=self._size, write=self._write, dispute=self._dispute
        ).search()
        requests = self._desk.requests - requests
        seconds = await lease.renew(
            self._database,
            beginning,
            desk_clock=desk_clock,
            lease=self._terms.lease,
            rows=self._rows,
            requests=requests,
        )
        emit(
            PASS_COMPLETED,
            rows=self._rows,
            requests=requests,
            missing=len(census.suspects) or None,
            seconds=round(seconds, 3),
            desk_clock=desk_clock,
        )

    async def read_everything(self, *, pause: Callable[[float], Awaitable[None]]) -> int:
        """Read every conversation once more, whatever its date says, and return how many; vouches for nothing.

        Finds what no date tells of: a desk restored from a backup, an edit behind FreeScout's back. ``pause`` is
        called with the seconds that each answer took, to leave the desk as much time for others.
        """
        rows = 0
        async for read in self._reader.everything():
            await self._write(read)
            rows += read.page.rows
            await pause((await self._now() - read.asked_at).total_seconds())
        return rows

    async def _read_changes(self, beginning: lease.Beginning) -> datetime:
        """Read what changed since the last complete pass, and return the desk's clock of the first answer."""
        complete_through = beginning.lease.complete_through
        if complete_through is None:
            return await self._first_load(beginning)
        desk_clock: datetime | None = None
        async for read in self._reader.walk(complete_through - self._overlap):
            if desk_clock is None:
                desk_clock = await self._see_through(read)
            await self._write(read)
            if desk_clock < complete_through:
                break
        else:
            return _known(desk_clock)
        # The desk's clock went back: changes may be dated anywhere before it.
        emit(DESK_CLOCK_WENT_BACK, desk_clock=desk_clock, complete_through=complete_through)
        async for read in self._reader.everything_for_sure():
            await self._write(read)
        return _known(desk_clock)

    async def _first_load(self, beginning: lease.Beginning) -> datetime:
        """Read everything, going on where an earlier attempt came to, and then what changed since it began."""
        desk_clock: datetime | None = None
        load = beginning.load
        async for read in self._reader.everything(first_page=1 if load is None else max(1, load.page - 1)):
            if desk_clock is None:
                desk_clock = await self._see_through(read)
            load = LoadProgress(page=read.number, began=desk_clock if load is None else load.began)
            await self._write(read, load)
            self._progress(min((read.number - 1) * read.size + read.page.rows, read.page.total), read.page.total)
        began = _known(desk_clock) if load is None else load.began
        async for read in self._reader.walk(began - self._overlap):
            await self._write(read)
        return _known(desk_clock)

    async def _see_through(self, read: Read) -> datetime:
        """Note the desk's clock before anything of the first answer is used."""
        await lease.see_through(self._database, read.page.desk_clock)
        return read.page.desk_clock

    async def _write(self, read: Read, load: LoadProgress | None = None) -> None:
        self._rows += read.page.rows
        await write_truths(self._database, read.truths, terms=self._terms, load=load)

    async def _dispute(self, ticket_ids: Collection[int], asked_at: datetime) -> Collection[int]:
        disputed = await record_absences(self._database, ticket_ids, asked_at=asked_at, terms=self._terms)
        if disputed:
            emit(TICKET_MISSING, count=len(disputed), tickets=disputed[:_NAMED])
        return disputed

    async def _now(self) -> datetime:
        return await lease.now(self._database)


async def write_truths(
    database: Database, truths: Sequence[Truth], *, terms: Terms, load: LoadProgress | None = None
) -> None:
    """Write truths, and tell of the gaps they healed; errors as `record_truths`."""
    recorded = await record_truths(database, truths, terms=terms, load=load)
    for gap in recorded.gaps:
        emit(
            GAP_FOUND,
            ticket_id=gap.ticket_id,
            cached_status=gap.cached[0],
            cached_state=gap.cached[1],
            true_status=None if gap.true is None else gap.true[0],
            true_state="gone" if gap.true is None else gap.true[1],
            changed_at=gap.changed_at,
        )


def _known(desk_clock: datetime | None) -> datetime:
    assert desk_clock is not None, "a walk has at least one answer"  # noqa: S101 - the walk's promise
    return desk_clock
