"""The peek: between passes, one short list of what was updated last, so that a change is known within seconds.

FreeScout's worker sleeps, stands still every hour, and loses deliveries. A peek finds what it has not told of yet. Its
rows are truths like any other, but it vouches for nothing: it says nothing of what it does not list, so that lease,
watermarks, the desk's clock and the desk's state stay what passes made of them.

The list has no index at the desk: what it costs grows with the desk. So the desk is left alone for nine times as long
as it took.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from db import lease
from db.database import Database
from db.store import record_truths
from freescout_audit.backoff import backoff
from freescout_audit.events import PEEK_FAILED, PEEK_FOUND
from freescout_audit.logs import emit
from freescout_audit.rule import Terms, Truth
from poller.answer import DeskError, DeskUnavailableError
from poller.freescout import FIRST_WAIT, LONGEST_WAIT, FreeScout
from poller.walk import Reader

SIZE = 12
"""Rows of a peek."""
REST = 9
"""A pause is at least so many times as long as what the desk was asked before took."""
PATIENCE = 10.0
"""Seconds that an answer may take: one that is later tells of nothing in time."""


class Peeks:
    """Peeks at one desk, again and again.

    Args:
        desk: The desk's API, in a lane of its own: a peek must not take a turn that a pass or a question waits for.
        database: The cache.
        terms: How long answers are vouched for.
        every: Seconds from one peek to the next.
        clock: Seconds that only go forward.
        crowded: Called when all rows were news: there may be more than a peek can see.
        known_after: Told of each change that no delivery had told of how many seconds it took until it is known.
    """

    def __init__(
        self,
        desk: FreeScout,
        database: Database,
        *,
        terms: Terms,
        every: float,
        clock: Callable[[], float] = time.monotonic,
        crowded: Callable[[], None] = lambda: None,
        known_after: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._database = database
        self._terms = terms
        self._every = every
        self._clock = clock
        self._crowded = crowded
        self._known_after = known_after
        self._ahead: timedelta | None = None
        self._reader = Reader(desk, self._asking, size=SIZE, ahead=lambda: self._ahead)
        self._failures = 0
        self.pause = every
        """Seconds from the end of the last peek to the next."""

    async def look(self) -> None:
        """Peek once, write what is news, and set the pause.

        Raises:
            DatabaseUnavailableError: Nothing was written.
        """
        began, self.pause = self._clock(), self._every
        try:
            read = await self._reader.latest(SIZE, retries=0)
        except DeskError as error:
            self._failed(error, self._clock() - began)
            return
        took = self._clock() - began
        self._failures, self.pause = 0, max(REST * took, self._every)
        found = await self._write(read.truths)
        self.pause = max(REST * took, self._every - (self._clock() - began))
        if found:
            emit(PEEK_FOUND, rows=found)
        if found and found == len(read.truths) < read.page.total:
            self._crowded()

    async def _asking(self) -> datetime:
        """Return our clock, and learn how far the desk's is ahead of it, as the last pass has measured it."""
        beginning = await lease.read_beginning(self._database)
        self._ahead = beginning.ahead
        return beginning.asked_at

    async def _write(self, truths: Sequence[Truth]) -> int:
        """Write what is news, and return how many rows were."""
        # What is lost in a crash is read again by a pass.
        recorded = await record_truths(self._database, truths, terms=self._terms, peeked=True, durable=False)
        for seconds in recorded.known_after:
            self._known_after(seconds)
        return recorded.news

    def _failed(self, error: DeskError, took: float) -> None:
        """Wait longer after each failure in a row."""
        self._failures += 1
        asked = error.retry_after if isinstance(error, DeskUnavailableError) else None
        wait = backoff(self._failures, first=max(self._every, FIRST_WAIT), longest=LONGEST_WAIT)
        self.pause = max(REST * took, min(max(asked or 0.0, wait), LONGEST_WAIT))
        if self._failures == 1:
            emit(PEEK_FAILED, reason=error.problem, next_step=error.next_step or None, wait_s=round(self.pause, 1))
